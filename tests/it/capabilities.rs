//! GetCapabilities, told truly: caller by caller, and otherwise as the backend says.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use casgate::policy::method::Method;
use prost::Message;

use bazel_remote_apis::build::bazel::remote::execution::v2::{
    ActionCacheUpdateCapabilities, CacheCapabilities, ExecutionCapabilities, RequestMetadata, ServerCapabilities,
    ToolDetails,
};

use crate::harness::backend::{Backend, Exchange};
use crate::harness::gate::{Config, Gate};
use crate::harness::grpc;
use crate::harness::wire::{Reply, grpc_request};

fn announced() -> ServerCapabilities {
    ServerCapabilities {
        cache_capabilities: Some(CacheCapabilities {
            digest_functions: vec![1],
            action_cache_update_capabilities: Some(ActionCacheUpdateCapabilities { update_enabled: true }),
            max_batch_total_size_bytes: 1_048_576,
            splice_blob_support: true,
            ..Default::default()
        }),
        execution_capabilities: Some(ExecutionCapabilities {
            exec_enabled: true,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The message of the backend, with a field that is newer than the gate.
fn message() -> Vec<u8> {
    [announced().encode_to_vec(), grpc::string(999, "from the future")].concat()
}

/// A backend that announces everything.
fn backend() -> Backend {
    announcing(grpc::frame(&message()))
}

fn announcing(answer: Bytes) -> Backend {
    Backend::start(move |mut exchange: Exchange| {
        let answer = answer.clone();
        async move {
            exchange.drain().await;
            exchange.answer(answer).await;
        }
    })
}

fn read(reply: &Reply) -> ServerCapabilities {
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    assert_eq!(grpc::frame(&reply.body[5..]), reply.body, "no message");
    ServerCapabilities::decode(&reply.body[5..]).unwrap()
}

/// Who is told of what: update_enabled, splice_blob_support, and execution at all.
fn told(reply: &Reply) -> (bool, bool, bool) {
    let read = read(reply);
    let cache = read.cache_capabilities.unwrap();
    assert_eq!(
        (cache.digest_functions, cache.max_batch_total_size_bytes),
        (vec![1], 1_048_576)
    );
    let update = cache
        .action_cache_update_capabilities
        .is_some_and(|update| update.update_enabled);
    (update, cache.splice_blob_support, read.execution_capabilities.is_some())
}

#[tokio::test]
async fn each_caller_is_told_what_it_may_do() {
    let backend = backend();
    let mut config = Config::to(&backend);
    config.rule("cas", "{ common-name = \"cas\" }", &["cas-push"], None);
    config.rule("runs", "{ common-name = \"runs\" }", &["pull", "execute"], None);
    let gate = Gate::start(config).await;
    for (name, expected) in [
        ("reader", (false, false, false)),
        ("cas", (false, true, false)),
        ("writer", (true, true, false)),
        ("runs", (false, false, true)),
        ("root", (true, true, true)),
    ] {
        let reply = gate.client(name).await.ask(Method::GetCapabilities, "").await;
        assert_eq!(told(&reply), expected, "{name}");
        // What the gate does not know stays.
        assert!(reply.body.ends_with(b"from the future"), "{name}");
    }
    assert_eq!(
        gate.client("stranger")
            .await
            .ask(Method::GetCapabilities, "")
            .await
            .code(),
        Some(7)
    );
    assert_eq!(backend.streams(), 5);
}

#[tokio::test]
async fn rights_of_one_instance_are_told_there_only() {
    let backend = backend();
    let mut config = Config::to(&backend);
    config.rule("pulls", "{ common-name = \"team\" }", &["pull"], None);
    config.rule("pushes", "{ common-name = \"team\" }", &["push"], Some(&["team"]));
    let gate = Gate::start(config).await;
    let mut team = gate.client("team").await;
    assert_eq!(
        told(&team.ask(Method::GetCapabilities, "team").await),
        (true, true, false)
    );
    assert_eq!(
        told(&team.ask(Method::GetCapabilities, "other").await),
        (false, false, false)
    );
}

#[tokio::test]
async fn answers_go_through_unchanged_where_nothing_is_to_be_cut() {
    let backend = backend();
    let mut config = Config::to(&backend);
    config.top.push_str("\ncapabilities = \"unchanged\"");
    let unchanged = Gate::start(config).await;
    let truthful = Gate::start(Config::to(&backend)).await;
    for (gate, name) in [(&unchanged, "reader"), (&truthful, "root")] {
        let reply = gate.client(name).await.ask(Method::GetCapabilities, "").await;
        assert_eq!(reply.body, grpc::frame(&message()), "{name}");
    }
}

#[tokio::test]
async fn a_bazel_before_6_is_told_of_a_right_to_write_since_it_fails_without() {
    let backend = backend();
    let gate = Gate::start(Config::to(&backend)).await;
    let mut reader = gate.client("reader").await;
    for (version, update) in [("5.4.1", true), ("6.0.0", false), ("8.1.0", false)] {
        let metadata = RequestMetadata {
            tool_details: Some(ToolDetails {
                tool_name: "bazel".into(),
                tool_version: version.into(),
            }),
            ..Default::default()
        };
        let mut request = grpc_request(Method::GetCapabilities.path());
        let value = STANDARD_NO_PAD.encode(metadata.encode_to_vec()).parse().unwrap();
        request
            .headers_mut()
            .insert("build.bazel.remote.execution.v2.requestmetadata-bin", value);
        let reply = reader.send(request, grpc::frame(b"")).await;
        assert_eq!(told(&reply), (update, false, false), "{version}");
    }
    // It is told so, and denied all the same.
    assert_eq!(reader.ask(Method::UpdateActionResult, "").await.code(), Some(7));
}

#[tokio::test]
async fn an_answer_that_can_not_be_edited_is_not_passed_on() {
    let whole = grpc::frame(&message());
    let mut compressed = whole.to_vec();
    compressed[0] = 1;
    let twice = [&whole[..], &whole[..]].concat();
    let long = grpc::frame(&[message(), grpc::string(999, &"x".repeat(70_000))].concat());
    for (name, answer) in [
        ("compressed", Bytes::from(compressed)),
        ("two messages", twice.into()),
        ("cut", whole.slice(..whole.len() - 1)),
        ("no protobuf", grpc::frame(&[0xff; 20])),
        ("long", long),
    ] {
        let backend = announcing(answer);
        let gate = Gate::start(Config::to(&backend)).await;
        let reply = gate.client("reader").await.ask(Method::GetCapabilities, "").await;
        assert_eq!((reply.code(), reply.body.len()), (Some(2), 0), "{name}: {reply:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_read_is_asked_for_uncompressed_and_errors_go_through() {
    let backend = Backend::start(|mut exchange: Exchange| async move {
        exchange.drain().await;
        exchange.trailers_only(12, "no capabilities");
    });
    for (capabilities, is_kept) in [("truthful", false), ("unchanged", true)] {
        let mut config = Config::to(&backend);
        config.top.push_str(&format!("\ncapabilities = \"{capabilities}\""));
        let gate = Gate::start(config).await;
        let mut request = grpc_request(Method::GetCapabilities.path());
        request
            .headers_mut()
            .insert("grpc-accept-encoding", "gzip".parse().unwrap());
        let reply = gate.client("reader").await.send(request, grpc::frame(b"")).await;
        assert_eq!(
            (reply.code(), reply.message()),
            (Some(12), "no capabilities".to_owned())
        );
        let seen = backend.seen().pop().unwrap();
        assert_eq!(
            seen.headers.contains_key("grpc-accept-encoding"),
            is_kept,
            "{capabilities}"
        );
    }
}
