//! Several listeners with one policy: TLS with and without certificates, and clear HTTP/2.

use casgate::policy::method::Method;
use tokio::net::TcpStream;

use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::Client;
use crate::harness::{assert_denied, assert_only_this_is_seen};

/// The usual listener, and a clear one where everybody may pull.
fn two(backend: &Backend) -> Config {
    let mut config = Config::to(backend);
    config.more_listeners = "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\n".to_owned();
    config.rule("public", "\"anonymous\"", &["pull"], None);
    config
}

async fn clear(gate: &Gate, listener: usize) -> Client {
    let address = gate.server().listen_addresses()[listener];
    let tcp = TcpStream::connect(address).await.unwrap();
    Client::over(tcp, &h2::client::Builder::new()).await
}

#[tokio::test]
async fn callers_of_a_clear_listener_are_anonymous_and_may_what_anonymous_callers_may() {
    let backend = Backend::start(unary);
    let gate = Gate::start(two(&backend)).await;
    let mut public = clear(&gate, 1).await;
    assert_only_this_is_seen(&mut public, &backend).await;
    let reply = public.ask(Method::BatchUpdateBlobs, "").await;
    assert_denied(&reply, &backend, 1);
    // The other listener goes on asking for certificates.
    let mut writer = gate.client("writer").await;
    assert_eq!(writer.ask(Method::BatchUpdateBlobs, "").await.code(), Some(0));
    assert!(
        Client::try_connect(&gate, crate::harness::wire::tls_config(&gate, None))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn what_came_in_by_a_listener_that_is_gone_is_withdrawn() {
    let backend = Backend::start(unary);
    let mut gate = Gate::start(two(&backend)).await;
    let mut public = clear(&gate, 1).await;
    assert_only_this_is_seen(&mut public, &backend).await;
    gate.config.more_listeners.clear();
    gate.reload().await.unwrap();
    let streams = backend.streams();
    // The connection is closed, or the call is refused, whichever comes first.
    if let Ok(call) = public.try_open(crate::harness::wire::grpc_request(Method::Read.path()), true) {
        let reply = call.reply().await;
        assert_ne!(reply.code(), Some(0), "{reply:?}");
    }
    assert_eq!(backend.streams(), streams);
    // And nobody else comes in there.
    let mut late = clear(&gate, 1).await;
    if let Ok(call) = late.try_open(crate::harness::wire::grpc_request(Method::Read.path()), true) {
        let reply = call.reply().await;
        assert!(reply.error.is_some(), "{reply:?}");
    }
    assert_eq!(backend.streams(), streams);
    // The other one goes on.
    assert_only_this_is_seen(&mut gate.client("reader").await, &backend).await;
}

#[tokio::test]
async fn a_clear_listener_takes_no_key_about_certificates_and_no_address_is_taken_twice() {
    let backend = Backend::start(unary);
    let mut config = two(&backend);
    config.more_listeners = concat!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\nclient-ca = [\"ca.crt\"]\n",
        "[[listen]]\naddress = \"127.0.0.1:7\"\ntls = false\n",
        "[[listen]]\naddress = \"127.0.0.1:7\"\ntls = false\n",
    )
    .to_owned();
    let problems = Gate::try_start(config).await.err().unwrap();
    assert!(
        problems.contains("listen[1].client-ca: has no meaning with `tls = false`"),
        "{problems}"
    );
    assert!(
        problems.contains("listen[3].address: another listener has `127.0.0.1:7` already"),
        "{problems}"
    );
}
