//! Nothing that is in use or arriving keeps others from the store.

use std::fs;
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::asset::v1 as asset_v1;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tonic::Code;

use super::bytestream::status;
use super::quota::{Limited, MIB, QUOTA, SHORT, blob, file, on_disk};
use super::resume::{eventually, unfinished};
use super::*;
use crate::store::space::Waits;

/// Another caller than [`Behalf::default`].
const OTHER: u128 = 7;

/// An upload that is open: dropped, it breaks off.
struct Open {
    _messages: mpsc::Sender<WriteRequest>,
    call:
        tokio::task::JoinHandle<Result<tonic::Response<bazel_remote_apis::google::bytestream::WriteResponse>, Status>>,
}

impl Open {
    /// What it was answered.
    async fn end(&mut self) -> Result<(), Status> {
        let answer = tokio::time::timeout(Duration::from_secs(20), &mut self.call).await;
        answer.unwrap().unwrap().map(drop)
    }
}

/// Sends all but the last byte, as far as they are taken.
async fn begin(remote: &Remote, uuid: &str, data: &[u8]) -> Open {
    let (sender, receiver) = mpsc::channel(1);
    let messages = stream::unfold(receiver, |mut receiver: mpsc::Receiver<WriteRequest>| async {
        receiver.recv().await.map(|message| (message, receiver))
    });
    let request = remote.request(messages);
    let mut bytestream = remote.bytestream.clone();
    let call = tokio::spawn(async move { bytestream.write(request).await });
    let name = upload_name(uuid, &digest(data));
    let mut at = 0;
    for piece in data[..data.len() - 1].chunks(100_000) {
        let send = sender.send(message(&name, at, piece));
        if tokio::time::timeout(Duration::from_millis(200), send).await.is_err() {
            break;
        }
        at += piece.len();
    }
    Open {
        _messages: sender,
        call,
    }
}

#[tokio::test]
async fn unfinished_uploads_of_one_caller_leave_others_what_they_use_and_room_to_push() {
    let mut limited = Limited::in_file(SHORT).await;
    limited.fill(0..10).await;
    let other = Remote::connect(&limited.store).on_behalf(OTHER);
    let mut open = Vec::new();
    for number in 0..7_u8 {
        let mut data = noise(9 * MIB / 4);
        data[0] = number;
        open.push(begin(&other, &number.to_string(), &data).await);
    }
    for number in 0..10 {
        assert!(limited.remote.holds(&digest(&blob(number))).await, "{number}");
    }
    assert_eq!(limited.meters.evicted.get(), 0);
    for number in 10..13 {
        limited.push(number).await;
    }
    // What is more than its share is refused, and nothing is kept for it.
    let refused = open.last_mut().unwrap();
    let status = refused.end().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
}

#[tokio::test]
async fn a_caller_whose_own_interrupted_uploads_fill_its_share_can_still_push() {
    let mut limited = Limited::in_file(Waits {
        patience: SHORT.patience,
        ..Waits::default()
    })
    .await;
    for number in 0..4_u8 {
        let mut data = noise(3 * MIB);
        data[0] = number;
        let mut part = pieces(&upload_name("u", &digest(&data)), &data, 0, MIB / 4);
        part.truncate(2);
        // It breaks off, and is not refused.
        let error = limited.remote.write(part).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    }
    for number in 0..4 {
        limited.push(number).await;
    }
}

#[tokio::test]
async fn a_caller_that_only_reads_slowly_stops_no_push() {
    let mut limited = Limited::in_file(SHORT).await;
    // More than what windows and buffers take, so that each read stands still in the middle.
    const LEN: usize = 5 * MIB / 2;
    let mut blobs = Vec::new();
    for number in 0..5_u8 {
        let mut data = noise(LEN);
        data[0] = number;
        let name = upload_name("u", &digest(&data));
        limited.remote.write(pieces(&name, &data, 0, MIB)).await.unwrap();
        blobs.push(data);
    }
    let mut reads = Vec::new();
    for data in &blobs {
        let mut reader = Remote::connect(&limited.store).on_behalf(OTHER);
        let request = reader.request(ReadRequest {
            resource_name: blob_name(&digest(data)),
            ..Default::default()
        });
        let mut stream = reader.bytestream.read(request).await.unwrap().into_inner();
        let first = stream.message().await.unwrap().unwrap().data;
        reads.push((reader, stream, first));
    }
    // More than a whole quota of others.
    limited.fill(0..30).await;
    let meters = limited.meters.clone();
    assert!(meters.evicted.get() > 15);
    // Each is read to its end, or told to read again: never other bytes, never without an end.
    let mut told = 0;
    for ((_reader, mut stream, mut read), data) in reads.into_iter().zip(&blobs) {
        loop {
            match stream.message().await {
                Ok(Some(piece)) => read.extend(piece.data),
                Ok(None) => {
                    assert!(read == *data);
                    break;
                }
                Err(error) => {
                    assert_eq!(error.code(), Code::Unavailable, "{error}");
                    assert!(error.message().contains("read it again"), "{error}");
                    told += 1;
                    break;
                }
            }
        }
    }
    assert!(
        (1..5).contains(&told),
        "{told} were told: what was removed is kept open within bounds"
    );
}

#[tokio::test]
async fn a_caller_that_only_asks_stops_no_push() {
    let patience = SHORT.patience;
    let mut limited = Limited::with_old(
        0..14,
        Waits {
            patience,
            ..Waits::default()
        },
    )
    .await;
    let mut other = Remote::connect(&limited.store).on_behalf(OTHER);
    let missing = other.missing("", (0..14).map(|number| digest(&blob(number)))).await;
    assert!(missing.is_empty());
    limited.fill(14..18).await;
    // As much as its share is there for sure.
    let there = (0..14).filter(|number| file(limited.folder.path(), &digest(&blob(*number))).exists());
    assert!(there.count() >= QUOTA / MIB / 4);
}

/// Whoever was told that a blob is here goes on to name it.
#[tokio::test]
async fn what_somebody_was_told_to_be_here_stays_as_long_as_what_was_stored() {
    for road in 0..5 {
        let waits = Waits {
            patience: SHORT.patience,
            ..Waits::default()
        };
        let mut limited = Limited::with_old(0..12, waits).await;
        let told = digest(&blob(0));
        match road {
            0 => assert_eq!(limited.push(0).await, told),
            1 => assert_eq!(limited.remote.store(&blob(0)).await, told),
            2 => assert!(limited.remote.holds(&told).await),
            3 => {
                let complete = status(&mut limited.remote, &upload_name("u", &told)).await.unwrap().1;
                assert!(complete);
            }
            _ => {
                let push = asset_v1::PushBlobRequest {
                    uris: vec!["urn:x".to_owned()],
                    blob_digest: Some(told.clone()),
                    ..Default::default()
                };
                limited.remote.push.push_blob(push).await.unwrap();
                let fetch = asset_v1::FetchBlobRequest {
                    uris: vec!["urn:x".to_owned()],
                    ..Default::default()
                };
                limited.remote.fetch.fetch_blob(fetch).await.unwrap();
            }
        }
        // All of these are younger, until nothing else is left that could go.
        let mut pushed = 0;
        for number in 100..120 {
            let data = blob(number);
            let name = upload_name("u", &digest(&data));
            if limited.remote.write(pieces(&name, &data, 0, MIB)).await.is_err() {
                break;
            }
            pushed += 1;
        }
        assert!((12..16).contains(&pushed), "{pushed}");
        let there = (0..12).filter(|number| file(limited.folder.path(), &digest(&blob(*number))).exists());
        assert_eq!(there.collect::<Vec<_>>(), [0], "road {road}");
    }
}

#[tokio::test]
async fn a_lowered_quota_takes_interrupted_uploads_first() {
    // More than interrupted uploads may have, and more than there is room for.
    for len in [6 * MIB, 12 * MIB] {
        let mut limited = Limited::in_file(SHORT).await;
        limited
            .store
            .limit(Some(8 * QUOTA as u64), limited.meters.clone(), SHORT);
        limited.fill(0..5).await;
        let data = noise(len);
        let mut half = pieces(&upload_name("u", &digest(&data)), &data, 0, MIB);
        half.pop();
        assert!(limited.remote.write(half).await.is_err());
        eventually(|| !unfinished(limited.folder.path()).is_empty()).await;

        limited.store.limit(Some(QUOTA as u64), limited.meters.clone(), SHORT);
        eventually(|| unfinished(limited.folder.path()).is_empty()).await;
        limited.fill(5..8).await;
        for number in 0..8 {
            assert!(limited.remote.holds(&digest(&blob(number))).await, "{number}");
        }
        assert_eq!(limited.meters.evicted.get(), 0);
    }
}

#[tokio::test]
async fn a_lowered_quota_ends_uploads_that_it_is_too_small_for() {
    let mut limited = Limited::in_file(SHORT).await;
    limited
        .store
        .limit(Some(8 * QUOTA as u64), limited.meters.clone(), SHORT);
    limited.fill(0..8).await;
    let mut open = Vec::new();
    for (number, len) in [(0, 9 * MIB), (1, 5 * MIB / 2), (2, 5 * MIB / 2)] {
        let mut data = noise(len);
        data[0] = number;
        open.push(begin(&limited.remote, &number.to_string(), &data).await);
    }
    limited.store.limit(Some(QUOTA as u64), limited.meters.clone(), SHORT);
    // The one that is too large ends at once, and takes nothing with it.
    let status = open[0].end().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    limited.push(8).await;
    for number in 0..9 {
        assert!(limited.remote.holds(&digest(&blob(number))).await, "{number}");
    }
    assert_eq!(limited.meters.evicted.get(), 0);
    // Of the others, one has a share.
    eventually(|| open[1..].iter().any(|open| open.call.is_finished())).await;
    assert!(open[1..].iter().any(|open| !open.call.is_finished()));
}

#[tokio::test]
async fn folders_that_a_crash_left_empty_are_removed_and_those_of_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (left, others) = (folder.path().join("cas/main/ab"), folder.path().join("lost+found/x"));
    fs::create_dir_all(&left).unwrap();
    fs::create_dir_all(&others).unwrap();
    let _store = Store::open(&format!("file:{}", folder.path().display())).await.unwrap();
    eventually(|| !folder.path().join("cas").exists()).await;
    assert!(others.exists());
}

#[tokio::test]
async fn a_folder_is_one_store_by_whatever_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join("store");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let first = Store::open(&format!("file:{}", path.display())).await.unwrap();
    for name in [
        format!("file:{}/", path.display()),
        format!("file://{}", path.display()),
        format!("file:{}/../store", path.display()),
        format!("file:{}/.", path.display()),
        format!("file:{}//", path.display()),
        format!("file:{}", link.display()),
    ] {
        let second = Store::open(&name).await.unwrap();
        assert!(Arc::ptr_eq(&first.cache, &second.cache), "{name}");
    }
    let other = Store::open(&format!("file:{}", folder.path().join("other").display()))
        .await
        .unwrap();
    assert!(!Arc::ptr_eq(&first.cache, &other.cache));
    let one = Store::open("memory:").await.unwrap();
    assert!(!Arc::ptr_eq(&one.cache, &Store::open("memory:").await.unwrap().cache));
}

/// Folders below a folder.
fn folders(root: &std::path::Path) -> u64 {
    let entries = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    entries
        .filter(|path| path.is_dir())
        .map(|path| 1 + folders(&path))
        .sum()
}

#[tokio::test]
async fn folders_go_with_their_last_object_and_count() {
    let mut limited = Limited::in_file(SHORT).await;
    // One small blob each takes three blocks: its own, and those of two folders.
    stream::iter(0..1600_u32)
        .for_each_concurrent(32, |number| {
            let mut cas = limited.remote.cas.clone();
            async move {
                let data = number.to_le_bytes();
                let request = batch(&format!("instance-{number}"), [(digest(&data), data.as_slice())]);
                let response = cas.batch_update_blobs(request).await.unwrap().into_inner();
                assert_eq!(response.responses[0].status.as_ref().unwrap().code, 0);
            }
        })
        .await;
    let taken = || on_disk(limited.folder.path()) + 4096 * folders(limited.folder.path());
    eventually(|| taken() <= QUOTA as u64).await;
    assert!(limited.meters.evicted.get() > 200);
    let root = limited.folder.path().join("cas");
    let is_empty = |folder: &std::path::Path| on_disk(folder) == 0 && folder.exists();
    let instances = || {
        fs::read_dir(&root)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    };
    eventually(|| !instances().any(|folder| is_empty(&folder))).await;
    // What was never finished leaves none.
    let data = noise(MIB);
    let name = format!("never/{}", upload_name("u", &digest(&data)));
    let mut wrong = data.clone();
    wrong[0] ^= 1;
    let error = limited
        .remote
        .write(pieces(&name, &wrong, 0, MIB / 4))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    eventually(|| !root.join("never").exists()).await;
}

#[tokio::test]
async fn assets_are_told_without_their_blobs_where_these_are_elsewhere() {
    let mut remote = Remote::in_memory().await;
    for kind in 0..2 {
        let elsewhere = digest(b"elsewhere");
        let uris = vec![format!("urn:{kind}")];
        for trusts_assets in [false, true, false] {
            remote.behalf.trusts_assets = trusts_assets;
            let found = if kind == 0 {
                let push = asset_v1::PushBlobRequest {
                    uris: uris.clone(),
                    blob_digest: Some(elsewhere.clone()),
                    ..Default::default()
                };
                remote.push.push_blob(push).await.unwrap();
                let fetch = remote.request(asset_v1::FetchBlobRequest {
                    uris: uris.clone(),
                    ..Default::default()
                });
                remote
                    .fetch
                    .fetch_blob(fetch)
                    .await
                    .map(|found| found.into_inner().blob_digest)
            } else {
                let push = asset_v1::PushDirectoryRequest {
                    uris: uris.clone(),
                    root_directory_digest: Some(elsewhere.clone()),
                    ..Default::default()
                };
                remote.push.push_directory(push).await.unwrap();
                let fetch = remote.request(asset_v1::FetchDirectoryRequest {
                    uris: uris.clone(),
                    ..Default::default()
                });
                let found = remote.fetch.fetch_directory(fetch).await;
                found.map(|found| found.into_inner().root_directory_digest)
            };
            match trusts_assets {
                true => assert_eq!(found.unwrap(), Some(elsewhere.clone())),
                false => assert_eq!(found.unwrap_err().code(), Code::NotFound),
            }
        }
    }
}
