//! Health checks of backends, and what `/readyz` makes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use casgate::policy::method::Method;

use crate::harness::backend::{Backend, Exchange, Options, Place, silent, status, unary};
use crate::harness::frames;
use crate::harness::gate::{Config, Gate};
use crate::harness::{grpc, until, within};
use crate::metrics::admin;

/// A switch that a backend looks at.
type Switch = Arc<AtomicBool>;

/// One backend with these keys, checked every second.
fn checked(name: &str, keys: &str) -> String {
    format!("[backends.{name}]\n{keys}\nconnections = 1\nhealth-interval = 1\n")
}

fn config(keys: &str) -> Config {
    let mut config = Config::to_endpoint("unix:/x");
    config.backends = checked("cache", keys);
    config
}

fn at(backend: &Backend) -> String {
    format!("endpoint = \"{}\"", backend.endpoint())
}

/// Status and lines of `/readyz`.
async fn ready(gate: &Gate) -> (u16, String) {
    let (status, text) = admin(gate, "GET", "/readyz").await;
    (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
}

async fn until_ready(gate: &Gate, code: u16, text: &str) {
    within(&format!("/readyz says {code} and `{text}`"), async {
        loop {
            let (status, lines) = ready(gate).await;
            if status == code && lines.contains(text) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Serves, or says that it does not.
async fn serving(mut exchange: Exchange, serves: Switch) {
    exchange.drain().await;
    let answer: &[u8] = if serves.load(Ordering::SeqCst) {
        b"\x08\x01"
    } else {
        b"\x08\x02"
    };
    exchange.answer(grpc::frame(answer)).await;
}

#[tokio::test]
async fn what_is_up_is_known_before_the_first_call() {
    let backend = Backend::start(unary);
    let gate = Gate::start(config(&at(&backend))).await;
    // `unary` answers everything with an empty message, which says UNKNOWN to a health check.
    until_ready(&gate, 503, "it says that it does not serve").await;
    let keys = at(&backend) + "\nhealth-check = \"capabilities\"\nhealth-instance = \"a/b\"";
    let gate = Gate::start(config(&keys)).await;
    until_ready(&gate, 200, &format!("backend cache at {}: up", backend.endpoint())).await;
    let seen = backend.seen();
    let seen = seen.last().unwrap();
    assert_eq!(seen.path, Method::GetCapabilities.path());
    assert_eq!(seen.body, grpc::request(Method::GetCapabilities, "a/b"));
    assert_eq!(
        (seen.authority.as_str(), seen.ended),
        (&backend.endpoint()["http://".len()..], true)
    );
    let place = Place::unix();
    let gate = Gate::start(config(&format!("endpoint = \"{}\"", place.endpoint()))).await;
    until_ready(&gate, 503, "down: nothing is there").await;
    assert_eq!(ready(&gate).await.1.lines().next(), Some("no backend is up"));
    assert_eq!(gate.metric("casgate_backend_up", &[]), 0.0);
    assert!(gate.metrics().contains("casgate_backend_up{"));
    assert!(gate.metric("casgate_health_check_failures_total", &["cache"]) >= 1.0);
    let _back = Backend::at(place, Options::default(), |mut exchange: Exchange| async move {
        // As a server that does not know the service.
        exchange.drain().await;
        let mut head = crate::harness::backend::head();
        head.headers_mut().extend(status(12, "unknown service"));
        let _gone = exchange.respond.send_response(head, true);
    });
    until_ready(&gate, 200, ": up").await;
}

#[tokio::test]
async fn a_backend_that_is_not_checked_is_ready_until_calls_say_otherwise() {
    let place = Place::tcp();
    let gate = Gate::start(Config::to_endpoint(&place.endpoint())).await;
    assert_eq!(
        ready(&gate).await,
        (
            200,
            format!("ok\nbackend cache at {}: not tried yet\n", place.endpoint())
        )
    );
    let reply = gate.client("reader").await.ask(Method::Read, "").await;
    assert_eq!(reply.code(), Some(14), "{reply:?}");
    until_ready(&gate, 503, "down: it refuses connections").await;
}

#[tokio::test]
async fn one_backend_of_several_that_is_down_leaves_the_gate_ready() {
    let place = Place::tcp();
    let mut config = config("store = \"memory:\"\n");
    config.backends = "[backends.store]\nstore = \"memory:\"\n".to_owned()
        + &checked("cache", &format!("endpoint = \"{}\"", place.endpoint()))
        + "[[routes]]\nservices = [\"cas\"]\nbackend = \"store\"\n"
        + "[[routes]]\nservices = [\"asset\"]\nbackend = \"cache\"\n";
    let gate = Gate::start(config).await;
    until_ready(
        &gate,
        200,
        &format!("backend cache at {}: down: it refuses", place.endpoint()),
    )
    .await;
    assert!(ready(&gate).await.1.contains("backend store at memory:: up\n"));
}

#[tokio::test]
async fn a_backend_that_accepts_and_never_answers_is_found_without_a_call() {
    // It speaks HTTP/2, and leaves every call without an answer.
    let hangs = Backend::start(silent);
    let good = Backend::start(|exchange| serving(exchange, Arc::new(true.into())));
    let keys = format!("endpoints = [\"{}\", \"{}\"]", hangs.endpoint(), good.endpoint());
    let gate = Gate::start(config(&keys)).await;
    until_ready(
        &gate,
        200,
        &format!(
            "backend cache at {}: down: it did not answer within 5 s",
            hangs.endpoint()
        ),
    )
    .await;
    let mut client = gate.client("reader").await;
    for _ in 0..10 {
        let reply = client.ask(Method::Read, "").await;
        assert_eq!(reply.code(), Some(0), "{reply:?}");
    }
    assert!(hangs.seen().iter().all(|seen| seen.path == Method::HealthCheck.path()));
    assert_eq!(gate.metric("casgate_backend_up", &["cache"]), 1.0);
}

#[tokio::test]
async fn an_endpoint_that_does_not_serve_gets_no_calls_until_it_does() {
    let serves = [Switch::new(true.into()), Switch::new(true.into())];
    let backends = serves.clone().map(|serves| {
        Backend::start(move |exchange: Exchange| {
            let serves = Arc::clone(&serves);
            async move {
                match exchange.path() == Method::HealthCheck.path() {
                    true => serving(exchange, serves).await,
                    false => unary(exchange).await,
                }
            }
        })
    });
    let keys = format!(
        "endpoints = [\"{}\", \"{}\"]",
        backends[0].endpoint(),
        backends[1].endpoint()
    );
    let gate = Gate::start(config(&keys)).await;
    let up = || gate.metric("casgate_endpoint_up", &[]);
    until("both are up", || up() == 2.0).await;
    let calls = |backend: &Backend| {
        let seen = backend.seen();
        seen.iter().filter(|seen| seen.path == Method::Read.path()).count()
    };
    let mut client = gate.client("reader").await;
    let mut pull = async || {
        let reply = client.ask(Method::Read, "").await;
        assert_eq!(reply.code(), Some(0), "{reply:?}");
    };
    serves[0].store(false, Ordering::SeqCst);
    until("the first is taken out", || up() == 1.0).await;
    let before = calls(&backends[0]);
    for _ in 0..10 {
        pull().await;
    }
    assert_eq!(calls(&backends[0]), before);
    // With none that serves, calls still go somewhere: a check may be wrong.
    serves[1].store(false, Ordering::SeqCst);
    until("the second as well", || up() == 0.0).await;
    until_ready(&gate, 503, "it says that it does not serve").await;
    for _ in 0..10 {
        pull().await;
    }
    assert!(calls(&backends[0]) > before);
    serves[0].store(true, Ordering::SeqCst);
    until("the first is back", || up() == 1.0).await;
    let before = calls(&backends[1]);
    for _ in 0..10 {
        pull().await;
    }
    assert_eq!(calls(&backends[1]), before);
}

#[tokio::test]
async fn one_check_that_fails_is_not_believed() {
    let checks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&checks);
    let backend = Backend::start(move |exchange: Exchange| {
        let serves = counted.fetch_add(1, Ordering::SeqCst) != 1;
        serving(exchange, Arc::new(serves.into()))
    });
    let gate = Gate::start(config(&at(&backend))).await;
    until("the third check", || checks.load(Ordering::SeqCst) >= 4).await;
    assert_eq!(gate.metric("casgate_health_check_failures_total", &["cache"]), 1.0);
    assert_eq!(gate.metric("casgate_endpoint_ejections_total", &["cache"]), 0.0);
    assert_eq!(gate.metric("casgate_endpoint_up", &["cache"]), 1.0);
}

#[tokio::test]
async fn an_endpoint_is_checked_once_for_all_threads_and_on_connections_of_its_own() {
    let backend = Backend::start(|exchange| serving(exchange, Arc::new(true.into())));
    let mut config = config(&at(&backend));
    config.top = "threads = 4".to_owned();
    config.backends = config.backends.replace("interval = 1\n", "interval = 3600\n");
    let mut gate = Gate::start(config).await;
    until_ready(&gate, 200, ": up").await;
    gate.config.rules.push(' ');
    gate.reload().await.unwrap();
    assert_eq!((backend.connections(), backend.streams()), (1, 1));
    assert_eq!(gate.metric("casgate_backend_connections", &[]), 0.0);
    assert_eq!(gate.client("reader").await.ask(Method::Read, "").await.code(), Some(0));
    assert_eq!((backend.connections(), backend.streams()), (2, 2));
}

#[tokio::test]
async fn a_backend_that_was_taken_out_is_not_checked_though_a_call_runs_on() {
    let backend = Backend::start(|exchange: Exchange| async move {
        match exchange.path() == Method::HealthCheck.path() {
            true => serving(exchange, Arc::new(true.into())).await,
            false => silent(exchange).await,
        }
    });
    let mut gate = Gate::start(config(&at(&backend))).await;
    until_ready(&gate, 200, ": up").await;
    let mut client = gate.client("writer").await;
    let mut call = client.open(Method::Write);
    assert!(call.send(grpc::write(10)).await);
    let writes = |seen: &[crate::harness::backend::Seen]| seen.iter().any(|seen| seen.path == Method::Write.path());
    backend.until("the call is there", writes).await;
    let other = Backend::start(unary);
    gate.config.backends = checked("other", &at(&other));
    gate.reload().await.unwrap();
    let before = backend.streams();
    until("the other is checked three times", || other.streams() > 2).await;
    // One may have been under way.
    assert!(backend.streams() <= before + 1);
    for metric in ["casgate_endpoint_up", "casgate_backend_up"] {
        assert!(
            !gate.metrics().contains(&format!("{metric}{{backend=\"cache\"")),
            "{metric}"
        );
    }
    call.cancel();
}

#[tokio::test]
async fn a_backend_that_has_not_answered_yet_is_not_ready() {
    let backend = Backend::start(silent);
    let gate = Gate::start(config(&at(&backend))).await;
    backend.until("it is asked", |seen| seen.len() == 1).await;
    let (status, text) = ready(&gate).await;
    assert_eq!((status, text.contains(": not tried yet")), (503, true), "{text}");
}

#[tokio::test]
async fn a_check_says_what_a_server_may_know_and_no_more() {
    let backend = Backend::start(|exchange| serving(exchange, Arc::new(true.into())));
    let gate = Gate::start(config(&at(&backend))).await;
    until_ready(&gate, 200, ": up").await;
    let seen = backend.seen().remove(0);
    assert_eq!(
        (seen.path.as_str(), &*seen.body),
        ("/grpc.health.v1.Health/Check", &[0; 5][..])
    );
    let mut names: Vec<_> = seen.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-type", "grpc-timeout", "te", "user-agent"]);
}

#[tokio::test]
async fn what_is_no_answer_is_no_good_answer() {
    let wrong: [&[u8]; 3] = [b"\0\0\0\0\x02\xff\xff", b"\x01\0\0\0\0", b"\0\xff\xff\xff\xff"];
    for bytes in wrong {
        let backend = Backend::start(move |mut exchange: Exchange| async move {
            exchange.drain().await;
            exchange.answer(Bytes::from_static(bytes)).await;
        });
        let gate = Gate::start(config(&at(&backend))).await;
        until_ready(&gate, 503, ": down: it").await;
    }
    let backend = Backend::raw(|mut raw: crate::harness::backend::Raw| async move {
        raw.next_of(frames::HEADERS).await;
        raw.send_bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    let gate = Gate::start(config(&at(&backend))).await;
    until_ready(&gate, 503, ": down: ").await;
}
