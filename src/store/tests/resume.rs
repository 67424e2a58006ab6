use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tonic::Code;

use super::bytestream::status;
use super::*;
use crate::store::blobs::PIECE;
use crate::store::upload::PART;
use crate::store::uploads::IDLE;

#[tokio::test]
async fn an_interrupted_upload_goes_on_over_another_connection() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file:{}", directory.path().display());
    for store in [Store::open("memory:").await, Store::open(&url).await] {
        let store = store.unwrap();
        for len in [1000, 4 * PIECE + 5] {
            let data = noise(len);
            let digest = digest(&data);
            let name = upload_name("u", &digest);
            interrupt(&store, &name, &data, len / 2).await;

            let mut remote = Remote::connect(&store);
            assert!(!remote.holds(&digest).await);
            let (committed, complete) = status(&mut remote, &name).await.unwrap();
            assert!(!complete);
            let committed = usize::try_from(committed).unwrap();
            assert_eq!(committed, len / 2);
            for wrong in [committed - 1, committed + 1] {
                let error = remote.write(pieces(&name, &data, wrong, 100)).await.unwrap_err();
                assert_eq!(error.code(), Code::InvalidArgument);
                assert!(error.message().contains(&committed.to_string()), "{error}");
            }
            let rest = pieces(&name, &data, committed, 1 << 16);
            assert_eq!(remote.write(rest).await.unwrap(), digest.size_bytes);
            let done = status(&mut remote, &name).await.unwrap();
            assert_eq!(done, (digest.size_bytes, true));
            assert_eq!(remote.read(&blob_name(&digest), 0, 0).await.unwrap(), data);
        }
    }
}

#[tokio::test]
async fn an_interrupted_upload_can_start_again() {
    let store = Store::open("memory:").await.unwrap();
    let data = noise(3 * PIECE);
    let digest = digest(&data);
    let name = upload_name("u", &digest);
    interrupt(&store, &name, &noise(3 * PIECE)[1..], PIECE).await;
    let mut remote = Remote::connect(&store);
    let committed = remote.write(pieces(&name, &data, 0, 1 << 16)).await.unwrap();
    assert_eq!(committed, digest.size_bytes);
}

#[tokio::test]
async fn a_running_upload_is_not_resumed_elsewhere() {
    let store = Store::open("memory:").await.unwrap();
    let mut remote = Remote::connect(&store);
    let data = noise(1000);
    let name = upload_name("u", &digest(&data));
    let sender = start(&store, &name, &data, 400).await;
    assert_eq!(status(&mut remote, &name).await.unwrap(), (400, false));
    let error = remote.write(pieces(&name, &data, 400, 100)).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    drop(sender);
}

#[tokio::test]
async fn unknown_uploads_are_not_found() {
    let mut remote = Remote::in_memory().await;
    let data = noise(1000);
    let digest = digest(&data);
    let name = upload_name("u", &digest);
    let error = status(&mut remote, &name).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let error = remote.write(pieces(&name, &data, 10, 100)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let error = status(&mut remote, &blob_name(&digest)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    // A blob that is there is complete under any name.
    remote.store(&data).await;
    assert_eq!(status(&mut remote, &name).await.unwrap(), (1000, true));
}

#[tokio::test]
async fn forgotten_uploads_leave_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file:{}", directory.path().display());
    let store = Store::open(&url).await.unwrap();
    let data = noise(4 * PART);
    let name = upload_name("u", &digest(&data));
    interrupt(&store, &name, &data, 2 * PART).await;
    assert_eq!(unfinished(directory.path()).len(), 1);

    let uploads = &store.cache.uploads;
    uploads.expire(Instant::now() + IDLE - Duration::from_secs(60));
    let mut remote = Remote::connect(&store);
    assert!(status(&mut remote, &name).await.is_ok());
    uploads.expire(Instant::now() + IDLE);
    let error = status(&mut remote, &name).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    eventually(|| unfinished(directory.path()).is_empty()).await;
}

#[tokio::test]
async fn interrupted_uploads_are_bounded_in_number() {
    let store = Store::open("memory:").await.unwrap();
    let mut remote = Remote::connect(&store);
    let data = noise(1000);
    let name = |index: usize| upload_name(&format!("u{index}"), &digest(&data));
    for index in 0..300 {
        let name = name(index);
        let error = remote.write(vec![message(&name, 0, &data[..10])]).await;
        assert_eq!(error.unwrap_err().code(), Code::InvalidArgument);
    }
    let mut known = 0;
    for index in 0..300 {
        known += usize::from(status(&mut remote, &name(index)).await.is_ok());
    }
    assert_eq!(known, 256);
    assert!(status(&mut remote, &name(299)).await.is_ok());
}

/// Sends `len` bytes, and then the connection is gone.
async fn interrupt(store: &Store, name: &str, data: &[u8], len: usize) {
    let sender = start(store, name, data, len).await;
    drop(sender);
    let mut remote = Remote::connect(store);
    let deadline = Instant::now() + Duration::from_secs(20);
    // Until the server has seen the reset, the upload is busy rather than wrong.
    let parsed = crate::store::name::UploadName::parse(name).unwrap();
    while store.cache.uploads.is_running(&parsed) {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    assert!(status(&mut remote, name).await.is_ok());
}

/// Sends `len` bytes and waits until they are committed. The stream is reset when the answer is
/// dropped.
async fn start(store: &Store, name: &str, data: &[u8], len: usize) -> impl Drop {
    let mut remote = Remote::connect(store);
    let (sender, receiver) = mpsc::channel(1);
    let mut bytestream = remote.bytestream.clone();
    let messages = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|message| (message, receiver))
    });
    let call = tokio::spawn(async move { bytestream.write(messages).await });
    let mut offset = 0;
    for data in data[..len].chunks(100_000) {
        sender.send(message(name, offset, data)).await.unwrap();
        offset += data.len();
    }
    let committed = i64::try_from(len).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while status(&mut remote, name).await.ok() != Some((committed, false)) {
        assert!(Instant::now() < deadline);
    }
    Running { call, _sender: sender }
}

struct Running<T> {
    call: tokio::task::JoinHandle<T>,
    _sender: mpsc::Sender<WriteRequest>,
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.call.abort();
    }
}

/// Files that are not yet objects.
pub(super) fn unfinished(directory: &std::path::Path) -> Vec<String> {
    files(directory).into_iter().filter(|name| name.contains('#')).collect()
}

/// All files below a directory.
pub(super) fn files(directory: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}

pub(super) async fn eventually(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 20 seconds");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
