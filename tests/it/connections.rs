//! How many connections there may be, and for how long they may do nothing.

use std::net::SocketAddr;
use std::time::Duration;

use casgate::policy::method::Method;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::net::TcpStream;

use crate::harness::backend::{Backend, echo, silent, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::{Call, Client, Reply, client_from, connect_tls_at, rest, tls_config};
use crate::harness::{assert_only_this_is_seen, frames, grpc, until, watch_health, within};

/// A configuration with keys of `[limits]` and `[log]`.
fn config(backend: &Backend, limits: &str) -> Config {
    let mut config = Config::to(backend);
    let tables = format!("\n[limits]\n{limits}\n[log]\nformat = \"json\"\n");
    config.backends.push_str(&tables);
    config
}

/// A call that runs until the test ends it.
fn long_call(client: &mut Client) -> Call {
    let mut call = client.open(Method::Read);
    call.body.send_data(grpc::request(Method::Read, ""), false).unwrap();
    call
}

async fn client_at(address: SocketAddr, tls: rustls::ClientConfig) -> Client {
    Client::over(connect_tls_at(address, tls).await.unwrap(), &h2::client::Builder::new()).await
}

fn says(line: &toml::Table, key: &str, value: &str) -> bool {
    line.get(key).is_some_and(|text| text.as_str() == Some(value))
}

#[tokio::test]
async fn idle_connections_can_not_use_up_the_open_files() {
    let backend = Backend::start(echo);
    let gate = Gate::spawn_after("ulimit -n 256", config(&backend, "")).await;
    let reader = gate.config.authority.client("reader");
    let mut busy = gate.client_with(&reader).await;
    let mut call = long_call(&mut busy);
    backend.until("it runs", |seen| seen.len() == 1).await;
    // Some without even a handshake, some with all of it.
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(TcpStream::connect(gate.address()).await.unwrap());
    }
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(gate.client_with(&reader).await);
    }
    // Who comes now is served, and so is who was there before them with a call.
    let mut client = gate.client_with(&reader).await;
    assert_only_this_is_seen(&mut client, &backend).await;
    call.end();
    let reply = call.reply().await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    assert_only_this_is_seen(&mut busy, &backend).await;
    let told = |line: &toml::Table| {
        says(line, "target", "casgate::limits") && says(line, "limit", "connections") && says(line, "action", "closed")
    };
    // Once in ten seconds, not for each of them.
    let lines = gate.log().iter().filter(|line| told(line)).count();
    assert!((1..5).contains(&lines), "{lines} lines");
}

#[tokio::test]
async fn who_connects_while_no_file_can_be_opened_is_served_when_one_can() {
    let backend = Backend::start(echo);
    let gate = Gate::spawn(config(&backend, "")).await;
    let mut before = gate.client("reader").await;
    assert_only_this_is_seen(&mut before, &backend).await;
    let pid = Pid::from_raw(gate.id().try_into().unwrap());
    let limit = |files| {
        let limit = Rlimit {
            current: Some(files),
            maximum: Some(1024),
        };
        prlimit(pid, Resource::Nofile, limit).unwrap().current.unwrap()
    };
    // Below what is open now: accept(2) says EMFILE.
    let files = limit(3);
    let told = |words: &str| gate.log().iter().filter(|line| says(line, "message", words)).count();
    let mut late = tokio::spawn(client_at(
        gate.address(),
        tls_config(&gate, Some(&gate.config.authority.client("reader"))),
    ));
    until("the log tells of it", || {
        told("no connections are accepted: those that come wait in the kernel") == 1
    })
    .await;
    // Time for some more attempts, of which it does not tell.
    assert!(
        tokio::time::timeout(Duration::from_millis(300), &mut late)
            .await
            .is_err()
    );
    assert_only_this_is_seen(&mut before, &backend).await;
    limit(files.min(1024));
    let mut late = within("the handshake", late).await.unwrap();
    assert_only_this_is_seen(&mut late, &backend).await;
    assert_eq!(
        told("no connections are accepted: those that come wait in the kernel"),
        1
    );
    assert_eq!(told("connections are accepted again"), 1);
    assert!(gate.scrape("casgate_accept_errors_total", &[]) >= 2.0);
}

#[tokio::test]
async fn where_all_connections_are_busy_a_new_one_is_refused() {
    let backend = Backend::start(silent);
    let gate = Gate::start(config(&backend, "connections = 16")).await;
    let reader = gate.config.authority.client("reader");
    let mut clients = Vec::new();
    let mut calls = Vec::new();
    for number in 1..=16 {
        let mut client = gate.client_with(&reader).await;
        calls.push(long_call(&mut client));
        clients.push(client);
        backend.until("it runs", |seen| seen.len() == number).await;
    }
    let refused = Client::try_connect(&gate, tls_config(&gate, Some(&reader))).await;
    assert!(refused.is_err());
    let limited = |labels: &[&str]| gate.metric("casgate_limited_total", labels);
    assert_eq!(limited(&["limit=\"connections\"", "action=\"refused\""]), 1.0);
    // When one of them has nothing to do it makes room.
    calls.remove(0).cancel();
    until("it is idle", || gate.metric("casgate_calls_open", &[]) == 15.0).await;
    let mut client = gate.client_with(&reader).await;
    assert_eq!(client.call(Method::HealthCheck, grpc::frame(b"")).await.code(), Some(0));
    until("it leaves", || clients[0].tap.end().is_some()).await;
    assert_eq!(limited(&["limit=\"connections\"", "action=\"closed\""]), 1.0);
    assert_eq!(gate.metric("casgate_calls_open", &[]), 15.0);
}

#[tokio::test]
async fn one_address_has_its_share_of_connections_and_no_more() {
    let backend = Backend::start(silent);
    let gate = Gate::start(config(&backend, "connections-per-address = 2")).await;
    let reader = gate.config.authority.client("reader");
    let (mut first, mut second) = (gate.client_with(&reader).await, gate.client_with(&reader).await);
    let _calls = (long_call(&mut first), long_call(&mut second));
    backend.until("they run", |seen| seen.len() == 2).await;
    let refused = Client::try_connect(&gate, tls_config(&gate, Some(&reader))).await;
    assert!(refused.is_err());
    let labels = ["limit=\"connections-per-address\"", "action=\"refused\""];
    assert_eq!(gate.metric("casgate_limited_total", &labels), 1.0);
    let mut other = client_from(2, &gate).await;
    assert_eq!(other.call(Method::HealthCheck, grpc::frame(b"")).await.code(), Some(0));
}

#[tokio::test]
async fn one_address_can_not_take_all_handshakes() {
    let backend = Backend::start(unary);
    let gate = Gate::start(config(&backend, "handshakes = 4")).await;
    let half_open: Vec<_> = {
        let mut all = Vec::new();
        for _ in 0..8 {
            all.push(TcpStream::connect(gate.address()).await.unwrap());
        }
        all
    };
    assert_only_this_is_seen(&mut client_from(2, &gate).await, &backend).await;
    // The same address has to wait for its turn, and gets it.
    drop(half_open);
    assert_only_this_is_seen(&mut gate.client("reader").await, &backend).await;
}

#[tokio::test]
async fn many_handshakes_at_once_wait_for_their_turn() {
    let backend = Backend::start(unary);
    let gate = Gate::start(config(&backend, "handshakes = 4")).await;
    let reader = gate.config.authority.client("reader");
    let all = (0..50).map(|_| gate.client_with(&reader));
    let clients = within("all are in", futures_util::future::join_all(all)).await;
    assert_eq!(clients.len(), 50);
    assert_eq!(gate.metric("casgate_limited_total", &[]), 0.0);
}

#[tokio::test]
async fn connections_that_do_nothing_are_told_to_go() {
    let backend = Backend::start(echo);
    let cases = [
        ("idle-timeout = 1", "idle-timeout", false, true),
        ("anonymous-idle-timeout = 1", "idle-timeout", true, true),
        ("first-request-timeout = 1", "first-request-timeout", false, false),
        ("anonymous-idle-timeout = 1", "first-request-timeout", true, false),
    ];
    let cases = cases.map(async |(limits, limit, anonymous, calls)| {
        let gate = Gate::start(config(&backend, limits).with_anonymous()).await;
        let connect = async || {
            if anonymous {
                gate.anonymous().await
            } else {
                gate.client("reader").await
            }
        };
        let mut clients = [connect().await, connect().await];
        // One that does not answer can't stay either.
        clients[1].tap.ignore_go_away();
        for client in clients.iter_mut().filter(|_| calls) {
            let reply = client.call(Method::HealthCheck, grpc::frame(b"")).await;
            assert_eq!(reply.code(), Some(0), "{reply:?}");
        }
        for client in &clients {
            until(limit, || client.tap.end().is_some()).await;
            let received = client.tap.received();
            let away: Vec<_> = received.iter().filter(|frame| frame.kind == frames::GOAWAY).collect();
            assert!(!away.is_empty(), "{limits}");
            assert!(
                away.iter().all(|frame| frame.number_at(4) == frames::NO_ERROR),
                "{away:?}"
            );
        }
        let labels = [format!("limit=\"{limit}\""), "action=\"closed\"".to_owned()];
        let labels = labels.each_ref().map(String::as_str);
        assert_eq!(gate.metric("casgate_limited_total", &labels), 2.0, "{limits}");
    });
    futures_util::future::join_all(cases).await;
}

#[tokio::test]
async fn a_connection_with_a_call_is_not_idle() {
    let backend = Backend::start(echo);
    let gate = Gate::start(config(&backend, "idle-timeout = 1\nfirst-request-timeout = 1")).await;
    let (mut busy, idle) = (gate.client("reader").await, gate.client("reader").await);
    let mut call = long_call(&mut busy);
    backend.until("it runs", |seen| seen.len() == 1).await;
    until("the idle one goes", || idle.tap.end().is_some()).await;
    let far = gate.client("reader").await;
    until("and another one", || far.tap.end().is_some()).await;
    call.end();
    let reply = call.reply().await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    until("it is idle now", || busy.tap.end().is_some()).await;
}

#[tokio::test]
async fn a_watch_of_the_health_keeps_no_connection_that_does_nothing_else() {
    let backend = Backend::start(echo);
    let gate = Gate::start(config(&backend, "idle-timeout = 1\nanonymous-idle-timeout = 1").with_anonymous()).await;
    for anonymous in [false, true] {
        let mut client = match anonymous {
            true => gate.anonymous().await,
            false => gate.client("reader").await,
        };
        let (_watch, body, _) = watch_health(&mut client).await;
        let mut reply = Reply::default();
        within("the watch ends", rest(body, &mut reply)).await.unwrap();
        assert_eq!(reply.code(), Some(14), "{reply:?}");
        assert!(reply.message().contains("watch again on another one"), "{reply:?}");
        until("the connection ends", || client.tap.end().is_some()).await;
    }
    let labels = ["limit=\"idle-timeout\"", "action=\"closed\""];
    assert_eq!(gate.metric("casgate_limited_total", &labels), 2.0);
    // One beside a call goes on, and so does one that takes little time.
    let mut busy = gate.client("reader").await;
    let mut call = long_call(&mut busy);
    let (_watch, mut body, _) = watch_health(&mut busy).await;
    let longer = tokio::time::timeout(Duration::from_millis(2500), body.data()).await;
    assert!(longer.is_err(), "{longer:?}");
    call.end();
    assert_eq!(call.reply().await.code(), Some(0));
}

#[tokio::test]
async fn a_connection_has_few_watches_of_the_health_and_makes_room_with_them() {
    let backend = Backend::start(silent);
    let gate = Gate::start(config(&backend, "connections = 16")).await;
    let reader = gate.config.authority.client("reader");
    let mut watcher = gate.client_with(&reader).await;
    let mut watches = Vec::new();
    for _ in 0..16 {
        watches.push(watch_health(&mut watcher).await);
    }
    let reply = watcher.call(Method::HealthWatch, grpc::frame(b"")).await;
    assert_eq!(reply.code(), Some(14), "{reply:?}");
    assert!(reply.message().contains("watches of the health"), "{reply:?}");
    let limited = |labels: &[&str]| gate.metric("casgate_limited_total", labels);
    assert_eq!(limited(&["limit=\"health-watches\"", "action=\"refused\""]), 1.0);
    // When all connections are taken it is one that does nothing.
    let mut clients = Vec::new();
    for number in 1..=16 {
        let mut client = gate.client_with(&reader).await;
        let call = long_call(&mut client);
        backend.until("it runs", |seen| seen.len() == number).await;
        clients.push((client, call));
    }
    until("the watcher leaves", || watcher.tap.end().is_some()).await;
}
