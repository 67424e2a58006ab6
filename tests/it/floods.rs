//! Clients that do without end what is cheap for them: their own connection ends or goes on, and no other one suffers.

use casgate::policy::method::Method;
use h2::Reason;

use crate::harness::backend::{Backend, Options, Place, silent, unary};
use crate::harness::frames::{self, Frame};
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::grpc_request;
use crate::harness::{assert_only_this_is_seen, grpc, until};

/// The reasons of the GOAWAY frames that a client got.
fn reasons(received: &[Frame]) -> Vec<u32> {
    received
        .iter()
        .filter(|frame| frame.kind == frames::GOAWAY)
        .map(|frame| frame.number_at(4))
        .collect()
}

#[tokio::test]
async fn who_resets_without_end_is_told_to_calm_down() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    config
        .backends
        .push_str("\n[limits]\nresets-at-once = 500\nresets-per-second = 1\n");
    let gate = Gate::start(config).await;
    let mut other = gate.client("reader").await;
    // With and without the right to do so.
    for (closed, name) in [(1.0, "root"), (2.0, "stranger")] {
        let mut flood = gate.client(name).await;
        let mut rounds = 0;
        while flood.tap.end().is_none() {
            rounds += 1;
            assert!(rounds < 200, "{name} goes on");
            for _ in 0..50 {
                if let Ok(call) = flood.try_open(grpc_request(Method::Write.path()), false) {
                    call.cancel();
                }
            }
            let reply = other.ask(Method::FindMissingBlobs, "").await;
            assert_eq!(reply.code(), Some(0), "{reply:?}");
        }
        assert_eq!(
            reasons(&flood.tap.received()),
            [u32::from(Reason::ENHANCE_YOUR_CALM)],
            "{name}"
        );
        let labels = ["limit=\"resets\"", "action=\"closed\""];
        assert_eq!(gate.metric("casgate_limited_total", &labels), closed);
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_build_that_is_interrupted_again_and_again_is_never_cut_off() {
    const AT_ONCE: usize = 500;
    let options = Options {
        max_streams: Some(2000),
        ..Options::default()
    };
    let backend = Backend::at(Place::tcp(), options, silent);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("root").await;
    for round in 1..=8 {
        let calls: Vec<_> = (0..AT_ONCE)
            .map(|_| client.open_with(grpc_request(Method::GetOperation.path()), true))
            .collect();
        backend
            .until("all are there", |seen| seen.len() == AT_ONCE * round)
            .await;
        for call in calls {
            call.cancel();
        }
        until("all have ended", || gate.metric("casgate_calls_open", &[]) == 0.0).await;
        let reply = client.call(Method::HealthCheck, grpc::frame(b"")).await;
        assert_eq!(reply.code(), Some(0), "round {round}: {reply:?}");
    }
    assert_eq!(gate.metric("casgate_limited_total", &[]), 0.0);
}

#[tokio::test]
async fn floods_of_frames_hurt_nobody_else() {
    const COUNT: usize = 20_000;
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut other = gate.client("reader").await;
    let block = frames::header_block(&[(":method", "POST")]);
    let floods = [
        ("PING", Frame::new(frames::PING, 0, 0, vec![0; 8])),
        ("SETTINGS", Frame::settings()),
        // RFC 9113, 6.3: PRIORITY is 2.
        ("PRIORITY", Frame::new(2, 0, 1, vec![0, 0, 0, 3, 0])),
        (
            "WINDOW_UPDATE",
            Frame::new(frames::WINDOW_UPDATE, 0, 0, vec![0, 0, 0, 1]),
        ),
        // A kind that nobody knows.
        ("unknown", Frame::new(0x77, 0, 0, vec![0; 100])),
        // CONTINUATION is 9, and has no end here.
        ("CONTINUATION", Frame::new(9, 0, 1, block.clone())),
        ("empty DATA", Frame::new(frames::DATA, 0, 1, Vec::new())),
        ("small DATA", Frame::new(frames::DATA, 0, 1, vec![0])),
    ];
    for (name, frame) in floods {
        let mut flood = gate.client("root").await;
        let mut open = None;
        if name == "CONTINUATION" {
            flood.tap.inject(Frame::new(frames::HEADERS, 0, 1, block.clone()));
        } else if frame.stream == 1 {
            open = Some(flood.open(Method::BatchUpdateBlobs));
            until("it has begun", || gate.metric("casgate_calls_open", &[]) == 1.0).await;
        }
        for round in 0..20 {
            for _ in 0..COUNT / 20 {
                flood.tap.inject(frame.clone());
            }
            let reply = other.ask(Method::Read, "").await;
            assert_eq!(reply.code(), Some(0), "{name}, round {round}: {reply:?}");
        }
        if matches!(name, "CONTINUATION" | "empty DATA") {
            until(name, || flood.tap.end().is_some()).await;
        }
        assert_only_this_is_seen(&mut other, &backend).await;
        drop((open, flood));
        until("it is gone", || gate.metric("casgate_calls_open", &[]) == 0.0).await;
    }
}
