//! Which backend gets a call, and under which name.

use std::fmt::Write;

use casgate::policy::method::{Method, Service};

use crate::harness::backend::{Backend, Options, Place, unary};
use crate::harness::gate::{Config, Gate, backend_table};

/// Backends with these routes, in the order of the pairs.
fn routed(backends: &[(&Backend, &[&str])]) -> Config {
    let mut config = Config::to(backends[0].0);
    config.backends.clear();
    for (number, (backend, services)) in backends.iter().enumerate() {
        let endpoint = backend.endpoint();
        let tables = &mut config.backends;
        writeln!(tables, "{}", backend_table(&format!("b{number}"), &endpoint)).unwrap();
        write!(
            tables,
            "[[routes]]\nservices = {services:?}\nbackend = \"b{number}\"\n\n"
        )
        .unwrap();
    }
    config
}

#[tokio::test]
async fn every_service_goes_to_its_backend_and_to_no_other() {
    let backends = [(); 6].map(|()| Backend::start(unary));
    let routes: [&[&str]; 6] = [
        &["cas"],
        &["action-cache"],
        &["asset"],
        &["execution"],
        &["workers"],
        &["events", "capabilities"],
    ];
    let pairs: Vec<_> = backends.iter().zip(routes).collect();
    let gate = Gate::start(routed(&pairs)).await;
    let mut root = gate.client("root").await;
    let is_routed = |method: &&Method| Service::ROUTED.contains(&method.service());
    for method in Method::ALL.iter().filter(is_routed) {
        let before: Vec<usize> = backends.iter().map(Backend::streams).collect();
        let reply = root.ask(*method, "").await;
        assert_eq!(reply.code(), Some(0), "{method:?}: {reply:?}");
        for (number, (backend, services)) in pairs.iter().enumerate() {
            let expected = before[number] + usize::from(services.contains(&method.service().name()));
            assert_eq!(backend.streams(), expected, "{method:?} at backend {number}");
        }
    }
}

#[tokio::test]
async fn capabilities_are_asked_where_the_blobs_are() {
    let (blobs, rest) = (Backend::start(unary), Backend::start(unary));
    let gate = Gate::start(routed(&[(&blobs, &["cas"]), (&rest, &["action-cache", "asset"])])).await;
    gate.client("root").await.ask(Method::GetCapabilities, "").await;
    assert_eq!((blobs.streams(), rest.streams()), (1, 0));
}

#[tokio::test]
async fn a_service_without_a_route_is_unimplemented_and_stays_here() {
    let backend = Backend::start(unary);
    let gate = Gate::start(routed(&[(&backend, &["cas", "action-cache"])])).await;
    let mut root = gate.client("root").await;
    for method in [
        Method::Execute,
        Method::FetchBlob,
        Method::CreateBotSession,
        Method::PublishLifecycleEvent,
    ] {
        let reply = root.ask(method, "").await;
        assert_eq!(reply.code(), Some(12), "{method:?}: {reply:?}");
        assert!(reply.message().contains(method.service().name()), "{reply:?}");
    }
    assert_eq!(backend.streams(), 0);
    assert_eq!(root.ask(Method::Read, "").await.code(), Some(0));
}

#[tokio::test]
async fn a_backend_is_called_by_its_own_name_and_never_by_the_clients() {
    for place in [Place::tcp(), Place::unix()] {
        let expected = place
            .endpoint()
            .strip_prefix("http://")
            .unwrap_or("localhost")
            .to_owned();
        let backend = Backend::at(place, Options::default(), unary);
        let gate = Gate::start(Config::to(&backend)).await;
        assert_eq!(gate.client("reader").await.ask(Method::Read, "").await.code(), Some(0));
        let seen = backend.seen().remove(0);
        assert_eq!(seen.authority, expected);
        assert!(!seen.headers.contains_key("host"));
    }
}
