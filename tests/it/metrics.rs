//! What a monitor sees: every call counted once, under labels that no client can make more of.

use bytes::Bytes;
use casgate::policy::method::Method;
use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::backend::{Backend, Exchange, send};
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::grpc_request;
use crate::harness::{grpc, until, within};

/// Does what the first byte of the message says.
async fn obey(mut exchange: Exchange) {
    let Some(request) = exchange.read().await else { return };
    match request.last() {
        Some(b'r') => exchange.reset(Reason::INTERNAL_ERROR),
        Some(b'h') => {
            let mut answer = exchange.begin();
            send(&mut answer, grpc::frame(b"half")).await;
            exchange.until_answer_reset(&mut answer).await;
        }
        Some(b's') => exchange.until_reset().await,
        Some(b'x') => exchange.trailers_only(99, ""),
        Some(b'n') => exchange.trailers_only(5, ""),
        _ => {
            exchange.drain().await;
            exchange.answer(grpc::frame(b"")).await;
        }
    }
}

/// A message that makes the backend do something.
fn order(what: &str) -> Bytes {
    grpc::frame(&grpc::string(7, what))
}

#[tokio::test]
async fn every_call_ends_in_exactly_one_count_whatever_becomes_of_it() {
    let backend = Backend::start(obey);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("reader").await;
    let handled = |code: &str| gate.metric("grpc_server_handled_total", &[&format!("grpc_code=\"{code}\"")]);
    let mut expected = std::collections::BTreeMap::new();
    let mut count = |code: &'static str| *expected.entry(code).or_insert(0.0) += 1.0;

    for (what, code) in [("o", "OK"), ("r", "Unavailable"), ("x", "Unknown"), ("n", "NotFound")] {
        client.call(Method::BatchReadBlobs, order(what)).await;
        count(code);
    }
    client.call(Method::BatchUpdateBlobs, order("o")).await;
    count("PermissionDenied");
    client.send(grpc_request("/x/y"), order("o")).await;
    count("Unimplemented");
    client.call(Method::BatchReadBlobs, Bytes::from_static(b"\0\0")).await;
    count("InvalidArgument");
    client.call(Method::HealthCheck, grpc::frame(b"")).await;
    count("OK");
    let mut no_grpc = grpc_request(Method::BatchReadBlobs.path());
    no_grpc.headers_mut().remove("content-type");
    client.send(no_grpc, order("o")).await;
    count("Unknown");

    // Reset by the client: before its message, before the answer, and amid it.
    let waiting = client.open(Method::BatchReadBlobs);
    until("it has begun", || gate.metric("casgate_calls_open", &[]) == 1.0).await;
    waiting.cancel();
    count("Canceled");
    for what in ["s", "h"] {
        let before = backend.streams();
        let mut call = client.open(Method::BatchReadBlobs);
        call.body.send_data(order(what), true).unwrap();
        if what == "h" {
            let (_, mut body) = call.head().await;
            within("half an answer", body.data()).await.unwrap().unwrap();
        }
        backend.until("it is there", |seen| seen.len() == before + 1).await;
        call.cancel();
        count("Canceled");
    }
    // And those of a client whose connection breaks.
    let mut gone = gate.client("reader").await;
    let mut calls = Vec::new();
    let before = backend.streams();
    for _ in 0..3 {
        let mut call = gone.open(Method::BatchReadBlobs);
        call.body.send_data(order("s"), true).unwrap();
        calls.push(call);
        count("Canceled");
    }
    backend.until("they are there", |seen| seen.len() == before + 3).await;
    drop((gone, calls));

    let all: f64 = expected.values().sum();
    until("all calls end", || gate.metric("grpc_server_handled_total", &[]) >= all).await;
    for (code, calls) in &expected {
        assert_eq!(handled(code), *calls, "{code}\n{}", gate.metrics());
    }
    assert_eq!(gate.metric("grpc_server_handled_total", &[]), all);
    assert_eq!(gate.metric("grpc_server_started_total", &[]), all);
    assert_eq!(gate.metric("grpc_server_handling_seconds_count", &[]), all);
    assert_eq!(gate.metric("casgate_calls_open", &[]), 0.0);
}

#[tokio::test]
async fn decisions_are_counted_by_rule_right_and_reason() {
    let backend = Backend::start(obey);
    let mut config = Config::to(&backend);
    config.rule("team", "{ common-name = \"team\" }", &["pull"], Some(&["team"]));
    let gate = Gate::start(config).await;
    let mut team = gate.client("team").await;
    team.ask(Method::Read, "team").await;
    team.ask(Method::Read, "other").await;
    team.ask(Method::Write, "team").await;
    gate.client("stranger").await.ask(Method::Read, "").await;
    let count = |labels: &[&str]| gate.metric("casgate_decisions_total", labels);
    assert_eq!(count(&["decision=\"allow\"", "rule=\"team\"", "right=\"pull\""]), 1.0);
    for (right, reason) in [
        ("pull", "not-on-instance"),
        ("cas-push", "no-right"),
        ("pull", "no-rule"),
    ] {
        let (right, reason) = (format!("right=\"{right}\""), format!("reason=\"{reason}\""));
        assert_eq!(count(&["decision=\"deny\"", &right, &reason]), 1.0, "{right} {reason}");
    }
    // The right of the rule that was used, and nothing of all that was not.
    let metrics = gate.metrics();
    let series = metrics
        .lines()
        .filter(|line| line.starts_with("casgate_decisions_total{"));
    assert_eq!(series.count(), 4, "{metrics}");
}

#[tokio::test]
async fn no_client_can_make_more_series() {
    let backend = Backend::start(obey);
    let gate = Gate::start(Config::to(&backend)).await;
    let round = async |number: usize| {
        let mut client = gate.client(&format!("stranger {number}")).await;
        client.ask(Method::Read, &format!("instance-{number}")).await;
        for path in [
            format!("/service{number}/Method"),
            format!("{}?{number}", Method::Read.path()),
        ] {
            client.send(grpc_request(&path), grpc::frame(b"")).await;
        }
        client.call(Method::Read, Bytes::from_static(b"\x09")).await;
        let mut root = gate.client("root").await;
        root.call(
            Method::BatchReadBlobs,
            order(if number.is_multiple_of(2) { "x" } else { "n" }),
        )
        .await;
        root.ask(Method::BatchReadBlobs, &format!("instance-{number}")).await;
    };
    for number in 0..4 {
        round(number).await;
    }
    let series = || gate.metrics().lines().filter(|line| !line.starts_with('#')).count();
    let before = series();
    for number in 4..60 {
        round(number).await;
    }
    assert_eq!(series(), before, "{}", gate.metrics());
    for secret in ["stranger", "instance-", "service5"] {
        assert!(!gate.metrics().contains(secret), "{secret}");
    }
}

/// An answer of the admin listener, head and body.
pub(crate) async fn admin(gate: &Gate, method: &str, path: &str) -> (u16, String) {
    let address = gate.server().admin_address().unwrap();
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer", tcp.read_to_string(&mut answer)).await.unwrap();
    (answer[9..12].parse().unwrap(), answer)
}

#[tokio::test]
async fn the_admin_listener_serves_metrics_and_health_and_nothing_else() {
    let backend = Backend::start(obey);
    let gate = Gate::start(Config::to(&backend)).await;
    gate.client("reader")
        .await
        .call(Method::BatchReadBlobs, order("o"))
        .await;
    let (status, text) = admin(&gate, "GET", "/metrics").await;
    assert_eq!(status, 200);
    assert!(
        text.to_lowercase().contains("content-type: text/plain; version=0.0.4"),
        "{text}"
    );
    assert!(text.contains("grpc_method=\"BatchReadBlobs\""), "{text}");
    assert!(!text.contains("PRIVATE"), "{text}");
    assert_eq!(admin(&gate, "GET", "/livez").await.0, 200);
    assert_eq!(admin(&gate, "HEAD", "/readyz").await.0, 200);
    for (method, path, status) in [
        ("POST", "/metrics", 405),
        ("DELETE", "/livez", 405),
        ("GET", "/", 404),
        ("GET", "/casgate.toml", 404),
    ] {
        assert_eq!(admin(&gate, method, path).await.0, status, "{method} {path}");
    }
    gate.server().drain();
    assert_eq!(admin(&gate, "GET", "/readyz").await.0, 503);
    assert_eq!(admin(&gate, "GET", "/livez").await.0, 200);
}

#[tokio::test]
async fn every_call_has_one_access_line() {
    let backend = Backend::start(obey);
    let mut config = Config::to(&backend);
    config.backends.push_str("\n[log]\nformat = \"json\"\n");
    // Lines go to the standard error of a process, so this gate is one.
    let gate = Gate::spawn(config).await;
    let mut client = gate.client("reader").await;
    client.call(Method::BatchReadBlobs, order("o")).await;
    client.call(Method::BatchUpdateBlobs, order("o")).await;
    client.send(grpc_request("/x/y"), order("o")).await;
    client.call(Method::BatchReadBlobs, order("r")).await;
    let mut call = client.open(Method::BatchReadBlobs);
    call.body.send_data(order("s"), true).unwrap();
    backend.until("it is there", |seen| seen.len() == 3).await;
    call.cancel();
    let lines = || {
        let access = |line: &toml::Table| {
            line.get("target")
                .is_some_and(|target| target.as_str() == Some("casgate::access"))
        };
        gate.log().into_iter().filter(access).collect::<Vec<_>>()
    };
    until("five lines", || lines().len() >= 5).await;
    let text = |line: &toml::Table, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let told: Vec<_> = lines()
        .iter()
        .map(|line| {
            (
                line["code"].as_integer(),
                text(line, "reason"),
                text(line, "rule"),
                text(line, "certificate"),
            )
        })
        .collect();
    let line =
        |code, reason: &str, rule: &str| (Some(code), reason.to_owned(), rule.to_owned(), "CN=reader".to_owned());
    let expected = [
        line(0, "", "readers"),
        line(7, "no-right", ""),
        line(12, "unknown-method", ""),
        line(14, "unavailable", "readers"),
        line(1, "cancelled", "readers"),
    ];
    assert_eq!(told, expected);
}
