//! Signals to the real program while it ends.

use std::time::{Duration, Instant};

use casgate::policy::method::Method;

use crate::harness::backend::{Backend, Exchange, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::{Call, Client};
use crate::harness::{DEADLINE, grpc, until};

/// The program with a call that runs until the test ends it.
async fn busy<F>(behaviour: impl Fn(Exchange) -> F + Send + Sync + 'static) -> (Gate, Backend, Client, Call)
where
    F: Future<Output = ()> + Send + 'static,
{
    let backend = Backend::start(behaviour);
    let mut config = Config::to(&backend);
    config.top.push_str("\nlog = { format = \"json\" }");
    let gate = Gate::spawn(config).await;
    let mut client = gate.client("writer").await;
    let mut call = client.open(Method::Write);
    assert!(call.send(grpc::write(10)).await);
    backend.until("the call runs", |seen| seen.len() == 1).await;
    (gate, backend, client, call)
}

fn says(gate: &Gate, words: &str) -> bool {
    let log = gate.log();
    let mut texts = log.iter().filter_map(|line| line.get("message")?.as_str());
    texts.any(|text| text.contains(words))
}

#[tokio::test]
async fn a_drain_fails_readiness_takes_no_harm_from_sighup_and_ends_with_its_last_call() {
    let (mut gate, _backend, _client, mut call) = busy(unary).await;
    assert!(gate.get("/readyz").starts_with("HTTP/1.1 200"));
    gate.signal("TERM");
    until("it drains", || says(&gate, "draining: no new connections")).await;
    assert!(
        gate.get("/readyz").starts_with("HTTP/1.1 503"),
        "{}",
        gate.get("/readyz")
    );
    // Once for each kind of file that there could be: a good one, and none that could be read.
    gate.signal("HUP");
    std::fs::write(gate.dir().join("casgate.toml"), "nonsense").unwrap();
    gate.signal("HUP");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(gate.is_running() && gate.get("/livez").starts_with("HTTP/1.1 200"));
    assert!(call.send(grpc::write(10)).await);
    call.end();
    let reply = call.reply().await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    let status = gate.ended().await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn who_says_it_twice_does_not_wait() {
    for second in ["TERM", "INT"] {
        let (mut gate, _backend, _client, call) = busy(unary).await;
        let begun = Instant::now();
        gate.signal("TERM");
        until("it drains", || says(&gate, "draining: no new connections")).await;
        gate.signal(second);
        let status = gate.ended().await;
        // `listen.drain-timeout` is a minute.
        assert!(status.success() && begun.elapsed() < DEADLINE, "{second}: {status}");
        assert!(says(&gate, "told to stop again: the rest is cut off"), "{second}");
        let reply = call.reply().await;
        assert!(reply.error.is_some(), "{second}: {reply:?}");
    }
}

/// By SIGHUP, and where the files have changed.
#[tokio::test]
async fn who_is_revoked_while_it_drains_ends_and_nobody_else() {
    for signal in [true, false] {
        let backend = Backend::start(unary);
        let mut config = Config::to(&backend);
        let file = config.authority.revoke(&[]);
        config.files.insert("list.pem", file);
        config.listen.push_str("client-crl = [\"list.pem\"]\n");
        config
            .top
            .push_str(&format!("\nwatch = {}\nlog = {{ format = \"json\" }}", !signal));
        let mut gate = Gate::spawn(config).await;
        let [revoked, other] = ["writer", "writer"].map(|name| gate.config.authority.client(name));
        let mut calls = Vec::new();
        for credentials in [&revoked, &other] {
            let mut client = gate.client_with(credentials).await;
            let mut call = client.open(Method::Write);
            assert!(call.send(grpc::write(10)).await);
            calls.push((client, call));
        }
        backend.until("the calls run", |seen| seen.len() == 2).await;
        gate.signal("TERM");
        until("it drains", || says(&gate, "draining: no new connections")).await;
        let list = gate.config.authority.revoke(&[&revoked]);
        std::fs::write(gate.dir().join("list.pem"), list).unwrap();
        if signal {
            gate.signal("HUP");
        }
        let (_client, call) = calls.remove(0);
        let reply = call.reply().await;
        assert_eq!(reply.code(), Some(7), "{signal}: {reply:?}");
        assert!(reply.message().contains("it is revoked"), "{}", reply.message());
        let (_client, mut call) = calls.remove(0);
        assert!(call.send(grpc::write(10)).await);
        call.end();
        let reply = call.reply().await;
        assert_eq!(reply.code(), Some(0), "{signal}: {reply:?}");
        let status = gate.ended().await;
        assert!(status.success(), "{signal}: {status}");
    }
}
