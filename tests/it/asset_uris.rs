//! Rules for some URIs of Remote Asset, over the wire.

use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
use bazel_remote_apis::build::bazel::remote::execution::v2::Digest;
use bytes::Bytes;
use casgate::policy::method::Method;
use casgate::reference_storage::{GetReferenceRequest, UpdateReferenceRequest};
use prost::Message;

use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::grpc;

const OURS: &str = "urn:fdc:buildstream.build:2020:artifact:";

fn limited(mut config: Config, prefix: &str) -> Config {
    config.rule("builders", "{ common-name = \"builder\" }", &["pull", "push"], None);
    config.rules.push_str(&format!("uris = [\"{prefix}\"]\n"));
    config
}

fn push(uris: &[&str], references: usize) -> Bytes {
    let request = asset::PushBlobRequest {
        uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
        references_blobs: vec![
            Digest {
                hash: grpc::HASH.to_owned(),
                size_bytes: 0
            };
            references
        ],
        ..Default::default()
    };
    grpc::frame(&request.encode_to_vec())
}

fn fetch(uris: &[&str]) -> Bytes {
    let request = asset::FetchBlobRequest {
        uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
        ..Default::default()
    };
    grpc::frame(&request.encode_to_vec())
}

#[tokio::test]
async fn each_uri_of_a_request_must_be_allowed() {
    let backend = Backend::start(unary);
    let gate = Gate::start(limited(Config::to(&backend), OURS)).await;
    let mut builder = gate.client("builder").await;
    let (one, two) = (format!("{OURS}1"), format!("{OURS}2"));
    let many = vec![one.as_str(); 1024];
    for (method, message, code) in [
        (Method::PushBlob, push(&[&one, &two], 0), 0),
        (Method::FetchBlob, fetch(&[&one, &two]), 0),
        (Method::PushBlob, push(&[&one, "urn:other:2"], 0), 7),
        (Method::FetchBlob, fetch(&["urn:other:1", &one]), 7),
        (Method::FetchBlob, fetch(&[&one, "https://example.org/x"]), 7),
        (Method::PushBlob, push(&["https://example.org/x"], 0), 7),
        (Method::PushBlob, push(&[""], 0), 7),
        // More references than the gate would hold.
        (Method::PushBlob, push(&[&one], 20_000), 0),
        (Method::PushBlob, push(&["urn:other:1"], 20_000), 7),
        (Method::PushBlob, push(&many, 0), 0),
        (Method::PushBlob, push(&[many.as_slice(), &[&one]].concat(), 0), 3),
        // Calls without URIs, and requests without one.
        (Method::PushBlob, push(&[], 0), 0),
        (Method::FetchBlob, fetch(&[]), 0),
        (Method::BatchUpdateBlobs, Bytes::from_static(b"\0\0\0\0\0"), 0),
    ] {
        let before = backend.streams();
        let reply = builder.call(method, message).await;
        assert_eq!(reply.code(), Some(code), "{method:?} {reply:?}");
        assert_eq!(backend.streams(), before + usize::from(code == 0), "{method:?}");
    }
    let reply = builder.call(Method::PushBlob, push(&["urn:other:1"], 0)).await;
    assert!(
        reply
            .message()
            .contains("may not push here for the URI `urn:other:1`; set `push: false`"),
        "{reply:?}"
    );
}

#[tokio::test]
async fn the_empty_probe_of_build_stream_is_answered_by_the_server() {
    let mut config = limited(Config::to_endpoint("http://127.0.0.1:1"), OURS);
    config.backends = "[backends.store]\nstore = \"memory:\"\n".to_owned();
    let gate = Gate::start(config).await;
    let mut builder = gate.client("builder").await;
    assert_eq!(builder.call(Method::PushBlob, push(&[], 0)).await.code(), Some(3));
    assert_eq!(builder.call(Method::FetchBlob, fetch(&[])).await.code(), Some(3));
}

#[tokio::test]
async fn the_names_of_build_stream_1_are_uris_too() {
    let key = format!("project/element/{}", grpc::HASH);
    let get = grpc::frame(
        &GetReferenceRequest {
            key: key.clone(),
            ..Default::default()
        }
        .encode_to_vec(),
    );
    let update = UpdateReferenceRequest {
        keys: vec![key.clone()],
        digest: Some(Digest {
            hash: grpc::HASH.to_owned(),
            size_bytes: 0,
        }),
        ..Default::default()
    };
    let update = grpc::frame(&update.encode_to_vec());
    for (prefix, found, updated) in [
        ("urn:fdc:buildstream.build:2020:v1:project/", 5, 0),
        ("urn:fdc:buildstream.build:2020:v1:other/", 7, 7),
    ] {
        let mut config = limited(Config::to_endpoint("http://127.0.0.1:1"), prefix);
        config.backends = "[backends.store]\nstore = \"memory:\"\n".to_owned();
        let gate = Gate::start(config).await;
        let mut builder = gate.client("builder").await;
        let reply = builder.call(Method::GetReference, get.clone()).await;
        assert_eq!(reply.code(), Some(found), "{prefix} {reply:?}");
        let reply = builder.call(Method::UpdateReference, update.clone()).await;
        assert_eq!(reply.code(), Some(updated), "{prefix} {reply:?}");
    }
}
