//! Runs cases that are certificates: made by hand where no library would write them, shown in a handshake, and where that
//! succeeds, used for a call. How names are written is told in [`names`].

mod cast;
mod names;

use casgate::policy::method::Method;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, SerialNumber};
use serde::Deserialize;

use cast::Cast;
use names::{distinguished_name, general_name};

use super::cases::Handshake;
use super::notation::hex;
use crate::harness::assert_only_this_is_seen;
use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::pki::{Authority, Credentials, expired, not_yet_valid, self_signed_odd, tlv};
use crate::harness::wire::{Client, tls_config};

/// What `by serial` is about.
const SERIAL: &str = "0x1122334455667788";

/// What a certificate is, where it is not an ordinary one of `ca` with the commonName `x`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Certificate {
    /// One of those that are there already; only `key`, `broken` and `beside` change it.
    is: Option<String>,
    #[serde(default = "x")]
    subject: Vec<String>,
    /// Subject alternative names.
    #[serde(default)]
    names: Vec<String>,
    /// Those of a second extension of the same kind.
    #[serde(default)]
    second_names: Vec<String>,
    /// Whose key signs it; `self` for its own.
    #[serde(default = "ca")]
    issuer: String,
    /// Whose name it gives as its issuer's, where that is another.
    claims: Option<String>,
    /// The extended key usages.
    usages: Option<Vec<String>>,
    /// `yes`, `no`, or not said.
    authority: Option<String>,
    /// `expired` or `early`.
    dates: Option<String>,
    serial: Option<String>,
    /// `another`: the holder has not the certificate's key.
    key: Option<String>,
    #[serde(default)]
    broken: bool,
    /// `1`: the fields that version 3 added stay, and the certificate says that it is of version 1.
    version: Option<u8>,
    /// A critical extension that nobody knows.
    #[serde(default)]
    odd_extension: bool,
    /// Certificates that are shown beside it.
    #[serde(default)]
    beside: Vec<String>,
}

fn x() -> Vec<String> {
    vec!["CN=x".to_owned()]
}

fn ca() -> String {
    "ca".to_owned()
}

/// Shows each certificate, and has an honest call after it.
pub(super) async fn run(cases: Vec<Handshake>) {
    let backend = Backend::start(unary);
    let (config, cast) = config(&backend);
    let gate = Gate::start(config).await;
    let mut honest = gate.client("ci").await;
    let mut wrong = Vec::new();
    for case in &cases {
        let before = backend.streams();
        let credentials = make(&case.certificate, &gate.config.authority, &cast);
        let answer = match Client::try_connect(&gate, tls_config(&gate, Some(&credentials))).await {
            Ok(mut client) => match client.ask(Method::Read, "").await.code() {
                Some(code) => format!("grpc {code}"),
                None => "no answer".to_owned(),
            },
            Err(_) => "refused".to_owned(),
        };
        if answer != case.answer {
            wrong.push(format!("`{}`: {answer} and not {}", case.name, case.answer));
        }
        let seen = backend.streams() - before;
        if seen != usize::from(case.answer == "grpc 0") {
            wrong.push(format!("`{}`: the backend saw {seen} calls", case.name));
        }
        assert_only_this_is_seen(&mut honest, &backend).await;
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

/// Rules by every part of a certificate, of the authority `main` alone.
fn config(backend: &Backend) -> (Config, Cast) {
    let mut config = Config::to(backend);
    config.rules.clear();
    let cast = Cast::new(&config.authority);
    for (name, file) in [("dev", "dev.crt"), ("own", "own.crt"), ("pinned", "pinned.crt")] {
        config.files.insert(file, cast.0[name].pem());
    }
    config
        .files
        .insert("lists.pem", config.authority.revoke(&[&cast.0["revoked"]]));
    config.client_ca = "{ name = \"main\", file = \"ca.crt\" }, { name = \"dev\", file = \"dev.crt\" }, \
                        { name = \"own\", file = \"own.crt\" }, { name = \"pinned\", file = \"pinned.crt\" }"
        .to_owned();
    config.listen.push_str("client-crl = [\"lists.pem\"]\n");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &cast.0["pinned"].der);
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    for (name, pattern) in [
        ("by name", "common-name = \"ci\""),
        ("by organization", "organization = \"Team\""),
        ("by unit", "organizational-unit = \"Unit\""),
        ("by both", "common-name = \"both\", organization = \"Both\""),
        ("by path", "uri = \"spiffe://example.org/ns/*/ci\""),
        ("by id", "uri = \"spiffe://example.org/ci\""),
        ("by uri", "uri = \"https://example.org/ci\""),
        ("by host", "dns = \"ci.example.org\""),
        ("by mail", "email = \"ci@example.org\""),
        ("by serial", &format!("serial = \"{}\"", &SERIAL[2..])),
    ] {
        config.rule(name, &format!("{{ {pattern}, issued-by = \"main\" }}"), &["pull"], None);
    }
    config.rule("by digest", &format!("{{ sha256 = \"{digest}\" }}"), &["pull"], None);
    config.rule(
        "its own",
        "{ common-name = \"own\", issued-by = \"own\" }",
        &["pull"],
        None,
    );
    (config, cast)
}

/// Makes the certificate of a case.
fn make(case: &Certificate, ca: &Authority, cast: &Cast) -> Credentials {
    let mut made = match &case.is {
        Some(name) => cast.of(name, ca).copy(),
        None => new(case, ca, cast),
    };
    if case.key.as_deref() == Some("another") {
        made = made.with_wrong_key();
    }
    if case.broken {
        made = made.with_broken_signature();
    }
    let beside: Vec<_> = case.beside.iter().map(|name| cast.of(name, ca).der.clone()).collect();
    made.shown_with(&beside)
}

fn new(case: &Certificate, ca: &Authority, cast: &Cast) -> Credentials {
    let params = |params: &mut CertificateParams| {
        let usages = case.usages.as_deref();
        params.extended_key_usages = match usages {
            None => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Some(usages) => usages.iter().map(|name| usage(name)).collect(),
        };
        match case.authority.as_deref() {
            None => {}
            Some("yes") => params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            Some("no") => params.is_ca = IsCa::ExplicitNoCa,
            Some(other) => panic!("what is `{other}`?"),
        }
        match case.dates.as_deref() {
            None => {}
            Some("expired") => expired(params),
            Some("early") => not_yet_valid(params),
            Some(other) => panic!("what is `{other}`?"),
        }
        if let Some(serial) = &case.serial {
            params.serial_number = Some(SerialNumber::from_slice(&hex(serial).unwrap()));
        }
        for names in [&case.names, &case.second_names] {
            if !names.is_empty() {
                let names: Vec<u8> = names.iter().flat_map(|name| general_name(name)).collect();
                let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], tlv(0x30, &names));
                params.custom_extensions.push(extension);
            }
        }
        if case.odd_extension {
            let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
            extension.set_criticality(true);
            params.custom_extensions.push(extension);
        }
    };
    let subject = distinguished_name(&case.subject);
    let claims = case.claims.as_deref().map(|name| cast.of(name, ca).subject());
    let fields = |fields: &mut Vec<Vec<u8>>| {
        if case.issuer == "self" {
            fields[3].clone_from(&subject);
        }
        if let Some(claims) = claims {
            fields[3] = claims;
        }
        fields[5] = subject;
        if case.version == Some(1) {
            fields.remove(0);
        }
    };
    match case.issuer.as_str() {
        "self" => self_signed_odd(params, fields),
        issuer => cast.of(issuer, ca).issue_odd(params, fields),
    }
}

fn usage(name: &str) -> ExtendedKeyUsagePurpose {
    match name {
        "clientAuth" => ExtendedKeyUsagePurpose::ClientAuth,
        "serverAuth" => ExtendedKeyUsagePurpose::ServerAuth,
        "codeSigning" => ExtendedKeyUsagePurpose::CodeSigning,
        other => panic!("what is the usage `{other}`?"),
    }
}
