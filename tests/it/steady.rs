//! Reloads under load: nobody but whom they are about notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use casgate::policy::method::Method;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::backend::{Backend, Exchange, Options, Place, send, status};
use crate::harness::gate::{Config, Gate};
use crate::harness::pki::Authority;
use crate::harness::{grpc, within};

const RELOADS: usize = 20;
const MESSAGE: usize = 1024 * 1024;
/// Messages of a large stream: 256 MiB.
const MESSAGES: usize = 256;

/// Sends as much as is asked for by the length of the request, or takes it all.
async fn large(mut exchange: Exchange) {
    let mut answer = exchange.begin();
    if exchange.path() == Method::GetTree.path() {
        exchange.drain().await;
        let message = grpc::frame(&vec![b'y'; MESSAGE - 5]);
        for _ in 0..MESSAGES {
            if !send(&mut answer, message.clone()).await {
                return;
            }
        }
    } else {
        exchange.drain().await;
        send(&mut answer, grpc::frame(b"")).await;
    }
    let _gone = answer.send_trailers(status(0, ""));
}

/// How many messages of a stream may pass after so many reloads: all streams last as long as the reloads do.
async fn until_allowed(message: usize, reloads: &mut watch::Receiver<usize>) {
    reloads
        .wait_for(|done| *done == RELOADS || message * RELOADS <= (done + 1) * MESSAGES)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_because_of_reloads() {
    let authority = Authority::new("of the backend");
    let options = Options {
        tls: Some(backend_tls(&authority)),
        ..Options::default()
    };
    let backend = Backend::at(Place::tcp(), options, large);
    let mut config = Config::to(&backend);
    config.backends = backend_table(&backend, 1);
    config.files.insert("backend.crt", authority.pem());
    config.files.insert("lists.pem", config.authority.revoke(&[]));
    config.listen.push_str("client-crl = [\"lists.pem\"]\n");
    let mut gate = Gate::start(config).await;
    let (progress, reloads) = watch::channel(0);
    let mut streams = JoinSet::new();
    for _ in 0..2 {
        let (mut up, mut down) = (gate.client("writer").await, gate.client("writer").await);
        let mut allowed = reloads.clone();
        streams.spawn(async move {
            let mut call = up.open(Method::Write);
            let chunk = grpc::write(MESSAGE);
            for message in 0..MESSAGES {
                until_allowed(message, &mut allowed).await;
                assert!(call.send(chunk.clone()).await, "the gate takes no more after {message}");
            }
            call.end();
            let reply = call.reply().await;
            assert_eq!((reply.code(), reply.reset), (Some(0), None), "{reply:?}");
        });
        let mut allowed = reloads.clone();
        streams.spawn(async move {
            let mut call = down.open(Method::GetTree);
            let _sent = call.body.send_data(grpc::request(Method::GetTree, ""), true);
            let (_, mut body) = call.head().await;
            let mut received = 0;
            while let Some(chunk) = within("more", body.data()).await {
                let chunk = chunk.unwrap();
                received += chunk.len();
                until_allowed(received / MESSAGE, &mut allowed).await;
                body.flow_control().release_capacity(chunk.len()).unwrap();
            }
            assert_eq!(received, MESSAGES * MESSAGE);
            assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
        });
    }
    let (over, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    for name in ["reader", "writer", "root"] {
        let mut client = gate.client(name).await;
        let (over, calls) = (Arc::clone(&over), Arc::clone(&calls));
        streams.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let reply = client.ask(Method::BatchReadBlobs, "").await;
                assert_eq!((reply.code(), reply.reset), (Some(0), None), "{reply:?}");
                calls.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    for number in 1..=RELOADS {
        // Everything changes but the rights of those who call: rules, the certificate of the server, a revocation, and
        // how the one backend is reached, which leaves its connections with the calls on them.
        gate.config.rule(
            &format!("rule {number}"),
            "{ common-name = \"nobody\" }",
            &["pull"],
            None,
        );
        gate.config.backends = backend_table(&backend, 1 + number % 2);
        if number % 3 == 0 {
            let more = [authority.pem(), Authority::new(&format!("{number}")).pem()].concat();
            gate.config.files.insert("backend.crt", more);
        }
        let server = gate.config.authority.server();
        gate.config.files.insert("server.crt", server.pem());
        gate.config.files.insert("server.key", server.key_pem());
        let lost = gate.config.authority.client("writer");
        gate.config
            .files
            .insert("lists.pem", gate.config.authority.revoke(&[&lost]));
        gate.reload().await.unwrap();
        progress.send(number).unwrap();
        let (before, counted) = (calls.load(Ordering::Relaxed), Arc::clone(&calls));
        crate::harness::until("more calls", || counted.load(Ordering::Relaxed) >= before + 6).await;
    }
    over.store(true, Ordering::Relaxed);
    let all = async {
        while let Some(ended) = streams.join_next().await {
            ended.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(180), all)
        .await
        .expect("all streams end");
    assert_eq!(gate.metric("casgate_config_reload_total", &["success"]), RELOADS as f64);
    assert!(calls.load(Ordering::Relaxed) >= 6 * RELOADS);
    let seen = backend.seen();
    assert!(seen.iter().all(|seen| seen.reset.is_none()), "a stream was reset");
}

fn backend_table(backend: &Backend, connections: usize) -> String {
    let endpoint = backend.endpoint().replace("http:", "https:");
    format!(
        "[backends.cache]\nendpoint = \"{endpoint}\"\nhealth-check = \"off\"\nca = \"backend.crt\"\nconnections = {connections}\n"
    )
}

fn backend_tls(authority: &Authority) -> tokio_rustls::TlsAcceptor {
    let server = authority.server();
    let mut config = rustls::ServerConfig::builder_with_provider(casgate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(server.chain(), server.key_der())
        .unwrap();
    config.alpn_protocols = vec![casgate::tls::ALPN_H2.to_vec()];
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}
