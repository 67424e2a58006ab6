//! Who the caller of a connection is: what the certificate says, decoded, and nothing that it seems to say.

use casgate::policy::method::Method;
use rcgen::{DnType, SanType};

use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::pki::{Authority, Credentials, self_signed};
use crate::harness::wire::Client;

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
    config.rule("by unit", "{ organizational-unit = \"Unit\" }", &["pull"], None);
    config.rule("by email", "{ email = \"ci@example.org\" }", &["pull"], None);
    config.rule(
        "by path",
        "{ uri = \"spiffe://example.org/ns/*/ci/**\" }",
        &["pull"],
        None,
    );
    let numbered = config.authority.client("x");
    config.rule(
        "by serial",
        &format!("{{ serial = \"00{}\" }}", numbered.serial),
        &["pull"],
        None,
    );
    let keyed = config.authority.client("x");
    let key = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &keyed.public_key());
    let hex: String = key.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    config.rule("by key", &format!("{{ spki-sha256 = \"{hex}\" }}"), &["pull"], None);
    let authority = &config.authority;
    let second_name = DnType::CustomDnType(vec![2, 5, 4, 3]);
    let with_uri = |uri: &str| SanType::URI(uri.try_into().unwrap());
    let email = |text: &str| SanType::Rfc822Name(text.try_into().unwrap());
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
        (numbered, 0),
        (keyed, 0),
        (
            authority.client_with("x", |params| {
                params.distinguished_name.push(DnType::OrganizationalUnitName, "Unit")
            }),
            0,
        ),
        (
            authority.client_with("x", |params| {
                params.subject_alt_names = vec![email("other@example.org"), email("ci@Example.org")]
            }),
            0,
        ),
        (
            authority.client_with("x", |params| params.subject_alt_names = vec![email("CI@example.org")]),
            7,
        ),
        (
            authority.client_with("x", |params| {
                params.subject_alt_names = vec![with_uri("spiffe://example.org/ns/a/ci/1/2")]
            }),
            0,
        ),
        (
            authority.client_with("x", |params| {
                params.subject_alt_names = vec![with_uri("spiffe://example.org/ns/ci/1")]
            }),
            7,
        ),
        (
            authority.client_with("x", |params| {
                params.subject_alt_names = vec![with_uri("spiffe://example.org/ns/a/ci/../x")]
            }),
            7,
        ),
        // A name of the right text and of another kind.
        (
            authority.client_with("x", |params| {
                params.subject_alt_names = vec![SanType::DnsName(uri.try_into().unwrap())]
            }),
            7,
        ),
        (authority.client("ci@example.org"), 7),
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

/// A gate with two authorities of the same distinguished name, and a rule for `runner` of `ci`.
fn two_authorities(backend: &Backend) -> (Config, Authority) {
    let mut config = Config::to(backend);
    config.rules.clear();
    config.rule(
        "runners",
        "{ common-name = \"runner\", issued-by = \"ci\" }",
        &["pull"],
        None,
    );
    let other = Authority::new("test authority");
    config.files.insert("other.crt", other.pem());
    config.client_ca = "{ name = \"ci\", file = \"ca.crt\" }, { name = \"dev\", file = \"other.crt\" }".to_owned();
    (config, other)
}

async fn read_code(client: &mut Client) -> Option<u8> {
    client.ask(Method::Read, "").await.code()
}

#[tokio::test]
async fn the_same_name_under_another_authority_is_another_identity() {
    let backend = Backend::start(unary);
    let (mut config, dev) = two_authorities(&backend);
    let own = self_signed("runner", |_| {});
    config.files.insert("own.crt", own.pem());
    config
        .client_ca
        .push_str(", { name = \"own\", file = \"own.crt\", role = \"client\" }");
    config.rule("own", "{ issued-by = \"own\" }", &["cas-push"], None);
    let gate = Gate::start(config).await;
    let mut runner = gate.client("runner").await;
    assert_eq!(read_code(&mut runner).await, Some(0));
    let mut same = gate.client_with(&dev.client("runner")).await;
    assert_eq!(read_code(&mut same).await, Some(7));
    assert_eq!(read_code(&mut gate.client("other").await).await, Some(7));
    // One that vouches for itself.
    let mut own = gate.client_with(&own).await;
    assert_eq!(read_code(&mut own).await, Some(7));
    assert_eq!(own.ask(Method::BatchUpdateBlobs, "").await.code(), Some(0));
    assert_eq!(backend.streams(), 2);
}

#[tokio::test]
async fn a_chain_ends_at_the_first_authority_whatever_is_shown_beside_it() {
    let backend = Backend::start(unary);
    let (mut config, _) = two_authorities(&backend);
    let root = config.authority.der();
    let dev = config.authority.subordinate("dev");
    let unnamed = config.authority.subordinate("unnamed");
    let below_dev = dev.subordinate("below dev");
    config.files.insert("other.crt", dev.pem());
    let gate = Gate::start(config).await;
    let code = async |credentials: Credentials| read_code(&mut gate.client_with(&credentials).await).await;
    assert_eq!(code(dev.client("runner")).await, Some(7));
    assert_eq!(
        code(dev.client("runner").shown_with(&[dev.der(), root.clone()])).await,
        Some(7)
    );
    let chain = [below_dev.der(), dev.der(), root.clone()];
    assert_eq!(code(below_dev.client("runner").shown_with(&chain)).await, Some(7));
    // An intermediate that client-ca does not name is a part of the way to its root.
    assert_eq!(
        code(unnamed.client("runner").shown_with(&[unnamed.der()])).await,
        Some(0)
    );
}

#[tokio::test]
async fn a_reload_can_name_authorities_otherwise() {
    let backend = Backend::start(unary);
    let (config, dev) = two_authorities(&backend);
    let mut gate = Gate::start(config).await;
    let (mut ours, mut theirs) = (
        gate.client("runner").await,
        gate.client_with(&dev.client("runner")).await,
    );
    assert_eq!(
        (read_code(&mut ours).await, read_code(&mut theirs).await),
        (Some(0), Some(7))
    );
    gate.config.client_ca = "{ name = \"dev\", file = \"ca.crt\" }, { name = \"ci\", file = \"other.crt\" }".to_owned();
    gate.reload().await.unwrap();
    assert_eq!(
        (read_code(&mut ours).await, read_code(&mut theirs).await),
        (Some(7), Some(0))
    );
    // A name that nobody has any more.
    gate.config.client_ca = "\"ca.crt\", \"other.crt\"".to_owned();
    let error = gate.reload().await.unwrap_err().to_string();
    assert!(
        error.contains("rules[0].certificate.issued-by: no entry of `listen.client-ca` has the name `ci`"),
        "{error}"
    );
}

#[tokio::test]
async fn rules_that_do_not_say_which_of_several_authorities_they_trust_are_warned_of() {
    let backend = Backend::start(unary);
    let (mut config, _) = two_authorities(&backend);
    let warnings = |gate: &Gate| {
        let warnings = casgate::cli::check::warnings(&gate.server().shared().live().snapshot);
        warnings
            .into_iter()
            .filter(|text| text.contains("which of 2 authorities"))
            .count()
    };
    let gate = Gate::start(config).await;
    assert_eq!(warnings(&gate), 0);
    (config, _) = two_authorities(&backend);
    config.rule("loose", "{ common-name = \"x\" }", &["pull"], None);
    let gate = Gate::start(config).await;
    assert_eq!(warnings(&gate), 1);
    // One authority that was renewed is not two.
    (config, _) = two_authorities(&backend);
    config.rule("loose", "{ common-name = \"x\" }", &["pull"], None);
    config.client_ca = config.client_ca.replace("\"dev\"", "\"ci\"");
    let gate = Gate::start(config).await;
    assert_eq!(warnings(&gate), 0);
}
