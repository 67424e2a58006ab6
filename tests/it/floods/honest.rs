//! What honest clients do that looks like a flood. With the least limits that there are: what they send is what their calls
//! account for.

use std::time::Duration;

use casgate::policy::method::Method;

use super::reasons;
use crate::harness::backend::{Backend, Exchange, Options, Place, send, silent, status, unary};
use crate::harness::frames::{self, ACK, DATA, END_STREAM, Frame, HEADERS, PING};
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::{Scripted, grpc_request};
use crate::harness::{grpc, until};

/// A gate that lets hardly any control frame pass.
async fn strict(backend: &Backend) -> Gate {
    let mut config = Config::to(backend);
    config
        .backends
        .push_str("\n[limits]\ncontrol-frames-at-once = 100\ncontrol-frames-per-second = 1\n");
    Gate::start(config).await
}

#[tokio::test]
async fn a_build_that_is_interrupted_again_and_again_is_never_cut_off() {
    const AT_ONCE: usize = 500;
    let options = Options {
        max_streams: Some(2000),
        ..Options::default()
    };
    let backend = Backend::at(Place::tcp(), options, silent);
    let gate = strict(&backend).await;
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

/// As gRPC's C core does in its worst case: for each DATA frame both windows are given back, and a PING measures the bandwidth.
#[tokio::test]
async fn who_downloads_with_three_frames_for_each_one_is_never_cut_off() {
    const SIZE: usize = 64 << 20;
    let backend = Backend::start(|mut exchange: Exchange| async move {
        exchange.drain().await;
        let mut answer = exchange.begin();
        // Large frames and small ones.
        let (mut sent, mut length) = (0, 1);
        while sent < SIZE {
            length = length * 7 % 100_003;
            let length = length.min(SIZE - sent);
            if !send(&mut answer, vec![0; length].into()).await {
                return;
            }
            sent += length;
        }
        let _gone = answer.send_trailers(status(0, ""));
    });
    let gate = strict(&backend).await;
    let mut client = Scripted::connect(&gate, "reader").await;
    let request = Frame::new(DATA, END_STREAM, 1, grpc::request(Method::Read, ""));
    client
        .send(&[Frame::request(1, Method::Read.path()), request])
        .await
        .unwrap();
    let (mut received, mut frames_of_data) = (0, 0);
    loop {
        let frame = client.next().await.unwrap();
        assert!(
            reasons(std::slice::from_ref(&frame)).is_empty(),
            "after {received} bytes"
        );
        match frame.kind {
            DATA => {
                let length = u32::try_from(frame.payload.len()).unwrap();
                received += frame.payload.len();
                frames_of_data += 1;
                if length > 0 {
                    let answer = [
                        Frame::window_update(0, length),
                        Frame::window_update(1, length),
                        Frame::ping(),
                    ];
                    client.send(&answer).await.unwrap();
                }
            }
            PING if !frame.has(ACK) => {
                client.send(&[Frame::new(PING, ACK, 0, frame.payload)]).await.unwrap();
            }
            HEADERS if frame.has(END_STREAM) => break,
            _ => {}
        }
    }
    assert_eq!(received, SIZE);
    assert!(frames_of_data > 1000, "{frames_of_data}");
    assert_eq!(gate.metric("casgate_limited_total", &[]), 0.0);
}

/// Bazel's most, one after the other on one connection, each with all that a client may send besides.
#[tokio::test]
async fn a_hundred_times_a_hundred_calls_are_never_cut_off() {
    const AT_ONCE: u32 = 100;
    let backend = Backend::start(unary);
    let gate = strict(&backend).await;
    let mut client = Scripted::connect(&gate, "reader").await;
    for round in 0..100 {
        let calls = (0..AT_ONCE).map(|call| 2 * (round * AT_ONCE + call) + 1);
        let frames = calls.flat_map(|stream| {
            [
                Frame::request(stream, Method::FindMissingBlobs.path()),
                Frame::window_update(stream, 1000),
                Frame::new(DATA, 0, stream, grpc::request(Method::FindMissingBlobs, "")),
                Frame::new(DATA, END_STREAM, stream, vec![]),
            ]
        });
        client.send(&frames.collect::<Vec<_>>()).await.unwrap();
        let mut ended = 0;
        while ended < AT_ONCE {
            let frame = client.next().await.unwrap();
            assert!(reasons(std::slice::from_ref(&frame)).is_empty(), "round {round}");
            if frame.kind == DATA {
                let length = u32::try_from(frame.payload.len()).unwrap();
                let given_back = [
                    Frame::window_update(0, length),
                    Frame::window_update(frame.stream, length),
                ];
                client.send(&given_back).await.unwrap();
            } else if frame.kind == HEADERS && frame.has(END_STREAM) {
                ended += 1;
                let late = [Frame::reset(frame.stream, frames::NO_ERROR)];
                client.send(&late).await.unwrap();
            }
        }
    }
    assert_eq!(backend.streams(), 10_000);
    assert_eq!(gate.metric("casgate_limited_total", &[]), 0.0);
}

/// The same on a line on which it takes seconds.
#[tokio::test]
async fn what_of_an_upload_comes_seconds_after_the_answer_is_no_error() {
    let backend = Backend::start(unary);
    let gate = strict(&backend).await;
    let mut client = Scripted::connect(&gate, "reader").await;
    let piece = |stream, flags| Frame::new(DATA, flags, stream, grpc::write(200));
    let streams: Vec<u32> = (0..50).map(|number| 2 * number + 1).collect();
    for stream in &streams {
        let begin = [Frame::request(*stream, Method::Write.path()), piece(*stream, 0)];
        client.send(&begin).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for stream in &streams {
        let late: Vec<_> = (0..15)
            .map(|_| piece(*stream, 0))
            .chain([piece(*stream, END_STREAM)])
            .collect();
        client.send(&late).await.unwrap();
    }
    client.send(&[Frame::ping()]).await.unwrap();
    let mut reset = 0;
    loop {
        let frame = client.next().await.unwrap();
        assert!(reasons(std::slice::from_ref(&frame)).is_empty());
        match frame.kind {
            frames::RST_STREAM => {
                assert_eq!(frame.number_at(0), frames::NO_ERROR);
                reset += 1;
            }
            PING if frame.has(ACK) => break,
            _ => {}
        }
    }
    assert_eq!(reset, streams.len());
    assert_eq!(gate.metric("casgate_limited_total", &[]), 0.0);
}

/// What of an upload is on its way when the answer comes is no fault of the client.
#[tokio::test]
async fn uploads_that_are_answered_early_are_never_cut_off() {
    let backend = Backend::start(|mut exchange: Exchange| async move {
        exchange.read().await;
        exchange.trailers_only(0, "");
    });
    let gate = strict(&backend).await;
    // One is denied, the other one gets its answer before it has sent all.
    for name in ["reader", "writer"] {
        let mut client = Scripted::connect(&gate, name).await;
        for number in 0..300 {
            let stream = 2 * number + 1;
            let piece = |flags| Frame::new(DATA, flags, stream, grpc::write(200));
            let begin = [Frame::request(stream, Method::Write.path()), piece(0)];
            client.send(&begin).await.unwrap();
            let answer = loop {
                let frame = client.next().await.unwrap();
                assert!(reasons(std::slice::from_ref(&frame)).is_empty(), "{name} {number}");
                if frame.kind == HEADERS {
                    break frame;
                }
            };
            assert!(answer.has(END_STREAM));
            // It has not heard of it yet.
            let late: Vec<_> = (0..15).map(|_| piece(0)).chain([piece(END_STREAM)]).collect();
            client.send(&late).await.unwrap();
        }
    }
    until("all have ended", || gate.metric("casgate_calls_open", &[]) == 0.0).await;
    assert_eq!(gate.metric("casgate_limited_total", &[]), 0.0);
}
