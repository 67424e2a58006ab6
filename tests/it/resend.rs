//! A call is sent again only where the backend has certainly not seen it, and so is never executed twice.

use casgate::policy::method::Method;
use h2::Reason;

use crate::harness::backend::{Backend, Exchange, Raw, send, status, unary};
use crate::harness::frames::{self, Frame};
use crate::harness::gate::{Config, Gate};
use crate::harness::{assert_unavailable, grpc, pull_from, until};

#[tokio::test]
async fn a_refused_stream_is_sent_again_whole_and_executed_once() {
    let backend = Backend::start(|exchange: Exchange| async move {
        match exchange.index {
            0 | 1 => exchange.reset(Reason::REFUSED_STREAM),
            _ => unary(exchange).await,
        }
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let message = grpc::write(100_000);
    let reply = gate.client("writer").await.call(Method::Write, message.clone()).await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    let seen = backend.seen();
    assert_eq!(seen.len(), 3);
    assert_eq!((seen[2].received, seen[2].ended), (message.len() as u64, true));
    assert_eq!(seen[2].body[..], message[..seen[2].body.len()]);
    assert_eq!(gate.metric("casgate_backend_resent_total", &["cache"]), 2.0);
}

#[tokio::test]
async fn a_stream_that_is_refused_forever_is_unavailable_after_four_tries() {
    let backend = Backend::start(|exchange: Exchange| async move { exchange.reset(Reason::REFUSED_STREAM) });
    assert_unavailable(&pull_from(&backend).await, "");
    assert_eq!(backend.streams(), 4);
}

#[tokio::test]
async fn an_upload_too_long_to_keep_is_not_sent_again() {
    let backend = Backend::start(|mut exchange: Exchange| async move {
        let mut read = 0;
        while read < 1_000_000 {
            read += exchange.read().await.map_or(usize::MAX / 2, |chunk| chunk.len());
        }
        exchange.reset(Reason::REFUSED_STREAM);
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("writer").await;
    let mut call = client.open(Method::Write);
    call.send(grpc::write(2_000_000)).await;
    assert_unavailable(&call.reply().await, "");
    assert_eq!(backend.streams(), 1);
}

#[tokio::test]
async fn a_call_behind_a_goaway_is_sent_again_on_another_connection() {
    let backend = Backend::raw(|mut raw: Raw| async move {
        let stream = raw.next_of(frames::HEADERS).await.map_or(0, |frame| frame.stream);
        if raw.connection == 0 {
            // The last stream that it looked at is none.
            return raw.send(&[Frame::go_away(0, frames::NO_ERROR)]).await;
        }
        raw.answer(stream).await;
        raw.next_of(frames::GOAWAY).await;
    });
    let reply = pull_from(&backend).await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    let connections: Vec<_> = backend.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 1]);
}

#[tokio::test]
async fn a_call_that_may_be_why_a_connection_ended_is_not_sent_again() {
    let backend = Backend::raw(|mut raw: Raw| async move {
        raw.next_of(frames::HEADERS).await;
        raw.send(&[Frame::go_away(0, Reason::ENHANCE_YOUR_CALM.into())]).await;
    });
    assert_unavailable(&pull_from(&backend).await, "");
    assert_eq!((backend.streams(), backend.connections()), (1, 1));
}

#[tokio::test]
async fn a_call_that_a_goaway_covers_is_not_sent_again() {
    let backend = Backend::raw(|mut raw: Raw| async move {
        let stream = raw.next_of(frames::HEADERS).await.map_or(0, |frame| frame.stream);
        raw.send(&[Frame::go_away(stream, frames::NO_ERROR)]).await;
        if raw.connection == 1 {
            raw.answer(stream).await;
        }
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("reader").await;
    assert_unavailable(&client.ask(Method::Read, "").await, "");
    assert_eq!(backend.streams(), 1);
    // One that is answered all the same is answered, and the next call takes a new connection.
    assert_eq!(client.ask(Method::Read, "").await.code(), Some(0));
    assert_eq!(backend.seen()[1].connection, 1);
}

#[tokio::test]
async fn calls_on_a_connection_that_is_being_closed_go_on() {
    let backend = Backend::start(|mut exchange: Exchange| async move {
        if exchange.index > 0 {
            return unary(exchange).await;
        }
        exchange.go_away();
        let mut answer = exchange.begin();
        send(&mut answer, grpc::frame(b"begun")).await;
        exchange.drain().await;
        let _gone = answer.send_trailers(status(0, ""));
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("writer").await;
    let mut running = client.open(Method::Write);
    running.send(grpc::write(10)).await;
    let (_, _body) = running.head().await;
    until("calls take another connection", || {
        gate.metric("casgate_backend_connections", &[]) > 0.0
    })
    .await;
    for _ in 0..100 {
        let reply = client.ask(Method::Read, "").await;
        assert_eq!(reply.code(), Some(0), "{reply:?}");
        if backend.connections() == 2 {
            break;
        }
    }
    assert_eq!(backend.connections(), 2);
    running.end();
    backend.until("the first call ends", |seen| seen[0].ended).await;
}
