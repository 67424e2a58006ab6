//! How a call ends: by trailers, by a reset of either side, or by an answer that comes before the end of the request.

use std::sync::Arc;

use casgate::policy::method::Method;
use h2::Reason;

use crate::harness::backend::{Backend, Exchange, send, silent, status, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::{Client, Reply, grpc_request};
use crate::harness::{frames, grpc, until, within};

/// The frames that the gate sent on a stream, as kinds with what matters of them.
fn shape(client: &Client, stream: u32) -> Vec<(u8, bool, Option<u32>)> {
    let describe = |frame: &frames::Frame| {
        let reason = (frame.kind == frames::RST_STREAM).then(|| frame.number_at(0));
        (
            frame.kind,
            frame.kind != frames::RST_STREAM && frame.has(frames::END_STREAM),
            reason,
        )
    };
    let frames = client.tap.received_on(stream);
    frames
        .iter()
        .filter(|frame| frame.kind != frames::WINDOW_UPDATE)
        .map(describe)
        .collect()
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_at_the_backend() {
    let backend = Backend::start(silent);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("root").await;
    let mut call = client.open(Method::Execute);
    call.send(grpc::request(Method::Execute, "")).await;
    call.end();
    backend.until("the call is there", |seen| seen.len() == 1).await;
    call.cancel();
    backend
        .until("the reset arrives", |seen| seen[0].reset == Some(Reason::CANCEL))
        .await;
}

#[tokio::test]
async fn a_call_cancelled_amid_its_answer_is_cancelled_at_the_backend() {
    let backend = Backend::start(|mut exchange: Exchange| async move {
        let mut answer = exchange.begin();
        send(&mut answer, grpc::frame(b"one")).await;
        exchange.until_answer_reset(&mut answer).await;
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("root").await;
    let mut call = client.open(Method::Execute);
    call.send(grpc::request(Method::Execute, "")).await;
    call.end();
    let (_, mut body) = call.head().await;
    within("the first message", body.data()).await.unwrap().unwrap();
    call.cancel();
    backend
        .until("the reset arrives", |seen| seen[0].reset == Some(Reason::CANCEL))
        .await;
}

#[tokio::test]
async fn calls_of_a_client_that_is_gone_are_cancelled_at_the_backend() {
    let backend = Backend::start(silent);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("root").await;
    let mut calls = Vec::new();
    for _ in 0..10 {
        let mut call = client.open(Method::Execute);
        call.send(grpc::request(Method::Execute, "")).await;
        call.end();
        calls.push(call);
    }
    backend.until("all are there", |seen| seen.len() == 10).await;
    drop(client);
    backend
        .until("all are reset", |seen| {
            seen.iter().all(|seen| seen.reset == Some(Reason::CANCEL))
        })
        .await;
    // The connection to the backend is not the client's to end.
    assert_eq!(
        gate.client("reader")
            .await
            .call(Method::HealthCheck, grpc::frame(b""))
            .await
            .code(),
        Some(0)
    );
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn the_end_of_a_request_arrives_while_the_answer_is_open() {
    let backend = Backend::start(|mut exchange: Exchange| async move {
        let mut answer = exchange.begin();
        exchange.drain().await;
        exchange.until_answer_reset(&mut answer).await;
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("writer").await;
    let mut call = client.open(Method::Write);
    call.send(grpc::write(10)).await;
    let _open = call.head().await;
    assert!(!backend.seen()[0].ended);
    call.end();
    backend.until("the end arrives", |seen| seen[0].ended).await;
}

#[tokio::test]
async fn a_request_without_a_body_ends_with_its_headers() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("root").await;
    let call = client.open_with(grpc_request(Method::GetOperation.path()), true);
    assert_eq!(call.reply().await.code(), Some(0));
    assert_eq!((backend.seen()[0].ended, backend.seen()[0].received), (true, 0));
}

#[tokio::test]
async fn an_early_answer_to_a_running_upload_arrives_whole_and_then_no_error() {
    let backend = Backend::start(|mut exchange: Exchange| async move {
        exchange.read().await;
        exchange.answer(grpc::frame(b"have it already")).await;
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("writer").await;
    for _ in 0..10 {
        let mut call = client.open(Method::Write);
        let id = call.id();
        call.send(grpc::write(100_000)).await;
        let Reply {
            body, trailers, reset, ..
        } = call.reply().await;
        assert_eq!(body, grpc::frame(b"have it already"));
        assert_eq!(trailers.unwrap()["grpc-status"], "0");
        assert_eq!(reset, None);
        let expected = [
            (frames::HEADERS, false, None),
            (frames::DATA, false, None),
            (frames::HEADERS, true, None),
            (frames::RST_STREAM, false, Some(frames::NO_ERROR)),
        ];
        until("the reset", || shape(&client, id).len() >= expected.len()).await;
        assert_eq!(shape(&client, id), expected);
    }
}

#[tokio::test]
async fn an_early_denial_of_a_running_upload_arrives_and_then_no_error() {
    let backend = Backend::start(|mut exchange: Exchange| async move {
        exchange.read().await;
        exchange.trailers_only(7, "the backend says no");
    });
    let gate = Gate::start(Config::to(&backend)).await;
    // One denied by the backend, one by the gate.
    for (name, message) in [("writer", "the backend says no"), ("reader", "may not push")] {
        let mut client = gate.client(name).await;
        let tap = Arc::clone(&client.tap);
        let mut call = client.open(Method::Write);
        let id = call.id();
        // The client does not look at the answer before it has sent all that it can.
        call.send(grpc::write(60_000)).await;
        let reply = call.reply().await;
        assert_eq!(reply.code(), Some(7));
        assert!(reply.message().contains(message), "{reply:?}");
        until("the reset", || {
            tap.received_on(id).iter().any(|frame| frame.kind == frames::RST_STREAM)
        })
        .await;
        let expected = [
            (frames::HEADERS, true, None),
            (frames::RST_STREAM, false, Some(frames::NO_ERROR)),
        ];
        assert_eq!(shape(&client, id), expected);
        assert!(
            !tap.sent()
                .iter()
                .any(|frame| frame.kind == frames::RST_STREAM && frame.number_at(0) == frames::CANCEL)
        );
    }
}

#[tokio::test]
async fn an_answer_of_trailers_only_stays_one() {
    let backend = Backend::start(|mut exchange: Exchange| async move {
        exchange.drain().await;
        exchange.trailers_only(5, "nothing here");
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("reader").await;
    let reply = client.ask(Method::GetActionResult, "").await;
    assert_eq!((reply.code(), reply.message()), (Some(5), "nothing here".to_owned()));
    assert!(
        reply.trailers.is_none() && reply.headers.contains_key("grpc-status"),
        "{reply:?}"
    );
    assert_eq!(shape(&client, 1), [(frames::HEADERS, true, None)]);
}

#[tokio::test]
async fn trailers_arrive_as_they_were_sent() {
    let backend = Backend::start(|mut exchange: Exchange| async move {
        exchange.drain().await;
        let mut answer = exchange.begin();
        send(&mut answer, grpc::frame(b"x")).await;
        let mut trailers = status(5, "not%20here %E2%98%83");
        trailers.insert("grpc-status-details-bin", "CAUSBG5vbmU".parse().unwrap());
        trailers.append("x-twice", "1".parse().unwrap());
        trailers.append("x-twice", "2".parse().unwrap());
        let _gone = answer.send_trailers(trailers);
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let reply = gate.client("reader").await.ask(Method::Read, "").await;
    assert_eq!(reply.body, grpc::frame(b"x"));
    let trailers = reply.trailers.unwrap();
    assert_eq!(trailers["grpc-status"], "5");
    assert_eq!(trailers["grpc-message"], "not%20here %E2%98%83");
    assert_eq!(trailers["grpc-status-details-bin"], "CAUSBG5vbmU");
    assert_eq!(trailers.get_all("x-twice").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert!(!reply.headers.contains_key("grpc-status"));
}
