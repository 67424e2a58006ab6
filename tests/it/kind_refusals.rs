//! Denied pushes that are answered kindly: nothing of them reaches a backend, whatever the client is told.

use std::process::Command;

use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::bytestream as bs;
use bytes::Bytes;
use casgate::audit::Line;
use casgate::policy::method::Method;
use casgate::reference_storage::{StatusResponse, UpdateReferenceRequest};
use prost::Message;
use reapi::batch_update_blobs_request::Request;

use crate::harness::audit::calls;
use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::grpc::{self, HASH};
use crate::harness::wire::{Call, Client, Reply};
use crate::harness::{assert_denied, assert_only_this_is_seen, until};

const DISCARD: &str = "on-denied-push = \"discard\"";
const ACCEPT: &str = "push-probe = \"accept\"";

/// The cast, and a rule for `reader` with these keys.
fn kind(backend: &Backend, keys: &str) -> Config {
    let mut config = Config::to(backend);
    let rule = format!("\n[[rules]]\nname = \"kind\"\ncertificate = {{ common-name = \"reader\" }}\n{keys}\n");
    config.rules.push_str(&rule);
    config
}

fn digest(number: usize, size: usize) -> reapi::Digest {
    reapi::Digest {
        hash: format!("{number:064x}"),
        size_bytes: i64::try_from(size).unwrap(),
    }
}

fn batch(instance: &str, blobs: usize, size: usize) -> reapi::BatchUpdateBlobsRequest {
    let requests = (0..blobs).map(|number| Request {
        digest: Some(digest(number, size)),
        data: vec![b'x'; size],
        ..Default::default()
    });
    reapi::BatchUpdateBlobsRequest {
        instance_name: instance.to_owned(),
        requests: requests.collect(),
        ..Default::default()
    }
}

fn action(instance: &str, stdout: usize) -> reapi::UpdateActionResultRequest {
    reapi::UpdateActionResultRequest {
        instance_name: instance.to_owned(),
        action_digest: Some(digest(1, 2)),
        action_result: Some(reapi::ActionResult {
            exit_code: 7,
            stdout_raw: vec![b'x'; stdout],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn push_blob(uri: &str) -> asset::PushBlobRequest {
    asset::PushBlobRequest {
        uris: vec![uri.to_owned()],
        blob_digest: Some(digest(1, 2)),
        ..Default::default()
    }
}

fn framed(message: &impl Message) -> Bytes {
    grpc::frame(&message.encode_to_vec())
}

/// Sends a request as the window allows, as every client does.
async fn ask(client: &mut Client, method: Method, message: &impl Message) -> Reply {
    let mut call = client.open(method);
    send(&mut call, framed(message)).await;
    call.reply().await
}

async fn send(call: &mut Call, message: Bytes) {
    if call.send(message).await {
        call.end();
    }
}

fn read<M: Message + Default>(reply: &Reply) -> M {
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    M::decode(&reply.body[5..]).unwrap()
}

/// That each blob of a batch is told to be stored.
fn assert_stored(reply: &Reply, blobs: usize, size: usize) {
    let response: reapi::BatchUpdateBlobsResponse = read(reply);
    assert_eq!(response.responses.len(), blobs);
    for (number, response) in response.responses.into_iter().enumerate() {
        assert_eq!(response.digest, Some(digest(number, size)));
        assert_eq!(response.status.unwrap().code, 0);
    }
}

fn upload(kind: &str) -> bs::WriteRequest {
    bs::WriteRequest {
        resource_name: format!("main/uploads/7e0e2c0c-0000-4000-8000-000000000000/{kind}/{HASH}/70000"),
        data: vec![b'x'; 16 * 1024],
        ..Default::default()
    }
}

#[tokio::test]
async fn a_build_of_bazel_by_a_reader_pulls_and_its_uploads_are_thrown_away() {
    let backend = Backend::start(unary);
    let gate = Gate::start(kind(&backend, DISCARD)).await;
    let mut reader = gate.client("reader").await;
    assert_eq!(reader.ask(Method::FindMissingBlobs, "").await.code(), Some(0));
    assert_eq!(backend.streams(), 1);

    assert_stored(
        &ask(&mut reader, Method::BatchUpdateBlobs, &batch("", 3, 70_000)).await,
        3,
        70_000,
    );
    assert_stored(
        &ask(&mut reader, Method::BatchUpdateBlobs, &batch("", 0, 0)).await,
        0,
        0,
    );
    for (kind, size) in [("blobs", 70_000), ("compressed-blobs/zstd", -1)] {
        // The client goes on sending, as it does until it hears of the answer.
        let mut call = reader.open(Method::Write);
        call.send(framed(&upload(kind))).await;
        let written: bs::WriteResponse = read(&call.reply().await);
        assert_eq!(written.committed_size, size, "{kind}");
        let name = upload(kind).resource_name;
        let status = bs::QueryWriteStatusRequest { resource_name: name };
        let status: bs::QueryWriteStatusResponse = read(&ask(&mut reader, Method::QueryWriteStatus, &status).await);
        assert!(status.complete && status.committed_size == size, "{status:?}");
    }
    let update = action("main", 200_000);
    let stored: reapi::ActionResult = read(&ask(&mut reader, Method::UpdateActionResult, &update).await);
    assert_eq!(Some(stored), update.action_result);

    assert_eq!(backend.streams(), 1);
    assert_eq!(
        gate.metric("casgate_kind_answers_total", &[r#"answered="discarded""#]),
        7.0
    );
    assert_eq!(gate.metric("casgate_decisions_total", &[r#"decision="deny""#]), 7.0);
    assert_only_this_is_seen(&mut reader, &backend).await;
}

#[tokio::test]
async fn a_batch_of_four_mebibytes_ends_and_so_do_many_at_once() {
    let backend = Backend::start(unary);
    let gate = Gate::start(kind(&backend, DISCARD)).await;
    let mut reader = gate.client("reader").await;
    assert_stored(
        &ask(&mut reader, Method::BatchUpdateBlobs, &batch("", 4096, 950)).await,
        4096,
        950,
    );
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let mut call = reader.open(Method::BatchUpdateBlobs);
            tokio::spawn(async move {
                send(&mut call, framed(&batch("main", 4, 1_000_000))).await;
                call.reply().await
            })
        })
        .collect();
    for call in calls {
        assert_stored(&call.await.unwrap(), 4, 1_000_000);
    }
    assert_eq!(backend.streams(), 0);
}

#[tokio::test]
async fn what_would_be_believed_by_others_is_refused_all_the_same() {
    let backend = Backend::start(unary);
    let gate = Gate::start(kind(&backend, &format!("{DISCARD}\n{ACCEPT}"))).await;
    let mut reader = gate.client("reader").await;
    let update = UpdateReferenceRequest {
        keys: vec![format!("project/element/{}", "a".repeat(64))],
        digest: Some(digest(1, 2)),
        ..Default::default()
    };
    assert_denied(
        &ask(&mut reader, Method::PushBlob, &push_blob("urn:x")).await,
        &backend,
        0,
    );
    assert_denied(&ask(&mut reader, Method::PushBlob, &push_blob("")).await, &backend, 0);
    assert_denied(&ask(&mut reader, Method::UpdateReference, &update).await, &backend, 0);
    for method in [Method::SpliceBlob, Method::Execute, Method::DeleteOperation] {
        assert_denied(&reader.ask(method, "").await, &backend, 0);
    }
}

#[tokio::test]
async fn who_is_not_matched_by_the_rule_there_is_refused() {
    let backend = Backend::start(unary);
    let gate =
        Gate::start(kind(&backend, &format!("{DISCARD}\n{ACCEPT}\ninstances = [\"main\"]")).with_anonymous()).await;
    let (mut reader, mut stranger, mut anonymous) = (
        gate.client("reader").await,
        gate.client("stranger").await,
        gate.anonymous().await,
    );
    assert_stored(
        &ask(&mut reader, Method::BatchUpdateBlobs, &batch("main", 2, 10)).await,
        2,
        10,
    );
    for (client, instance) in [
        (&mut reader, "other"),
        (&mut stranger, "main"),
        (&mut anonymous, "main"),
    ] {
        let reply = ask(client, Method::BatchUpdateBlobs, &batch(instance, 2, 10)).await;
        assert_denied(&reply, &backend, 0);
        assert_denied(&client.ask(Method::PushBlob, instance).await, &backend, 0);
    }
}

#[tokio::test]
async fn a_right_elsewhere_keeps_its_instances_and_the_rest_is_thrown_away() {
    let backend = Backend::start(unary);
    let mut config = kind(&backend, DISCARD);
    config.rule("team", "{ common-name = \"reader\" }", &["push"], Some(&["team"]));
    config.rules.push_str(
        "\n[[rules]]\nname = \"frozen\"\ncertificate = \"any\"\ndeny = [\"push\"]\ninstances = [\"team/frozen\"]\n",
    );
    let gate = Gate::start(config).await;
    let mut reader = gate.client("reader").await;
    // So large that the decision is made within it.
    for instance in ["other", "team/frozen"] {
        let reply = ask(&mut reader, Method::BatchUpdateBlobs, &batch(instance, 9, 50_000)).await;
        assert_stored(&reply, 9, 50_000);
    }
    assert_eq!(backend.streams(), 0);
    let message = batch("team", 9, 50_000);
    ask(&mut reader, Method::BatchUpdateBlobs, &message).await;
    assert_eq!(backend.seen()[0].received, framed(&message).len() as u64);
}

#[tokio::test]
async fn what_can_not_be_answered_for_certain_is_not() {
    let backend = Backend::start(unary);
    let gate = Gate::start(kind(&backend, DISCARD)).await;
    let mut reader = gate.client("reader").await;
    let mut without = batch("", 2, 10);
    without.requests[1].digest = None;
    let mut odd = batch("", 2, 10);
    odd.requests[1].digest = Some(reapi::Digest {
        hash: "../x".into(),
        size_bytes: 1,
    });
    let mut negative = batch("", 1, 1);
    negative.requests[0].digest = Some(reapi::Digest {
        size_bytes: -1,
        ..digest(1, 1)
    });
    let too_many = batch("", 16 * 1024 + 1, 1);
    for message in [without, odd, negative, too_many] {
        assert_denied(&ask(&mut reader, Method::BatchUpdateBlobs, &message).await, &backend, 0);
    }
    let most = batch("", 16 * 1024, 1);
    assert_stored(&ask(&mut reader, Method::BatchUpdateBlobs, &most).await, 16 * 1024, 1);

    let without = reapi::UpdateActionResultRequest {
        action_result: None,
        ..action("", 0)
    };
    for message in [without, action("", 4 << 20)] {
        assert_denied(
            &ask(&mut reader, Method::UpdateActionResult, &message).await,
            &backend,
            0,
        );
    }

    // What is malformed is refused as it is for everybody.
    let twice = [grpc::string(1, "a"), grpc::string(1, "b")].concat();
    let write = |name: &str| grpc::frame(&grpc::string(1, name));
    for (method, message) in [
        (Method::BatchUpdateBlobs, grpc::frame(&twice)),
        (Method::Write, write(&format!("blobs/{HASH}/1"))),
        (Method::Write, write(&format!("uploads/u/blobs/{HASH}/x"))),
        (Method::QueryWriteStatus, write("")),
        (Method::UpdateActionResult, grpc::frame(b"\x0a\xff")),
    ] {
        let reply = reader.call(method, message).await;
        assert_eq!(reply.code(), Some(3), "{method:?} {reply:?}");
    }
    assert_eq!(backend.streams(), 0);
}

#[tokio::test]
async fn a_lost_kindness_ends_what_is_under_way() {
    let backend = Backend::start(unary);
    let mut gate = Gate::start(kind(&backend, DISCARD)).await;
    let mut reader = gate.client("reader").await;
    let mut call = reader.open(Method::BatchUpdateBlobs);
    let message = framed(&batch("", 9, 50_000));
    // More than its window, so that it is being read.
    assert!(call.send(message.slice(..300_000)).await);
    gate.config.rules = gate.config.rules.replace(DISCARD, "on-denied-push = \"refuse\"");
    gate.write();
    gate.reload().await.unwrap();
    assert_denied(&call.reply().await, &backend, 0);
    assert_denied(&reader.ask(Method::Write, "").await, &backend, 0);
}

#[tokio::test]
async fn a_build_stream_that_asks_for_pushes_pulls_and_only_a_push_is_refused() {
    let backend = Backend::start(unary);
    let gate = Gate::start(kind(&backend, ACCEPT)).await;
    let mut reader = gate.client("reader").await;
    // BuildStream 2 and 1.6: INVALID_ARGUMENT is what they take for the right to push.
    for method in [Method::PushBlob, Method::PushDirectory] {
        for instance in ["", "main"] {
            let reply = reader.ask(method, instance).await;
            assert_eq!(reply.code(), Some(3), "{method:?} {reply:?}");
            assert_eq!(reply.message(), "the request names no URI");
        }
    }
    // BuildStream 1.4 and 1.6.
    let empty: reapi::BatchUpdateBlobsResponse = read(&reader.ask(Method::BatchUpdateBlobs, "main").await);
    assert!(empty.responses.is_empty());
    assert_eq!(gate.metric("casgate_kind_answers_total", &[r#"answered="probe""#]), 5.0);
    // BuildStream 1.2 to 1.5.
    let status: StatusResponse = read(&reader.ask(Method::Status, "").await);
    assert!(status.allow_updates);
    assert_eq!(gate.metric("casgate_kind_answers_total", &[r#"answered="probe""#]), 6.0);

    assert_denied(
        &ask(&mut reader, Method::BatchUpdateBlobs, &batch("", 1, 10)).await,
        &backend,
        0,
    );
    assert_denied(
        &ask(&mut reader, Method::PushBlob, &push_blob("urn:x")).await,
        &backend,
        0,
    );
    assert_denied(&reader.ask(Method::Write, "").await, &backend, 0);
    assert_denied(&reader.ask(Method::UpdateActionResult, "").await, &backend, 0);
    // Who may push is asked nothing.
    let mut writer = gate.client("writer").await;
    read::<StatusResponse>(&writer.ask(Method::Status, "").await);
    writer.ask(Method::PushBlob, "").await;
    assert_eq!(backend.streams(), 1);
    assert_eq!(gate.metric("casgate_kind_answers_total", &[]), 6.0);
}

#[tokio::test]
async fn a_large_batch_is_refused_without_being_read_where_only_probes_are_accepted() {
    let backend = Backend::start(unary);
    let gate = Gate::start(kind(&backend, ACCEPT)).await;
    let mut reader = gate.client("reader").await;
    let mut call = reader.open(Method::BatchUpdateBlobs);
    call.send(framed(&batch("", 1, 4_000_000)).slice(..20_000)).await;
    assert_denied(&call.reply().await, &backend, 0);
}

#[tokio::test]
async fn without_the_keys_nothing_of_it_is_so() {
    let backend = Backend::start(unary);
    for keys in ["", "on-denied-push = \"refuse\"\npush-probe = \"refuse\""] {
        let mut config = kind(&backend, &format!("allow = []\n{keys}"));
        // Only the first one counts.
        config.rules.push_str(&format!(
            "\n[[rules]]\ncertificate = \"any\"\n{}",
            if keys.is_empty() {
                "allow = []"
            } else {
                "on-denied-push = \"discard\""
            }
        ));
        let gate = Gate::start(config).await;
        let mut reader = gate.client("reader").await;
        for method in [
            Method::BatchUpdateBlobs,
            Method::Write,
            Method::QueryWriteStatus,
            Method::UpdateActionResult,
            Method::PushBlob,
        ] {
            assert_denied(&reader.ask(method, "").await, &backend, 0);
        }
        let status: StatusResponse = read(&reader.ask(Method::Status, "").await);
        assert!(!status.allow_updates);
    }
}

#[tokio::test]
async fn the_log_and_the_audit_tell_it_from_a_push() {
    let backend = Backend::start(unary);
    let mut config = kind(&backend, &format!("{DISCARD}\n{ACCEPT}"));
    config.top.push_str("\naudit = { file = \"audit.jsonl\" }");
    config.backends.push_str("\n[log]\nformat = \"json\"\n");
    let gate = Gate::spawn(config).await;
    let mut reader = gate.client("reader").await;
    let reply = ask(&mut reader, Method::BatchUpdateBlobs, &batch("main", 2000, 10)).await;
    assert_stored(&reply, 2000, 10);
    reader.ask(Method::Write, "main").await;
    reader.ask(Method::PushBlob, "main").await;
    gate.client("writer").await.ask(Method::Write, "main").await;

    let audit = gate.dir().join("audit.jsonl");
    let lines = || -> Vec<Line> {
        let text = std::fs::read_to_string(&audit).unwrap_or_default();
        calls(&text)
    };
    until("four calls", || {
        lines().iter().filter(|line| line.code.is_some()).count() == 4
    })
    .await;
    let told: Vec<_> = lines()
        .into_iter()
        .map(|line| (line.code, line.reason, line.answered, line.digests.len(), line.more))
        .collect();
    let line =
        |code, reason: &str, answered: &str, digests, more| (Some(code), reason.into(), answered.into(), digests, more);
    assert_eq!(
        told,
        [
            line(0, "no-right", "discarded", 1024, 976),
            line(0, "no-right", "discarded", 0, 0),
            line(3, "no-right", "probe", 0, 0),
            line(0, "", "", 0, 0),
        ]
    );
    let asked = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_casgate"));
        let output = command
            .arg("audit")
            .arg(&audit)
            .args(["--digest", HASH])
            .args(more)
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert_eq!(asked(&[]).lines().count(), 1);
    assert!(asked(&["--all"]).contains("denied (no-right), and answered as discarded"));

    let access = |gate: &Gate| -> Vec<_> {
        let text = |line: &toml::Table, key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let lines = gate.log().into_iter();
        let access = lines.filter(|line| line["target"].as_str() == Some("casgate::access"));
        access
            .map(|line| (text(&line, "reason"), text(&line, "answered"), text(&line, "detail")))
            .collect()
    };
    until("four access lines", || access(&gate).len() == 4).await;
    let lines = access(&gate);
    assert_eq!((lines[0].0.as_str(), lines[0].1.as_str()), ("no-right", "discarded"));
    assert!(
        lines[0].2.starts_with("certificate `CN=reader` may not push here"),
        "{lines:?}"
    );
    assert_eq!((lines[2].0.as_str(), lines[2].1.as_str()), ("no-right", "probe"));
    assert_eq!((lines[3].0.as_str(), lines[3].1.as_str()), ("", ""));
}
