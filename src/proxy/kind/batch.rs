//! A BatchUpdateBlobs whose blobs are thrown away: only its digests are kept.

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::rpc;
use reapi::batch_update_blobs_response::Response;

use super::Found;
use crate::connection::Share;
use crate::policy::kindness::Kindly;
use crate::policy::method::Method;
use crate::proxy::body::Upload;
use crate::proxy::message::framed;
use crate::proxy::subject::{Bounds, Picker};
use crate::status::Rejection;

/// The most blobs of a batch that is answered kindly: in 4 MiB, they have 256 bytes each. A digest with the longest hash, of
/// 64 bytes in hexadecimal digits, has 141 bytes.
const BOUNDS: Bounds = Bounds { most: 16 * 1024 };
/// What a digest takes at most until its batch is answered, in bytes: it is there decoded and in the answer.
const COST: usize = 384;

/// Reads a batch to its end; `None` where it is to be denied.
pub(super) async fn find(
    kindly: Kindly,
    upload: &mut Upload,
    share: &mut Share<'_>,
) -> Result<Option<Found>, Rejection> {
    let Some(mut picker) = Picker::bounded(Method::BatchUpdateBlobs, BOUNDS) else {
        return Ok(None);
    };
    while let Some(chunk) = upload.pass().await? {
        let is_read = picker.push(&chunk).is_ok();
        let is_too_much = match kindly {
            Kindly::Probe => picker.messages() > 0,
            Kindly::Discard => !share.grow(picker.kept() * COST),
        };
        if is_too_much || !is_read {
            return Ok(None);
        }
    }
    let messages = picker.messages();
    let subject = picker.finish();
    let is_whole = subject.digests.len() as u64 == messages;
    if !is_whole || !subject.digests.iter().all(is_digest) {
        return Ok(None);
    }
    let answer = Ok(framed(&stored(&subject.digests)));
    Ok(Some(Found { answer, subject }))
}

/// OK for each of them.
fn stored(digests: &[reapi::Digest]) -> reapi::BatchUpdateBlobsResponse {
    let responses = digests.iter().map(|digest| Response {
        digest: Some(digest.clone()),
        status: Some(rpc::Status::default()),
    });
    reapi::BatchUpdateBlobsResponse {
        responses: responses.collect(),
    }
}

fn is_digest(digest: &reapi::Digest) -> bool {
    let is_hash = (32..=128).contains(&digest.hash.len()) && digest.hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash && digest.size_bytes >= 0
}
