//! A disk that does not give back what was written.

use std::fs;
use std::path::{Path, PathBuf};

use bazel_remote_apis::build::bazel::remote::asset::v1 as asset_v1;
use tonic::Code;

use super::cas::directory;
use super::quota::file;
use super::resume::files;
use super::*;
use crate::store::blobs::PIECE;
use crate::store::space::Waits;
use crate::store::{Progress, verify};

/// A store in a folder, with and without a quota.
async fn stores() -> Vec<(tempfile::TempDir, Store, Remote, Meters)> {
    let mut stores = Vec::new();
    for quota in [None, Some(64 << 20)] {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("file:{}", folder.path().display())).await.unwrap();
        let meters = meters();
        store.limit(quota, meters.clone(), Waits::default());
        let remote = Remote::connect(&store);
        stores.push((folder, store, remote, meters));
    }
    stores
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

async fn push(remote: &mut Remote, data: &[u8]) -> reapi::Digest {
    let digest = digest(data);
    let name = upload_name("u", &digest);
    remote.write(pieces(&name, data, 0, 1 << 18)).await.unwrap();
    digest
}

#[tokio::test]
async fn a_flipped_bit_is_data_loss_before_the_last_byte_and_a_push_heals_it() {
    for (folder, _store, mut remote, meters) in stores().await {
        for (count, (len, at)) in [(5, 0), (2000, 1999), (3 * PIECE + 5, 0), (3 * PIECE + 5, 3 * PIECE + 4)]
            .into_iter()
            .enumerate()
        {
            let mut data = noise(len);
            data[0] = count as u8;
            let digest = push(&mut remote, &data).await;
            let path = file(folder.path(), &digest);
            flip(&path, at);
            let request = ReadRequest {
                resource_name: blob_name(&digest),
                ..Default::default()
            };
            let mut stream = remote.bytestream.read(request).await.unwrap().into_inner();
            let mut read = 0;
            let error = loop {
                match stream.message().await {
                    Ok(Some(piece)) => read += piece.data.len(),
                    Ok(None) => unreachable!("all of a damaged blob was given out"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.code(), Code::DataLoss, "{error}");
            assert!(read < len, "{read} of {len}");
            // By then it is gone, for everybody.
            assert!(!path.exists() && !remote.holds(&digest).await);
            assert_eq!(
                remote.read(&blob_name(&digest), 0, 0).await.unwrap_err().code(),
                Code::NotFound
            );
            assert_eq!(meters.damaged.get(), count as u64 + 1);

            push(&mut remote, &data).await;
            assert_eq!(remote.read(&blob_name(&digest), 0, 0).await.unwrap(), data);
        }
    }
}

#[tokio::test]
async fn a_push_heals_what_nobody_has_read() {
    for (folder, _store, mut remote, meters) in stores().await {
        let data = noise(2 * PIECE);
        let digest = push(&mut remote, &data).await;
        flip(&file(folder.path(), &digest), 7);
        push(&mut remote, &data).await;
        assert_eq!(fs::read(file(folder.path(), &digest)).unwrap(), data);
        flip(&file(folder.path(), &digest), 8);
        remote.store(&data).await;
        assert_eq!(remote.read(&blob_name(&digest), 0, 0).await.unwrap(), data);
        assert_eq!(meters.damaged.get(), 2);
    }
}

#[tokio::test]
async fn batches_and_trees_are_checked() {
    for (folder, _store, mut remote, _) in stores().await {
        let digest = remote.store(b"hello").await;
        flip(&file(folder.path(), &digest), 0);
        let request = reapi::BatchReadBlobsRequest {
            digests: vec![digest.clone()],
            ..Default::default()
        };
        for code in [Code::DataLoss, Code::NotFound] {
            let response = remote.cas.batch_read_blobs(request.clone()).await.unwrap().into_inner();
            assert_eq!(response.responses[0].status.as_ref().unwrap().code, code as i32);
            assert!(response.responses[0].data.is_empty());
        }
        // A directory without one of its files would be a tree as well.
        let root = remote
            .store(&prost::Message::encode_to_vec(&directory([("f", digest)], [])))
            .await;
        flip(&file(folder.path(), &root), 3);
        let request = reapi::GetTreeRequest {
            root_digest: Some(root),
            ..Default::default()
        };
        let error = remote.cas.get_tree(request).await.unwrap_err();
        assert_eq!(error.code(), Code::DataLoss, "{error}");
    }
}

#[tokio::test]
async fn a_part_of_a_blob_can_not_be_checked_and_checks_can_be_turned_off() {
    for (folder, store, mut remote, _) in stores().await {
        let data = noise(1000);
        let digest = push(&mut remote, &data).await;
        let path = file(folder.path(), &digest);
        flip(&path, 999);
        assert_eq!(remote.read(&blob_name(&digest), 0, 999).await.unwrap(), data[..999]);
        store.set_verify_reads(false);
        assert_eq!(
            remote.read(&blob_name(&digest), 0, 0).await.unwrap()[..999],
            data[..999]
        );
        store.set_verify_reads(true);
        assert_eq!(
            remote.read(&blob_name(&digest), 0, 0).await.unwrap_err().code(),
            Code::DataLoss
        );
    }
}

#[tokio::test]
async fn a_tree_that_was_whole_a_moment_ago_is_not_when_a_part_of_it_was_damaged() {
    for (folder, _store, mut remote, _) in stores().await {
        let part = push(&mut remote, &noise(1000)).await;
        let root = directory([("f", part.clone())], []);
        let root = remote.store(&prost::Message::encode_to_vec(&root)).await;
        let name = asset_v1::PushDirectoryRequest {
            uris: vec!["urn:x".to_owned()],
            root_directory_digest: Some(root),
            ..Default::default()
        };
        remote.push.push_directory(name).await.unwrap();
        let fetch = asset_v1::FetchDirectoryRequest {
            uris: vec!["urn:x".to_owned()],
            ..Default::default()
        };
        remote.fetch.fetch_directory(fetch.clone()).await.unwrap();
        flip(&file(folder.path(), &part), 5);
        let error = remote.read(&blob_name(&part), 0, 0).await.unwrap_err();
        assert_eq!(error.code(), Code::DataLoss);
        let error = remote.fetch.fetch_directory(fetch).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
    }
}

/// Where records of this kind are.
fn records(folder: &Path, kind: &str) -> Vec<PathBuf> {
    // Without a record there is no folder.
    let folder = folder.join(kind);
    let found = if folder.exists() { files(&folder) } else { Vec::new() };
    found.into_iter().map(PathBuf::from).collect()
}

#[tokio::test]
async fn a_record_that_was_cut_or_changed_is_a_miss_and_goes() {
    for (folder, _store, mut remote, meters) in stores().await {
        let out = remote.store(b"an output").await;
        let action = digest(b"action");
        let result = reapi::ActionResult {
            stdout_digest: Some(out.clone()),
            exit_code: 1,
            ..Default::default()
        };
        let update = || reapi::UpdateActionResultRequest {
            action_digest: Some(action.clone()),
            action_result: Some(result.clone()),
            ..Default::default()
        };
        let get = || reapi::GetActionResultRequest {
            action_digest: Some(action.clone()),
            ..Default::default()
        };
        let name = || asset_v1::PushBlobRequest {
            uris: vec!["urn:x".to_owned()],
            blob_digest: Some(out.clone()),
            ..Default::default()
        };
        let fetch = || asset_v1::FetchBlobRequest {
            uris: vec!["urn:x".to_owned()],
            ..Default::default()
        };
        remote.action_cache.update_action_result(update()).await.unwrap();
        let size = fs::metadata(&records(folder.path(), "ac")[0]).unwrap().len();
        let before = meters.damaged.get();
        for cut in 0..size {
            remote.action_cache.update_action_result(update()).await.unwrap();
            let record = records(folder.path(), "ac").remove(0);
            fs::File::options()
                .write(true)
                .open(&record)
                .unwrap()
                .set_len(cut)
                .unwrap();
            let error = remote.action_cache.get_action_result(get()).await.unwrap_err();
            assert_eq!(error.code(), Code::NotFound, "cut to {cut}");
            assert!(records(folder.path(), "ac").is_empty(), "cut to {cut}");
        }
        assert_eq!(meters.damaged.get() - before, size);
        for at in 0..usize::try_from(size).unwrap() {
            remote.action_cache.update_action_result(update()).await.unwrap();
            flip(&records(folder.path(), "ac")[0], at);
            let error = remote.action_cache.get_action_result(get()).await.unwrap_err();
            assert_eq!(error.code(), Code::NotFound, "byte {at}");
        }
        for cut in [0, 1, 30, 70] {
            remote.push.push_blob(name()).await.unwrap();
            let record = records(folder.path(), "asset").remove(0);
            fs::File::options()
                .write(true)
                .open(&record)
                .unwrap()
                .set_len(cut)
                .unwrap();
            let error = remote.fetch.fetch_blob(fetch()).await.unwrap_err();
            assert_eq!(error.code(), Code::NotFound, "cut to {cut}");
            assert!(records(folder.path(), "asset").is_empty());
        }
        remote.action_cache.update_action_result(update()).await.unwrap();
        remote.push.push_blob(name()).await.unwrap();
        assert_eq!(
            remote.action_cache.get_action_result(get()).await.unwrap().into_inner(),
            result
        );
        remote.fetch.fetch_blob(fetch()).await.unwrap();
    }
}

#[tokio::test]
async fn verify_finds_and_removes_what_is_damaged_and_nothing_else() {
    for (folder, _store, mut remote, _) in stores().await {
        let mut blobs = Vec::new();
        for number in 0..6_u8 {
            let mut data = noise(PIECE + 5);
            data[0] = number;
            push(&mut remote, &data).await;
            blobs.push(data);
        }
        let path = |data: &[u8]| file(folder.path(), &digest(data));
        let push = asset_v1::PushBlobRequest {
            uris: vec!["urn:x".to_owned()],
            blob_digest: Some(digest(&blobs[0])),
            ..Default::default()
        };
        remote.push.push_blob(push).await.unwrap();
        let clean = verify(folder.path(), true, |_| ()).unwrap();
        assert_eq!((clean.blobs, clean.records, clean.damaged, clean.foreign), (6, 1, 0, 0));

        flip(&path(&blobs[0]), PIECE);
        fs::File::options()
            .write(true)
            .open(path(&blobs[1]))
            .unwrap()
            .set_len(9)
            .unwrap();
        fs::write(path(&blobs[2]), b"").unwrap();
        let record = records(folder.path(), "asset").remove(0);
        flip(&record, 20);
        // Neither is the store's.
        let foreign = folder.path().join("cas/_/README");
        fs::write(&foreign, b"mine").unwrap();
        fs::write(path(&blobs[3]).with_extension("x#1"), b"half").unwrap();
        for repair in [false, true, true] {
            let mut told = Vec::new();
            let mut read = (0, 0);
            let report = verify(folder.path(), repair, |progress| match progress {
                Progress::Read { bytes, of } => read = (bytes, of),
                Progress::Damaged { file, .. } => told.push(file.to_owned()),
            })
            .unwrap();
            let expected = if path(&blobs[0]).exists() || told.len() == 4 {
                4
            } else {
                0
            };
            assert_eq!(report.damaged, expected, "{told:?}");
            assert_eq!(report.removed, if repair { expected } else { 0 });
            assert_eq!((report.blobs, report.foreign), (3, 1));
            assert_eq!(read.0, read.1);
        }
        assert!(foreign.exists() && !record.exists());
        for data in &blobs[..3] {
            assert!(!path(data).exists() && !remote.holds(&digest(data)).await);
            let digest = self::push(&mut remote, data).await;
            assert_eq!(&remote.read(&blob_name(&digest), 0, 0).await.unwrap(), data);
        }
        for data in &blobs[3..] {
            assert_eq!(&remote.read(&blob_name(&digest(data)), 0, 0).await.unwrap(), data);
        }
    }
}
