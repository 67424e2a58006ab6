//! The streams that a backend allows are shared out among clients: calls wait for their turn, and nobody gets all.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use casgate::policy::method::Method;
use tokio::task::JoinSet;

use crate::harness::backend::{Backend, Exchange, Options, Place, silent, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::{Call, Client, grpc_request};
use crate::harness::{assert_unavailable, grpc, until};

/// Answers what has a body, and never anything else.
async fn some(exchange: Exchange) {
    match exchange.body.is_end_stream() {
        true => silent(exchange).await,
        false => unary(exchange).await,
    }
}

/// A gate before a backend that allows so many streams on a connection.
async fn gate(streams: u32, keys: &str) -> (Backend, Gate) {
    let options = Options {
        max_streams: Some(streams),
        ..Options::default()
    };
    let backend = Backend::at(Place::tcp(), options, some);
    let mut config = Config::to(&backend);
    config.backends.push_str(keys);
    let gate = Gate::start(config).await;
    (backend, gate)
}

/// Calls that are never answered.
fn hold(client: &mut Client, calls: usize) -> Vec<Call> {
    let open = |_| client.open_with(grpc_request(Method::GetOperation.path()), true);
    (0..calls).map(open).collect()
}

async fn until_waiting(gate: &Gate, calls: usize) {
    until("calls wait", || {
        gate.metric("casgate_backend_waiting_calls", &["cache"]) == calls as f64
    })
    .await;
}

#[tokio::test]
async fn a_client_that_takes_all_it_can_leaves_streams_for_others() {
    let (backend, gate) = gate(12, "max-connections = 1\n").await;
    let mut greedy = gate.client("root").await;
    let _held = hold(&mut greedy, 100);
    until_waiting(&gate, 94).await;
    backend.until("half of them", |seen| seen.len() == 6).await;
    let mut second = gate.client("root").await;
    let _more = hold(&mut second, 100);
    until_waiting(&gate, 94 + 97).await;
    backend.until("half of the rest", |seen| seen.len() == 9).await;
    let reply = gate.client("reader").await.ask(Method::Read, "").await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn further_connections_are_made_when_the_usual_ones_are_full() {
    let (backend, gate) = gate(10, "max-connections = 4\n").await;
    let mut client = gate.client("root").await;
    let _held = hold(&mut client, 30);
    until_waiting(&gate, 10).await;
    backend.until("as many as fit", |seen| seen.len() == 20).await;
    let mut other = gate.client("root").await;
    let _more = hold(&mut other, 10);
    backend.until("the next connection", |seen| seen.len() == 30).await;
    assert_eq!(backend.connections(), 3);
    for connection in 0..3 {
        let on_it = backend
            .seen()
            .iter()
            .filter(|seen| seen.connection == connection)
            .count();
        assert_eq!(on_it, 10);
    }
}

#[tokio::test]
async fn more_calls_than_streams_are_served_one_after_the_other() {
    let (backend, gate) = gate(4, "max-connections = 1\n").await;
    let mut client = gate.client("reader").await;
    let open = |_| {
        let mut call = client.open(Method::Read);
        call.body.send_data(grpc::request(Method::Read, ""), true).unwrap();
        call
    };
    let calls: Vec<_> = (0..600).map(open).collect();
    for (number, call) in calls.into_iter().enumerate() {
        let reply = call.reply().await;
        assert_eq!(reply.code(), Some(0), "{number}: {reply:?}");
    }
    assert_eq!(backend.streams(), 600);
    assert_eq!(backend.connections(), 1);
    assert_eq!(gate.metric("casgate_backend_wait_timeouts_total", &[]), 0.0);
}

#[tokio::test]
async fn a_call_that_gets_no_stream_is_unavailable_after_a_while() {
    let (backend, gate) = gate(1, "max-connections = 1\n").await;
    let mut client = gate.client("root").await;
    let _held = hold(&mut client, 1);
    backend.until("it is there", |seen| seen.len() == 1).await;
    let waiting = hold(&mut client, 1).remove(0);
    assert_unavailable(&waiting.reply().await, "no stream free");
    assert_eq!(backend.streams(), 1);
    assert_eq!(gate.metric("casgate_backend_wait_timeouts_total", &["cache"]), 1.0);
    until_waiting(&gate, 0).await;
}

#[tokio::test]
async fn a_call_that_is_cancelled_while_it_waits_never_reaches_the_backend() {
    let (backend, gate) = gate(1, "max-connections = 1\n").await;
    let mut client = gate.client("root").await;
    let held = hold(&mut client, 1);
    backend.until("it is there", |seen| seen.len() == 1).await;
    let waiting = hold(&mut client, 50);
    until_waiting(&gate, 50).await;
    for call in waiting {
        call.cancel();
    }
    until("they are gone", || gate.metric("casgate_calls_open", &[]) == 1.0).await;
    until_waiting(&gate, 0).await;
    for call in held {
        call.cancel();
    }
    let reply = client.ask(Method::Read, "").await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    assert_eq!(backend.streams(), 2);
}

#[tokio::test]
async fn more_connections_give_no_larger_share() {
    const CALLS: usize = 60;
    let options = Options {
        max_streams: Some(6),
        ..Options::default()
    };
    let backend = Backend::at(Place::tcp(), options, |exchange| async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        unary(exchange).await;
    });
    let mut config = Config::to(&backend);
    config.backends.push_str("max-connections = 1\n");
    let gate = Gate::start(config).await;
    let (many, one) = (
        gate.config.authority.client("reader"),
        gate.config.authority.client("reader"),
    );
    let served = Arc::new(AtomicUsize::new(0));
    let mut flood = JoinSet::new();
    for _ in 0..20 {
        let mut client = gate.client_with(&many).await;
        let served = Arc::clone(&served);
        flood.spawn(async move {
            loop {
                let calls: Vec<_> = (0..6).map(|_| read(&mut client)).collect();
                for call in calls {
                    assert_eq!(call.reply().await.code(), Some(0));
                    served.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    let mut client = gate.client_with(&one).await;
    until("the flood is on its way", || served.load(Ordering::Relaxed) > 50).await;
    let before = served.load(Ordering::Relaxed);
    let mut calls: VecDeque<_> = (0..6).map(|_| read(&mut client)).collect();
    for number in 0..CALLS {
        let call = calls.pop_front().unwrap();
        assert_eq!(call.reply().await.code(), Some(0), "{number}");
        calls.push_back(read(&mut client));
    }
    let others = served.load(Ordering::Relaxed) - before;
    // By connection it would be twenty times as many.
    assert!(others < 4 * CALLS, "{others} calls of the flood beside {CALLS}");
    assert!(others > CALLS / 4, "nobody is starved: {others} calls of the flood");
    flood.shutdown().await;
}

fn read(client: &mut Client) -> Call {
    let mut call = client.open(Method::Read);
    call.body.send_data(grpc::request(Method::Read, ""), true).unwrap();
    call
}
