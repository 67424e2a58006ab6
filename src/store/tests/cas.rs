use std::collections::HashSet;

use prost::Message;
use tonic::Code;

use super::*;

#[tokio::test]
async fn batches_store_and_read_blob_by_blob() {
    let mut remote = Remote::in_memory().await;
    let (good, bad) = (digest(b"good"), digest(b"bad"));
    let malformed = reapi::Digest {
        hash: "zz".to_owned(),
        size_bytes: 1,
    };
    let mut request = batch(
        "",
        [
            (good.clone(), b"good".as_slice()),
            (bad.clone(), b"other"),
            (malformed.clone(), b"x"),
            (digest(b"zipped"), b"zipped"),
            (digest(b""), b""),
        ],
    );
    request.requests[3].compressor = reapi::compressor::Value::Zstd.into();
    let responses = remote.cas.batch_update_blobs(request).await.unwrap();
    let responses = responses.into_inner().responses;
    let codes: Vec<_> = responses
        .iter()
        .map(|response| Code::from(response.status.as_ref().unwrap().code))
        .collect();
    let wrong = Code::InvalidArgument;
    assert_eq!(codes, [Code::Ok, wrong, wrong, wrong, Code::Ok]);
    assert_eq!(responses[1].digest.as_ref(), Some(&bad));

    let request = reapi::BatchReadBlobsRequest {
        digests: vec![good, bad, malformed, digest(b"")],
        ..Default::default()
    };
    let responses = remote.cas.batch_read_blobs(request).await.unwrap();
    let responses = responses.into_inner().responses;
    let answers: Vec<_> = responses
        .iter()
        .map(|response| {
            let status = response.status.as_ref().unwrap();
            (Code::from(status.code), response.data.as_slice())
        })
        .collect();
    assert_eq!(answers[0], (Code::Ok, b"good".as_slice()));
    assert_eq!(answers[1], (Code::NotFound, b"".as_slice()));
    assert_eq!(answers[2], (wrong, b"".as_slice()));
    assert_eq!(answers[3], (Code::Ok, b"".as_slice()));
}

#[tokio::test]
async fn empty_batches_are_fine() {
    let mut remote = Remote::in_memory().await;
    let read = reapi::BatchReadBlobsRequest::default();
    assert!(remote.cas.batch_read_blobs(read).await.is_ok());
    let update = reapi::BatchUpdateBlobsRequest::default();
    assert!(remote.cas.batch_update_blobs(update).await.is_ok());
    assert!(remote.missing("", []).await.is_empty());
}

#[tokio::test]
async fn batches_have_a_limit_of_four_mebibytes() {
    let mut remote = Remote::in_memory().await;
    let half = noise(2 << 20);
    let blobs = || [(digest(&half), half.as_slice()), (digest(&half), half.as_slice())];
    let request = batch("", blobs());
    assert!(remote.cas.batch_update_blobs(request).await.is_ok());
    let more = blobs().into_iter().chain([(digest(b"x"), b"x".as_slice())]);
    let error = remote.cas.batch_update_blobs(batch("", more)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(!remote.holds(&digest(b"x")).await);

    let mut huge = digest(b"x");
    huge.size_bytes = i64::MAX;
    let request = reapi::BatchReadBlobsRequest {
        digests: vec![huge.clone(), huge],
        ..Default::default()
    };
    let error = remote.cas.batch_read_blobs(request).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn only_missing_blobs_are_missing() {
    let mut remote = Remote::in_memory().await;
    let here = remote.store(b"here").await;
    let gone = digest(b"gone");
    let mut other_size = here.clone();
    other_size.size_bytes += 1;
    let asked = [here, gone.clone(), digest(b""), other_size.clone()];
    assert_eq!(remote.missing("", asked).await, [gone, other_size]);

    let request = reapi::FindMissingBlobsRequest {
        blob_digests: vec![reapi::Digest::default()],
        ..Default::default()
    };
    let error = remote.cas.find_missing_blobs(request).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn instances_see_nothing_of_each_other() {
    let mut remote = Remote::in_memory().await;
    remote.update("a", b"secret").await;
    let secret = digest(b"secret");
    for other in ["", "b", "A", "a/a", "..", "a/..", "../a", "_61"] {
        assert_eq!(remote.missing(other, [secret.clone()]).await.len(), 1, "{other}");
    }
    assert!(remote.missing("a", [secret.clone()]).await.is_empty());
    let name = blob_name(&secret);
    let error = remote.read(&name, 0, 0).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(remote.read(&format!("a/{name}"), 0, 0).await.unwrap(), b"secret");
}

#[tokio::test]
async fn bad_instances_and_digest_functions_are_refused() {
    let mut remote = Remote::in_memory().await;
    for instance_name in ["/", "a//b", "x/blobs"] {
        let request = reapi::FindMissingBlobsRequest {
            instance_name: instance_name.to_owned(),
            ..Default::default()
        };
        let error = remote.cas.find_missing_blobs(request).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{instance_name}");
    }
    use reapi::digest_function::Value;
    for (digest_function, code) in [
        (Value::Unknown.into(), Code::Ok),
        (Value::Sha256.into(), Code::Ok),
        (Value::Blake3.into(), Code::InvalidArgument),
        (4711, Code::InvalidArgument),
    ] {
        let request = reapi::FindMissingBlobsRequest {
            digest_function,
            ..Default::default()
        };
        let result = remote.cas.find_missing_blobs(request).await;
        let actual = result.map_or_else(|error| error.code(), |_| Code::Ok);
        assert_eq!(actual, code, "{digest_function}");
    }
}

#[tokio::test]
async fn split_and_splice_are_unimplemented() {
    let mut remote = Remote::in_memory().await;
    let split = remote.cas.split_blob(reapi::SplitBlobRequest::default());
    assert_eq!(split.await.unwrap_err().code(), Code::Unimplemented);
    let splice = remote.cas.splice_blob(reapi::SpliceBlobRequest::default());
    assert_eq!(splice.await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_tree_is_told_in_pages_and_each_directory_once() {
    let mut remote = Remote::in_memory().await;
    let leaf = directory([("file", digest(b"f"))], []);
    let shared = remote.store(&leaf.encode_to_vec()).await;
    let mut children = vec![("gone".to_owned(), digest(b"never stored"))];
    for index in 0..25 {
        let file = format!("{index}");
        let child = directory([(file.as_str(), digest(b"f"))], [("leaf", shared.clone())]);
        let stored = remote.store(&child.encode_to_vec()).await;
        children.push((format!("child{index}"), stored));
    }
    let children = children.iter().map(|(name, digest)| (name.as_str(), digest.clone()));
    let root = directory([], children);
    let root_digest = remote.store(&root.encode_to_vec()).await;

    for (page_size, most) in [(0, 1000), (10, 10), (1, 1)] {
        let pages = tree(&mut remote, &root_digest, page_size, "").await.unwrap();
        assert!(pages.iter().all(|page| page.directories.len() <= most));
        assert!(pages.iter().all(|page| page.next_page_token.is_empty()));
        let all: Vec<_> = pages.into_iter().flat_map(|page| page.directories).collect();
        assert_eq!(all.len(), 27);
        assert_eq!(all[0], root);
        let distinct: HashSet<_> = all.iter().map(Message::encode_to_vec).collect();
        assert_eq!(distinct.len(), 27);
    }
}

#[tokio::test]
async fn large_directories_do_not_share_a_message() {
    let mut remote = Remote::in_memory().await;
    let mut children = Vec::new();
    for name in ["a", "b", "c"] {
        let long = format!("{name}{}", "x".repeat(900 << 10));
        let child = directory([(long.as_str(), digest(b"f"))], []);
        let stored = remote.store(&child.encode_to_vec()).await;
        children.push((name, stored));
    }
    let root = remote.store(&directory([], children).encode_to_vec()).await;
    let pages = tree(&mut remote, &root, 0, "").await.unwrap();
    assert_eq!(pages.iter().map(|page| page.directories.len()).sum::<usize>(), 4);
    assert!(pages.iter().all(|page| page.encoded_len() < 2 << 20));
}

#[tokio::test]
async fn trees_that_cannot_be_told_are_errors() {
    let mut remote = Remote::in_memory().await;
    let code = |result: Result<Vec<_>, Status>| result.unwrap_err().code();
    let gone = digest(b"gone");
    assert_eq!(code(tree(&mut remote, &gone, 0, "").await), Code::NotFound);
    let text = remote.store(b"\xff\xff not a directory").await;
    let result = tree(&mut remote, &text, 0, "").await;
    assert_eq!(code(result), Code::FailedPrecondition);
    let result = tree(&mut remote, &digest(b""), 0, "some token").await;
    assert_eq!(code(result), Code::InvalidArgument);
    let result = tree(&mut remote, &digest(b""), -1, "").await;
    assert_eq!(code(result), Code::InvalidArgument);
    let malformed = reapi::Digest::default();
    assert_eq!(code(tree(&mut remote, &malformed, 0, "").await), Code::InvalidArgument);
    // The directory without entries is the blob of no bytes, which is always there.
    let empty = tree(&mut remote, &digest(b""), 0, "").await.unwrap();
    assert_eq!(empty.len(), 1);
    assert_eq!(empty[0].directories, [reapi::Directory::default()]);
}

async fn tree(
    remote: &mut Remote,
    root: &reapi::Digest,
    page_size: i32,
    page_token: &str,
) -> Result<Vec<reapi::GetTreeResponse>, Status> {
    let request = reapi::GetTreeRequest {
        root_digest: Some(root.clone()),
        page_size,
        page_token: page_token.to_owned(),
        ..Default::default()
    };
    let mut stream = remote.cas.get_tree(request).await?.into_inner();
    let mut pages = Vec::new();
    while let Some(page) = stream.message().await? {
        pages.push(page);
    }
    Ok(pages)
}

pub(super) fn directory<'a>(
    files: impl IntoIterator<Item = (&'a str, reapi::Digest)>,
    directories: impl IntoIterator<Item = (&'a str, reapi::Digest)>,
) -> reapi::Directory {
    let file = |(name, digest): (&str, _)| reapi::FileNode {
        name: name.to_owned(),
        digest: Some(digest),
        ..Default::default()
    };
    let child = |(name, digest): (&str, _)| reapi::DirectoryNode {
        name: name.to_owned(),
        digest: Some(digest),
    };
    reapi::Directory {
        files: files.into_iter().map(file).collect(),
        directories: directories.into_iter().map(child).collect(),
        ..Default::default()
    }
}
