//! Who the caller of a connection is: what the certificate says, decoded, and nothing that it seems to say.

use casgate::policy::method::Method;
use rcgen::{DnType, SanType};

use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate};

#[tokio::test]
async fn a_caller_is_who_the_decoded_names_of_the_certificate_say() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    let uri = "spiffe://example.org/ci";
    config.rule("by uri", &format!("{{ uri = \"{uri}\" }}"), &["pull"], None);
    config.rule("by dns", "{ dns = \"ci.example.org\" }", &["pull"], None);
    config.rule("by organization", "{ organization = \"Team\" }", &["pull"], None);
    let pinned = config.authority.client("pinned");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &pinned.der);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    config.rule("by fingerprint", &format!("{{ sha256 = \"{hex}\" }}"), &["pull"], None);
    let authority = &config.authority;
    let second_name = DnType::CustomDnType(vec![2, 5, 4, 3]);
    let with_uri = |uri: &str| SanType::URI(uri.try_into().unwrap());
    let dns = SanType::DnsName("CI.example.org".try_into().unwrap());
    let cases = [
        (authority.client("reader"), 0),
        (
            authority.client_with("x", |params| {
                params.distinguished_name.push(DnType::OrganizationName, "Team")
            }),
            0,
        ),
        (
            authority.client_with("x", |params| params.subject_alt_names = vec![with_uri(uri)]),
            0,
        ),
        (
            authority.client_with("x", |params| params.subject_alt_names = vec![dns]),
            0,
        ),
        (pinned, 0),
        (authority.client("pinned"), 7),
        (authority.client("Reader"), 7),
        (authority.client("reader "), 7),
        (authority.client("x,CN=reader"), 7),
        (authority.client("reader\0x"), 7),
        (
            authority.client_with("reader", |params| params.distinguished_name.push(second_name, "x")),
            7,
        ),
        (
            authority.client_with("x", |params| {
                params.subject_alt_names = vec![with_uri(uri), with_uri("spiffe://example.org/dev")]
            }),
            7,
        ),
        // The right text in the wrong place.
        (
            authority.client_with("x", |params| {
                params.distinguished_name.push(DnType::OrganizationName, "reader")
            }),
            7,
        ),
        (authority.client("Team"), 7),
    ];
    let gate = Gate::start(config).await;
    for (number, (credentials, code)) in cases.iter().enumerate() {
        let before = backend.streams();
        let reply = gate.client_with(credentials).await.ask(Method::Read, "").await;
        assert_eq!(reply.code(), Some(*code), "case {number}: {reply:?}");
        assert_eq!(backend.streams(), before + usize::from(*code == 0), "case {number}");
    }
}
