//! What a rule lets each of its callers take: calls and bytes in a time, and calls at once. One caller can't take the share
//! of another, and not more of its own by more connections.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bazel_remote_apis::google::rpc::Status;
use casgate::policy::method::Method;
use prost::Message;

use crate::harness::backend::{Backend, Exchange, send, silent, status, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::pki::Credentials;
use crate::harness::wire::{Client, Reply, grpc_request};
use crate::harness::{grpc, settled, until, within};

/// A gate whose only rule allows everybody with a certificate to pull and push, within limits.
async fn gate(backend: &Backend, limits: &str) -> Gate {
    let mut config = Config::to(backend);
    config.rules = rules(limits);
    Gate::start(config).await
}

fn rules(limits: &str) -> String {
    format!(
        "[[rules]]\nname = \"secret name\"\ncertificate = \"any\"\nallow = [\"pull\", \"push\", \"execute\"]\n{limits}\n"
    )
}

/// Answers with so many bytes.
async fn large(mut exchange: Exchange, size: usize) {
    exchange.drain().await;
    let mut answer = exchange.begin();
    if send(&mut answer, grpc::frame(&vec![0; size])).await {
        let _gone = answer.send_trailers(status(0, ""));
    }
}

/// UNAVAILABLE, when to come again, and nothing of the rule.
fn assert_try_again(reply: &Reply, text: &str) -> Duration {
    assert_eq!(reply.code(), Some(14), "{reply:?}");
    let message = reply.message();
    assert!(message.contains(text) && !message.contains("secret"), "{message}");
    let details = reply.headers["grpc-status-details-bin"].as_bytes();
    let details = Status::decode(&STANDARD_NO_PAD.decode(details).unwrap()[..]).unwrap();
    assert_eq!((details.code, &*details.message), (14, &*message));
    let [info] = &details.details[..] else {
        panic!("{details:?}")
    };
    assert_eq!(info.type_url, "type.googleapis.com/google.rpc.RetryInfo");
    // RetryInfo { retry_delay: Duration }: field 1 of either, as bytes and as a number.
    assert_eq!(info.value[0], 0x0a);
    prost_types::Duration::decode(&info.value[2..])
        .unwrap()
        .try_into()
        .unwrap()
}

async fn code_of(gate: &Gate, credentials: &Credentials) -> Reply {
    gate.client_with(credentials).await.ask(Method::Read, "").await
}

#[tokio::test]
async fn calls_beyond_the_rate_are_unavailable_and_told_when_to_come_again() {
    let backend = Backend::start(unary);
    let gate = gate(&backend, "rate = \"3/h\"").await;
    let (one, other) = (
        gate.config.authority.client("one"),
        gate.config.authority.client("other"),
    );
    let mut first = gate.client_with(&one).await;
    for _ in 0..3 {
        assert_eq!(first.ask(Method::Read, "").await.code(), Some(0));
    }
    // Neither another connection nor a new one gives more.
    let mut second = gate.client_with(&one).await;
    let after = assert_try_again(
        &second.ask(Method::Read, "").await,
        "certificate `CN=one` makes calls faster",
    );
    assert!(
        after > Duration::from_secs(1100) && after <= Duration::from_secs(1200),
        "{after:?}"
    );
    drop((first, second));
    until("they are gone", || gate.metric("casgate_connections_open", &[]) == 0.0).await;
    assert_try_again(&code_of(&gate, &one).await, "faster");
    assert_eq!(backend.streams(), 3);
    // The share of another is its own.
    assert_eq!(code_of(&gate, &other).await.code(), Some(0));
    assert_eq!(gate.metric("casgate_limited_total", &["rate", "refused"]), 2.0);
    assert_eq!(gate.metric("grpc_server_handled_total", &["Unavailable"]), 2.0);
}

#[tokio::test]
async fn callers_without_a_certificate_are_told_apart_by_their_address() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend).with_anonymous();
    config.rule("all", "\"anonymous\"", &["pull"], None);
    config.rules.push_str("rate = \"6/h\"\nrate-burst = 1\n");
    let gate = Gate::start(config).await;
    assert_eq!(gate.anonymous().await.ask(Method::Read, "").await.code(), Some(0));
    assert_try_again(
        &gate.anonymous().await.ask(Method::Read, "").await,
        "anonymous caller makes calls faster",
    );
    // By a rule of its own.
    assert_eq!(gate.client("reader").await.ask(Method::Read, "").await.code(), Some(0));
}

#[tokio::test]
async fn counts_go_on_after_a_reload_unless_the_limit_is_another_one() {
    let backend = Backend::start(unary);
    let mut gate = gate(&backend, "rate = \"1/h\"").await;
    let mut client = gate.client("one").await;
    assert_eq!(client.ask(Method::Read, "").await.code(), Some(0));
    gate.config.rules = format!(
        "[[rules]]\ncertificate = \"anonymous\"\nallow = [\"pull\"]\n{}",
        gate.config.rules
    );
    gate.reload().await.unwrap();
    assert_try_again(&client.ask(Method::Read, "").await, "faster");
    gate.config.rules = rules("rate = \"2/h\"");
    gate.reload().await.unwrap();
    assert_eq!(client.ask(Method::Read, "").await.code(), Some(0));
    gate.config.rules = rules("");
    gate.reload().await.unwrap();
    for _ in 0..5 {
        assert_eq!(client.ask(Method::Read, "").await.code(), Some(0));
    }
}

#[tokio::test]
async fn an_answer_beyond_the_bandwidth_is_slow_and_neither_cut_nor_taken_for_stalled() {
    const SIZE: usize = 160 << 10;
    let backend = Backend::start(|exchange| large(exchange, SIZE));
    let mut config = Config::to(&backend);
    config.rules = rules("bandwidth = \"32KiB/s\"");
    config.top.push_str("\nlimits = { stall-timeout = 1 }");
    let gate = Gate::start(config).await;
    let mut client = gate.client("one").await;
    let begun = Instant::now();
    let reply = client.ask(Method::Read, "").await;
    assert_eq!(
        (reply.code(), reply.body.len()),
        (Some(0), SIZE + 5),
        "{:?}",
        reply.error
    );
    // 64 KiB go at once.
    assert!(begun.elapsed() >= Duration::from_millis(2900), "{:?}", begun.elapsed());
    assert_eq!(gate.metric("casgate_limited_total", &["bandwidth", "delayed"]), 1.0);
    assert_eq!(gate.metric("casgate_limited_total", &["stall-timeout"]), 0.0);
    // One that gives up meanwhile is gone at once, and others do not wait for its bytes.
    let mut call = client.open_with(grpc_request(Method::Read.path()), false);
    call.send(grpc::request(Method::Read, "")).await;
    call.end();
    let _begun = call.head().await;
    call.cancel();
    until("it is gone", || gate.metric("casgate_calls_open", &[]) == 0.0).await;
}

#[tokio::test]
async fn an_upload_beyond_the_bandwidth_is_held_back_and_comes_through_whole() {
    let backend = Backend::start(unary);
    let gate = gate(&backend, "bandwidth = \"64KiB/s\"\nbandwidth-burst = \"128KiB\"").await;
    let mut client = gate.client("one").await;
    let begun = Instant::now();
    let reply = client.call(Method::Write, grpc::write(300 << 10)).await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    assert!(begun.elapsed() >= Duration::from_millis(2500), "{:?}", begun.elapsed());
    assert!(backend.seen()[0].ended && backend.seen()[0].received > 300 << 10);
    // Another caller has a share of its own.
    let begun = Instant::now();
    let reply = gate
        .client("other")
        .await
        .call(Method::Write, grpc::write(100 << 10))
        .await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn calls_beyond_max_calls_wait_for_their_turn() {
    let backend = Backend::start(|exchange: Exchange| async move {
        match exchange.path() == Method::GetActionResult.path() {
            true => silent(exchange).await,
            false => unary(exchange).await,
        }
    });
    let gate = gate(&backend, "max-calls = 2").await;
    let (one, other) = (
        gate.config.authority.client("one"),
        gate.config.authority.client("other"),
    );
    let open = |client: &mut Client, method| {
        let mut call = client.open(method);
        call.body.send_data(grpc::request(method, ""), true).unwrap();
        call
    };
    let (mut first, mut second) = (gate.client_with(&one).await, gate.client_with(&one).await);
    let held = [
        open(&mut first, Method::GetActionResult),
        open(&mut second, Method::GetActionResult),
    ];
    backend.until("both", |seen| seen.len() == 2).await;
    let cancelled = open(&mut first, Method::Read);
    let waiting = open(&mut second, Method::Read);
    until("all are there", || gate.metric("casgate_calls_open", &[]) == 4.0).await;
    assert_eq!(settled("nothing more", || backend.streams()).await, 2);
    assert_eq!(code_of(&gate, &other).await.code(), Some(0), "another has its own");
    cancelled.cancel();
    until("it waits no more", || gate.metric("casgate_calls_open", &[]) == 3.0).await;
    let [ended, _held] = held;
    ended.cancel();
    assert_eq!(waiting.reply().await.code(), Some(0));
    // The place that it had is free again; it goes to one of these, and nobody gives the other one up.
    let _more = open(&mut first, Method::GetActionResult);
    backend.until("it is there", |seen| seen.len() == 5).await;
    let late = open(&mut second, Method::Read);
    assert_try_again(&within("patience ends", late.reply()).await, "has more calls open");
    assert_eq!(backend.streams(), 5);
    assert_eq!(gate.metric("casgate_limited_total", &["max-calls", "refused"]), 1.0);
}

#[tokio::test]
async fn limits_that_mean_nothing_are_errors() {
    let backend = Backend::start(unary);
    for (limits, problem) in [
        ("rate = \"fast\"", "`fast` is no rate"),
        ("rate-burst = 5", "means nothing without `rate`"),
        ("bandwidth = \"1KiB/s\"", "is not between 16KiB/s and 10GiB/s"),
        (
            "bandwidth = \"1MiB/s\"\nbandwidth-burst = \"1KiB\"",
            "`1KiB` is no size from 64KiB",
        ),
        ("bandwidth-burst = \"1MiB\"", "means nothing without `bandwidth`"),
        ("max-calls = 0", "max-calls"),
        ("max-calls = 2000000", "is not between 1 and 1000000"),
    ] {
        let mut config = Config::to(&backend);
        config.rules = rules(limits);
        let error = Gate::try_start(config).await.err().unwrap();
        assert!(
            error.contains(problem) && error.contains("rules[0]"),
            "{limits}: {error}"
        );
    }
    let mut config = Config::to(&backend);
    config
        .rules
        .push_str("\n[[rules]]\ncertificate = \"any\"\ndeny = [\"worker\"]\nrate = \"1/s\"\n");
    let error = Gate::try_start(config).await.err().unwrap();
    assert!(
        error.contains("rules[3].rate") && error.contains("allows nothing"),
        "{error}"
    );
}

#[tokio::test]
async fn one_certificate_has_so_many_calls_open_on_all_of_its_connections() {
    let backend = Backend::start(|exchange: Exchange| async move {
        match exchange.path() == Method::GetActionResult.path() {
            true => silent(exchange).await,
            false => unary(exchange).await,
        }
    });
    let mut config = Config::to(&backend);
    config.top = "threads = 2\nlimits = { calls-per-certificate = 5 }".to_owned();
    let gate = Gate::start(config).await;
    let (one, other) = (
        gate.config.authority.client("reader"),
        gate.config.authority.client("reader"),
    );
    let mut clients = Vec::new();
    let mut held = Vec::new();
    for number in 0..5 {
        let mut client = gate.client_with(&one).await;
        let mut call = client.open(Method::GetActionResult);
        call.body
            .send_data(grpc::request(Method::GetActionResult, ""), true)
            .unwrap();
        backend.until("it is there", |seen| seen.len() == number + 1).await;
        held.push(call);
        clients.push(client);
    }
    for client in &mut clients {
        assert_try_again(
            &client.ask(Method::Read, "").await,
            "has as many calls open as anybody may",
        );
    }
    assert_eq!(code_of(&gate, &other).await.code(), Some(0));
    assert_eq!(backend.streams(), 6);
    assert_eq!(
        gate.metric("casgate_limited_total", &["calls-per-certificate", "refused"]),
        5.0
    );
    held.remove(0).cancel();
    until("it is gone", || gate.metric("casgate_calls_open", &[]) == 4.0).await;
    assert_eq!(clients[1].ask(Method::Read, "").await.code(), Some(0));
}

#[tokio::test]
async fn no_more_calls_of_a_connection_come_than_it_may_have_open() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    config.top.push_str("\nlimits = { calls-per-connection = 10 }");
    let gate = Gate::start(config).await;
    let (mut busy, mut other) = (gate.client("reader").await, gate.client("reader").await);
    let _calls: Vec<_> = (0..30).map(|_| busy.open(Method::Read)).collect();
    let open = || gate.metric("casgate_calls_open", &[]);
    assert_eq!(settled("calls that came", open).await, 10.0);
    assert_eq!(other.ask(Method::Read, "").await.code(), Some(0));
}
