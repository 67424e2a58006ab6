//! A new configuration while the gate runs: all of it or nothing, and at once for everybody.

use std::time::Duration;

use casgate::policy::method::Method;
use time::OffsetDateTime;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::harness::backend::{Backend, Exchange, send, status, unary};
use crate::harness::frames::Frame;
use crate::harness::gate::{Config, Gate};
use crate::harness::pki::{Authority, build_stream};
use crate::harness::wire::{Call, Client, Reply, rest, tls_config};
use crate::harness::{frames, grpc, until, watch_health, within};

/// Answers with a message at once, and with the rest at the end of the request.
async fn long(mut exchange: Exchange) {
    let mut answer = exchange.begin();
    send(&mut answer, grpc::frame(b"begun")).await;
    exchange.drain().await;
    let _gone = answer.send_trailers(status(0, ""));
}

/// A write that has arrived at the backend and goes on.
async fn running(client: &mut Client) -> Call {
    let mut call = client.open(Method::Write);
    call.send(grpc::write(10)).await;
    call
}

#[tokio::test]
async fn a_broken_configuration_changes_nothing_and_says_why() {
    let backend = Backend::start(unary);
    let mut gate = Gate::start(Config::to(&backend)).await;
    let mut writer = gate.client("writer").await;
    let good = gate.config.rules.clone();
    let broken = [
        ("rules = 7 [", "is not TOML"),
        (
            "[[rules]]\nname = \"x\"\ncertificate = \"any\"\nallow = [\"destroy\"]",
            "`destroy`",
        ),
        (
            "[[rules]]\nname = \"x\"\ncertificate = \"any\"\nallow = [\"pull\"]\nwhen = \"full moon\"",
            "when",
        ),
        ("[[rules]]\nname = \"x\"\nallow = [\"pull\"]", "certificate"),
        ("[backends.second]\nendpoint = \"ftp://x:1\"", "ftp"),
    ];
    for (number, (text, why)) in broken.into_iter().enumerate() {
        // The rules before the mistake would take the right away.
        gate.config.rules = text.to_owned();
        let error = gate.reload().await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(writer.ask(Method::BatchUpdateBlobs, "").await.code(), Some(0), "{text}");
        assert_eq!(
            gate.metric("casgate_config_reload_total", &["failure"]),
            number as f64 + 1.0
        );
    }
    gate.config.rules = good;
    for file in ["server.crt", "server.key", "ca.crt"] {
        let kept = gate.config.files.insert(file, "no PEM".to_owned()).unwrap();
        let error = gate.reload().await.unwrap_err().to_string();
        assert!(error.contains(file), "{error}");
        assert_eq!(
            gate.client("writer")
                .await
                .ask(Method::BatchUpdateBlobs, "")
                .await
                .code(),
            Some(0)
        );
        gate.config.files.insert(file, kept);
    }
    std::fs::remove_file(gate.dir().join("casgate.toml")).unwrap();
    assert!(gate.server().shared().reload().await.is_err());
    assert_eq!(writer.ask(Method::BatchUpdateBlobs, "").await.code(), Some(0));
    gate.reload().await.unwrap();
    assert_eq!(gate.metric("casgate_config_generation", &[]), 2.0);
}

#[tokio::test]
async fn a_call_on_a_live_connection_is_judged_by_the_configuration_of_its_begin() {
    let backend = Backend::start(unary);
    let mut gate = Gate::start(Config::to(&backend)).await;
    let (mut reader, mut stranger) = (gate.client("reader").await, gate.client("stranger").await);
    assert_eq!(reader.ask(Method::Read, "").await.code(), Some(0));
    assert_eq!(stranger.ask(Method::Read, "").await.code(), Some(7));
    gate.config.rules.clear();
    gate.config
        .rule("stranger", "{ common-name = \"stranger\" }", &["pull"], None);
    gate.reload().await.unwrap();
    assert_eq!(reader.ask(Method::Read, "").await.code(), Some(7));
    assert_eq!(stranger.ask(Method::Read, "").await.code(), Some(0));
    assert_eq!(backend.streams(), 2);
}

#[tokio::test]
async fn a_call_that_is_being_read_during_a_reload_goes_where_it_began() {
    let (before, after) = (Backend::start(unary), Backend::start(unary));
    let mut gate = Gate::start(Config::to(&before)).await;
    let mut writer = gate.client("writer").await;
    // Its first message, and with it the decision, is still to come.
    let mut call = writer.open(Method::Write);
    until("the call has begun", || gate.metric("casgate_calls_open", &[]) == 1.0).await;
    gate.config.backends = Config::to(&after).backends;
    gate.reload().await.unwrap();
    call.send(grpc::write(10)).await;
    call.end();
    assert_eq!(call.reply().await.code(), Some(0));
    assert_eq!((before.streams(), after.streams()), (1, 0));
    assert_eq!(writer.ask(Method::BatchUpdateBlobs, "").await.code(), Some(0));
    assert_eq!((before.streams(), after.streams()), (1, 1));
}

#[tokio::test]
async fn a_lost_right_ends_running_calls_and_no_others() {
    let backend = Backend::start(long);
    let mut gate = Gate::start(Config::to(&backend)).await;
    let (mut writer, mut root) = (gate.client("writer").await, gate.client("root").await);
    let (lost, mut kept) = (running(&mut writer).await, running(&mut root).await);
    backend
        .until("both run", |seen| {
            seen.iter().filter(|seen| seen.received > 0).count() == 2
        })
        .await;
    gate.config.rules = gate.config.rules.replace("\"pull\", \"push\"]", "\"pull\"]");
    gate.reload().await.unwrap();
    let reply = lost.reply().await;
    assert_eq!((reply.code(), reply.reset), (Some(7), None), "{reply:?}");
    assert_eq!(reply.body, grpc::frame(b"begun"));
    assert!(reply.message().contains("may not push"), "{reply:?}");
    backend
        .until("the backend hears of it", |seen| {
            seen.iter().filter(|seen| seen.reset.is_some()).count() == 1
        })
        .await;
    // The connection lives, with the right that is left.
    assert_eq!(writer.ask(Method::Read, "").await.code(), Some(0));
    kept.end();
    assert_eq!(kept.reply().await.code(), Some(0));
}

#[tokio::test]
async fn a_deny_that_a_reload_brings_ends_running_calls() {
    let backend = Backend::start(long);
    let mut gate = Gate::start(Config::to(&backend)).await;
    let mut writer = gate.client("writer").await;
    let lost = running(&mut writer).await;
    backend
        .until("it runs", |seen| seen.len() == 1 && seen[0].received > 0)
        .await;
    let frozen = "\n[[rules]]\nname = \"frozen\"\ncertificate = \"any\"\ndeny = [\"push\"]\n";
    gate.config.rules.insert_str(0, frozen);
    gate.reload().await.unwrap();
    let reply = lost.reply().await;
    assert_eq!(reply.code(), Some(7), "{reply:?}");
    assert!(reply.message().contains("may not push here"), "{reply:?}");
    let seen = backend.streams();
    assert_eq!(writer.ask(Method::BatchUpdateBlobs, "").await.code(), Some(7));
    assert_eq!(backend.streams(), seen);
    assert_eq!(writer.ask(Method::Read, "").await.code(), Some(0));
}

/// A client whose certificate is good at first; `withdraw` changes that.
async fn withdrawn(
    mut gate: Gate,
    mut client: Client,
    withdraw: impl FnOnce(&mut Config),
    why: &str,
    backend: &Backend,
) {
    // The client goes on to call, whatever the gate says about its connection.
    client.tap.ignore_go_away();
    let running = running(&mut client).await;
    backend
        .until("the call runs", |seen| seen.len() == 1 && seen[0].received > 0)
        .await;
    withdraw(&mut gate.config);
    gate.reload().await.unwrap();
    let reply = client.ask(Method::Read, "").await;
    assert_eq!(reply.code(), Some(7), "{reply:?}");
    assert!(reply.message().contains(why), "{}", reply.message());
    let reply = running.reply().await;
    assert_eq!(reply.code(), Some(7), "{reply:?}");
    assert!(reply.message().contains(why), "{}", reply.message());
    until("GOAWAY", || {
        client.tap.received().iter().any(|frame| frame.kind == frames::GOAWAY)
    })
    .await;
    backend
        .until("the backend hears of it", |seen| seen[0].reset.is_some())
        .await;
    assert_eq!(backend.streams(), 1);
}

#[tokio::test]
async fn a_removed_certificate_is_refused_on_its_live_connection() {
    let backend = Backend::start(long);
    let own = build_stream("writer");
    let mut config = Config::to(&backend);
    config.files.insert("clients.pem", own.pem());
    config.client_ca.push_str(", \"clients.pem\"");
    let gate = Gate::start(config).await;
    let client = gate.client_with(&own).await;
    let remove = |config: &mut Config| config.client_ca = "\"ca.crt\"".to_owned();
    withdrawn(gate, client, remove, "not accepted any more", &backend).await;
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_on_its_live_connection() {
    let backend = Backend::start(long);
    let gate = Gate::start(Config::to(&backend)).await;
    let writer = gate.config.authority.client("writer");
    let client = gate.client_with(&writer).await;
    let revoke = |config: &mut Config| {
        config.files.insert("list.pem", config.authority.revoke(&[&writer]));
        config.listen.push_str("client-crl = [\"list.pem\"]\n");
    };
    withdrawn(gate, client, revoke, "it is revoked", &backend).await;
}

#[tokio::test]
async fn a_watch_of_a_revoked_certificate_ends_and_those_of_others_go_on() {
    let backend = Backend::start(unary);
    let mut gate = Gate::start(Config::to(&backend)).await;
    let revoked = gate.config.authority.client("reader");
    let mut watches = Vec::new();
    let other = gate.config.authority.client("reader");
    for credentials in [&revoked, &other] {
        let mut client = gate.client_with(credentials).await;
        let (watch, body, _) = watch_health(&mut client).await;
        watches.push((client, watch, body));
    }
    gate.config
        .files
        .insert("list.pem", gate.config.authority.revoke(&[&revoked]));
    gate.config.listen.push_str("client-crl = [\"list.pem\"]\n");
    gate.reload().await.unwrap();
    let (_client, _watch, body) = watches.remove(0);
    let mut reply = Reply::default();
    within("the watch ends", rest(body, &mut reply)).await.unwrap();
    assert_eq!(reply.code(), Some(7), "{reply:?}");
    assert!(reply.message().contains("it is revoked"), "{}", reply.message());
    until("its connection ends", || {
        gate.metric("casgate_connections_open", &[]) == 1.0
    })
    .await;
    assert_eq!(gate.metric("casgate_calls_open", &[]), 1.0);
}

#[tokio::test]
async fn callers_without_a_certificate_are_refused_once_one_is_required() {
    let backend = Backend::start(long);
    let mut config = Config::to(&backend).with_anonymous();
    config.rule("everybody", "\"anonymous\"", &["pull", "push"], None);
    let gate = Gate::start(config).await;
    let client = gate.anonymous().await;
    withdrawn(
        gate,
        client,
        |config| config.listen.clear(),
        "a client certificate is required",
        &backend,
    )
    .await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused_on_its_live_connection() {
    let backend = Backend::start(long);
    let gate = Gate::start(Config::to(&backend)).await;
    let brief = gate.config.authority.client_with("writer", |params| {
        params.not_after = OffsetDateTime::now_utc() + Duration::from_secs(3);
    });
    let mut client = gate.client_with(&brief).await;
    client.tap.ignore_go_away();
    let reply = running(&mut client).await.reply().await;
    assert_eq!(reply.code(), Some(7), "{reply:?}");
    assert!(reply.message().contains("has expired"), "{}", reply.message());
    let reply = client.ask(Method::Read, "").await;
    assert_eq!(reply.code(), Some(7), "{reply:?}");
    assert!(reply.message().contains("has expired"), "{}", reply.message());
    assert_eq!(backend.streams(), 1);
}

#[tokio::test]
async fn an_unchanged_backend_keeps_its_connection_and_a_changed_one_is_left() {
    let (backend, other) = (Backend::start(long), Backend::start(unary));
    let mut gate = Gate::start(Config::to(&backend)).await;
    let mut writer = gate.client("writer").await;
    let mut call = running(&mut writer).await;
    let (_, _body) = call.head().await;
    for number in 0..5 {
        gate.config.rule(&format!("rule {number}"), "\"any\"", &["pull"], None);
        gate.reload().await.unwrap();
        assert_eq!(writer.ask(Method::Read, "").await.code(), Some(0));
    }
    assert_eq!(backend.connections(), 1);
    gate.config.backends = Config::to(&other).backends;
    gate.reload().await.unwrap();
    let before = backend.streams();
    assert_eq!(writer.ask(Method::Read, "").await.code(), Some(0));
    assert_eq!((backend.streams(), other.streams()), (before, 1));
    // What ran on the old one still ends well.
    call.end();
    backend.until("the end arrives", |seen| seen[0].ended).await;
}

#[tokio::test]
async fn new_connections_are_met_with_the_new_certificate_of_the_server() {
    let backend = Backend::start(unary);
    let mut gate = Gate::start(Config::to(&backend)).await;
    let reader = gate.config.authority.client("reader");
    let mut old = gate.client_with(&reader).await;
    let (trusts_old, renewed) = (tls_config(&gate, Some(&reader)), Authority::new("renewed"));
    let server = renewed.server();
    gate.config.files.insert("server.crt", server.pem());
    gate.config.files.insert("server.key", server.key_pem());
    gate.reload().await.unwrap();
    assert!(Client::try_connect(&gate, trusts_old).await.is_err());
    gate.config.authority = renewed;
    assert!(
        Client::try_connect(&gate, tls_config(&gate, Some(&reader)))
            .await
            .is_ok()
    );
    assert_eq!(old.ask(Method::Read, "").await.code(), Some(0));
}

#[tokio::test]
async fn a_connection_that_comes_after_its_backend_is_gone_is_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut gate = Gate::start(Config::to_endpoint(&endpoint)).await;
    let mut client = gate.client("reader").await;
    let mut call = client.open(Method::Read);
    call.body.send_data(grpc::request(Method::Read, ""), true).unwrap();
    // It waits for the server's SETTINGS.
    let (mut late, _) = within("a connection", listener.accept()).await.unwrap();
    call.cancel();
    drop(client);
    until("nobody waits", || gate.metric("casgate_connections_open", &[]) == 0.0).await;
    gate.config.backends = gate.config.backends.replace("connections = 1", "connections = 2");
    gate.reload().await.unwrap();
    Frame::settings().write(&mut late).await.unwrap();
    let mut rest = Vec::new();
    within("the gate closes it", late.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(gate.metric("casgate_backend_connections", &[]), 0.0);
}
