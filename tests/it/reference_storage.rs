//! BuildStream 1: a client that speaks as 1.4 does, before the embedded store and before backends of another mind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::rpc;
use casgate::policy::method::Method;
use casgate::reference_storage::{
    GetReferenceRequest, GetReferenceResponse, StatusResponse, URN_PREFIX, UpdateReferenceRequest,
};
use prost::Message;

use crate::harness::backend::{Backend, Exchange};
use crate::harness::gate::{Config, Gate};
use crate::harness::grpc::{self, HASH};
use crate::harness::naive_cache;
use crate::harness::wire::{Client, Reply};

fn store() -> Config {
    let mut config = Config::to_endpoint("unused");
    config.backends = "[backends.cache]\nstore = \"memory:\"\n".to_owned();
    config
}

fn key() -> String {
    format!("project/element/{HASH}")
}

fn digest(bytes: &[u8]) -> reapi::Digest {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    reapi::Digest {
        hash: hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
        size_bytes: i64::try_from(bytes.len()).unwrap(),
    }
}

async fn ask(client: &mut Client, method: Method, message: &impl Message) -> Reply {
    client.call(method, grpc::frame(&message.encode_to_vec())).await
}

fn read<M: Message + Default>(reply: &Reply) -> M {
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    M::decode(&reply.body[5..]).unwrap()
}

async fn upload(client: &mut Client, blobs: &[&[u8]]) {
    let requests = blobs.iter().map(|data| reapi::batch_update_blobs_request::Request {
        digest: Some(digest(data)),
        data: data.to_vec(),
        ..Default::default()
    });
    let request = reapi::BatchUpdateBlobsRequest {
        requests: requests.collect(),
        ..Default::default()
    };
    let response: reapi::BatchUpdateBlobsResponse = read(&ask(client, Method::BatchUpdateBlobs, &request).await);
    for response in response.responses {
        assert_eq!(response.status.unwrap_or_default().code, 0);
    }
}

async fn update(client: &mut Client, digest: reapi::Digest) -> Reply {
    let request = UpdateReferenceRequest {
        keys: vec![key()],
        digest: Some(digest),
        ..Default::default()
    };
    ask(client, Method::UpdateReference, &request).await
}

async fn get(client: &mut Client) -> Reply {
    let request = GetReferenceRequest {
        key: key(),
        ..Default::default()
    };
    ask(client, Method::GetReference, &request).await
}

async fn fetch(client: &mut Client, uri: String) -> Reply {
    let request = asset::FetchDirectoryRequest {
        uris: vec![uri],
        ..Default::default()
    };
    ask(client, Method::FetchDirectory, &request).await
}

/// A tree `sub/file`: its root, the directory `sub`, and what the file has.
fn tree() -> [Vec<u8>; 3] {
    let file = b"content".to_vec();
    let sub = reapi::Directory {
        files: vec![reapi::FileNode {
            name: "file".into(),
            digest: Some(digest(&file)),
            ..Default::default()
        }],
        ..Default::default()
    }
    .encode_to_vec();
    let root = reapi::Directory {
        directories: vec![reapi::DirectoryNode {
            name: "sub".into(),
            digest: Some(digest(&sub)),
        }],
        ..Default::default()
    }
    .encode_to_vec();
    [root, sub, file]
}

#[tokio::test]
async fn what_a_writer_pushes_a_reader_gets_and_1_6_finds_it_in_remote_asset() {
    let gate = Gate::start(store()).await;
    let (mut writer, mut reader) = (gate.client("writer").await, gate.client("reader").await);
    for (client, may) in [(&mut writer, true), (&mut reader, false)] {
        let status: StatusResponse = read(&client.ask(Method::Status, "").await);
        assert_eq!(status.allow_updates, may);
    }
    assert_eq!(get(&mut reader).await.code(), Some(5));

    let [root, sub, file] = tree();
    upload(&mut writer, &[&root, &sub, &file]).await;
    assert_eq!(update(&mut writer, digest(&root)).await.code(), Some(0));
    let found: GetReferenceResponse = read(&get(&mut reader).await);
    assert_eq!(found.digest, Some(digest(&root)));
    let found: asset::FetchDirectoryResponse = read(&fetch(&mut reader, format!("{URN_PREFIX}{}", key())).await);
    assert_eq!(found.root_directory_digest, Some(digest(&root)));

    let service = r#"grpc_service="buildstream.v2.ReferenceStorage""#;
    assert_eq!(gate.metric("grpc_server_handled_total", &[service]), 5.0);
}

#[tokio::test]
async fn a_reader_may_not_update_and_hears_what_to_do() {
    let backend = Backend::start(|mut exchange: Exchange| async move { exchange.answer(grpc::frame(b"")).await });
    let gate = Gate::start(Config::to(&backend)).await;
    let reply = update(&mut gate.client("reader").await, digest(b"x")).await;
    assert_eq!(reply.code(), Some(7));
    assert!(reply.message().contains("set `push: false`"), "{}", reply.message());
    assert_eq!(backend.streams(), 0);
}

#[tokio::test]
async fn a_right_on_one_instance_does_not_reach_another() {
    let backend = Backend::start(|mut exchange: Exchange| async move { exchange.answer(grpc::frame(b"")).await });
    let mut config = Config::to(&backend);
    config.rule("team", r#"{ common-name = "team" }"#, &["pull", "push"], Some(&["a"]));
    let gate = Gate::start(config).await;
    let mut team = gate.client("team").await;
    assert_eq!(get(&mut team).await.code(), Some(7));
    assert_eq!(update(&mut team, digest(b"x")).await.code(), Some(7));
    assert_eq!(backend.streams(), 0);
}

#[tokio::test]
async fn an_artifact_with_a_lost_blob_is_not_there_until_the_blob_is() {
    let [root, sub, file] = tree();
    let urn = format!("{URN_PREFIX}{}", key());
    for lost in [0, 1, 2] {
        let backend = naive_cache::start();
        let gate = Gate::start(Config::to(&backend)).await;
        let (mut writer, mut reader) = (gate.client("writer").await, gate.client("reader").await);
        let blobs = [&root[..], &sub, &file];
        let there: Vec<&[u8]> = (0..3)
            .filter(|index| *index != lost)
            .map(|index| blobs[index])
            .collect();
        upload(&mut writer, &there).await;
        let digest = digest(&root);
        assert_eq!(update(&mut writer, digest.clone()).await.code(), Some(0));
        for reply in [get(&mut reader).await, fetch(&mut reader, urn.clone()).await] {
            assert_eq!(reply.code(), Some(5), "without {lost}: {reply:?}");
            assert!(reply.message().contains("gone"), "{}", reply.message());
        }

        upload(&mut writer, &[blobs[lost]]).await;
        read::<GetReferenceResponse>(&get(&mut reader).await);
        read::<asset::FetchDirectoryResponse>(&fetch(&mut reader, urn.clone()).await);
    }
}

#[tokio::test]
async fn only_the_names_of_build_stream_1_are_checked_and_nothing_where_the_backend_is_trusted() {
    let [root, ..] = tree();
    let other = "urn:fdc:buildstream.build:2020:source:x".to_owned();
    for (completeness, code) in [("check", Some(5)), ("trust", Some(0))] {
        let backend = naive_cache::start();
        let mut config = Config::to(&backend);
        config.backends.push_str(&format!(
            "[[routes]]\nservices = [\"cas\", \"asset\"]\nbackend = \"cache\"\nasset-completeness = \"{completeness}\"\n"
        ));
        let gate = Gate::start(config).await;
        let mut writer = gate.client("writer").await;
        upload(&mut writer, &[&root]).await;
        update(&mut writer, digest(&root)).await;
        let request = asset::PushDirectoryRequest {
            uris: vec![other.clone()],
            root_directory_digest: Some(digest(&root)),
            ..Default::default()
        };
        read::<asset::PushDirectoryResponse>(&ask(&mut writer, Method::PushDirectory, &request).await);
        assert_eq!(get(&mut writer).await.code(), code, "{completeness}");
        assert_eq!(
            fetch(&mut writer, other.clone()).await.code(),
            Some(0),
            "{completeness}"
        );
    }
}

#[tokio::test]
async fn a_request_that_no_build_stream_sends_stays_here() {
    let backend = Backend::start(|mut exchange: Exchange| async move { exchange.answer(grpc::frame(b"")).await });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut writer = gate.client("writer").await;
    let digest = Some(digest(b"x"));
    for key in [
        "",
        "../../x",
        "a/b/c",
        &format!("../b/{HASH}"),
        &format!("a/b/{HASH}/c"),
    ] {
        let get = GetReferenceRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        let update = UpdateReferenceRequest {
            keys: vec![key.to_owned()],
            digest: digest.clone(),
            ..Default::default()
        };
        assert_eq!(
            ask(&mut writer, Method::GetReference, &get).await.code(),
            Some(3),
            "{key}"
        );
        assert_eq!(
            ask(&mut writer, Method::UpdateReference, &update).await.code(),
            Some(3),
            "{key}"
        );
    }
    let without_digest = UpdateReferenceRequest {
        keys: vec![key()],
        ..Default::default()
    };
    assert_eq!(
        ask(&mut writer, Method::UpdateReference, &without_digest).await.code(),
        Some(3)
    );
    let long = GetReferenceRequest {
        key: "x".repeat(100_000),
        ..Default::default()
    };
    assert_eq!(ask(&mut writer, Method::GetReference, &long).await.code(), Some(3));
    assert_eq!(backend.streams(), 0);
}

#[tokio::test]
async fn turned_off_it_is_not_served() {
    let mut config = store();
    config.top.push_str("\nreference-storage = false");
    let gate = Gate::start(config).await;
    let reply = gate.client("writer").await.ask(Method::Status, "").await;
    assert_eq!(reply.code(), Some(12));
}

#[tokio::test]
async fn a_status_inside_of_an_answer_is_told_as_the_status_of_the_call() {
    let backend = Backend::start(|mut exchange: Exchange| async move {
        exchange.drain().await;
        let response = asset::FetchDirectoryResponse {
            status: Some(rpc::Status {
                code: 5,
                message: "no such asset".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        exchange.answer(grpc::frame(&response.encode_to_vec())).await;
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut reader = gate.client("reader").await;
    for reply in [
        get(&mut reader).await,
        fetch(&mut reader, format!("{URN_PREFIX}{}", key())).await,
    ] {
        assert_eq!((reply.code(), reply.message()), (Some(5), "no such asset".to_owned()));
    }
}

/// Serves one artifact without files; counts the directories that are asked for, each after all callers are there.
async fn slow_artifact(mut exchange: Exchange, path: String, reads: Arc<AtomicUsize>, batches: bool) {
    exchange.drain().await;
    let root = reapi::Directory::default();
    if path.ends_with("/FetchDirectory") {
        let response = asset::FetchDirectoryResponse {
            root_directory_digest: Some(digest(&root.encode_to_vec())),
            ..Default::default()
        };
        exchange.answer(grpc::frame(&response.encode_to_vec())).await;
    } else if path.ends_with("/BatchReadBlobs") && !batches {
        exchange.trailers_only(12, "no batches");
    } else if path.ends_with("/BatchReadBlobs") {
        reads.fetch_add(1, Ordering::Relaxed);
        // Long enough for the other callers to ask.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let response = reapi::BatchReadBlobsResponse {
            responses: vec![reapi::batch_read_blobs_response::Response {
                digest: Some(digest(&root.encode_to_vec())),
                ..Default::default()
            }],
        };
        exchange.answer(grpc::frame(&response.encode_to_vec())).await;
    } else {
        reads.fetch_add(1, Ordering::Relaxed);
        exchange.answer(grpc::frame(b"")).await;
    }
}

#[tokio::test]
async fn an_artifact_that_many_ask_for_is_walked_once() {
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    let backend = Backend::start(move |exchange: Exchange| {
        let path = exchange.path();
        slow_artifact(exchange, path, Arc::clone(&counted), true)
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut readers = Vec::new();
    for _ in 0..8 {
        readers.push(gate.client("reader").await);
    }
    let replies = futures_util::future::join_all(readers.iter_mut().map(get)).await;
    for reply in &replies {
        read::<GetReferenceResponse>(reply);
    }
    assert_eq!(reads.load(Ordering::Relaxed), 1);
    // And not again for a while.
    read::<GetReferenceResponse>(&get(&mut readers[0]).await);
    assert_eq!(reads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_server_without_batches_is_read_one_by_one() {
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    let backend = Backend::start(move |exchange: Exchange| {
        let path = exchange.path();
        slow_artifact(exchange, path, Arc::clone(&counted), false)
    });
    let gate = Gate::start(Config::to(&backend)).await;
    read::<GetReferenceResponse>(&get(&mut gate.client("reader").await).await);
    assert_eq!(reads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn tenants_see_nothing_of_each_others_references() {
    let mut config = store();
    for (name, rewrite) in [("a", "tenant-a"), ("b", "tenant-b")] {
        config.rule(
            name,
            &format!("{{ common-name = \"{name}\" }}"),
            &["pull", "push"],
            None,
        );
        config.rules.push_str(&format!("instance-rewrite = \"{rewrite}\"\n"));
    }
    let gate = Gate::start(config).await;
    let [root, sub, file] = tree();
    let (mut a, mut b) = (gate.client("a").await, gate.client("b").await);
    upload(&mut a, &[&root, &sub, &file]).await;
    assert_eq!(update(&mut a, digest(&root)).await.code(), Some(0));
    let found: GetReferenceResponse = read(&get(&mut a).await);
    assert_eq!(found.digest, Some(digest(&root)));
    assert_eq!(fetch(&mut a, format!("{URN_PREFIX}{}", key())).await.code(), Some(0));
    assert_eq!(get(&mut b).await.code(), Some(5));
    // That the tree was found whole for one says nothing to the other.
    upload(&mut b, &[&root, &sub]).await;
    assert_eq!(update(&mut b, digest(&root)).await.code(), Some(0));
    let reply = get(&mut b).await;
    assert_eq!(reply.code(), Some(5), "{reply:?}");
    // Both call it the instance with the empty name; in that one there is nothing.
    assert_eq!(get(&mut gate.client("writer").await).await.code(), Some(5));
}
