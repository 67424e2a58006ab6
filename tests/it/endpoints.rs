//! Backends at several endpoints: which one a call goes to, and what becomes of those that fail.

use std::time::Duration;

use bytes::Bytes;
use casgate::policy::method::Method;
use h2::{Reason, RecvStream};

use crate::harness::backend::{Backend, Exchange, Options, Place, send, status, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::pki::Authority;
use crate::harness::wire::{Call, Client};
use crate::harness::{assert_unavailable, grpc, until, within};

/// One backend at these endpoints, which see nothing but calls of clients.
fn replicas(endpoints: &[String]) -> Config {
    let mut config = Config::to_endpoint("unix:/x");
    config.backends = table(endpoints);
    config
}

fn table(endpoints: &[String]) -> String {
    format!("[backends.cache]\nendpoints = {endpoints:?}\nconnections = 1\nhealth-check = \"off\"\n")
}

fn of(backends: &[Backend]) -> Vec<String> {
    backends.iter().map(Backend::endpoint).collect()
}

fn streams(backends: &[Backend]) -> Vec<usize> {
    backends.iter().map(Backend::streams).collect()
}

/// Begins an answer, and ends it when the request has ended.
async fn held(mut exchange: Exchange) {
    let mut answer = exchange.begin();
    send(&mut answer, grpc::frame(b"begun")).await;
    exchange.drain().await;
    let _gone = answer.send_trailers(status(0, ""));
}

/// A call whose answer has begun, and which goes on.
async fn running(client: &mut Client, method: Method, message: Bytes) -> (Call, RecvStream) {
    let mut call = client.open(method);
    call.send(message).await;
    let (_, body) = call.head().await;
    (call, body)
}

async fn writing(client: &mut Client) -> (Call, RecvStream) {
    running(client, Method::Write, grpc::write(10)).await
}

async fn pull(client: &mut Client) {
    let reply = client.ask(Method::Read, "").await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
}

/// Calls until one has gone to this backend; none may fail.
async fn pull_until(client: &mut Client, backend: &Backend) {
    let before = backend.streams();
    within("the endpoint is used", async {
        while backend.streams() == before {
            pull(client).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Whether an endpoint is up by the metrics; `None` before anybody knows.
fn is_up(gate: &Gate, endpoint: &str) -> Option<bool> {
    let metrics = gate.metrics();
    let line = metrics
        .lines()
        .find(|line| line.starts_with("casgate_endpoint_up{") && line.contains(endpoint))?;
    Some(line.ends_with(" 1"))
}

#[tokio::test]
async fn a_call_goes_to_the_endpoint_with_the_fewest() {
    let backends = [(); 3].map(|()| Backend::start(held));
    // Also over all threads.
    let mut config = replicas(&of(&backends));
    config.top = "threads = 2".to_owned();
    let gate = Gate::start(config).await;
    let mut clients = [gate.client("writer").await, gate.client("writer").await];
    let mut calls = Vec::new();
    for number in 1..=12 {
        calls.push(writing(&mut clients[number % 2]).await);
        let mut counts = streams(&backends);
        counts.sort_unstable();
        let even: Vec<_> = (0..3).map(|place| (number + place) / 3).collect();
        assert_eq!(counts, even, "after {number} calls");
    }
    // The place of one that ends is taken again.
    let before = streams(&backends);
    calls[0].0.end();
    let ended = || {
        let has_ended = |backend: &Backend| backend.seen().iter().any(|seen| seen.ended);
        backends.iter().position(has_ended)
    };
    until("it has ended", || ended().is_some()).await;
    until("the gate has counted it", || {
        gate.metric("casgate_calls_open", &[]) == 11.0
    })
    .await;
    let _call = writing(&mut clients[0]).await;
    let mut expected = before;
    expected[ended().unwrap()] += 1;
    assert_eq!(streams(&backends), expected);
}

#[tokio::test]
async fn idle_endpoints_take_turns() {
    let backends = [(); 2].map(|()| Backend::start(unary));
    let gate = Gate::start(replicas(&of(&backends))).await;
    let mut client = gate.client("reader").await;
    for _ in 0..10 {
        pull(&mut client).await;
    }
    let seen = streams(&backends);
    assert!(seen.iter().all(|streams| (4..=6).contains(streams)), "{seen:?}");
}

#[tokio::test]
async fn an_endpoint_that_vanishes_and_comes_back_costs_no_call() {
    for place in [Place::tcp(), Place::unix()] {
        let (stays, goes) = (Backend::start(unary), Backend::at(place, Options::default(), unary));
        let name = goes.endpoint();
        let gate = Gate::start(replicas(&[stays.endpoint(), name.clone()])).await;
        let mut client = gate.client("reader").await;
        pull_until(&mut client, &goes).await;
        pull_until(&mut client, &stays).await;
        assert_eq!(is_up(&gate, &name), Some(true));
        let place = goes.vanish().await;
        until("the gate notices", || {
            gate.metric("casgate_backend_connections", &[]) == 1.0
        })
        .await;
        // Not one of the calls waits until attempts to connect are given up.
        within("the endpoint is taken out", async {
            while is_up(&gate, &name) == Some(true) {
                pull(&mut client).await;
            }
        })
        .await;
        assert!(gate.metric("casgate_backend_connect_failures_total", &[]) <= 4.0);
        for _ in 0..20 {
            pull(&mut client).await;
        }
        assert_eq!(gate.metric("casgate_endpoint_ejections_total", &[&name]), 1.0);
        assert_eq!(gate.metric("casgate_backend_up", &["cache"]), 1.0);
        let goes = Backend::at(place, Options::default(), unary);
        pull_until(&mut client, &goes).await;
        assert_eq!(is_up(&gate, &name), Some(true));
        assert_eq!(gate.metric("casgate_backend_faults_total", &[]), 0.0);
    }
}

#[tokio::test]
async fn an_endpoint_that_was_found_back_is_used_at_once_when_the_other_goes() {
    let (place, stays) = (Place::tcp(), Backend::start(unary));
    let name = place.endpoint();
    let gate = Gate::start(replicas(&[name.clone(), stays.endpoint()])).await;
    let mut client = gate.client("reader").await;
    pull(&mut client).await;
    pull(&mut client).await;
    assert_eq!(is_up(&gate, &name), Some(false));
    // Calls do not try it any more, and what they know of it is old by then.
    tokio::time::sleep(Duration::from_millis(2600)).await;
    let back = Backend::at(place, Options::default(), unary);
    until("it is found", || is_up(&gate, &name) == Some(true)).await;
    assert_eq!(back.streams(), 0);
    let _gone = stays.vanish().await;
    for _ in 0..4 {
        pull(&mut client).await;
    }
    assert_eq!(back.streams(), 4);
}

#[tokio::test]
async fn an_endpoint_that_takes_no_more_connections_is_not_down() {
    let options = Options {
        max_streams: Some(1),
        ..Options::default()
    };
    let backends = [(); 2].map(|()| Backend::at(Place::unix(), options.clone(), held));
    let endpoints = of(&backends);
    let mut config = replicas(&endpoints);
    config.backends = config.backends.replace("connections = 1\n", "connections = 2\n");
    let gate = Gate::start(config).await;
    let mut client = gate.client("writer").await;
    let mut calls = [writing(&mut client).await, writing(&mut client).await];
    // The connections that are there go on.
    for endpoint in &endpoints {
        std::fs::remove_file(endpoint.strip_prefix("unix:").unwrap()).unwrap();
    }
    let mut waits = client.open(Method::Write);
    assert!(waits.send(grpc::write(10)).await);
    let failures = || gate.metric("casgate_backend_connect_failures_total", &[]);
    until("another connection is tried", || failures() >= 1.0).await;
    assert!(endpoints.iter().all(|endpoint| is_up(&gate, endpoint) == Some(true)));
    calls.iter_mut().for_each(|(call, _)| call.end());
    waits.end();
    let reply = waits.reply().await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
}

#[tokio::test]
async fn no_call_waits_for_an_endpoint_that_hangs_while_another_is_up() {
    // It accepts, and says nothing: connecting takes 5 s before it fails.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((tcp, _)) = listener.accept().await {
            held.push(tcp);
        }
    });
    let good = Backend::start(unary);
    let gate = Gate::start(replicas(&[name.clone(), good.endpoint()])).await;
    let mut client = gate.client("reader").await;
    // Nobody knows before the first attempt has failed: this one waits for it, and goes to the other then.
    for _ in 0..4 {
        pull(&mut client).await;
    }
    assert_eq!(is_up(&gate, &name), Some(false));
    let begun = std::time::Instant::now();
    for _ in 0..50 {
        pull(&mut client).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(good.streams(), 54);
}

#[tokio::test]
async fn a_call_that_an_endpoint_did_not_take_goes_to_another() {
    for refuses_by_goaway in [false, true] {
        let refuses = Backend::start(move |exchange: Exchange| async move {
            if refuses_by_goaway {
                exchange.go_away();
            }
            exchange.reset(Reason::REFUSED_STREAM);
        });
        let good = Backend::start(|exchange: Exchange| async move {
            if exchange.path().contains("Batch") {
                held(exchange).await;
            } else {
                unary(exchange).await;
            }
        });
        let gate = Gate::start(replicas(&[refuses.endpoint(), good.endpoint()])).await;
        let mut client = gate.client("writer").await;
        // So that the other one is always busier.
        let mut busy = Vec::new();
        while good.streams() < 3 {
            let message = grpc::request(Method::BatchUpdateBlobs, "");
            busy.push(running(&mut client, Method::BatchUpdateBlobs, message).await);
        }
        let before = refuses.streams();
        for number in 1..=4 {
            pull(&mut client).await;
            assert_eq!((refuses.streams(), good.streams()), (before + number, 3 + number));
        }
        assert!(gate.metric("casgate_backend_resent_total", &["cache"]) >= 4.0);
    }
}

#[tokio::test]
async fn with_all_endpoints_down_calls_are_unavailable_until_one_is_back() {
    let (first, second) = (Place::tcp(), Place::unix());
    let gate = Gate::start(replicas(&[first.endpoint(), second.endpoint()])).await;
    let mut client = gate.client("reader").await;
    assert_unavailable(&client.ask(Method::Read, "").await, "can't be reached");
    assert_eq!(gate.metric("casgate_backend_up", &["cache"]), 0.0);
    assert!(gate.metric("casgate_backend_faults_total", &["cache", "unavailable"]) >= 1.0);
    for place in [first, second] {
        let back = Backend::at(place, Options::default(), unary);
        within("it is used again", async {
            while client.ask(Method::Read, "").await.code() != Some(0) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        // From now on no call fails.
        pull_until(&mut client, &back).await;
        let place = back.vanish().await;
        until("the gate notices", || {
            gate.metric("casgate_backend_connections", &[]) == 0.0
        })
        .await;
        assert_unavailable(&client.ask(Method::Read, "").await, "can't be reached");
        drop(place);
    }
}

#[tokio::test]
async fn a_reload_takes_endpoints_in_and_out_and_keeps_running_calls() {
    let backends = [(); 3].map(|()| Backend::start(held));
    let [a, b, c] = &backends;
    let mut gate = Gate::start(replicas(&[a.endpoint(), b.endpoint()])).await;
    let mut client = gate.client("writer").await;
    let mut calls = Vec::new();
    for _ in 0..2 {
        calls.push(writing(&mut client).await);
    }
    let rules = gate.config.rules.clone();
    gate.config.rules.push(' ');
    gate.reload().await.unwrap();
    calls.push(writing(&mut client).await);
    assert_eq!(
        (a.connections(), b.connections()),
        (1, 1),
        "a backend that did not change is kept"
    );
    gate.config.rules = rules;
    gate.config.backends = table(&[b.endpoint(), c.endpoint()]);
    gate.reload().await.unwrap();
    let before = a.streams();
    for _ in 0..6 {
        calls.push(writing(&mut client).await);
    }
    assert_eq!((a.streams(), c.streams()), (before, 3));
    assert_eq!(is_up(&gate, &c.endpoint()), Some(true));
    assert_eq!(is_up(&gate, &a.endpoint()), None);
    for (mut call, mut body) in calls {
        call.end();
        while let Some(chunk) = body.data().await {
            chunk.unwrap();
        }
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
    }
}

#[tokio::test]
async fn each_endpoint_is_checked_against_its_own_name() {
    let authority = Authority::new("of the backend");
    let tls = |credentials: crate::harness::pki::Credentials| {
        let mut tls = rustls::ServerConfig::builder_with_provider(casgate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![credentials.der.clone()], credentials.key_der())
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Options {
            tls: Some(std::sync::Arc::new(tls).into()),
            ..Options::default()
        }
    };
    let good = Backend::at(Place::tcp(), tls(authority.server_for(&["localhost"])), unary);
    let bad = Backend::at(Place::tcp(), tls(authority.server_for(&["elsewhere.example"])), unary);
    let endpoints = [&good, &bad].map(|backend| backend.endpoint().replace("http://127.0.0.1", "https://localhost"));
    let mut config = replicas(&endpoints);
    config.backends.push_str("ca = \"backend-ca.crt\"\n");
    config.files.insert("backend-ca.crt", authority.pem());
    let gate = Gate::start(config).await;
    let mut client = gate.client("reader").await;
    for _ in 0..6 {
        pull(&mut client).await;
    }
    assert_eq!((good.streams(), bad.streams()), (6, 0));
    assert_eq!(is_up(&gate, &endpoints[1]), Some(false));
}

#[tokio::test]
async fn mistakes_are_told_with_key_and_remedy() {
    let told = [
        ("endpoints = []", "endpoints", "1 to 64"),
        (
            "endpoints = [\"http://a:1\", \"https://A:1\"]\nca = \"ca.crt\"",
            "endpoints[1]",
            "twice",
        ),
        ("endpoints = [\"unix:/a\", \"unix:///a\"]", "endpoints[1]", "twice"),
        ("endpoints = [\"unix:/a\", \"http://a\"]", "endpoints[1]", "no endpoint"),
        ("endpoints = [\"unix:/a\", \"https://a:1\"]", "ca", "missing"),
        ("endpoints = \"unix:/a\"", "endpoints", "sequence"),
        ("endpoint = \"unix:/a\"\nendpoints = [\"unix:/b\"]", "", "take one"),
        ("store = \"memory:\"\nendpoints = [\"unix:/b\"]", "", "take one"),
        (
            "store = \"memory:\"\nhealth-check = \"off\"",
            "health-check",
            "embedded store",
        ),
        (
            "endpoint = \"unix:/a\"\nhealth-check = \"ping\"",
            "health-check",
            "capabilities",
        ),
        (
            "endpoint = \"unix:/a\"\nhealth-interval = 0",
            "health-interval",
            "1 and 3600",
        ),
        (
            "endpoint = \"unix:/a\"\nhealth-instance = \"a\"",
            "health-instance",
            "only for",
        ),
        (
            "endpoint = \"unix:/a\"\nhealth-check = \"off\"\nhealth-interval = 5",
            "health-interval",
            "in vain",
        ),
        (
            "endpoint = \"unix:/a\"\nhealth-check = \"capabilities\"\nhealth-instance = \"a//b\"",
            "health-instance",
            "",
        ),
    ];
    for (keys, key, why) in told {
        let mut config = Config::to_endpoint("unix:/x");
        config.backends = format!("[backends.cache]\n{keys}\n");
        let error = Gate::try_start(config).await.err().unwrap_or_default();
        let key = if key.is_empty() {
            "backends.cache".to_owned()
        } else {
            format!("backends.cache.{key}")
        };
        assert!(error.contains(&key) && error.contains(why), "{keys}: {error}");
    }
}
