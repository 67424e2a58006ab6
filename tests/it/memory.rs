//! What clients may make the gate keep in all, however many connections they have.

mod attacks;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use casgate::policy::method::Method;
use tokio::task::JoinSet;

use crate::harness::backend::{Backend, Exchange, Seen, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::pki::Credentials;
use crate::harness::{frames, grpc, settled, until};

const MIB: u64 = 1 << 20;

/// Two backends: uploads of blobs go to one that reads nothing, all else to one that answers.
async fn gate(memory: &str) -> (Backend, Backend, Gate) {
    let stalled = Backend::start(|exchange: Exchange| async move {
        let _unread = exchange;
        std::future::pending::<()>().await;
    });
    let good = Backend::start(unary);
    let mut config = Config::to(&stalled);
    config.backends.push_str(&format!(
        "[backends.good]\nendpoint = \"{}\"\n[[routes]]\nservices = [\"cas\"]\nbackend = \"cache\"\n\
         [[routes]]\nservices = [\"action-cache\"]\nbackend = \"good\"\n",
        good.endpoint()
    ));
    config.top.push_str(&format!(
        "\nlimits = {{ memory = \"{memory}\" }}\nlog = {{ format = \"json\" }}"
    ));
    (stalled, good, Gate::spawn(config).await)
}

/// Uploads on a connection for each of these, as much as the gate takes; counts the bytes.
async fn flood<'a>(gate: &Gate, who: impl Iterator<Item = &'a Credentials>) -> (JoinSet<()>, Arc<AtomicU64>) {
    let sent = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for credentials in who {
        let mut client = gate.client_with(credentials).await;
        let sent = Arc::clone(&sent);
        tasks.spawn(async move {
            // More than one, since each has a part of the window only.
            let mut calls = JoinSet::new();
            for _ in 0..16 {
                let mut call = client.open(Method::Write);
                let sent = Arc::clone(&sent);
                calls.spawn(async move {
                    let piece = grpc::write(1 << 16);
                    while call.send(piece.clone()).await {
                        sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    }
                });
            }
            calls.join_all().await;
            drop(client);
        });
    }
    (tasks, sent)
}

#[tokio::test]
async fn uploads_that_no_backend_takes_stay_within_the_budget() {
    const CONNECTIONS: usize = 24;
    let (_stalled, good, gate) = gate("256MiB").await;
    let mut honest = gate.client("writer").await;
    assert_eq!(honest.ask(Method::UpdateActionResult, "").await.code(), Some(0));
    let before = gate.memory();
    let writers: Vec<_> = (0..CONNECTIONS)
        .map(|_| gate.config.authority.client("writer"))
        .collect();
    let (mut flood, sent) = flood(&gate, writers.iter()).await;
    until("much has come", || sent.load(Ordering::Relaxed) > 75 * MIB).await;
    let sent = settled("they stop", || sent.load(Ordering::Relaxed)).await;
    let grown = gate.memory().saturating_sub(before);
    assert!(
        grown < 200 * MIB,
        "{} MiB of {} MiB that were sent",
        grown / MIB,
        sent / MIB
    );
    let given = gate.scrape("casgate_window_bytes", &[]);
    // Half of it, beside the least that each connection has.
    let most = (128.0 + (CONNECTIONS + 1) as f64 / 4.0) * MIB as f64;
    assert!(given > 75.0 * MIB as f64 && given <= most, "{given}");
    assert!(gate.scrape("casgate_limited_total", &["memory", "reduced"]) > 15.0);
    // Whoever has a backend that works goes on, on old connections and on new ones.
    let mut late = gate.client("writer").await;
    for client in [&mut honest, &mut late] {
        let body = Bytes::from([grpc::string(1, ""), grpc::string(15, &"x".repeat(2 << 20))].concat());
        let reply = client.call(Method::UpdateActionResult, grpc::frame(&body)).await;
        assert_eq!(reply.code(), Some(0), "{reply:?}");
    }
    let pushed = |seen: &Seen| seen.path == Method::UpdateActionResult.path();
    assert_eq!(good.seen().iter().filter(|seen| pushed(seen)).count(), 3);
    flood.shutdown().await;
    drop((honest, late));
    until("it is given back", || gate.scrape("casgate_window_bytes", &[]) == 0.0).await;
}

#[tokio::test]
async fn one_certificate_gets_no_more_than_half_of_the_windows() {
    let (_stalled, _good, gate) = gate("128MiB").await;
    let one = gate.config.authority.client("writer");
    let (mut flood, sent) = flood(&gate, std::iter::repeat_n(&one, 24)).await;
    until("much has come", || sent.load(Ordering::Relaxed) > 25 * MIB).await;
    settled("they stop", || sent.load(Ordering::Relaxed)).await;
    let given = gate.scrape("casgate_window_bytes", &[]);
    // Beside the least that each connection has.
    assert!(given <= (32.0 + 24.0 / 4.0) * MIB as f64, "{given}");
    flood.shutdown().await;
}

#[tokio::test]
async fn windows_are_small_until_a_call_needs_them() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    config.top.push_str("\nlimits = { memory = \"4GiB\" }");
    let gate = Gate::start(config).await;
    let given = || gate.metric("casgate_window_bytes", &[]) as u64;
    let mut writer = gate.client("writer").await;
    let mut reader = gate.client("reader").await;
    assert_eq!(reader.ask(Method::BatchUpdateBlobs, "").await.code(), Some(7));
    assert_eq!(given(), MIB / 2, "for nobody who was allowed nothing");
    assert_eq!(reader.ask(Method::Read, "").await.code(), Some(0));
    until("for requests", || given() == 16 * MIB + MIB / 4).await;
    assert_eq!(writer.ask(Method::BatchUpdateBlobs, "").await.code(), Some(0));
    until("for uploads", || given() == 80 * MIB).await;
    // SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113, 6.5.2) is 7 MiB.
    let told = |frame: &frames::Frame| {
        let value = [&[0, 4][..], &(7u32 << 20).to_be_bytes()].concat();
        frame.kind == frames::SETTINGS && frame.payload.chunks(6).any(|setting| setting == value)
    };
    until("the client is told", || writer.tap.received().iter().any(told)).await;
    drop((reader, writer));
    until("they are given back", || given() == 0).await;
}
