//! A backend that believes what it is told: it keeps blobs and the names of directories, and looks below neither.

use std::collections::HashMap;
use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::rpc;
use casgate::policy::method::Method;
use parking_lot::Mutex;
use prost::Message;
use reapi::{batch_read_blobs_response as read, batch_update_blobs_response as update};

use super::backend::{Backend, Exchange};
use super::grpc;

#[derive(Debug, Default)]
struct Kept {
    blobs: HashMap<String, Vec<u8>>,
    directories: HashMap<String, reapi::Digest>,
}

/// Starts an empty one.
pub(crate) fn start() -> Backend {
    let kept = Arc::new(Mutex::new(Kept::default()));
    Backend::start(move |exchange: Exchange| serve(exchange, Arc::clone(&kept)))
}

async fn serve(mut exchange: Exchange, kept: Arc<Mutex<Kept>>) {
    let mut body = Vec::new();
    while let Some(piece) = exchange.read().await {
        body.extend_from_slice(&piece);
    }
    let path = exchange.path();
    let answer = answer(&path, &body[5..], &mut kept.lock());
    match answer {
        Some(message) => exchange.answer(grpc::frame(&message)).await,
        None => exchange.trailers_only(5, "no such asset"),
    }
}

fn answer(path: &str, request: &[u8], kept: &mut Kept) -> Option<Vec<u8>> {
    if path == Method::BatchUpdateBlobs.path() {
        let request = reapi::BatchUpdateBlobsRequest::decode(request).unwrap();
        let responses = request.requests.into_iter().map(|blob| {
            kept.blobs.insert(hash(blob.digest.as_ref()), blob.data);
            update::Response {
                digest: blob.digest,
                ..Default::default()
            }
        });
        let responses = responses.collect();
        Some(reapi::BatchUpdateBlobsResponse { responses }.encode_to_vec())
    } else if path == Method::BatchReadBlobs.path() {
        let request = reapi::BatchReadBlobsRequest::decode(request).unwrap();
        let responses = request.digests.into_iter().map(|digest| {
            let data = kept.blobs.get(&digest.hash);
            let missing = rpc::Status {
                code: 5,
                ..Default::default()
            };
            read::Response {
                digest: Some(digest),
                status: data.is_none().then_some(missing),
                data: data.cloned().unwrap_or_default(),
                ..Default::default()
            }
        });
        let responses = responses.collect();
        Some(reapi::BatchReadBlobsResponse { responses }.encode_to_vec())
    } else if path == Method::FindMissingBlobs.path() {
        let request = reapi::FindMissingBlobsRequest::decode(request).unwrap();
        let mut digests = request.blob_digests;
        digests.retain(|digest| !kept.blobs.contains_key(&digest.hash));
        let missing_blob_digests = digests;
        Some(reapi::FindMissingBlobsResponse { missing_blob_digests }.encode_to_vec())
    } else if path == Method::PushDirectory.path() {
        let request = asset::PushDirectoryRequest::decode(request).unwrap();
        let root = request.root_directory_digest.unwrap();
        let named = request.uris.into_iter().map(|uri| (uri, root.clone()));
        kept.directories.extend(named);
        Some(Vec::new())
    } else if path == Method::FetchDirectory.path() {
        let request = asset::FetchDirectoryRequest::decode(request).unwrap();
        let (uri, root) = request
            .uris
            .iter()
            .find_map(|uri| kept.directories.get_key_value(uri))?;
        let response = asset::FetchDirectoryResponse {
            uri: uri.clone(),
            root_directory_digest: Some(root.clone()),
            ..Default::default()
        };
        Some(response.encode_to_vec())
    } else {
        panic!("a call that this backend does not know: {path}")
    }
}

fn hash(digest: Option<&reapi::Digest>) -> String {
    digest.map(|digest| digest.hash.clone()).unwrap_or_default()
}
