//! Rights that are limited to instances, and names and URIs that a decision depends on.

use casgate::policy::method::Method;

use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::{assert_denied, assert_only_this_is_seen, grpc};

#[tokio::test]
async fn a_right_holds_on_the_instances_of_its_rule_only() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    config.rule(
        "team a",
        "{ common-name = \"a\" }",
        &["pull", "push", "execute"],
        Some(&["team-a", "shared/**"]),
    );
    let gate = Gate::start(config).await;
    let mut client = gate.client("a").await;
    let methods = [
        Method::BatchReadBlobs,
        Method::BatchUpdateBlobs,
        Method::Read,
        Method::Write,
        Method::QueryWriteStatus,
        Method::GetActionResult,
        Method::FetchBlob,
        Method::PushBlob,
    ];
    for method in methods {
        for instance in ["team-a", "shared", "shared/x", "shared/x/y"] {
            let reply = client.ask(method, instance).await;
            assert_eq!(reply.code(), Some(0), "{method:?} {instance}: {reply:?}");
        }
        for instance in ["", "team-b", "team-a/x", "team-ab", "xshared", "TEAM-A", "*"] {
            let before = backend.streams();
            let reply = client.ask(method, instance).await;
            assert_denied(&reply, &backend, before);
            let named = if instance.is_empty() {
                "the empty name".to_owned()
            } else {
                format!("`{instance}`")
            };
            assert!(reply.message().contains(&named), "{}", reply.message());
        }
    }
    // Only the server could tell which instance this is about.
    let before = backend.streams();
    assert_denied(&client.ask(Method::WaitExecution, "").await, &backend, before);
    assert_only_this_is_seen(&mut gate.client("reader").await, &backend).await;
}

#[tokio::test]
async fn names_that_break_the_grammar_are_invalid_and_stay_here() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut root = gate.client("root").await;
    for name in [
        "/",
        "a/",
        "/a",
        "a//b",
        "..",
        "a/../b",
        "blobs",
        "a/uploads",
        "a\n",
        "a\0b",
        &"x".repeat(2000),
    ] {
        let reply = root
            .call(Method::BatchReadBlobs, grpc::frame(&grpc::string(1, name)))
            .await;
        assert_eq!(reply.code(), Some(3), "{name:?}: {reply:?}");
    }
    for name in ["", "/blobs/x/1", "a/../blobs", "blobs/..", "uploads/u/blobs/x/1"] {
        let reply = root.call(Method::Read, grpc::frame(&grpc::string(1, name))).await;
        assert_eq!(reply.code(), Some(3), "{name:?}: {reply:?}");
    }
    assert_eq!(backend.streams(), 0);
    assert_only_this_is_seen(&mut root, &backend).await;
}

#[tokio::test]
async fn fetches_that_lead_the_server_out_need_their_own_right() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let fetch = |uris: &[&str]| grpc::frame(&uris.iter().flat_map(|uri| grpc::string(4, uri)).collect::<Vec<u8>>());
    let (mut reader, mut root) = (gate.client("reader").await, gate.client("root").await);
    for method in [Method::FetchBlob, Method::FetchDirectory] {
        for uris in [
            &["https://example.org/x"][..],
            &["urn:a", "http://127.0.0.1/"],
            &["git@host:x"],
            &[""],
            &["file:///etc/passwd"],
        ] {
            let before = backend.streams();
            assert_denied(&reader.call(method, fetch(uris)).await, &backend, before);
            assert_eq!(root.call(method, fetch(uris)).await.code(), Some(0));
        }
        assert_eq!(reader.call(method, fetch(&["urn:a", "urn:b"])).await.code(), Some(0));
    }
}
