//! Every way in which a backend fails: UNAVAILABLE for the call, a count in the metrics, and the next call goes through
//! without a restart.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use casgate::policy::method::Method;
use h2::Reason;

use crate::harness::backend::{Backend, Options, Place, Raw, silent, unary};
use crate::harness::frames::{self, Frame};
use crate::harness::gate::{Config, Gate};
use crate::harness::{assert_unavailable, grpc, within};

/// What goes wrong with the first call; all others are answered.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Reset,
    Close,
    CloseAmidTheAnswer,
    GoAwayAmidTheAnswer,
    GoAwayWithAnError,
    NoTrailers,
    Garbage,
    GarbageAmidTheAnswer,
    HeadersThatCanNotBeRead,
    WindowTooLarge,
    AnswerToNoCall,
    SilenceThenClose,
}

impl Fault {
    const ALL: [Fault; 12] = [
        Fault::Reset,
        Fault::Close,
        Fault::CloseAmidTheAnswer,
        Fault::GoAwayAmidTheAnswer,
        Fault::GoAwayWithAnError,
        Fault::NoTrailers,
        Fault::Garbage,
        Fault::GarbageAmidTheAnswer,
        Fault::HeadersThatCanNotBeRead,
        Fault::WindowTooLarge,
        Fault::AnswerToNoCall,
        Fault::SilenceThenClose,
    ];

    /// Does it; gives whether the connection goes on.
    async fn happen(self, raw: &mut Raw, stream: u32) -> bool {
        let [head, half, _] = raw.answer_frames(stream, b"half");
        match self {
            Fault::Reset => {
                raw.send(&[Frame::reset(stream, Reason::INTERNAL_ERROR.into())]).await;
                return true;
            }
            Fault::Close => {}
            Fault::CloseAmidTheAnswer => raw.send(&[head, half]).await,
            Fault::GoAwayAmidTheAnswer => {
                raw.send(&[head, half, Frame::go_away(stream, frames::NO_ERROR)]).await;
            }
            Fault::GoAwayWithAnError => {
                raw.send(&[Frame::go_away(stream, Reason::INTERNAL_ERROR.into())]).await;
            }
            Fault::NoTrailers => {
                let end = Frame::new(frames::DATA, frames::END_STREAM, stream, Bytes::new());
                raw.send(&[head, half, end]).await;
                return true;
            }
            Fault::Garbage => raw.send_bytes(&[0xff; 64]).await,
            Fault::GarbageAmidTheAnswer => {
                raw.send(&[head, half]).await;
                raw.send_bytes(&[0xff; 64]).await;
            }
            Fault::HeadersThatCanNotBeRead => {
                let block = Bytes::from_static(&[0xff; 16]);
                raw.send(&[Frame::new(frames::HEADERS, frames::END_HEADERS, stream, block)])
                    .await;
            }
            Fault::WindowTooLarge => {
                let most = (u32::MAX >> 1).to_be_bytes().to_vec();
                let update = || Frame::new(frames::WINDOW_UPDATE, 0, 0, most.clone());
                raw.send(&[update(), update()]).await;
                // The gate ends the connection.
                return true;
            }
            Fault::AnswerToNoCall => {
                let [head, ..] = raw.answer_frames(stream + 100, b"");
                raw.send(&[head]).await;
            }
            Fault::SilenceThenClose => tokio::time::sleep(Duration::from_millis(300)).await,
        }
        false
    }
}

#[tokio::test]
async fn after_each_fault_the_next_call_goes_through() {
    for fault in Fault::ALL {
        let calls = Arc::new(AtomicUsize::new(0));
        let backend = Backend::raw(move |mut raw: Raw| {
            let calls = Arc::clone(&calls);
            async move {
                while let Some(request) = raw.next_of(frames::HEADERS).await {
                    if calls.fetch_add(1, Ordering::SeqCst) > 0 {
                        raw.answer(request.stream).await;
                    } else if !fault.happen(&mut raw, request.stream).await {
                        return;
                    }
                }
            }
        });
        let gate = Gate::start(Config::to(&backend)).await;
        let mut client = gate.client("reader").await;
        let reply = client.ask(Method::Read, "").await;
        assert_eq!(reply.code(), Some(14), "{fault:?}: {reply:?}");
        assert_eq!(reply.reset, None, "{fault:?}: {reply:?}");
        let faults = || gate.metric("casgate_backend_faults_total", &["\"cache\"", "\"unavailable\""]);
        assert_eq!(faults(), 1.0, "{fault:?}");
        for _ in 0..3 {
            let reply = client.ask(Method::Read, "").await;
            assert_eq!(reply.code(), Some(0), "{fault:?}: {reply:?}");
        }
        assert_eq!((faults(), backend.streams()), (1.0, 4), "{fault:?}");
    }
}

#[tokio::test]
async fn an_upload_that_waits_for_a_window_ends_with_its_backend() {
    for place in [Place::tcp(), Place::unix()] {
        let full = Options {
            window: Some(65_535),
            ..Options::default()
        };
        // It takes what the windows hold, and no more.
        let backend = Backend::at(place, full, silent);
        let gate = Gate::start(Config::to(&backend)).await;
        let mut client = gate.client("writer").await;
        let mut call = client.open(Method::Write);
        call.body.send_data(grpc::write(1_000_000), true).unwrap();
        backend.until("the upload is there", |seen| seen.len() == 1).await;
        let place = backend.vanish().await;
        assert_unavailable(&call.reply().await, "");
        let _back = Backend::at(place, Options::default(), unary);
        let reply = client.ask(Method::Write, "").await;
        assert_eq!(reply.code(), Some(0), "{reply:?}");
    }
}

/// It takes as long as a connection may be silent: 30 s to the PING, and 20 s to its answer.
#[tokio::test]
async fn calls_on_a_connection_that_is_silent_are_unavailable_in_the_end() {
    let backend = Backend::raw(|mut raw: Raw| async move {
        let request = raw.next_of(frames::HEADERS).await.unwrap();
        if raw.connection > 0 {
            return raw.answer(request.stream).await;
        }
        // As a machine that is gone: the connection is open, and nothing comes.
        std::future::pending::<()>().await;
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("reader").await;
    let mut call = client.open(Method::Read);
    call.body.send_data(grpc::request(Method::Read, ""), true).unwrap();
    let head = tokio::time::timeout(Duration::from_secs(90), call.response).await;
    let head = head.unwrap().unwrap();
    assert_eq!(head.headers()["grpc-status"], "14");
    assert_eq!(client.ask(Method::Read, "").await.code(), Some(0));
}

/// The real program with a file of names of its own, since names are those of the system.
#[tokio::test]
async fn a_name_is_resolved_again_and_all_of_its_addresses_are_tried() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    // Nobody listens on the other addresses of the loopback.
    let names = |addresses: &[&str]| {
        let lines: String = addresses
            .iter()
            .map(|address| format!("{address} backend.test\n"))
            .collect();
        std::fs::write(&hosts, lines).unwrap();
    };
    names(&["127.0.0.5"]);
    let own_names = format!(
        "unshare --user --map-root-user --mount sh -euc 'mount --bind {} /etc/hosts; exec \"$@\"' sh",
        hosts.display()
    );
    let probe = Command::new("sh")
        .args(["-euc", &format!("{own_names} getent hosts backend.test")])
        .output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("NOT RUN: a name that changes: there is no user namespace to have names of its own in");
        return;
    }
    let backend = Backend::start(unary);
    let mut config = Config::to_endpoint(&backend.endpoint().replace("127.0.0.1", "backend.test"));
    config.backends.push_str("\n[log]\nformat = \"json\"\n");
    let gate = Gate::spawn_after(&format!("set -- \"$0\" \"$@\"; exec {own_names} \"$@\""), config).await;
    let mut client = gate.client("reader").await;
    assert_unavailable(&client.ask(Method::Read, "").await, "refuses");
    names(&["127.0.0.6", "127.0.0.1", "127.0.0.7"]);
    within("the new addresses are used", async {
        while client.ask(Method::Read, "").await.code() != Some(0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(gate.scrape("casgate_backend_up", &["cache"]), 1.0);
}
