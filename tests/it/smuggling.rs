//! Requests that the gate and a backend could read in two ways. The backend must not see them.

use bytes::Bytes;
use casgate::policy::method::Method;
use http::{HeaderName, HeaderValue};

use crate::harness::backend::{Backend, unary};
use crate::harness::frames::header_block;
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::{Reply, grpc_request};
use crate::harness::{assert_only_this_is_seen, grpc};

const READ: &str = "/google.bytestream.ByteStream/Read";
const WRITE: &str = "/google.bytestream.ByteStream/Write";

/// A header block with the fields of gRPC but for those given, and then these.
fn block<'a>(fields: &[(&'a str, &'a str)]) -> Bytes {
    let usual = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", READ),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let is_given = |name: &str| fields.iter().any(|(given, _)| *given == name);
    let pseudo = |field: &&(&str, &str)| field.0.starts_with(':');
    let mut all: Vec<_> = usual.iter().filter(|(name, _)| !is_given(name)).copied().collect();
    all.extend_from_slice(fields);
    let (first, second): (Vec<_>, Vec<_>) = all.iter().partition(pseudo);
    header_block(&first.into_iter().chain(second).copied().collect::<Vec<_>>())
}

/// Sends a request with this header block, as the first of a new connection.
async fn send_block(gate: &Gate, block: Bytes) -> Reply {
    let mut client = gate.client("root").await;
    client.tap.replace_headers(block);
    client.send(grpc_request(READ), grpc::request(Method::Read, "")).await
}

async fn gate_and_backend() -> (Gate, Backend) {
    let backend = Backend::start(unary);
    (Gate::start(Config::to(&backend)).await, backend)
}

#[tokio::test]
async fn the_blocks_of_these_tests_are_good_but_for_what_each_changes() {
    let (gate, backend) = gate_and_backend().await;
    assert_eq!(send_block(&gate, block(&[])).await.code(), Some(0));
    // No path has a fragment, and none arrives: the backend is called by the path of the table.
    let fragment = format!("{READ}#x");
    assert_eq!(send_block(&gate, block(&[(":path", &fragment)])).await.code(), Some(0));
    for seen in backend.seen() {
        assert_eq!(seen.path, READ);
    }
}

#[tokio::test]
async fn a_path_is_known_in_its_one_spelling_only() {
    let (gate, backend) = gate_and_backend().await;
    for path in [
        "//google.bytestream.ByteStream/Read",
        "/google.bytestream.ByteStream//Read",
        "/google.bytestream.ByteStream/Read/",
        "/google.bytestream.ByteStream/Read?x=1",
        "/google.bytestream.ByteStream/Read;x",
        "/google.bytestream.ByteStream/%52ead",
        "/google.bytestream.ByteStream%2fRead",
        "/google.bytestream.bytestream/read",
        "/x/../google.bytestream.ByteStream/Read",
        "/./google.bytestream.ByteStream/Read",
        "https://localhost/google.bytestream.ByteStream/Read",
        "google.bytestream.ByteStream/Read",
        "/google.bytestream.ByteStream/Read ",
        " /google.bytestream.ByteStream/Read",
        "/google.bytestream.ByteStream/Read\0",
        "/google.bytestream.ByteStream\\Read",
        "*",
        "",
    ] {
        let reply = send_block(&gate, block(&[(":path", path)])).await;
        assert!(
            matches!(reply.code(), Some(12)) || reply.error.is_some(),
            "{path:?}: {reply:?}"
        );
        assert_eq!(backend.streams(), 0, "{path:?}");
    }
    assert_only_this_is_seen(&mut gate.client("root").await, &backend).await;
}

#[tokio::test]
async fn malformed_header_blocks_end_their_stream() {
    let (gate, backend) = gate_and_backend().await;
    let late_pseudo = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        (":path", READ),
    ];
    let blocks = [
        block(&[(":path", READ), (":path", WRITE)]),
        block(&[(":path", WRITE), (":path", WRITE)]),
        block(&[(":method", "POST"), (":method", "GET")]),
        block(&[(":authority", "a"), (":authority", "b")]),
        block(&[(":scheme", "https"), (":scheme", "http")]),
        block(&[(":status", "200")]),
        block(&[(":x", "1")]),
        header_block(&late_pseudo),
        header_block(&[
            (":method", "POST"),
            (":scheme", "https"),
            ("content-type", "application/grpc"),
        ]),
        block(&[("transfer-encoding", "chunked")]),
        block(&[("connection", "close")]),
        block(&[("connection", "te, x-forwarded-for")]),
        block(&[("keep-alive", "timeout=5")]),
        block(&[("proxy-connection", "keep-alive")]),
        block(&[("upgrade", "h2c")]),
        block(&[("te", "gzip")]),
        block(&[("Content-Type", "application/grpc")]),
        block(&[("x-line", "a\r\nx-forwarded-for: b")]),
        block(&[("x-line", "a\0b")]),
        block(&[("x y", "a")]),
        block(&[("", "a")]),
        block(&[("content-length", "1")]),
        block(&[("content-length", "9999")]),
        block(&[("content-length", "-1")]),
        // An index into a table that has no such entry.
        Bytes::from_static(&[0xff, 0xff, 0xff, 0x03]),
    ];
    for (number, block) in blocks.into_iter().enumerate() {
        let reply = send_block(&gate, block).await;
        assert_ne!(reply.code(), Some(0), "block {number}: {reply:?}");
        assert_eq!(backend.streams(), 0, "block {number}");
    }
    assert_only_this_is_seen(&mut gate.client("root").await, &backend).await;
}

#[tokio::test]
async fn what_is_no_grpc_is_answered_here() {
    let (gate, backend) = gate_and_backend().await;
    let cases: [(&[(&str, &str)], u16); 6] = [
        (&[(":method", "GET")], 405),
        (&[(":method", "PUT")], 405),
        (&[(":method", "OPTIONS")], 405),
        (&[("content-type", "application/json")], 415),
        (&[("content-type", "application/grpc-web")], 415),
        (
            &[("content-type", "application/grpc"), ("content-type", "text/plain")],
            415,
        ),
    ];
    for (fields, http) in cases {
        let reply = send_block(&gate, block(fields)).await;
        assert_eq!(
            reply.http.map(|http| http.as_u16()),
            Some(http),
            "{fields:?}: {reply:?}"
        );
        assert_eq!(backend.streams(), 0, "{fields:?}");
    }
    assert_only_this_is_seen(&mut gate.client("root").await, &backend).await;
}

#[tokio::test]
async fn headers_that_claim_an_identity_do_not_arrive() {
    let (gate, backend) = gate_and_backend().await;
    let mut request = grpc_request(READ);
    let claims = [
        "x-forwarded-client-cert",
        "x-forwarded-for",
        "x-forwarded-user",
        "x_forwarded_for",
        "forwarded",
        "via",
        "x-real-ip",
        "x-remote-user",
        "remote-user",
        "client-cert",
        "client-cert-chain",
        "x-client-cert",
        "x-client-dn",
        "x-ssl-client-cn",
        "x-ssl-client-verify",
        "ssl-client-s-dn",
        "x-tls-client",
        "l5d-client-id",
        "x-casgate-identity",
        "x-casgate-rule",
        "x-envoy-peer-metadata",
        "true-client-ip",
        "proxy-authorization",
        "host",
        "expect",
    ];
    for name in claims {
        let name: HeaderName = name.parse().unwrap();
        request.headers_mut().append(&name, HeaderValue::from_static("CN=root"));
        request.headers_mut().append(&name, HeaderValue::from_static("CN=root"));
    }
    let reply = gate
        .client("reader")
        .await
        .send(request, grpc::request(Method::Read, ""))
        .await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    let seen = backend.seen().remove(0);
    let mut names: Vec<_> = seen.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-type", "te"]);
}
