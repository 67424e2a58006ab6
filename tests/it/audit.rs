//! The audit log: a line for every push, execution and denial, and nothing changed where it can't be written.

use std::process::Command;

use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use casgate::audit::Line;
use casgate::policy::method::Method;
use prost::Message;

use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::grpc::{self, HASH};
use crate::harness::until;

const FILE: &str = "audit.jsonl";

fn audited(backend: &Backend, file: &str, more: &str) -> Config {
    let mut config = Config::to(backend);
    config.top.push_str(&format!("\naudit = {{ file = \"{file}\"{more} }}"));
    config
}

fn lines(gate: &Gate) -> Vec<Line> {
    let text = std::fs::read_to_string(gate.dir().join(FILE)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn push(uri: &str) -> bytes::Bytes {
    let request = asset::PushBlobRequest {
        uris: vec![uri.to_owned()],
        blob_digest: Some(reapi::Digest {
            hash: HASH.to_owned(),
            size_bytes: 7,
        }),
        ..Default::default()
    };
    grpc::frame(&request.encode_to_vec())
}

#[tokio::test]
async fn a_push_and_a_denial_leave_a_line_each_and_a_pull_none() {
    let backend = Backend::start(unary);
    let gate = Gate::start(audited(&backend, FILE, "")).await;
    let (mut writer, mut reader) = (gate.client("writer").await, gate.client("reader").await);
    writer.ask(Method::Read, "").await;
    writer.call(Method::PushBlob, push("urn:x")).await;
    writer.ask(Method::Write, "main").await;
    let denied = reader.call(Method::PushBlob, push("urn:x")).await;
    until("three lines", || lines(&gate).len() == 3).await;

    let [pushed, written, refused] = &lines(&gate)[..] else {
        panic!()
    };
    assert_eq!((pushed.code, pushed.rule.as_str()), (0, "writers"));
    assert_eq!(pushed.method, "build.bazel.remote.asset.v1.Push/PushBlob");
    assert_eq!(
        (&pushed.uris[..], &pushed.digests[..]),
        (&["urn:x".to_owned()][..], &[format!("{HASH}/7")][..])
    );
    let holder = pushed.certificate.as_ref().unwrap();
    assert_eq!(
        (holder.subject.as_str(), holder.issuer.as_str()),
        ("CN=writer", "CN=test authority")
    );
    assert_eq!(holder.sha256.len(), 64);
    assert!(
        pushed.time.ends_with('Z') && pushed.peer.starts_with("127.0.0.1:"),
        "{pushed:?}"
    );
    assert_eq!(written.resource_digest(), Some(format!("{HASH}/0")));
    assert_eq!(written.instance, "main");
    assert_eq!(
        (refused.code, refused.rule.as_str(), refused.reason.as_str()),
        (7, "", "no-right")
    );
    // The client can name its call to the administrator.
    assert!(
        denied.message().ends_with(&format!("(call {})", refused.call)),
        "{}",
        denied.message()
    );
    assert_ne!(pushed.call, refused.call);
}

#[tokio::test]
async fn nothing_is_pushed_while_the_log_can_not_be_written_unless_lines_may_be_lost() {
    for (more, code) in [("", Some(14)), (", on-failure = \"count\"", Some(0))] {
        let backend = Backend::start(unary);
        // Each write to it fails as on a full disk.
        let gate = Gate::start(audited(&backend, "/dev/full", more)).await;
        let mut writer = gate.client("writer").await;
        // The first one finds out.
        writer.call(Method::PushBlob, push("urn:x")).await;
        until("a failure", || {
            gate.metric("casgate_audit_write_failures_total", &[]) > 0.0
        })
        .await;
        let streams = backend.streams();
        let reply = writer.call(Method::PushBlob, push("urn:x")).await;
        assert_eq!(reply.code(), code, "{reply:?}");
        assert_eq!(backend.streams() - streams, usize::from(code == Some(0)));
        // Who only pulls does not mind.
        assert_eq!(writer.ask(Method::Read, "").await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_reload_opens_the_file_anew() {
    let backend = Backend::start(unary);
    let gate = Gate::start(audited(&backend, FILE, "")).await;
    let mut writer = gate.client("writer").await;
    writer.call(Method::PushBlob, push("urn:before")).await;
    until("a line", || lines(&gate).len() == 1).await;
    std::fs::rename(gate.dir().join(FILE), gate.dir().join("old")).unwrap();
    gate.reload().await.unwrap();
    writer.call(Method::PushBlob, push("urn:after")).await;
    until("a line in the new file", || lines(&gate).len() == 1).await;
    assert_eq!(lines(&gate)[0].uris, ["urn:after"]);
}

#[tokio::test]
async fn a_log_that_can_not_be_opened_is_an_error_at_the_start() {
    let backend = Backend::start(unary);
    let error = Gate::try_start(audited(&backend, "no/such/folder", ""))
        .await
        .err()
        .unwrap();
    assert!(
        error.contains("audit.file: ") && error.contains("no/such/folder"),
        "{error}"
    );
}

#[tokio::test]
async fn who_pushed_it_is_answered() {
    let backend = Backend::start(unary);
    let gate = Gate::start(audited(&backend, FILE, "")).await;
    gate.client("writer").await.call(Method::PushBlob, push("urn:x")).await;
    gate.client("reader").await.call(Method::PushBlob, push("urn:x")).await;
    until("two lines", || lines(&gate).len() == 2).await;
    let path = gate.dir().join(FILE);
    // What a full disk leaves.
    let mut text = std::fs::read(&path).unwrap();
    text.extend_from_slice(b"{\"time\":\"20");
    std::fs::write(&path, text).unwrap();
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_casgate"));
        let output = command.arg("audit").arg(&path).args(arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.success(), text.lines().count(), text)
    };
    for wanted in [
        &["--uri", "urn:x"][..],
        &["--digest", HASH],
        &["--digest", &format!("{HASH}/7")],
    ] {
        let (is_found, count, text) = ask(wanted);
        assert!(is_found && count == 1, "{wanted:?} {text}");
        assert!(
            text.contains("PushBlob by CN=writer") && text.contains("rule \"writers\""),
            "{text}"
        );
    }
    // The reader was denied before its request was read, so nobody knows what it was about.
    assert_eq!(ask(&["--uri", "urn:x", "--all"]).1, 1);
    assert!(!ask(&["--uri", "urn:y"]).0);
    assert!(!ask(&["--digest", &format!("{HASH}/8")]).0);
    assert!(!ask(&[]).0);
}
