use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use bazel_remote_apis::build::bazel::remote::asset::v1 as asset_v1;
use prost::Message;
use tokio::time::sleep;
use tonic::Code;

use super::cas::directory;
use super::resume::{eventually, files, unfinished};
use super::*;
use crate::store::PARKED;
use crate::store::space::Waits;

pub(super) const MIB: usize = 1 << 20;
pub(super) const QUOTA: usize = 16 * MIB;

/// What may go at once, and uploads that do not wait for long.
pub(super) const SHORT: Waits = Waits {
    grace: Duration::ZERO,
    patience: Duration::from_millis(300),
};

/// A store with a quota, its directory unless it is in memory, and what it tells.
pub(super) struct Limited {
    pub(super) store: Store,
    pub(super) remote: Remote,
    pub(super) meters: Meters,
    pub(super) folder: tempfile::TempDir,
}

impl Limited {
    pub(super) async fn in_file(waits: Waits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::on(folder, waits).await
    }

    /// With blobs that were there before it got its quota: nothing keeps them but their use.
    pub(super) async fn with_old(numbers: std::ops::Range<u32>, waits: Waits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("file:{}", folder.path().display())).await.unwrap();
        let mut limited = Self {
            remote: Remote::connect(&store),
            store,
            meters: meters(),
            folder,
        };
        let bytes = i64::from(numbers.end - numbers.start) * MIB as i64;
        limited.fill(numbers).await;
        limited.store.limit(Some(QUOTA as u64), limited.meters.clone(), waits);
        let meters = limited.meters.clone();
        eventually(|| meters.bytes.get() == bytes).await;
        limited
    }

    async fn on(folder: tempfile::TempDir, waits: Waits) -> Self {
        let url = format!("file:{}", folder.path().display());
        Self::open(&url, folder, waits).await
    }

    async fn open(url: &str, folder: tempfile::TempDir, waits: Waits) -> Self {
        let store = Store::open(url).await.unwrap();
        let meters = meters();
        store.limit(Some(QUOTA as u64), meters.clone(), waits);
        Self {
            remote: Remote::connect(&store),
            store,
            meters,
            folder,
        }
    }

    /// A blob of one MiB that differs from all others.
    pub(super) async fn push(&mut self, number: u32) -> reapi::Digest {
        let data = blob(number);
        let digest = digest(&data);
        let name = upload_name("u", &digest);
        self.remote.write(pieces(&name, &data, 0, 1 << 18)).await.unwrap();
        digest
    }

    /// So many blobs, which make room for themselves.
    pub(super) async fn fill(&mut self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            self.push(number).await;
            // Uses are told apart by milliseconds.
            sleep(Duration::from_millis(2)).await;
        }
    }

    pub(super) async fn read(&mut self, digest: &reapi::Digest) -> Result<Vec<u8>, Code> {
        let read = self.remote.read(&blob_name(digest), 0, 0).await;
        read.map_err(|error| error.code())
    }
}

pub(super) fn blob(number: u32) -> Vec<u8> {
    let mut data = noise(MIB);
    data[..4].copy_from_slice(&number.to_le_bytes());
    data
}

pub(super) fn file(root: &Path, digest: &reapi::Digest) -> PathBuf {
    let name = format!("{}-{}", digest.hash, digest.size_bytes);
    root.join("cas/_").join(&digest.hash[..2]).join(name)
}

/// Bytes of the files below a folder, in blocks.
pub(super) fn on_disk(root: &Path) -> u64 {
    let sizes = files(root).into_iter().filter(|file| !file.ends_with("casgate.lock"));
    let sizes = sizes.map(|file| fs::metadata(file).map_or(0, |file| file.len()));
    sizes.map(|size| size.div_ceil(4096) * 4096).sum()
}

#[tokio::test]
async fn what_was_not_used_for_the_longest_time_goes_first() {
    for url in ["memory:", "file:"] {
        let folder = tempfile::tempdir().unwrap();
        let url = match url {
            "file:" => format!("file:{}", folder.path().display()),
            memory => memory.to_owned(),
        };
        let mut limited = Limited::open(&url, folder, SHORT).await;
        limited.fill(0..14).await;
        let digests: Vec<_> = (0..14).map(|number| digest(&blob(number))).collect();
        // Each of these is a use.
        assert!(limited.remote.holds(&digests[0]).await);
        assert_eq!(limited.read(&digests[1]).await.unwrap(), blob(1));
        let request = reapi::BatchReadBlobsRequest {
            digests: vec![digests[2].clone()],
            ..Default::default()
        };
        let read = limited.remote.cas.batch_read_blobs(request).await.unwrap();
        assert_eq!(read.into_inner().responses[0].data.len(), MIB);
        limited.push(3).await;
        sleep(Duration::from_millis(2)).await;

        limited.fill(14..18).await;
        let meters = limited.meters.clone();
        let low = QUOTA as i64 / 100 * 95;
        eventually(|| meters.bytes.get() <= low && meters.evicted.get() >= 3).await;
        for (number, digest) in digests.iter().enumerate().take(4) {
            assert!(limited.remote.holds(digest).await, "{url}: {number}");
        }
        assert!(!limited.remote.holds(&digests[4]).await);
        assert!(!limited.remote.holds(&digests[5]).await);
        assert_eq!(
            limited.meters.evicted_bytes.get(),
            limited.meters.evicted.get() * MIB as u64
        );
        assert_eq!(limited.meters.quota.get(), QUOTA as i64);
        if url != "memory:" {
            let disk = i64::try_from(on_disk(limited.folder.path())).unwrap();
            assert_eq!(disk, limited.meters.bytes.get());
        }
        // What went can come again.
        limited.push(4).await;
        assert_eq!(limited.read(&digests[4]).await.unwrap(), blob(4));
    }
}

#[tokio::test]
async fn a_blob_that_is_read_stays_until_it_was_read() {
    let mut limited = Limited::in_file(SHORT).await;
    let data = noise(6 * MIB);
    let digest = digest(&data);
    let name = upload_name("u", &digest);
    limited.remote.write(pieces(&name, &data, 0, MIB)).await.unwrap();
    let request = ReadRequest {
        resource_name: blob_name(&digest),
        ..Default::default()
    };
    let mut stream = limited.remote.bytestream.read(request).await.unwrap().into_inner();
    let mut read = stream.message().await.unwrap().unwrap().data;

    // Another connection: nobody takes anything from the first one.
    let mut remote = Remote::connect(&limited.store);
    std::mem::swap(&mut limited.remote, &mut remote);
    limited.fill(0..40).await;
    assert!(limited.meters.evicted.get() > 20);
    let path = file(limited.folder.path(), &digest);
    assert!(path.exists());
    while let Some(piece) = stream.message().await.unwrap() {
        read.extend(piece.data);
    }
    assert!(read == data);
    drop(stream);
    // That was a use; later it goes like any other.
    limited.fill(40..60).await;
    eventually(|| !path.exists()).await;
}

#[tokio::test]
async fn what_was_just_stored_stays_and_further_uploads_wait() {
    let mut limited = Limited::in_file(Waits {
        grace: Duration::from_secs(3600),
        ..SHORT
    })
    .await;
    // Their folders take the rest.
    limited.fill(0..15).await;
    let more = blob(16);
    let name = upload_name("u", &digest(&more));
    let error = limited.remote.write(pieces(&name, &more, 0, MIB)).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().contains("insufficient disk quota"), "{error}");
    let response = limited
        .remote
        .cas
        .batch_update_blobs(batch("", [(digest(&more), more.as_slice())]));
    let response = response.await.unwrap().into_inner().responses.remove(0);
    assert_eq!(response.status.unwrap().code, Code::ResourceExhausted as i32);
    for number in 0..15 {
        assert!(limited.read(&digest(&blob(number))).await.is_ok(), "{number}");
    }
    assert_eq!(limited.meters.evicted.get(), 0);
    // A larger quota is room at once.
    let waiting = limited.store.clone();
    let meters = limited.meters.clone();
    tokio::spawn(async move {
        sleep(Duration::from_millis(50)).await;
        waiting.limit(Some(2 * QUOTA as u64), meters, SHORT);
    });
    limited.push(16).await;
}

#[tokio::test]
async fn names_never_lead_into_nothing() {
    let mut limited = Limited::in_file(SHORT).await;
    let (output, inner) = (limited.push(0).await, limited.push(1).await);
    let root = directory([("inner", inner.clone())], []).encode_to_vec();
    let root = limited.remote.store(&root).await;
    let action = digest(b"action");
    let result = reapi::ActionResult {
        output_files: vec![reapi::OutputFile {
            path: "output".to_owned(),
            digest: Some(output.clone()),
            ..Default::default()
        }],
        ..Default::default()
    };
    let update = reapi::UpdateActionResultRequest {
        action_digest: Some(action.clone()),
        action_result: Some(result.clone()),
        ..Default::default()
    };
    limited.remote.action_cache.update_action_result(update).await.unwrap();
    let push = asset_v1::PushDirectoryRequest {
        uris: vec!["urn:directory".to_owned()],
        root_directory_digest: Some(root.clone()),
        ..Default::default()
    };
    limited.remote.push.push_directory(push).await.unwrap();
    let push = asset_v1::PushBlobRequest {
        uris: vec!["urn:blob".to_owned()],
        blob_digest: Some(output.clone()),
        ..Default::default()
    };
    limited.remote.push.push_blob(push).await.unwrap();
    let records = |folder: &Path| {
        let files = files(folder).into_iter();
        files
            .filter(|file| file.contains("/ac/") || file.contains("/asset/"))
            .count()
    };
    assert_eq!(records(limited.folder.path()), 3);
    let get = || reapi::GetActionResultRequest {
        action_digest: Some(action.clone()),
        ..Default::default()
    };
    let fetch_directory = || asset_v1::FetchDirectoryRequest {
        uris: vec!["urn:directory".to_owned()],
        ..Default::default()
    };
    let fetch_blob = || asset_v1::FetchBlobRequest {
        uris: vec!["urn:blob".to_owned()],
        ..Default::default()
    };

    // As long as the names are used, so is all that they name.
    for number in 2..40 {
        limited.fill(number..number + 1).await;
        assert_eq!(
            limited
                .remote
                .action_cache
                .get_action_result(get())
                .await
                .unwrap()
                .into_inner(),
            result
        );
        let found = limited.remote.fetch.fetch_directory(fetch_directory()).await.unwrap();
        assert_eq!(found.into_inner().root_directory_digest.as_ref(), Some(&root));
        limited.remote.fetch.fetch_blob(fetch_blob()).await.unwrap();
    }
    assert!(limited.meters.evicted.get() > 10);
    // What they name was stored before them, and goes before them. Then they are gone as well.
    for number in 40.. {
        limited.fill(number..number + 1).await;
        if !file(limited.folder.path(), &output).exists() && !file(limited.folder.path(), &inner).exists() {
            break;
        }
    }
    let codes = [
        limited
            .remote
            .action_cache
            .get_action_result(get())
            .await
            .unwrap_err()
            .code(),
        limited
            .remote
            .fetch
            .fetch_directory(fetch_directory())
            .await
            .unwrap_err()
            .code(),
        limited.remote.fetch.fetch_blob(fetch_blob()).await.unwrap_err().code(),
    ];
    assert_eq!(codes, [Code::NotFound; 3]);
    assert_eq!(records(limited.folder.path()), 0);
    eventually(|| i64::try_from(on_disk(limited.folder.path())).unwrap() == limited.meters.bytes.get()).await;
}

#[tokio::test]
async fn what_is_larger_than_the_quota_is_refused_at_once() {
    let mut limited = Limited::in_file(SHORT).await;
    let large = digest(b"not of this size");
    let large = reapi::Digest {
        size_bytes: QUOTA as i64 + 1,
        ..large
    };
    let name = upload_name("u", &large);
    let error = limited
        .remote
        .write(vec![message(&name, 0, b"begin")])
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().contains("insufficient disk quota"), "{error}");
    assert!(error.message().contains(&QUOTA.to_string()), "{error}");
    assert_eq!(limited.meters.evicted.get(), 0);
}

#[tokio::test]
async fn uploads_that_nobody_ends_give_their_room_back() {
    let mut limited = Limited::in_file(SHORT).await;
    for number in 0..8 {
        let mut data = noise(6 * MIB);
        data[0] = number;
        let mut half = pieces(&upload_name("u", &digest(&data)), &data, 0, MIB);
        half.pop();
        assert!(limited.remote.write(half).await.is_err());
    }
    eventually(|| on_disk(limited.folder.path()) <= QUOTA as u64 / PARKED).await;
    limited.fill(0..20).await;
    assert!(unfinished(limited.folder.path()).is_empty());
}

#[tokio::test]
async fn what_an_earlier_process_left_counts_and_goes_by_its_last_use() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("file:{}", folder.path().display())).await.unwrap();
    let mut remote = Remote::connect(&store);
    let hours = |hours: u64| SystemTime::now() - Duration::from_secs(hours * 3600);
    for number in 0..12 {
        let data = blob(number);
        let digest = digest(&data);
        remote
            .write(pieces(&upload_name("u", &digest), &data, 0, MIB))
            .await
            .unwrap();
        let file = fs::File::options()
            .write(true)
            .open(file(folder.path(), &digest))
            .unwrap();
        file.set_modified(hours(24 - u64::from(number))).unwrap();
    }
    drop((remote, store));

    let mut limited = Limited::on(folder, SHORT).await;
    let meters = limited.meters.clone();
    eventually(|| meters.bytes.get() == 12 * MIB as i64).await;
    // A use of the oldest one.
    let first = digest(&blob(0));
    assert!(limited.remote.holds(&first).await);
    limited.fill(12..20).await;
    eventually(|| meters.evicted.get() >= 4).await;
    assert!(limited.remote.holds(&first).await);
    let gone: Vec<_> = (1..12)
        .filter(|number| !file(limited.folder.path(), &digest(&blob(*number))).exists())
        .collect();
    assert_eq!(gone, (1..=u32::try_from(gone.len()).unwrap()).collect::<Vec<_>>());
    // The disk knows of it.
    let path = file(limited.folder.path(), &first);
    eventually(|| fs::metadata(&path).unwrap().modified().unwrap() > hours(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_acknowledged_can_be_read_at_once_in_a_store_that_is_always_full() {
    let limited = Limited::in_file(Waits {
        grace: Duration::from_millis(100),
        patience: Duration::from_secs(20),
    })
    .await;
    let until = Instant::now() + Duration::from_secs(3);
    let clients: Vec<_> = (0..6)
        .map(|client: u64| {
            let mut remote = Remote::connect(&limited.store);
            tokio::spawn(async move {
                let mut pushed = 0;
                for number in 0_u64.. {
                    if Instant::now() > until {
                        break;
                    }
                    // Few enough that they come again and again, and meet those that leave.
                    let number = number * 7 % 30 + client % 2;
                    let mut data = noise(usize::try_from(number).unwrap() * 50_000 + 9);
                    data[..8].copy_from_slice(&number.to_le_bytes());
                    let digest = digest(&data);
                    let name = upload_name(&client.to_string(), &digest);
                    remote.write(pieces(&name, &data, 0, 1 << 17)).await.unwrap();
                    assert!(remote.read(&blob_name(&digest), 0, 0).await.unwrap() == data);
                    assert!(remote.holds(&digest).await);
                    pushed += 1;
                }
                pushed
            })
        })
        .collect();
    let mut pushed = 0;
    for client in clients {
        pushed += client.await.unwrap();
    }
    assert!(
        pushed > 50 && limited.meters.evicted.get() > 10,
        "{pushed}, {:?}",
        limited.meters
    );
    eventually(|| i64::try_from(on_disk(limited.folder.path())).unwrap() == limited.meters.bytes.get()).await;
    assert!(on_disk(limited.folder.path()) <= QUOTA as u64);
}
