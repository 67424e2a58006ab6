//! Revocation lists that end, and several of them.

use casgate::cli::check;
use casgate::policy::method::Method;
use time::Duration;

use crate::harness::backend::{Backend, Exchange, send, status, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::pki::{Authority, Credentials};
use crate::harness::wire::{Client, tls_config};
use crate::harness::{frames, grpc, until};

const REFUSE: &str = "client-crl-expired = \"refuse\"\n";
const HOUR: Duration = Duration::HOUR;

async fn is_let_in(gate: &Gate, credentials: &Credentials) -> bool {
    Client::try_connect(gate, tls_config(gate, Some(credentials)))
        .await
        .is_ok()
}

fn warnings(gate: &Gate) -> Vec<String> {
    check::warnings(&gate.server().live().snapshot)
}

/// A configuration with these revocation lists in one file, and a second authority.
fn with_lists(backend: &Backend, lists: impl FnOnce(&Authority, &Authority) -> String) -> (Config, Authority) {
    let mut config = Config::to(backend);
    let second = Authority::new("second");
    config.files.insert("second.crt", second.pem());
    config.client_ca.push_str(", \"second.crt\"");
    config.files.insert("lists.pem", lists(&config.authority, &second));
    config.listen.push_str("client-crl = [\"lists.pem\"]\n");
    (config, second)
}

#[tokio::test]
async fn a_list_that_has_ended_is_applied_and_warned_of() {
    let backend = Backend::start(unary);
    let (mut config, _) = with_lists(&backend, |_, _| String::new());
    let (lost, kept) = (config.authority.client("reader"), config.authority.client("reader"));
    config
        .files
        .insert("lists.pem", config.authority.revoke_for(-HOUR, &[&lost]));
    let gate = Gate::start(config).await;
    assert!(!is_let_in(&gate, &lost).await);
    assert!(is_let_in(&gate, &kept).await);
    let warnings = warnings(&gate);
    let told = |warning: &String| warning.contains("`CN=test authority` is out of date, and goes on being applied");
    assert!(warnings.iter().any(told), "{warnings:?}");
}

#[tokio::test]
async fn where_a_list_must_hold_its_end_shuts_out_its_authority_and_no_other() {
    let backend = Backend::start(unary);
    let (mut config, second) = with_lists(&backend, |first, second| {
        [first.revoke_for(-HOUR, &[]), second.revoke(&[])].concat()
    });
    config.listen.push_str(REFUSE);
    config.rule("everybody", "\"any\"", &["pull"], None);
    let mut gate = Gate::start(config).await;
    let (reader, other) = (gate.config.authority.client("reader"), second.client("other"));
    assert!(!is_let_in(&gate, &reader).await);
    assert!(is_let_in(&gate, &other).await);
    let label = "reason=\"list-expired\"";
    until("it is counted", || {
        gate.metric("casgate_tls_handshakes_total", &[label]) == 1.0
    })
    .await;
    let warned = warnings(&gate);
    let told = |warning: &String| warning.contains("every certificate of this authority is refused");
    assert_eq!(warned.iter().filter(|warning| told(warning)).count(), 1, "{warned:?}");
    // Of several lists of one authority the newest counts, in whatever order they stand.
    let (old, new) = (
        gate.config.authority.revoke_for(-HOUR, &[]),
        gate.config.authority.revoke_for(HOUR, &[]),
    );
    for lists in [[old.clone(), new.clone()], [new, old]] {
        gate.config.files.insert("lists.pem", lists.concat());
        gate.reload().await.unwrap();
        assert!(is_let_in(&gate, &reader).await);
        assert!(!warnings(&gate).iter().any(told), "{:?}", warnings(&gate));
    }
}

#[tokio::test]
async fn each_of_several_lists_revokes_what_it_names() {
    let backend = Backend::start(unary);
    let (mut config, second) = with_lists(&backend, |_, _| String::new());
    config.rule("everybody", "\"any\"", &["pull"], None);
    let of_first = [(); 3].map(|()| config.authority.client("reader"));
    let of_second = [(); 2].map(|()| second.client("reader"));
    // Two of one authority in a file with one of another, and a file more.
    let lists = [
        config.authority.revoke(&[&of_first[0]]),
        second.revoke(&[&of_second[0]]),
    ];
    config.files.insert("lists.pem", lists.concat());
    config
        .files
        .insert("more.pem", config.authority.revoke(&[&of_first[1]]));
    config.listen = "client-crl = [\"lists.pem\", \"more.pem\"]\n".to_owned();
    let gate = Gate::start(config).await;
    for lost in [&of_first[0], &of_first[1], &of_second[0]] {
        assert!(!is_let_in(&gate, lost).await);
    }
    for kept in [&of_first[2], &of_second[1]] {
        assert!(is_let_in(&gate, kept).await);
    }
    // When each of them ends is there to be watched.
    let in_a_day = f64::from(i32::try_from(casgate::live::now() + 86_400).unwrap());
    for name in ["client-crl CN=test authority", "client-crl CN=second"] {
        let end = gate.metric("casgate_certificate_not_after_seconds", &[name]);
        assert!((end - in_a_day).abs() < 60.0, "{name}: {end}");
    }
}

/// Answers with a message at once, and with the rest at the end of the request.
async fn long(mut exchange: Exchange) {
    let mut answer = exchange.begin();
    send(&mut answer, grpc::frame(b"begun")).await;
    exchange.drain().await;
    let _gone = answer.send_trailers(status(0, ""));
}

#[tokio::test]
async fn a_list_that_ends_under_way_ends_what_it_let_in_until_the_next_one_comes() {
    let backend = Backend::start(long);
    let (mut config, _) = with_lists(&backend, |first, _| first.revoke_for(Duration::seconds(4), &[]));
    config.listen.push_str(REFUSE);
    let mut gate = Gate::start(config).await;
    let writer = gate.config.authority.client("writer");
    let mut client = gate.client_with(&writer).await;
    client.tap.ignore_go_away();
    let mut call = client.open(Method::Write);
    call.send(grpc::write(10)).await;
    let reply = call.reply().await;
    assert_eq!(reply.body, grpc::frame(b"begun"));
    let next = client.ask(Method::Read, "").await;
    for reply in [reply, next] {
        assert_eq!(reply.code(), Some(7), "{reply:?}");
        assert!(
            reply.message().contains("revocation list of its issuer has ended"),
            "{}",
            reply.message()
        );
    }
    until("GOAWAY", || {
        client.tap.received().iter().any(|frame| frame.kind == frames::GOAWAY)
    })
    .await;
    assert!(!is_let_in(&gate, &writer).await);
    assert_eq!(backend.streams(), 1);
    gate.config.files.insert("lists.pem", gate.config.authority.revoke(&[]));
    gate.reload().await.unwrap();
    assert!(is_let_in(&gate, &writer).await);
    // The connection that it was withdrawn from serves again as well, as long as it lasts.
    assert_eq!(client.ask(Method::Read, "").await.code(), Some(0));
}

#[tokio::test]
async fn a_list_has_no_say_where_there_is_no_tls_or_another_value() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    config.listen.push_str("client-crl-expired = \"ignore\"\n");
    config.more_listeners =
        "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\nclient-crl-expired = \"refuse\"\n".to_owned();
    let error = Gate::try_start(config).await.err().unwrap();
    for part in [
        "listen[0].client-crl-expired",
        "listen[1].client-crl-expired: has no meaning",
    ] {
        assert!(error.contains(part), "{error}");
    }
}
