use tonic::Code;

use super::*;
use crate::store::blobs::PIECE;

#[tokio::test]
async fn blobs_of_all_sizes_come_back_whole() {
    let mut remote = Remote::in_memory().await;
    for len in [1, 1000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17] {
        let data = noise(len);
        let digest = digest(&data);
        for (uuid, piece) in [("small", 1 + len / 7), ("whole", 2 << 20)] {
            let messages = pieces(&upload_name(uuid, &digest), &data, 0, piece);
            let committed = remote.write(messages).await.unwrap();
            assert_eq!(committed, digest.size_bytes);
        }
        assert_eq!(remote.read(&blob_name(&digest), 0, 0).await.unwrap(), data);
    }
}

#[tokio::test]
async fn ranges_are_read_as_asked() {
    let mut remote = Remote::in_memory().await;
    let data = noise(PIECE + 100);
    let digest = remote.store(&data).await;
    let name = blob_name(&digest);
    let size = data.len();
    for (offset, limit) in [(0, 10), (7, 0), (size, 0), (size - 1, 1), (5, 10 * size), (1, PIECE)] {
        let end = if limit == 0 { size } else { size.min(offset + limit) };
        let (offset64, limit64) = (i64::try_from(offset).unwrap(), i64::try_from(limit).unwrap());
        let read = remote.read(&name, offset64, limit64).await.unwrap();
        assert_eq!(read, data[offset..end], "{offset} {limit}");
    }
    let after = digest.size_bytes + 1;
    for (offset, limit) in [(-1, 0), (after, 0), (0, -1), (i64::MIN, 0), (i64::MAX, i64::MAX)] {
        let error = remote.read(&name, offset, limit).await.unwrap_err();
        assert_eq!(error.code(), Code::OutOfRange, "{offset} {limit}");
    }
}

#[tokio::test]
async fn reads_of_what_is_not_there_say_so() {
    let mut remote = Remote::in_memory().await;
    let here = remote.store(b"here").await;
    let mut other_size = here.clone();
    other_size.size_bytes = 3;
    for name in [blob_name(&digest(b"gone")), blob_name(&other_size)] {
        for offset in [0, 3, 100] {
            let error = remote.read(&name, offset, 0).await.unwrap_err();
            assert_eq!(error.code(), Code::NotFound, "{name} {offset}");
        }
    }
    let bad = [
        "",
        "blobs/x/1",
        "uploads/u/blobs",
        "/blobs/",
        "compressed-blobs/zstd/x/1",
    ];
    for name in bad {
        let error = remote.read(name, 0, 0).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{name}");
    }
}

#[tokio::test]
async fn the_empty_blob_is_always_there() {
    let mut remote = Remote::in_memory().await;
    let empty = digest(b"");
    assert!(remote.read(&blob_name(&empty), 0, 0).await.unwrap().is_empty());
    let messages = pieces(&upload_name("u", &empty), b"", 0, 1);
    assert_eq!(remote.write(messages).await.unwrap(), 0);
}

#[tokio::test]
async fn a_blob_that_is_there_is_acknowledged_at_the_first_message() {
    let mut remote = Remote::in_memory().await;
    let data = noise(3 << 20);
    let digest = remote.store(&data).await;
    let name = upload_name("u", &digest);
    // The stream never ends: only an early answer can end the call.
    let first = message(&name, 0, &data[..10]);
    let messages = stream::StreamExt::chain(stream::iter([first]), stream::pending());
    let response = remote.bytestream.write(messages).await.unwrap();
    assert_eq!(response.into_inner().committed_size, digest.size_bytes);
}

#[tokio::test]
async fn later_messages_may_leave_the_name_out_but_not_change_it() {
    let mut remote = Remote::in_memory().await;
    let data = noise(1000);
    let name = upload_name("u", &digest(&data));
    let mut messages = pieces(&name, &data, 0, 100);
    for message in &mut messages[1..] {
        message.resource_name.clear();
    }
    let mut renamed = messages.clone();
    renamed[3].resource_name = upload_name("v", &digest(&data));
    let error = remote.write(renamed).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(!remote.holds(&digest(&data)).await);
    assert_eq!(remote.write(messages).await.unwrap(), 1000);
}

#[tokio::test]
async fn wrong_content_is_refused_and_leaves_nothing() {
    let mut remote = Remote::in_memory().await;
    for len in [100, 2 * PIECE] {
        let data = noise(len);
        let digest = digest(&data);
        let name = upload_name("u", &digest);
        let mut flipped = data.clone();
        flipped[len / 2] ^= 1;
        let longer = [data.as_slice(), b"x"].concat();
        for wrong in [flipped.as_slice(), &data[..len - 1], &longer] {
            let error = remote.write(pieces(&name, wrong, 0, 1 << 16)).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument);
            assert!(!remote.holds(&digest).await);
            assert_eq!(status(&mut remote, &name).await.unwrap_err().code(), Code::NotFound);
        }
        let committed = remote.write(pieces(&name, &data, 0, 1 << 16)).await.unwrap();
        assert_eq!(committed, digest.size_bytes);
    }
}

#[tokio::test]
async fn broken_streams_are_refused() {
    let mut remote = Remote::in_memory().await;
    let data = noise(1000);
    let name = upload_name("u", &digest(&data));
    let error = remote.write(Vec::new()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "no message");
    let mut unfinished = pieces(&name, &data, 0, 100);
    unfinished.last_mut().unwrap().finish_write = false;
    let error = remote.write(unfinished).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "no finish_write");
    let mut gap = pieces(&name, &data, 0, 100);
    gap.remove(1);
    let error = remote.write(gap).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "a gap");
    for (offset, name) in [(-1, name.as_str()), (0, ""), (0, "blobs/x/1")] {
        let mut first = message(name, 0, &data);
        first.write_offset = offset;
        first.finish_write = true;
        let error = remote.write(vec![first]).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{offset} {name}");
    }
    let zipped = format!("uploads/u/compressed-blobs/zstd/{}/1000", digest(&data).hash);
    let error = remote.write(pieces(&zipped, &data, 0, 100)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("compressed"), "{error}");
    assert!(!remote.holds(&digest(&data)).await);
}

#[tokio::test]
async fn two_clients_may_upload_one_blob() {
    let mut remote = Remote::in_memory().await;
    let data = noise(3 * PIECE);
    let digest = digest(&data);
    let mut other = Remote {
        bytestream: remote.bytestream.clone(),
        ..Remote::in_memory().await
    };
    let name = upload_name("u", &digest);
    let (one, two) = tokio::join!(
        remote.write(pieces(&name, &data, 0, 1 << 16)),
        other.write(pieces(&name, &data, 0, 1 << 15)),
    );
    assert_eq!((one.unwrap(), two.unwrap()), (digest.size_bytes, digest.size_bytes));
    assert_eq!(remote.read(&blob_name(&digest), 0, 0).await.unwrap(), data);
}

pub(super) async fn status(remote: &mut Remote, name: &str) -> Result<(i64, bool), Status> {
    use bazel_remote_apis::google::bytestream::QueryWriteStatusRequest;
    let resource_name = name.to_owned();
    let request = QueryWriteStatusRequest { resource_name };
    let status = remote.bytestream.query_write_status(request).await?;
    let status = status.into_inner();
    Ok((status.committed_size, status.complete))
}
