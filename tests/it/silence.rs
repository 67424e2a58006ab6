//! Clients that begin a request and send nothing more of it.

use std::time::Duration;

use bytes::Bytes;
use casgate::policy::method::Method;

use crate::harness::backend::{Backend, Exchange, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::{grpc, within};

/// Longer than the patience of the gates here, which is a second.
const LONG: Duration = Duration::from_millis(2500);

async fn gate(backend: &Backend) -> Gate {
    let mut config = Config::to(backend);
    config.top.push_str("\nlimits = { stall-timeout = 1 }");
    Gate::start(config).await
}

#[tokio::test]
async fn who_sends_nothing_more_of_a_request_is_given_up() {
    let backend = Backend::start(unary);
    let gate = gate(&backend).await;
    let mut client = gate.client("root").await;
    let write = grpc::request(Method::Write, "");
    let find = grpc::request(Method::FindMissingBlobs, "");
    // Before the backend hears of it, and when it has the begin of an upload.
    for (method, sent, streams) in [
        (Method::FindMissingBlobs, Bytes::new(), 0),
        (Method::FindMissingBlobs, find.slice(..3), 0),
        (Method::Write, write.slice(..7), 0),
        (Method::Write, write.clone(), 1),
    ] {
        let mut call = client.open(method);
        if !sent.is_empty() {
            assert!(call.send(sent.clone()).await);
        }
        let reply = call.reply().await;
        assert_eq!(
            reply.code(),
            Some(1),
            "{method:?} after {} bytes: {reply:?}",
            sent.len()
        );
        assert!(
            reply
                .message()
                .contains("the client sent nothing of its request for as long as `limits.stall-timeout`"),
            "{reply:?}"
        );
        backend
            .until("what the backend sees", |seen| seen.len() == streams)
            .await;
    }
    backend
        .until("the backend is told that nothing comes", |seen| seen[0].reset.is_some())
        .await;
    assert_eq!(gate.metric("casgate_limited_total", &["stall-timeout", "closed"]), 4.0);
    assert_eq!(client.ask(Method::FindMissingBlobs, "").await.code(), Some(0));
}

#[tokio::test]
async fn who_is_slow_or_kept_waiting_is_not_given_up() {
    // One that takes its time before it takes anything.
    let backend = Backend::start(|mut exchange: Exchange| async move {
        tokio::time::sleep(LONG).await;
        exchange.drain().await;
        exchange.answer(grpc::frame(b"")).await;
    });
    let gate = gate(&backend).await;
    let mut client = gate.client("root").await;
    let message = grpc::request(Method::Write, "");
    let mut slow = client.open(Method::Write);
    let mut kept = client.open(Method::Write);
    // Nothing to tell for long is usual for streams of events.
    let events = client.open(Method::PublishBuildToolEventStream);
    let drips = async {
        for byte in 0..message.len().min(9) {
            assert!(slow.send(message.slice(byte..=byte)).await);
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        assert!(slow.send(message.slice(message.len().min(9)..)).await);
        slow.end();
    };
    // More than all windows on the way hold, so that it is the backend that is waited for.
    let much = async {
        assert!(kept.send(message.clone()).await);
        for _ in 0..64 {
            assert!(kept.send(grpc::write(256 << 10)).await);
        }
        kept.end();
    };
    within("the uploads", async { tokio::join!(drips, much) }).await;
    for call in [slow, kept] {
        let reply = call.reply().await;
        assert_eq!(reply.code(), Some(0), "{reply:?}");
    }
    let mut events = events;
    events.end();
    assert_eq!(events.reply().await.code(), Some(0));
    assert_eq!(gate.metric("casgate_limited_total", &["stall-timeout", "closed"]), 0.0);
}
