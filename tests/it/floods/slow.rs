//! Clients that take nothing of what they have asked for.

use casgate::policy::method::Method;

use super::{Bystander, MOST_MEMORY, gate_with};
use crate::harness::backend::{Backend, Exchange, send, status, unary};
use crate::harness::frames::{DATA, END_STREAM, Frame, SETTINGS};
use crate::harness::wire::Scripted;
use crate::harness::{grpc, until};

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
    let shut = Frame::new(SETTINGS, 0, 0, vec![0, 4, 0, 0, 0, 0]);
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
