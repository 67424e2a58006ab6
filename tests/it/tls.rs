//! Which handshakes succeed, and who the caller is after them.

use std::sync::Arc;

use casgate::policy::method::Method;
use casgate::snapshot::listen::Security;
use casgate::tls::provider;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls::crypto::aws_lc_rs::kx_group::SECP256R1;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};

use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::pki::{Authority, Credentials, build_stream, expired, not_yet_valid, self_signed, version_1};
use crate::harness::wire::{Client, connect_tls, tls_config, with_credentials};
use crate::harness::{until, within};

fn config_for(
    gate: &Gate,
    credentials: Option<&Credentials>,
    version: &'static SupportedProtocolVersion,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider());
    with_credentials(builder.with_protocol_versions(&[version]).unwrap(), gate, credentials)
}

/// Both versions of TLS let the certificate in.
async fn assert_accepted(gate: &Gate, credentials: &Credentials) {
    for version in [&TLS12, &TLS13] {
        let client = Client::try_connect(gate, config_for(gate, Some(credentials), version)).await;
        let mut client = client.unwrap_or_else(|error| panic!("{version:?}: {error}"));
        assert_eq!(client.ask(Method::Read, "").await.code(), Some(0), "{version:?}");
    }
}

/// Neither version of TLS lets it in, and the metrics say why.
async fn assert_refused(gate: &Gate, credentials: Option<&Credentials>, reason: &str) {
    for version in [&TLS12, &TLS13] {
        let label = format!("reason=\"{reason}\"");
        let count = || gate.metric("casgate_tls_handshakes_total", &["result=\"failure\"", &label]);
        let before = count();
        let client = Client::try_connect(gate, config_for(gate, credentials, version)).await;
        assert!(client.is_err(), "{version:?} let it in, expected: {reason}");
        until(&format!("{version:?} is counted as {reason}"), || count() > before).await;
    }
}

/// A gate that lets these certificates in besides those of its authority, each with the right to pull.
async fn gate_with(backend: &Backend, pinned: &[&Credentials], role: Option<&str>) -> Gate {
    let mut config = Config::to(backend);
    config.rule("everybody", "\"any\"", &["pull"], None);
    config.files.insert(
        "pinned.crt",
        pinned.iter().map(|credentials| credentials.pem()).collect(),
    );
    config.client_ca = match role {
        Some(role) => format!("\"ca.crt\", {{ file = \"pinned.crt\", role = \"{role}\" }}"),
        None => "\"ca.crt\", \"pinned.crt\"".to_owned(),
    };
    Gate::start(config).await
}

#[tokio::test]
async fn certificates_of_the_authority_are_accepted_while_they_are_valid() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let authority = &gate.config.authority;
    let stranger = Authority::new("test authority");
    assert_accepted(&gate, &authority.client("reader")).await;
    assert_accepted(
        &gate,
        &authority.client_with("reader", |params| params.extended_key_usages.clear()),
    )
    .await;
    assert_refused(&gate, Some(&authority.client_with("reader", expired)), "expired").await;
    assert_refused(
        &gate,
        Some(&authority.client_with("reader", not_yet_valid)),
        "not-yet-valid",
    )
    .await;
    let server_only =
        |params: &mut CertificateParams| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert_refused(
        &gate,
        Some(&authority.client_with("reader", server_only)),
        "wrong-purpose",
    )
    .await;
    // It has the name of the authority and not its key.
    assert_refused(&gate, Some(&stranger.client("reader")), "bad-signature").await;
    assert_refused(&gate, Some(&Authority::new("other").client("reader")), "unknown-issuer").await;
    assert_refused(&gate, Some(&self_signed("reader", |_| {})), "unknown-issuer").await;
    assert_refused(
        &gate,
        Some(&authority.client("reader").with_wrong_key()),
        "bad-signature",
    )
    .await;
    assert_refused(&gate, None, "no-certificate").await;
    assert_eq!(backend.streams(), 4);
}

#[tokio::test]
async fn certificates_that_stand_in_client_ca_are_accepted_whatever_they_look_like() {
    let backend = Backend::start(unary);
    let not_ca = self_signed("not a CA", |params| params.is_ca = IsCa::ExplicitNoCa);
    let plain = self_signed("plain", |_| {});
    let (documented, oldest) = (build_stream("reader"), version_1("oldest"));
    let gate = gate_with(&backend, &[&documented, &oldest, &not_ca, &plain], None).await;
    for credentials in [&documented, &oldest, &not_ca, &plain] {
        assert_accepted(&gate, credentials).await;
        // Who has seen the certificate has not seen the key.
        assert_refused(&gate, Some(&credentials.with_wrong_key()), "bad-signature").await;
    }
    // The same name in another certificate is another certificate.
    assert_refused(&gate, Some(&build_stream("reader")), "unknown-issuer").await;
    assert_refused(&gate, Some(&version_1("oldest")), "unknown-issuer").await;
}

#[tokio::test]
async fn certificates_that_stand_in_client_ca_end_with_their_validity() {
    let backend = Backend::start(unary);
    let old = self_signed("old", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        expired(params);
    });
    let early = self_signed("early", not_yet_valid);
    let gate = gate_with(&backend, &[&old, &early], Some("client")).await;
    assert_refused(&gate, Some(&old), "expired").await;
    assert_refused(&gate, Some(&early), "not-yet-valid").await;
    assert_eq!(backend.streams(), 0);
}

#[tokio::test]
async fn a_clients_own_certificate_can_issue_no_others() {
    let backend = Backend::start(unary);
    let make_root = |issuer: &Credentials| {
        issuer.issue(|params| {
            params.distinguished_name.push(DnType::CommonName, "root");
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        })
    };
    // A rule names one of them, so all of this kind are clients' own.
    let (named, other) = (build_stream("reader"), build_stream("other"));
    let gate = gate_with(&backend, &[&named, &other], None).await;
    for own in [&named, &other] {
        assert_accepted(&gate, own).await;
        assert_refused(&gate, Some(&make_root(own)), "unknown-issuer").await;
    }
    // None of them is named by a rule, but it does not stand alone: beside an authority, beside another of its kind, and
    // beside a client's own certificate that says so.
    let own = build_stream("dev");
    let plain = self_signed("plain", |params| params.is_ca = IsCa::ExplicitNoCa);
    let authority = self_signed("authority", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    });
    for beside in [&build_stream("dev too"), &plain, &authority] {
        let mut config = Config::to(&backend);
        config.rule("everybody", "\"any\"", &["pull"], None);
        config.files.insert("own.crt", own.pem());
        config.files.insert("beside.crt", beside.pem());
        config.client_ca = r#""own.crt", "beside.crt""#.to_owned();
        let gate = Gate::start(config).await;
        assert_accepted(&gate, &own).await;
        assert_refused(&gate, Some(&make_root(&own)), "unknown-issuer").await;
    }
    // The configuration says so.
    let said = build_stream("said");
    let gate = gate_with(&backend, &[&said], Some("client")).await;
    assert_accepted(&gate, &said).await;
    assert_refused(&gate, Some(&make_root(&said)), "unknown-issuer").await;
    // It has no basicConstraints, or says that it is none.
    for own in [
        version_1("own"),
        self_signed("own", |params| params.is_ca = IsCa::ExplicitNoCa),
    ] {
        let gate = gate_with(&backend, &[&own], None).await;
        assert_refused(&gate, Some(&make_root(&own)), "unknown-issuer").await;
    }
}

#[tokio::test]
async fn an_authority_of_client_ca_issues_and_one_by_role_is_no_client() {
    let backend = Backend::start(unary);
    let authority = self_signed("authority", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    });
    let issued = authority.issue(|params| params.distinguished_name.push(DnType::CommonName, "issued"));
    let gate = gate_with(&backend, &[&authority], Some("authority")).await;
    assert_accepted(&gate, &issued).await;
    assert_refused(&gate, Some(&authority), "unknown-issuer").await;
}

#[tokio::test]
async fn an_intermediate_issues_only_where_it_may_sign_certificates() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let below = |usages: &[KeyUsagePurpose]| {
        let between = gate.config.authority.client_with("between", |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = usages.to_vec();
        });
        let leaf = between.issue(|params| params.distinguished_name.push(DnType::CommonName, "reader"));
        leaf.shown_with(std::slice::from_ref(&between.der))
    };
    assert_accepted(&gate, &below(&[KeyUsagePurpose::KeyCertSign])).await;
    // It does not say what it is for.
    assert_accepted(&gate, &below(&[])).await;
    let signer = below(&[KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign]);
    assert_refused(&gate, Some(&signer), "unknown-issuer").await;
}

#[tokio::test]
async fn an_authority_that_stands_alone_issues_though_it_does_not_say_that_it_is_one() {
    let backend = Backend::start(unary);
    let authority = build_stream("authority");
    let issued = authority.issue(|params| params.distinguished_name.push(DnType::CommonName, "reader"));
    let mut config = Config::to(&backend);
    config.files.insert("own.crt", authority.pem());
    config.client_ca = r#""own.crt""#.to_owned();
    let gate = Gate::start(config).await;
    assert_accepted(&gate, &issued).await;
    assert_eq!(warnings(&gate).len(), 1, "{:?}", warnings(&gate));
}

#[tokio::test]
async fn a_revocation_list_that_has_no_effect_or_is_out_of_date_is_warned_of() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    let stranger = Authority::new("stranger");
    config.files.insert("own.crl", config.authority.revoke(&[]));
    config.files.insert("other.crl", stranger.revoke(&[]));
    config.listen.push_str("client-crl = [\"own.crl\", \"other.crl\"]\n");
    let gate = Gate::start(config).await;
    let warnings = warnings(&gate);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("`CN=stranger` has no effect"), "{warnings:?}");
}

fn warnings(gate: &Gate) -> Vec<String> {
    let live = gate.server().live();
    let Security::Tls { verifier, .. } = &live.snapshot.listeners[0].security else {
        panic!("no TLS")
    };
    verifier.warnings().to_vec()
}

#[tokio::test]
async fn revoked_certificates_are_refused_and_others_of_the_authority_are_not() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    let (lost, kept) = (config.authority.client("reader"), config.authority.client("reader"));
    config.files.insert("lists.pem", config.authority.revoke(&[&lost]));
    config.listen.push_str("client-crl = [\"lists.pem\"]\n");
    let gate = Gate::start(config).await;
    assert_refused(&gate, Some(&lost), "revoked").await;
    assert_accepted(&gate, &kept).await;
}

#[tokio::test]
async fn a_revoked_certificate_that_stands_in_client_ca_is_refused() {
    let backend = Backend::start(unary);
    let (lost, kept) = (build_stream("lost"), build_stream("kept"));
    let issuer = Authority::new("not trusted itself");
    let (lost_too, kept_too) = (issuer.client("lost"), issuer.client("kept"));
    let mut config = Config::to(&backend);
    let all = [&lost, &kept, &lost_too, &kept_too];
    config.rule("everybody", "\"any\"", &["pull"], None);
    config
        .files
        .insert("pinned.crt", all.iter().map(|credentials| credentials.pem()).collect());
    config.files.insert(
        "lists.pem",
        [lost.revoke(&[&lost]), issuer.revoke(&[&lost_too])].concat(),
    );
    config.client_ca = "{ file = \"pinned.crt\", role = \"client\" }".to_owned();
    config.listen.push_str("client-crl = [\"lists.pem\"]\n");
    let gate = Gate::start(config).await;
    for credentials in [&lost, &lost_too] {
        assert_refused(&gate, Some(credentials), "revoked").await;
    }
    for credentials in [&kept, &kept_too] {
        assert_accepted(&gate, credentials).await;
    }
}

#[tokio::test]
async fn h2_is_chosen_among_the_names_of_grpc_and_needed() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let reader = gate.config.authority.client("reader");
    let offer = |names: &[&str]| {
        let mut config = tls_config(&gate, Some(&reader));
        config.alpn_protocols = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    };
    let tls = connect_tls(&gate, offer(&["grpc-exp", "h2"])).await.unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    for (names, reason) in [
        (&["http/1.1"][..], "no-alpn"),
        (&["grpc-exp"], "no-alpn"),
        (&[], "no-alpn"),
    ] {
        // TLS 1.3 and 1.2 alike (RFC 7301, 3.2).
        for version in [&TLS13, &TLS12] {
            let builder = ClientConfig::builder_with_provider(provider());
            let builder = builder.with_protocol_versions(&[version]).unwrap();
            let mut config = with_credentials(builder, &gate, Some(&reader));
            config.alpn_protocols = offer(names).alpn_protocols;
            let error = connect_tls(&gate, config).await.map(drop).unwrap_err().to_string();
            assert!(error.contains("NoApplicationProtocol"), "{names:?}: {error}");
        }
        let label = format!("reason=\"{reason}\"");
        until("it is counted", || {
            gate.metric("casgate_tls_handshakes_total", &[&label]) > 0.0
        })
        .await;
    }
}

#[tokio::test]
async fn the_one_curve_of_build_stream_1_is_enough() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut only = (*provider()).clone();
    only.kx_groups = vec![SECP256R1];
    let builder = ClientConfig::builder_with_provider(Arc::new(only));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let config = with_credentials(builder, &gate, Some(&gate.config.authority.client("reader")));
    assert!(Client::try_connect(&gate, config).await.is_ok());
}

#[tokio::test]
async fn sessions_are_never_resumed() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let reader = gate.config.authority.client("reader");
    for version in [&TLS12, &TLS13] {
        // Clones share the memory for sessions of the client.
        let config = config_for(&gate, Some(&reader), version);
        for _ in 0..3 {
            let tls = within("a handshake", connect_tls(&gate, config.clone())).await.unwrap();
            assert_eq!(tls.get_ref().1.protocol_version(), Some(version.version));
            assert_ne!(
                tls.get_ref().1.handshake_kind(),
                Some(HandshakeKind::Resumed),
                "{version:?}"
            );
            let mut client = Client::over(tls, &h2::client::Builder::new()).await;
            // A ticket would be read before this is answered.
            assert_eq!(client.ask(Method::Read, "").await.code(), Some(0));
        }
    }
}
