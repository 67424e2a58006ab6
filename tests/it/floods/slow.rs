//! Clients that take nothing of what they have asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use casgate::policy::method::Method;
use tokio::time::timeout;

use super::resets::upload;
use super::{Bystander, MOST_MEMORY, gate_with};
use crate::harness::backend::{Backend, Exchange, send, status, unary};
use crate::harness::frames::{ACK, DATA, END_STREAM, Frame, PING};
use crate::harness::gate::Gate;
use crate::harness::wire::Scripted;
use crate::harness::{grpc, settled, until};

/// What is downloaded, in bytes: more than all buffers in between hold.
const DOWNLOAD: usize = 64 << 20;

/// A backend that sends a download, and how many pieces of it are on their way.
fn downloads() -> (Backend, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let backend = Backend::start(move |mut exchange: Exchange| {
        let count = Arc::clone(&count);
        async move {
            exchange.drain().await;
            let mut answer = exchange.begin();
            for _ in 0..DOWNLOAD >> 20 {
                send(&mut answer, grpc::frame(&[0; 1 << 20])).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
            let _gone = answer.send_trailers(status(0, ""));
        }
    });
    (backend, sent)
}

/// A client with open windows that has asked for the download on stream 1 and takes nothing of it, so that the gate can write
/// nothing more.
async fn deaf(gate: &Gate, sent: &AtomicUsize) -> Scripted {
    let mut client = Scripted::connect(gate, "root").await;
    let open = Frame::settings_of([(4, 0x7fff_ffff)]);
    let request = Frame::new(DATA, END_STREAM, 1, grpc::request(Method::Read, ""));
    let call = [
        open,
        Frame::window_update(0, 0x7000_0000),
        Frame::request(1, Method::Read.path()),
        request,
    ];
    client.send(&call).await.unwrap();
    let sent = || sent.load(Ordering::Relaxed);
    until("it is sent", || sent() > 0).await;
    let sent = settled("the gate is stuck", sent).await;
    assert!(sent < DOWNLOAD >> 20, "all of it fits into buffers");
    client
}

#[tokio::test]
async fn what_a_client_that_reads_nothing_must_be_told_does_not_pile_up() {
    let (backend, sent) = downloads();
    let gate = gate_with(&backend, "").await;
    let mut client = deaf(&gate, &sent).await;
    let before = gate.memory();
    // Each of these streams must be reset.
    let mut taken = 0;
    for rounds in (1..=500_000).collect::<Vec<_>>().chunks(500) {
        let calls: Vec<_> = rounds.iter().map(|round| upload(*round, ":path", "/late")).collect();
        match timeout(Duration::from_secs(1), client.send(&calls)).await {
            Ok(Ok(())) => taken += 500,
            Ok(Err(_)) | Err(_) => break,
        }
    }
    let grown = gate.peak_memory().saturating_sub(before);
    println!("{taken} calls were taken; {} KiB more", grown >> 10);
    assert!(taken >= 8000, "{taken} calls are too few to see it");
    assert!(grown < 24 << 20, "{grown} bytes for {taken} calls");
}

#[tokio::test]
async fn who_reads_late_gets_everything() {
    let (backend, sent) = downloads();
    let gate = gate_with(&backend, "control-frames-at-once = 100000").await;
    let mut client = deaf(&gate, &sent).await;
    // More than are read while nothing can be written.
    client.send(&vec![Frame::window_update(0, 1); 50_000]).await.unwrap();
    client.send(&[Frame::ping()]).await.unwrap();
    let (mut bytes, mut is_answered, mut is_over) = (0, false, false);
    while !is_answered || !is_over {
        let frame = client.next().await.unwrap();
        is_answered |= frame.kind == PING && frame.has(ACK);
        is_over |= frame.stream == 1 && frame.has(END_STREAM);
        if frame.kind == DATA {
            bytes += frame.payload.len();
        }
    }
    assert!(bytes > DOWNLOAD, "{bytes}");
    assert_eq!(gate.scrape("casgate_limited_total", &[]), 0.0);
}

#[tokio::test]
async fn readers_whose_window_is_shut_are_given_up_and_hurt_nobody_else() {
    const READERS: u32 = 30;
    let backend = Backend::start(|mut exchange: Exchange| async move {
        if exchange.path() != Method::Read.path() {
            return unary(exchange).await;
        }
        exchange.drain().await;
        let mut answer = exchange.begin();
        send(&mut answer, grpc::frame(&[0; 3 << 20])).await;
        let _gone = answer.send_trailers(status(0, ""));
    });
    let gate = gate_with(&backend, "stall-timeout = 1").await;
    let bystander = Bystander::start(&gate).await;
    let before = gate.memory();
    let mut client = Scripted::connect(&gate, "root").await;
    // SETTINGS_INITIAL_WINDOW_SIZE is 0.
    let shut = Frame::settings_of([(4, 0)]);
    let calls = (0..READERS).map(|number| 2 * number + 1).flat_map(|stream| {
        let request = Frame::new(DATA, END_STREAM, stream, grpc::request(Method::Read, ""));
        [Frame::request(stream, Method::Read.path()), request]
    });
    let frames: Vec<_> = [shut].into_iter().chain(calls).collect();
    client.send(&frames).await.unwrap();
    let limited = || {
        gate.scrape(
            "casgate_limited_total",
            &["limit=\"stall-timeout\"", "action=\"closed\""],
        )
    };
    until("all are given up", || limited() == f64::from(READERS)).await;
    let (calls, p99) = bystander.stop().await;
    let grown = gate.peak_memory().saturating_sub(before);
    println!("{calls} calls of another client, p99 {p99:?}; {} KiB more", grown >> 10);
    assert!(grown < MOST_MEMORY, "{grown} bytes");
}
