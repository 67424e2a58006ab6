//! Messages that the gate and a backend could read in two ways, one with a name that the caller may use and one with
//! another. The backend must not see them whole.

use bytes::Bytes;
use casgate::policy::method::Method;
use prost::Message;

use bazel_remote_apis::build::bazel::remote::execution::v2::{BatchUpdateBlobsRequest, batch_update_blobs_request};

use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::grpc;
use crate::harness::wire::{Client, Reply};

async fn gate_and_backend() -> (Gate, Backend) {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    config.rule("team", "{ common-name = \"team\" }", &["pull", "push"], Some(&["team"]));
    (Gate::start(config).await, backend)
}

/// `team` may work on the instance `team` and nowhere else: a message that shows this name first.
async fn ask(client: &mut Client, backend: &Backend, method: Method, message: &[u8]) -> Reply {
    let before = backend.streams();
    let reply = client.call(method, Bytes::copy_from_slice(message)).await;
    assert_eq!(backend.streams(), before, "{method:?} {message:?}: {reply:?}");
    reply
}

#[tokio::test]
async fn messages_that_could_be_read_in_two_ways_are_refused() {
    let (gate, backend) = gate_and_backend().await;
    let mut team = gate.client("team").await;
    let own = grpc::string(1, "team");
    let other = grpc::string(1, "other");
    let framed = |parts: &[&[u8]]| grpc::frame(&parts.concat()).to_vec();
    let mut compressed = framed(&[&own]);
    compressed[0] = 1;
    let mut flagged = framed(&[&own]);
    flagged[0] = 2;
    let cut = framed(&[&own])[..8].to_vec();
    let messages = [
        (framed(&[&own, &other]), 3),
        (framed(&[&other, &own]), 3),
        (framed(&[&own, &own]), 3),
        // Tags and lengths that are longer than need be.
        (framed(&[b"\x8a\x00", &own[1..]]), 3),
        (framed(&[b"\x0a\x84\x80\x00team"]), 3),
        (framed(&[b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01team"]), 3),
        // The name as a number, as a group, and beyond the end.
        (framed(&[&own, b"\x08\x01"]), 3),
        (framed(&[&own, b"\x0b\x0c"]), 3),
        (framed(&[b"\x0a\x7fteam"]), 3),
        (framed(&[b"\x0a\x04te\xffm"]), 3),
        // Two messages of a call that has one, and a name in the second only.
        ([framed(&[&own]), framed(&[&other])].concat(), 3),
        ([framed(&[&own]), framed(&[])].concat(), 3),
        (compressed, 12),
        (flagged, 3),
        (cut, 3),
        (Vec::new(), 3),
    ];
    for (message, code) in messages {
        for method in [
            Method::BatchReadBlobs,
            Method::BatchUpdateBlobs,
            Method::FetchBlob,
            Method::PushBlob,
        ] {
            let reply = ask(&mut team, &backend, method, &message).await;
            assert_eq!(reply.code(), Some(code), "{method:?} {message:?}: {reply:?}");
        }
    }
    assert_eq!(team.ask(Method::BatchReadBlobs, "team").await.code(), Some(0));
}

#[tokio::test]
async fn a_name_that_comes_late_in_a_long_message_cuts_it_off() {
    let (gate, backend) = gate_and_backend().await;
    let long = BatchUpdateBlobsRequest {
        instance_name: "team".into(),
        requests: vec![batch_update_blobs_request::Request {
            data: vec![0x0a; 300_000],
            ..Default::default()
        }],
        ..Default::default()
    };
    let message = [long.encode_to_vec(), grpc::string(1, "other")].concat();
    let whole = grpc::frame(&message);
    let mut team = gate.client("team").await;
    let mut call = team.open(Method::BatchUpdateBlobs);
    call.send(whole.clone()).await;
    call.end();
    assert_eq!(call.reply().await.code(), Some(3));
    // It has begun to arrive, since long messages are not held; a message without its end is none.
    backend
        .until("the call is reset", |seen| seen.iter().all(|seen| seen.reset.is_some()))
        .await;
    for seen in backend.seen() {
        assert!(
            !seen.ended && seen.received < whole.len() as u64,
            "{} bytes",
            seen.received
        );
    }
}

#[tokio::test]
async fn a_write_that_changes_its_name_is_cut_off() {
    let (gate, backend) = gate_and_backend().await;
    let mut team = gate.client("team").await;
    let mut call = team.open(Method::Write);
    let own = grpc::frame(&grpc::string(1, &grpc::upload("team")));
    call.send(own.clone()).await;
    backend
        .until("the write runs", |seen| {
            seen.len() == 1 && seen[0].received == own.len() as u64
        })
        .await;
    call.send(grpc::frame(&grpc::string(1, &grpc::upload("other")))).await;
    let reply = call.reply().await;
    assert_eq!(reply.code(), Some(3), "{reply:?}");
    backend.until("the call is reset", |seen| seen[0].reset.is_some()).await;
    let seen = backend.seen().remove(0);
    assert_eq!((seen.ended, seen.received), (false, own.len() as u64));
}
