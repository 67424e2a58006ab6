//! The audit log: a line for every push, execution and denial, and nothing changed where it can't be written.

use std::process::Command;

use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use casgate::audit::{Event, Line};
use casgate::policy::method::Method;
use prost::Message;

use crate::harness::audit::calls;
use crate::harness::backend::{Backend, Exchange, unary};
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
    calls(&text)
}

/// Takes the request, and never answers.
async fn takes_all(mut exchange: Exchange) {
    exchange.drain().await;
    exchange.until_reset().await;
}

/// How many calls have ended.
fn ended(gate: &Gate) -> usize {
    lines(gate).iter().filter(|line| line.code.is_some()).count()
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
    until("three lines", || ended(&gate) == 3).await;

    let [pushed, written, refused] = &lines(&gate)[..] else {
        panic!()
    };
    assert_eq!((pushed.code, pushed.rule.as_str()), (Some(0), "writers"));
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
        (Some(7), "", "no-right")
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
        // The first one finds out, and is not whole at the backend either.
        let reply = writer.call(Method::PushBlob, push("urn:x")).await;
        assert_eq!(reply.code(), code, "{reply:?}");
        assert!(code == Some(0) || backend.seen().iter().all(|seen| !seen.ended && seen.received == 0));
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
    until("two lines", || ended(&gate) == 2).await;
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

#[tokio::test]
async fn a_push_is_in_the_log_before_the_backend_has_all_of_it() {
    let backend = Backend::start(takes_all);
    let gate = Gate::start(audited(&backend, FILE, ", sync = true")).await;
    let mut writer = gate.client("writer").await;
    let pending = tokio::spawn(async move { writer.call(Method::PushBlob, push("urn:x")).await });
    until("the backend has it", || backend.seen().iter().any(|seen| seen.ended)).await;
    // Without a wait: it was there first.
    let [line] = &lines(&gate)[..] else { panic!() };
    assert_eq!(
        (line.event, line.code, &line.uris[..]),
        (Event::Begin, None, &["urn:x".to_owned()][..])
    );
    assert_eq!(line.digests, [format!("{HASH}/7")]);
    let asked = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_casgate"));
        let output = command
            .arg("audit")
            .arg(gate.dir().join(FILE))
            .args(["--uri", "urn:x"])
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert!(asked().contains("its end is unknown"), "{}", asked());
    pending.abort();
    until("its end", || ended(&gate) == 1).await;
    assert_eq!(lines(&gate)[0].code, Some(1));
    // The backend may have it all the same.
    assert!(asked().contains("status 1, "), "{}", asked());
}

#[tokio::test]
async fn an_upload_is_in_the_log_before_any_of_it_is_at_the_backend() {
    let backend = Backend::start(takes_all);
    let gate = Gate::start(audited(&backend, FILE, "")).await;
    let mut writer = gate.client("writer").await;
    let pending = tokio::spawn(async move { writer.ask(Method::Write, "main").await });
    until("some of it is there", || {
        backend.seen().iter().any(|seen| seen.received > 0)
    })
    .await;
    assert_eq!(lines(&gate)[0].resource_digest(), Some(format!("{HASH}/0")));
    pending.abort();
}

#[tokio::test]
async fn what_the_log_can_not_tell_of_is_not_pushed() {
    let backend = Backend::start(unary);
    let gate = Gate::start(audited(&backend, FILE, "")).await;
    let mut writer = gate.client("writer").await;
    let digest = |content: &[u8]| [&[0x12, content.len() as u8][..], content].concat();
    let hash = [&b"\x0a\x40"[..], HASH.as_bytes()].concat();
    let result = [0x1a, 0];
    for (what, message) in [
        (
            "a digest in two parts",
            [digest(&hash), digest(b"\x10\x07"), result.to_vec()].concat(),
        ),
        (
            "two hashes",
            [digest(&[hash.clone(), b"\x0a\x01a".to_vec()].concat()), result.to_vec()].concat(),
        ),
        ("a long varint", [&b"\x12\xc2\x00"[..], &hash, &result].concat()),
        ("a group", [&b"\x3b\x3c"[..], &digest(&hash), &result].concat()),
        (
            "a name with a control character",
            [digest(b"\x0a\x03a\nb"), result.to_vec()].concat(),
        ),
    ] {
        let reply = writer.call(Method::UpdateActionResult, grpc::frame(&message)).await;
        assert_eq!(reply.code(), Some(3), "{what}: {reply:?}");
    }
    let long = push(&format!("urn:{}", "x".repeat(5000)));
    assert_eq!(writer.call(Method::PushBlob, long).await.code(), Some(3));
    assert!(backend.seen().iter().all(|seen| !seen.ended), "{:?}", backend.seen());
    // Padding that nobody reads hides nothing.
    let padded = digest(&[&b"\x4a\x20"[..], &[b'x'; 32], &hash, b"\x10\x07"].concat());
    let reply = writer
        .call(
            Method::UpdateActionResult,
            grpc::frame(&[&padded[..], &result].concat()),
        )
        .await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    until("its line", || {
        lines(&gate).iter().any(|line| line.digests == [format!("{HASH}/7")])
    })
    .await;
}

#[tokio::test]
async fn all_blobs_of_a_batch_are_told_of() {
    let backend = Backend::start(unary);
    let gate = Gate::start(audited(&backend, FILE, "")).await;
    let requests = (0..3000).map(|size_bytes| reapi::batch_update_blobs_request::Request {
        digest: Some(reapi::Digest {
            hash: HASH.to_owned(),
            size_bytes,
        }),
        ..Default::default()
    });
    let batch = reapi::BatchUpdateBlobsRequest {
        requests: requests.collect(),
        ..Default::default()
    };
    let message = grpc::frame(&batch.encode_to_vec());
    let sent = message.len() as u64;
    let reply = gate
        .client("writer")
        .await
        .call(Method::BatchUpdateBlobs, message)
        .await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    until("its end", || ended(&gate) == 1).await;
    let digests = &lines(&gate)[0].digests;
    assert!(digests.len() == 3000 && digests.contains(&format!("{HASH}/2999")));
    // The log does not grow by much more than what was sent.
    let size = std::fs::metadata(gate.dir().join(FILE)).unwrap().len();
    assert!(size < sent * 3 / 2, "{size} bytes for {sent}");
}
