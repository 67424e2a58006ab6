//! The end of a gate: calls that run may end, new ones go elsewhere.

use std::sync::Arc;
use std::time::Duration;

use casgate::policy::method::Method;
use casgate::server::Drained;
use tokio::net::TcpStream;

use crate::harness::backend::{Backend, silent, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::{Reply, rest};
use crate::harness::{frames, grpc, until, watch_health, within};

/// The numbers of last streams that GOAWAY frames named, in order.
fn last_streams(received: &[frames::Frame]) -> Vec<u32> {
    received
        .iter()
        .filter(|frame| frame.kind == frames::GOAWAY)
        .map(|frame| frame.number_at(0))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_calls_end_well_and_then_the_connections() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let (mut busy, idle) = (gate.client("writer").await, gate.client("reader").await);
    let tap = Arc::clone(&busy.tap);
    let mut call = busy.open(Method::Write);
    call.send(grpc::write(10)).await;
    backend.until("the call runs", |seen| seen.len() == 1).await;
    gate.server().drain();
    // Two steps (RFC 9113, 6.8): first a warning with the largest number, so that calls on their way are still taken.
    until("GOAWAY twice", || last_streams(&tap.received()).len() == 2).await;
    assert_eq!(last_streams(&tap.received()), [(1 << 31) - 1, 1]);
    until("the idle connection ends", || idle.tap.end().is_some()).await;
    assert!(tap.end().is_none());
    call.send(grpc::write(10)).await;
    call.end();
    let reply = call.reply().await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    assert_eq!(tokio::task::block_in_place(|| gate.server().wait()), Drained::Whole);
    until("the connection ends", || tap.end().is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_new_connection_is_taken() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    gate.server().drain();
    let refused = async {
        while TcpStream::connect(gate.address()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    within("connections are refused", refused).await;
    assert_eq!(tokio::task::block_in_place(|| gate.server().wait()), Drained::Whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_does_not_end_is_waited_for_no_longer_than_the_timeout() {
    let backend = Backend::start(silent);
    let mut config = Config::to(&backend);
    config.listen.push_str("drain-timeout = 1\n");
    let gate = Gate::start(config).await;
    let mut client = gate.client("writer").await;
    let mut call = client.open(Method::Write);
    call.send(grpc::write(10)).await;
    backend.until("the call runs", |seen| seen.len() == 1).await;
    gate.server().drain();
    assert_eq!(tokio::task::block_in_place(|| gate.server().wait()), Drained::TimedOut);
    let told = tokio::task::block_in_place(|| gate.server().wait_unless(std::future::ready(())));
    assert_eq!(told, Drained::Told);
    // The end of the gate is the end of the call, for both sides.
    drop(gate);
    let reply = call.reply().await;
    assert!(reply.error.is_some(), "{reply:?}");
}

#[tokio::test]
async fn a_call_that_crosses_the_first_goaway_is_served() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("reader").await;
    client.tap.ignore_go_away();
    gate.server().drain();
    until("GOAWAY", || !last_streams(&client.tap.received()).is_empty()).await;
    let reply = client.ask(Method::Read, "").await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
}

#[tokio::test]
async fn a_call_does_not_outlive_its_certificate_though_its_connection_drains() {
    let backend = Backend::start(silent);
    let gate = Gate::start(Config::to(&backend)).await;
    let brief = gate.config.authority.client_with("writer", |params| {
        params.not_after = time::OffsetDateTime::now_utc() + Duration::from_secs(3);
    });
    let mut client = gate.client_with(&brief).await;
    let mut call = client.open(Method::Write);
    call.send(grpc::write(10)).await;
    backend.until("the call runs", |seen| seen.len() == 1).await;
    gate.server().drain();
    let reply = call.reply().await;
    assert_eq!(reply.code(), Some(7), "{reply:?}");
    assert!(reply.message().contains("has expired"), "{}", reply.message());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_and_a_watch_holds_up_no_drain() {
    const NOT_SERVING: &[u8] = b"\0\0\0\0\x02\x08\x02";
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let (mut watcher, mut checker) = (gate.client("reader").await, gate.client("reader").await);
    let (_watch, body, _) = watch_health(&mut watcher).await;
    checker.tap.ignore_go_away();
    gate.server().drain();
    let mut reply = Reply::default();
    within("the watch ends", rest(body, &mut reply)).await.unwrap();
    assert_eq!((reply.code(), &reply.body[..]), (Some(0), NOT_SERVING));
    let reply = checker.call(Method::HealthCheck, grpc::frame(b"")).await;
    assert_eq!((reply.code(), &reply.body[..]), (Some(0), NOT_SERVING));
    assert_eq!(tokio::task::block_in_place(|| gate.server().wait()), Drained::Whole);
}
