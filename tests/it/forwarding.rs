//! What backends are told of who calls, and what clients can't make them believe.

use casgate::policy::method::Method;
use casgate::reference_storage::GetReferenceRequest;
use http::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;
use prost::Message;
use rcgen::{DnType, SanType};

use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate, backend_table};
use crate::harness::grpc;
use crate::harness::wire::{Client, grpc_request};

const ALL: &str = r#"forward-identity = { x-forwarded-client-cert = true, common-name = "x-team", uri = "x-uri", sha256 = "x-print", subject = "x-subject", rule = "x-the-rule" }"#;

fn forwarding(backend: &Backend, keys: &str) -> Config {
    let mut config = Config::to(backend);
    config.backends.push_str(keys);
    config
}

/// The headers of the last stream.
fn last(backend: &Backend) -> HeaderMap {
    backend.seen().pop().unwrap().headers
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let values: Vec<_> = headers.get_all(name).iter().collect();
    assert_eq!(values.len(), 1, "{name}: {headers:?}");
    values[0].to_str().unwrap()
}

/// Calls with headers that a client made up.
async fn lie(client: &mut Client, method: Method, names: &[&'static str]) {
    let mut request = grpc_request(method.path());
    for name in names {
        request.headers_mut().append(*name, HeaderValue::from_static("CN=root"));
    }
    client.send(request, grpc::request(method, "")).await;
}

/// The pairs of one element of Envoy's header, as its documentation tells to read them.
fn pairs(xfcc: &str) -> Vec<(String, String)> {
    let (mut pairs, mut current, mut quoted, mut letters) = (Vec::new(), String::new(), false, xfcc.chars());
    let mut end = |current: &mut String| {
        let (key, value) = current.split_once('=').unwrap();
        pairs.push((key.to_owned(), value.to_owned()));
        current.clear();
    };
    while let Some(letter) = letters.next() {
        match letter {
            '"' => quoted = !quoted,
            // Only `\"` is special there.
            '\\' if quoted && letters.as_str().starts_with('"') => current.extend(letters.next()),
            ';' if !quoted => end(&mut current),
            ',' if !quoted => panic!("a second element: {xfcc}"),
            letter => current.push(letter),
        }
    }
    assert!(!quoted, "{xfcc}");
    end(&mut current);
    pairs
}

/// The attributes of a name by RFC 2253 whose special letters are all written in digits.
fn attributes(name: &str) -> Vec<(String, String)> {
    let unescape = |text: &str| -> String {
        // As digits of URIs.
        let encoded = text.replace('%', "%25").replace('\\', "%");
        percent_decode_str(&encoded).decode_utf8().unwrap().into_owned()
    };
    let attributes = name.split(',').map(|attribute| attribute.split_once('=').unwrap());
    attributes
        .map(|(kind, value)| (kind.to_owned(), unescape(value)))
        .collect()
}

#[tokio::test]
async fn a_backend_is_told_who_calls_and_by_which_rule() {
    let backend = Backend::start(unary);
    let gate = Gate::start(forwarding(&backend, ALL)).await;
    let uri = |params: &mut rcgen::CertificateParams| {
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Example, Inc.");
        for uri in ["spiffe://example.org/ci", "urn:a=b"] {
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
        params
            .subject_alt_names
            .push(SanType::DnsName("ci.example.org".try_into().unwrap()));
    };
    let writer = gate.config.authority.client_with("writer", uri);
    let mut client = gate.client_with(&writer).await;
    client.ask(Method::Write, "").await;
    let headers = last(&backend);
    assert_eq!(text(&headers, "x-team"), "writer");
    assert_eq!(text(&headers, "x-uri"), "spiffe://example.org/ci,urn:a=b");
    assert_eq!(text(&headers, "x-the-rule"), "writers");
    assert_eq!(text(&headers, "x-subject"), r"O=Example\2C Inc.,CN=writer");
    let print = text(&headers, "x-print").to_owned();
    assert_eq!(print.len(), 64);
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        pairs(text(&headers, "x-forwarded-client-cert")),
        [
            pair("Hash", &print),
            pair("Subject", r"O=Example\2C Inc.,CN=writer"),
            pair("URI", "spiffe://example.org/ci"),
            pair("URI", "urn:a=b"),
            pair("DNS", "ci.example.org"),
        ]
    );
    gate.client("reader").await.ask(Method::Read, "").await;
    let headers = last(&backend);
    assert_eq!(
        (text(&headers, "x-team"), text(&headers, "x-the-rule")),
        ("reader", "readers")
    );
    assert!(!headers.contains_key("x-uri"));
}

#[tokio::test]
async fn what_clients_claim_is_removed_for_every_backend() {
    let (told, other) = (Backend::start(unary), Backend::start(unary));
    let mut config = forwarding(&told, ALL).with_anonymous();
    config.backends.push_str(&format!(
        "\n{}[[routes]]\nservices = [\"cas\"]\nbackend = \"cache\"\n\
         [[routes]]\nservices = [\"action-cache\"]\nbackend = \"other\"\n",
        backend_table("other", &other.endpoint())
    ));
    config.rule("everybody", "\"anonymous\"", &["pull"], None);
    let gate = Gate::start(config).await;
    let names = [
        "x-team",
        "x_team",
        "x-uri",
        "x-print",
        "x-subject",
        "x-the-rule",
        "x_the-rule",
        "x-forwarded-client-cert",
        "x_forwarded_client_cert",
    ];
    let mut reader = gate.client("reader").await;
    lie(&mut reader, Method::Read, &names).await;
    let headers = last(&told);
    assert_eq!(
        (text(&headers, "x-team"), text(&headers, "x-the-rule")),
        ("reader", "readers")
    );
    assert!(!format!("{headers:?}").contains("root"), "{headers:?}");

    lie(&mut reader, Method::GetActionResult, &names).await;
    let headers = last(&other);
    assert!(names.iter().all(|name| !headers.contains_key(*name)), "{headers:?}");

    let mut anonymous = gate.anonymous().await;
    lie(&mut anonymous, Method::Read, &names).await;
    let headers = last(&told);
    assert!(names.iter().all(|name| !headers.contains_key(*name)), "{headers:?}");
}

#[tokio::test]
async fn no_text_of_a_certificate_becomes_another_header_or_value() {
    let backend = Backend::start(unary);
    let mut config = forwarding(&backend, ALL);
    config.rule("everyone; \"100 %\"", "\"any\"", &["pull"], None);
    config.rules = config.rules.replace("\"everyone; \"100 %\"\"", "'everyone; \"100 %\"'");
    let gate = Gate::start(config).await;
    for name in [
        "a\";URI=spiffe://example.org/root;Subject=\"CN=root",
        "a\\\";Hash=0",
        "a\r\nx-team: root",
        "a,CN=root",
        "a, b;c=d",
        "größer \u{1f980}",
        "a\0b\u{7f}",
        " ends with \\",
        "100 %41 \\41",
    ] {
        let mut client = gate.client_with(&gate.config.authority.client(name)).await;
        let reply = client.ask(Method::Read, "").await;
        assert_eq!(reply.code(), Some(0), "{name:?} {reply:?}");
        let headers = last(&backend);
        let cn = text(&headers, "x-team");
        assert_eq!(percent_decode_str(cn).decode_utf8().unwrap(), name);
        assert!(!cn.contains(','), "{cn}");
        assert_eq!(
            attributes(text(&headers, "x-subject")),
            [("CN".to_owned(), name.to_owned())]
        );
        let pairs = pairs(text(&headers, "x-forwarded-client-cert"));
        let keys: Vec<_> = pairs.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["Hash", "Subject"]);
        assert_eq!(pairs[1].1, text(&headers, "x-subject"));
        assert_eq!(text(&headers, "x-the-rule"), "everyone%3B%20%22100%20%25%22");
    }
}

#[tokio::test]
async fn calls_of_the_gate_itself_tell_it_as_well_and_a_reload_takes_it_back() {
    let backend = Backend::start(unary);
    let mut gate = Gate::start(forwarding(&backend, ALL)).await;
    let mut reader = gate.client("reader").await;
    let request = GetReferenceRequest {
        key: format!("project/element/{}", "a".repeat(64)),
        ..Default::default()
    };
    reader
        .call(Method::GetReference, grpc::frame(&request.encode_to_vec()))
        .await;
    let seen = backend.seen().pop().unwrap();
    assert_eq!(seen.path, Method::FetchDirectory.path());
    assert_eq!(
        (text(&seen.headers, "x-team"), text(&seen.headers, "x-the-rule")),
        ("reader", "readers")
    );

    gate.config.backends = gate
        .config
        .backends
        .replace(ALL, "forward-identity = { common-name = \"x-new\" }");
    gate.write();
    gate.reload().await.unwrap();
    reader.ask(Method::Read, "").await;
    let headers = last(&backend);
    assert_eq!(text(&headers, "x-new"), "reader");
    assert!(!headers.contains_key("x-team") && !headers.contains_key("x-forwarded-client-cert"));
    // The connection to it stays.
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn names_that_can_not_be_used_are_errors() {
    let backend = Backend::start(unary);
    for (keys, wrong) in [
        (
            r#"{ common-name = "grpc-timeout" }"#,
            "forward-identity.common-name: `grpc-timeout` has a meaning of its own",
        ),
        (
            r#"{ uri = ":path" }"#,
            "forward-identity.uri: `:path` is no name of a header",
        ),
        (r#"{ uri = "x-a", dns = "x_A" }"#, "forward-identity.uri: "),
        (
            r#"{ uri = "x-a", rule = "x-a" }"#,
            "forward-identity.rule: `x-a` is the name of another header here",
        ),
        (r#"{ cn = "x-a" }"#, "forward-identity.cn: is no known key"),
        ("{}", "forward-identity: forwards nothing"),
    ] {
        let config = forwarding(&backend, &format!("forward-identity = {keys}"));
        let error = Gate::try_start(config).await.err().unwrap();
        let wrong = wrong
            .strip_suffix("uri: ")
            .map_or(wrong, |_| "is the name of another header here");
        assert!(error.contains(wrong), "{keys}: {error}");
    }
    let mut config = Config::to(&backend);
    config.backends = "[backends.cache]\nstore = \"memory:\"\nforward-identity = { uri = \"x-a\" }\n".to_owned();
    let error = Gate::try_start(config).await.err().unwrap();
    assert!(error.contains("is only for an `endpoint`"), "{error}");
}
