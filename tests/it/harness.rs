//! What the tests stand on: certificates, the gate, backends that misbehave, and a client that sees every frame.

pub(crate) mod audit;
pub(crate) mod backend;
pub(crate) mod frames;
pub(crate) mod gate;
pub(crate) mod grpc;
pub(crate) mod naive_cache;
pub(crate) mod noise;
pub(crate) mod pki;
pub(crate) mod small_disk;
pub(crate) mod store;
pub(crate) mod wire;

use std::time::{Duration, Instant};

use bytes::Bytes;
use casgate::policy::method::Method;
use h2::RecvStream;

use backend::Backend;
use gate::{Config, Gate};
use wire::{Call, Client, Reply};

/// How long anything may take that must happen. Long: it only costs time when a test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for what must happen.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("did not happen within {DEADLINE:?}: {what}"),
    }
}

/// Waits until a condition holds that nothing announces.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < DEADLINE, "did not happen within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The value once it has not changed for a while: what is blocked by flow control never announces that it is.
pub(crate) async fn settled<T: PartialEq>(what: &str, value: impl Fn() -> T) -> T {
    const QUIET: Duration = Duration::from_millis(300);
    let (begun, mut since, mut last) = (Instant::now(), Instant::now(), value());
    while since.elapsed() < QUIET {
        assert!(begun.elapsed() < DEADLINE, "did not settle within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = value();
        if now != last {
            (since, last) = (Instant::now(), now);
        }
    }
    last
}

/// A denial that a client can work with, and a backend that saw no more than before.
pub(crate) fn assert_denied(reply: &Reply, backend: &Backend, streams: usize) {
    assert_eq!(reply.code(), Some(7), "{reply:?}");
    assert!(reply.message().contains("may not"), "{}", reply.message());
    assert!(reply.body.is_empty() && reply.trailers.is_none(), "{reply:?}");
    assert_eq!(backend.streams(), streams);
}

/// A call that certainly goes through, so that whatever came before it had its chance to be seen.
pub(crate) async fn assert_only_this_is_seen(client: &mut Client, backend: &Backend) {
    let before = backend.streams();
    let reply = client.ask(Method::BatchReadBlobs, "").await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    assert_eq!(backend.streams(), before + 1);
}

/// UNAVAILABLE with a reason, as an answer that is nothing but its status.
pub(crate) fn assert_unavailable(reply: &Reply, reason: &str) {
    assert_eq!(
        (reply.http, reply.code()),
        (Some(http::StatusCode::OK), Some(14)),
        "{reply:?}"
    );
    assert!(reply.trailers.is_none() && reply.body.is_empty(), "{reply:?}");
    let message = reply.message();
    assert!(
        message.starts_with("backend `cache` ") && message.contains(reason),
        "{message}"
    );
}

/// A health watch that was told its first status, with that status.
pub(crate) async fn watch_health(client: &mut Client) -> (Call, RecvStream, Bytes) {
    let mut watch = client.open(Method::HealthWatch);
    watch.send(grpc::frame(b"")).await;
    let (_, mut body) = watch.head().await;
    let first = within("the first status", body.data()).await.unwrap().unwrap();
    (watch, body, first)
}

/// One pull through a gate of its own.
pub(crate) async fn pull_from(backend: &Backend) -> Reply {
    let gate = Gate::start(Config::to(backend)).await;
    gate.client("reader").await.ask(Method::Read, "").await
}
