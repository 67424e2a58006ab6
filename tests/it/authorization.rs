//! Who may call what. After each denial the backend must have seen nothing: no byte, no stream.

use casgate::policy::method::{Method, Service};
use casgate::policy::rights::Right;

use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::grpc_request;
use crate::harness::{assert_denied, assert_only_this_is_seen, frames, grpc, until, watch_health};

const CAPABILITIES: &str = "build.bazel.remote.execution.v2.Capabilities";
const CAS: &str = "build.bazel.remote.execution.v2.ContentAddressableStorage";
const BYTESTREAM: &str = "google.bytestream.ByteStream";
const ACTION_CACHE: &str = "build.bazel.remote.execution.v2.ActionCache";
const EXECUTION: &str = "build.bazel.remote.execution.v2.Execution";
const OPERATIONS: &str = "google.longrunning.Operations";
const FETCH: &str = "build.bazel.remote.asset.v1.Fetch";
const PUSH: &str = "build.bazel.remote.asset.v1.Push";
const LOG_STREAM: &str = "build.bazel.remote.logstream.v1.LogStreamService";
const BOTS: &str = "google.devtools.remoteworkers.v1test2.Bots";
const EVENTS: &str = "google.devtools.build.v1.PublishBuildEvent";

/// The rights that open a method when no URI is asked for: written down again, by hand.
const TABLE: [(&str, &str, &[&str]); 28] = [
    (
        CAPABILITIES,
        "GetCapabilities",
        &[
            "pull",
            "cas-push",
            "action-push",
            "asset-push",
            "execute",
            "worker",
            "events",
            "fetch-remote",
            "admin",
        ],
    ),
    (CAS, "FindMissingBlobs", &["pull", "cas-push"]),
    (CAS, "BatchReadBlobs", &["pull"]),
    (CAS, "GetTree", &["pull"]),
    (CAS, "SplitBlob", &["pull"]),
    (CAS, "BatchUpdateBlobs", &["cas-push"]),
    (CAS, "SpliceBlob", &["cas-push"]),
    (BYTESTREAM, "Read", &["pull"]),
    (BYTESTREAM, "Write", &["cas-push"]),
    (BYTESTREAM, "QueryWriteStatus", &["cas-push"]),
    (ACTION_CACHE, "GetActionResult", &["pull"]),
    (ACTION_CACHE, "UpdateActionResult", &["action-push"]),
    (EXECUTION, "Execute", &["execute"]),
    (EXECUTION, "WaitExecution", &["execute"]),
    (OPERATIONS, "GetOperation", &["execute"]),
    (OPERATIONS, "WaitOperation", &["execute"]),
    (OPERATIONS, "CancelOperation", &["execute"]),
    (OPERATIONS, "ListOperations", &["admin"]),
    (OPERATIONS, "DeleteOperation", &["admin"]),
    (FETCH, "FetchBlob", &["pull"]),
    (FETCH, "FetchDirectory", &["pull"]),
    (PUSH, "PushBlob", &["asset-push"]),
    (PUSH, "PushDirectory", &["asset-push"]),
    (LOG_STREAM, "CreateLogStream", &["worker"]),
    (BOTS, "CreateBotSession", &["worker"]),
    (BOTS, "UpdateBotSession", &["worker"]),
    (EVENTS, "PublishLifecycleEvent", &["events"]),
    (EVENTS, "PublishBuildToolEventStream", &["events"]),
];

fn method(service: &str, name: &str) -> Method {
    Method::from_path(&format!("/{service}/{name}")).unwrap()
}

#[test]
fn the_table_names_every_method_but_those_that_the_gate_answers() {
    let named: Vec<Method> = TABLE.iter().map(|(service, name, _)| method(service, name)).collect();
    for known in Method::ALL {
        let own = [Service::Health, Service::ReferenceStorage].contains(&known.service());
        assert_eq!(named.contains(known), !own, "{known:?}");
    }
}

#[tokio::test]
async fn every_method_is_open_to_the_rights_of_the_table_and_to_no_other() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    for right in Right::ALL {
        let (name, who) = (right.name(), format!("{{ common-name = \"only {}\" }}", right.name()));
        config.rule(&format!("only {name}"), &who, &[name], None);
    }
    let gate = Gate::start(config).await;
    for right in Right::ALL {
        let mut client = gate.client(&format!("only {}", right.name())).await;
        for (service, name, rights) in TABLE {
            let before = backend.streams();
            let reply = client.ask(method(service, name), "").await;
            if rights.contains(&right.name()) {
                assert_eq!(reply.code(), Some(0), "{right:?} {service}/{name}: {reply:?}");
                let seen = backend.seen();
                assert_eq!(seen.len(), before + 1);
                assert_eq!(seen[before].path, format!("/{service}/{name}"));
            } else {
                assert_denied(&reply, &backend, before);
            }
        }
    }
    assert_only_this_is_seen(&mut gate.client("reader").await, &backend).await;
}

#[tokio::test]
async fn callers_without_a_rule_may_nothing() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend).with_anonymous();
    // Rights of certificates are no rights of callers without one.
    config.rule(
        "any certificate of the team",
        "{ organization = \"team\" }",
        &["pull", "push"],
        None,
    );
    let gate = Gate::start(config).await;
    let (mut stranger, mut anonymous) = (gate.client("stranger").await, gate.anonymous().await);
    for (service, name, _) in TABLE {
        let reply = stranger.ask(method(service, name), "").await;
        assert_denied(&reply, &backend, 0);
        assert!(reply.message().contains("`CN=stranger`"), "{}", reply.message());
        let reply = anonymous.ask(method(service, name), "").await;
        assert_denied(&reply, &backend, 0);
        assert!(reply.message().contains("show a certificate"), "{}", reply.message());
    }
    assert_only_this_is_seen(&mut gate.client("reader").await, &backend).await;
}

#[tokio::test]
async fn an_empty_policy_denies_every_method() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    config.rules.clear();
    let gate = Gate::start(config).await;
    let mut client = gate.client("root").await;
    for method in Method::ALL.iter().filter(|method| method.service() != Service::Health) {
        assert_denied(&client.ask(*method, "").await, &backend, 0);
    }
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn anonymous_callers_have_the_rights_of_anonymous_rules_only() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend).with_anonymous();
    config.rule("everybody", "\"anonymous\"", &["pull"], None);
    config.rule("certificates", "\"any\"", &["push"], None);
    let gate = Gate::start(config).await;
    let (mut anonymous, mut stranger) = (gate.anonymous().await, gate.client("stranger").await);
    assert_eq!(anonymous.ask(Method::BatchReadBlobs, "").await.code(), Some(0));
    assert_denied(&anonymous.ask(Method::BatchUpdateBlobs, "").await, &backend, 1);
    assert_denied(&stranger.ask(Method::BatchReadBlobs, "").await, &backend, 1);
    assert_eq!(stranger.ask(Method::BatchUpdateBlobs, "").await.code(), Some(0));
}

#[tokio::test]
async fn local_cas_is_shut_to_a_caller_with_every_right() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut root = gate.client("root").await;
    for name in [
        "CaptureFiles",
        "CaptureTree",
        "StageTree",
        "StageTreeStream",
        "FetchTree",
        "FetchMissingBlobs",
        "UploadMissingBlobs",
        "UploadTree",
        "HashFiles",
        "ExportFiles",
        "GetLocalServerDetails",
        "GetLocalDiskUsage",
        "GetInstanceNameForRemote",
        "GetInstanceNameForRemotes",
        "GetInstanceNameForNamespace",
        "NestedServer",
    ] {
        let path = format!("/build.buildgrid.LocalContentAddressableStorage/{name}");
        let reply = root.send(grpc_request(&path), grpc::frame(b"")).await;
        assert_eq!(reply.code(), Some(12), "{name}: {reply:?}");
        assert_eq!(backend.streams(), 0);
    }
    assert_only_this_is_seen(&mut root, &backend).await;
}

#[tokio::test]
async fn unknown_methods_are_unimplemented_and_stay_here() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut root = gate.client("root").await;
    for path in [
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/DropEverything",
        "/build.bazel.remote.execution.v3.ContentAddressableStorage/BatchReadBlobs",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/buildstream.v2.ArtifactService/UpdateArtifact",
        "/",
        "/x",
    ] {
        let reply = root.send(grpc_request(path), grpc::frame(b"")).await;
        assert_eq!(reply.code(), Some(12), "{path}: {reply:?}");
        assert_eq!(reply.http.map(|http| http.as_u16()), Some(200), "{path}");
        assert_eq!(backend.streams(), 0, "{path}");
    }
    assert_only_this_is_seen(&mut root, &backend).await;
}

#[tokio::test]
async fn health_is_answered_here_for_everybody() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend).with_anonymous()).await;
    let mut anonymous = gate.anonymous().await;
    let reply = anonymous.call(Method::HealthCheck, grpc::frame(b"")).await;
    assert_eq!(
        (reply.code(), reply.body.as_slice()),
        (Some(0), &b"\0\0\0\0\x02\x08\x01"[..])
    );
    let (watch, _body, first) = watch_health(&mut anonymous).await;
    assert_eq!(&first[..], b"\0\0\0\0\x02\x08\x01");
    watch.cancel();
    until("the watch ends", || gate.metric("casgate_calls_open", &[]) == 0.0).await;
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn a_denied_write_is_answered_before_a_body_byte_is_read() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut reader = gate.client("reader").await;
    // Not even the first message is sent.
    let silent = reader.open(Method::Write);
    assert_denied(&silent.reply().await, &backend, 0);
    // Sent, and left lying: no byte of its window is given back.
    let mut loud = reader.open(Method::Write);
    let id = loud.id();
    loud.send(grpc::write(60_000)).await;
    assert_denied(&loud.reply().await, &backend, 0);
    let updates = reader
        .tap
        .received()
        .iter()
        .filter(|frame| frame.kind == frames::WINDOW_UPDATE && frame.stream == id)
        .count();
    assert_eq!(updates, 0);
    assert_only_this_is_seen(&mut reader, &backend).await;
}
