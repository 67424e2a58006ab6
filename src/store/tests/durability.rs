use std::fs;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use tonic::Code;

use super::resume::{eventually, files, unfinished};
use super::*;
use crate::store::OpenError;
use crate::store::blobs::PIECE;
use crate::store::digest::Hasher;

fn url(directory: &Path) -> String {
    format!("file:{}", directory.display())
}

#[tokio::test]
async fn what_was_acknowledged_is_there_when_the_store_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let large = noise(3 * PIECE);
    let large_digest = digest(&large);
    let small = {
        let store = Store::open(&url(directory.path())).await.unwrap();
        let mut remote = Remote::connect(&store);
        let name = upload_name("u", &large_digest);
        remote.write(pieces(&name, &large, 0, 1 << 16)).await.unwrap();
        remote.store(b"small").await
    };
    let store = Store::open(&url(directory.path())).await.unwrap();
    let mut remote = Remote::connect(&store);
    assert_eq!(remote.read(&blob_name(&large_digest), 0, 0).await.unwrap(), large);
    assert_eq!(remote.read(&blob_name(&small), 1, 2).await.unwrap(), b"ma");
}

#[tokio::test]
async fn what_a_crash_left_unfinished_is_swept_away() {
    let directory = tempfile::tempdir().unwrap();
    let shard = directory.path().join("cas/_/ab");
    fs::create_dir_all(&shard).unwrap();
    let left = shard.join("abcd-9#1");
    fs::write(&left, b"half").unwrap();
    let earlier = fs::metadata(&left).unwrap().modified().unwrap() - Duration::from_secs(1);
    fs::File::options()
        .write(true)
        .open(&left)
        .unwrap()
        .set_modified(earlier)
        .unwrap();
    let _store = Store::open(&url(directory.path())).await.unwrap();
    eventually(|| unfinished(directory.path()).is_empty()).await;
}

#[tokio::test]
async fn a_file_of_another_size_is_not_the_blob() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&url(directory.path())).await.unwrap();
    let mut remote = Remote::connect(&store);
    let data = noise(1000);
    let digest = remote.store(&data).await;
    let stored = files(directory.path());
    let file = stored.iter().find(|file| file.contains(&digest.hash)).unwrap();
    let mut longer = data.clone();
    longer.push(0);
    for damage in [b"".as_slice(), &data[..10], &longer] {
        fs::write(file, damage).unwrap();
        assert!(!remote.holds(&digest).await);
        for (offset, limit) in [(0, 0), (999, 1), (1000, 0)] {
            let error = remote.read(&blob_name(&digest), offset, limit).await.unwrap_err();
            assert_eq!(error.code(), Code::NotFound, "{} {offset}", damage.len());
        }
        let name = upload_name("u", &digest);
        remote.write(pieces(&name, &data, 0, 100)).await.unwrap();
        assert_eq!(remote.read(&blob_name(&digest), 0, 0).await.unwrap(), data);
    }
}

#[tokio::test]
async fn wrong_and_abandoned_uploads_leave_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&url(directory.path())).await.unwrap();
    let mut remote = Remote::connect(&store);
    let data = noise(3 * PIECE);
    let mut wrong = data.clone();
    wrong[0] ^= 1;
    let name = upload_name("u", &digest(&data));
    let error = remote.write(pieces(&name, &wrong, 0, 1 << 16)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    // One that ends without finish_write goes with the store.
    let mut unfinished = pieces(&name, &data, 0, 1 << 16);
    unfinished.pop();
    assert!(remote.write(unfinished).await.is_err());
    drop((remote, store));
    let lock = directory.path().join("casgate.lock").display().to_string();
    eventually(|| files(directory.path()) == [lock.clone()]).await;
}

#[tokio::test]
async fn no_name_leads_out_of_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let store = Store::open(&url(&root)).await.unwrap();
    let mut remote = Remote::connect(&store);
    let long = "x".repeat(1000);
    let names = [
        "..",
        "../..",
        "a/../../..",
        ".",
        "~",
        "\\..\\",
        "%2e%2e",
        "\0",
        "ä/ö",
        &long,
    ];
    for (index, instance) in names.iter().enumerate() {
        let data = index.to_string().into_bytes();
        let digest = digest(&data);
        let name = format!("{instance}/{}", upload_name("../u", &digest));
        // A UUID is one segment, so this one is no name at all.
        assert!(remote.write(pieces(&name, &data, 0, 9)).await.is_err());
        let name = format!("{instance}/{}", upload_name("..", &digest));
        remote.write(pieces(&name, &data, 0, 9)).await.unwrap();
        let name = format!("{instance}/{}", blob_name(&digest));
        assert_eq!(remote.read(&name, 0, 0).await.unwrap(), data);
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(root.join("cas")).unwrap().count(), names.len());
}

#[tokio::test]
async fn stores_that_cannot_be_opened_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, b"x").unwrap();
    let error = Store::open(&url(&file)).await.unwrap_err();
    assert!(matches!(error, OpenError::NotADirectory { .. }), "{error}");
    let error = Store::open(&url(&file.join("below"))).await.unwrap_err();
    assert!(matches!(error, OpenError::Create { .. }), "{error}");
    let taken = directory.path().join("taken");
    fs::create_dir_all(taken.join("casgate.lock")).unwrap();
    let error = Store::open(&url(&taken)).await.unwrap_err();
    assert!(matches!(error, OpenError::NotWritable { .. }), "{error}");
    let error = Store::open("s3://bucket").await.unwrap_err();
    assert!(matches!(error, OpenError::UnknownScheme { .. }), "{error}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_large_blob_takes_little_memory() {
    const PATTERN: usize = 1 << 20;
    const TIMES: usize = 256;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&url(directory.path())).await.unwrap();
    let mut remote = Remote::connect(&store);
    let pattern = noise(PATTERN);
    let mut hasher = Hasher::new();
    (0..TIMES).for_each(|_| hasher.update(&pattern));
    let expected = hasher.finish();
    let digest = expected.to_proto();

    let before = resident();
    let mut peak = before;
    let name = upload_name("u", &digest);
    let messages = stream::iter(0..TIMES).map({
        let pattern = pattern.clone();
        move |index| WriteRequest {
            finish_write: index + 1 == TIMES,
            ..message(&name, index * PATTERN, &pattern)
        }
    });
    let mut writer = remote.bytestream.clone();
    let write = writer.write(messages);
    let mut write = std::pin::pin!(write);
    let response = loop {
        tokio::select! {
            response = &mut write => break response.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(2)) => peak = peak.max(resident()),
        }
    };
    assert_eq!(response.into_inner().committed_size, digest.size_bytes);

    let request = ReadRequest {
        resource_name: blob_name(&digest),
        ..Default::default()
    };
    let mut pieces = remote.bytestream.read(request).await.unwrap().into_inner();
    let mut hasher = Hasher::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        hasher.update(&piece.data);
        peak = peak.max(resident());
    }
    assert_eq!(hasher.finish(), expected);
    // Client and server together, beside whatever other tests do meanwhile.
    let grown = (peak - before) >> 20;
    assert!(grown < 96, "{grown} MiB");
}

/// Memory of this process, in bytes.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
