//! Messages that are short on the wire and large in memory, from clients and from the disk.

use prost::Message;
use tonic::Code;

use super::*;
use crate::wire::measure;

/// A directory that names so many files without a name or a digest.
fn empty_files(count: usize) -> Vec<u8> {
    b"\x0a\x00".repeat(count)
}

#[tokio::test]
async fn requests_of_empty_entries_are_refused_before_they_are_decoded() {
    let mut remote = Remote::in_memory().await;
    let read = reapi::BatchReadBlobsRequest {
        digests: vec![reapi::Digest::default(); 2_000_000],
        ..Default::default()
    };
    let refused = remote.cas.batch_read_blobs(read).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("entries"), "{refused}");
    let find = reapi::FindMissingBlobsRequest {
        blob_digests: vec![reapi::Digest::default(); 200_000],
        ..Default::default()
    };
    let refused = remote.cas.find_missing_blobs(find).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("most of them must be empty"), "{refused}");
    let result = reapi::ActionResult {
        output_symlinks: vec![reapi::OutputSymlink::default(); 100_000],
        ..Default::default()
    };
    let update = reapi::UpdateActionResultRequest {
        action_digest: Some(digest(b"action")),
        action_result: Some(result),
        ..Default::default()
    };
    let refused = remote.action_cache.update_action_result(update).await.unwrap_err();
    assert!(refused.message().contains("most of them must be empty"), "{refused}");
}

#[tokio::test]
async fn a_directory_of_empty_names_is_none() {
    let mut remote = Remote::in_memory().await;
    let root = remote.store(&empty_files(1_500_000)).await;
    let tree = reapi::GetTreeRequest {
        root_digest: Some(root),
        ..Default::default()
    };
    let refused = remote.cas.get_tree(tree).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(measure::<reapi::Directory>(empty_files(1_500_000)).is_err());
}

#[tokio::test]
async fn a_result_with_a_tree_of_empty_names_is_a_miss() {
    let mut remote = Remote::in_memory().await;
    let mut tree = Vec::new();
    prost::encoding::encode_key(1, prost::encoding::WireType::LengthDelimited, &mut tree);
    prost::encoding::encode_varint(2_000_000, &mut tree);
    tree.extend(empty_files(1_000_000));
    let tree_digest = remote.store(&tree).await;
    let result = reapi::ActionResult {
        output_directories: vec![reapi::OutputDirectory {
            path: "out".to_owned(),
            tree_digest: Some(tree_digest),
            ..Default::default()
        }],
        ..Default::default()
    };
    let action_digest = Some(digest(b"action"));
    let update = reapi::UpdateActionResultRequest {
        action_digest: action_digest.clone(),
        action_result: Some(result),
        ..Default::default()
    };
    remote.action_cache.update_action_result(update).await.unwrap();
    let get = reapi::GetActionResultRequest {
        action_digest,
        ..Default::default()
    };
    let missed = remote.action_cache.get_action_result(get).await.unwrap_err();
    assert_eq!(missed.code(), Code::NotFound);
}

#[tokio::test]
async fn trees_that_are_too_deep_are_not_walked_to_their_end() {
    let mut remote = Remote::in_memory().await;
    let mut below = digest(b"");
    for _ in 0..2100 {
        let directory = reapi::Directory {
            directories: vec![reapi::DirectoryNode {
                name: "d".to_owned(),
                digest: Some(below),
            }],
            ..Default::default()
        };
        below = remote.store(&directory.encode_to_vec()).await;
    }
    let tree = reapi::GetTreeRequest {
        root_digest: Some(below),
        ..Default::default()
    };
    let mut pages = remote.cas.get_tree(tree).await.unwrap().into_inner();
    let refused = loop {
        match pages.message().await {
            Ok(Some(_)) => {}
            Ok(None) => unreachable!("walked to its end"),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code(), Code::FailedPrecondition);
}
