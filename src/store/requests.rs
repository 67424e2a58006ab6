//! What the messages of each method are: they are counted before gRPC decodes them.

use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::bytestream;

use crate::wire::{Bound, Bounded, Shape};

/// A message type of requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) shape: &'static Shape,
    pub(super) bound: Bound,
}

impl Kind {
    const fn of<M: Bounded>() -> Self {
        Self {
            shape: M::SHAPE,
            bound: M::BOUND,
        }
    }

    /// Of the method that a path names; None for one that the store has not.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        Some(match (service, method) {
            ("build.bazel.remote.execution.v2.ContentAddressableStorage", "FindMissingBlobs") => {
                Self::of::<reapi::FindMissingBlobsRequest>()
            }
            ("build.bazel.remote.execution.v2.ContentAddressableStorage", "BatchUpdateBlobs") => {
                Self::of::<reapi::BatchUpdateBlobsRequest>()
            }
            ("build.bazel.remote.execution.v2.ContentAddressableStorage", "BatchReadBlobs") => {
                Self::of::<reapi::BatchReadBlobsRequest>()
            }
            ("build.bazel.remote.execution.v2.ContentAddressableStorage", "GetTree") => {
                Self::of::<reapi::GetTreeRequest>()
            }
            ("build.bazel.remote.execution.v2.ContentAddressableStorage", "SplitBlob") => {
                Self::of::<reapi::SplitBlobRequest>()
            }
            ("build.bazel.remote.execution.v2.ContentAddressableStorage", "SpliceBlob") => {
                Self::of::<reapi::SpliceBlobRequest>()
            }
            ("build.bazel.remote.execution.v2.ContentAddressableStorage", "GetChunkMapping") => {
                Self::of::<reapi::GetChunkMappingRequest>()
            }
            ("build.bazel.remote.execution.v2.ContentAddressableStorage", "RegisterChunkMapping") => {
                Self::of::<reapi::RegisterChunkMappingRequest>()
            }
            ("build.bazel.remote.execution.v2.ActionCache", "GetActionResult") => {
                Self::of::<reapi::GetActionResultRequest>()
            }
            ("build.bazel.remote.execution.v2.ActionCache", "UpdateActionResult") => {
                Self::of::<reapi::UpdateActionResultRequest>()
            }
            ("build.bazel.remote.execution.v2.Capabilities", "GetCapabilities") => {
                Self::of::<reapi::GetCapabilitiesRequest>()
            }
            ("google.bytestream.ByteStream", "Read") => Self::of::<bytestream::ReadRequest>(),
            ("google.bytestream.ByteStream", "Write") => Self::of::<bytestream::WriteRequest>(),
            ("google.bytestream.ByteStream", "QueryWriteStatus") => Self::of::<bytestream::QueryWriteStatusRequest>(),
            ("build.bazel.remote.asset.v1.Fetch", "FetchBlob") => Self::of::<asset::FetchBlobRequest>(),
            ("build.bazel.remote.asset.v1.Fetch", "FetchDirectory") => Self::of::<asset::FetchDirectoryRequest>(),
            ("build.bazel.remote.asset.v1.Push", "PushBlob") => Self::of::<asset::PushBlobRequest>(),
            ("build.bazel.remote.asset.v1.Push", "PushDirectory") => Self::of::<asset::PushDirectoryRequest>(),
            _ => return None,
        })
    }
}
