//! What the messages are in memory that are decoded here: field numbers as in remote_execution.proto, remote_asset.proto,
//! bytestream.proto, and google/rpc/status.proto.
//!
//! Bounds: of what has an entry for each blob, an honest one has 70 bytes on the wire (a SHA-256 in hexadecimal digits) and
//! takes two to seven times that; symbolic links with short names take more.

use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::bytestream;
use bazel_remote_apis::google::protobuf::Any;
use bazel_remote_apis::google::rpc;

use super::bound::Kept::{Bytes, Message, Numbers, Strings};
use super::bound::{Bound, Kept};

/// A message with a list of many small entries.
pub const MANY: Bound = Bound {
    longest: 16 << 20,
    elements: 1 << 20,
    ratio: 8,
};
/// A message with few entries.
pub const FEW: Bound = Bound {
    longest: 16 << 20,
    elements: 1 << 14,
    ratio: 2,
};
/// What a backend answers to a call of the gate's own, which asks for 10,000 digests or 512 directories at a time.
pub const ANSWERED: Bound = Bound {
    longest: 5 << 20,
    elements: 1 << 14,
    ratio: 4,
};
/// Directories: a symbolic link with two short names has 20 bytes on the wire, and 250 in memory.
pub const LINKS: Bound = Bound {
    longest: 64 << 20,
    elements: 1 << 22,
    ratio: 12,
};

/// Says of message types what they are in memory, and how much of them is decoded.
macro_rules! bounded {
    ($($shape:ident: $type:ty, $bound:expr, [$($field:expr),* $(,)?];)*) => {$(
        static $shape: $crate::wire::Shape = $crate::wire::Shape {
            size: size_of::<$type>(),
            fields: &[$($field),*],
        };

        impl $crate::wire::Bounded for $type {
            const SHAPE: &'static $crate::wire::Shape = &$shape;
            const BOUND: $crate::wire::Bound = $bound;
        }
    )*};
}
pub(crate) use bounded;

/// A field that holds a `Digest`, or many.
pub const fn digest(number: u32) -> (u32, Kept) {
    (number, Message(&DIGEST))
}

/// A field that holds qualifiers.
pub const fn qualifiers(number: u32) -> (u32, Kept) {
    (number, Message(&QUALIFIER))
}

bounded! {
    ANY: Any, FEW, [(1, Bytes), (2, Bytes)];
    STATUS: rpc::Status, FEW, [(2, Bytes), (3, Message(&ANY))];

    DIGEST: reapi::Digest, FEW, [(1, Bytes)];
    NODE_PROPERTY: reapi::NodeProperty, FEW, [(1, Bytes), (2, Bytes)];
    NODE_PROPERTIES: reapi::NodeProperties, FEW, [(1, Message(&NODE_PROPERTY))];
    FILE_NODE: reapi::FileNode, FEW, [(1, Bytes), digest(2), (6, Message(&NODE_PROPERTIES))];
    DIRECTORY_NODE: reapi::DirectoryNode, FEW, [(1, Bytes), digest(2)];
    SYMLINK_NODE: reapi::SymlinkNode, FEW, [(1, Bytes), (2, Bytes), (4, Message(&NODE_PROPERTIES))];
    DIRECTORY: reapi::Directory, LINKS, [
        (1, Message(&FILE_NODE)),
        (2, Message(&DIRECTORY_NODE)),
        (3, Message(&SYMLINK_NODE)),
        (5, Message(&NODE_PROPERTIES)),
    ];
    TREE: reapi::Tree, LINKS, [(1, Message(&DIRECTORY)), (2, Message(&DIRECTORY))];

    OUTPUT_FILE: reapi::OutputFile, FEW, [(1, Bytes), digest(2), (5, Bytes), (7, Message(&NODE_PROPERTIES))];
    OUTPUT_DIRECTORY: reapi::OutputDirectory, FEW, [(1, Bytes), digest(3), digest(5)];
    OUTPUT_SYMLINK: reapi::OutputSymlink, FEW, [(1, Bytes), (2, Bytes), (4, Message(&NODE_PROPERTIES))];
    METADATA: reapi::ExecutedActionMetadata, FEW, [(1, Bytes), (11, Message(&ANY))];
    ACTION_RESULT: reapi::ActionResult, MANY, [
        (2, Message(&OUTPUT_FILE)),
        (3, Message(&OUTPUT_DIRECTORY)),
        (5, Bytes),
        digest(6),
        (7, Bytes),
        digest(8),
        (9, Message(&METADATA)),
        (10, Message(&OUTPUT_SYMLINK)),
        (11, Message(&OUTPUT_SYMLINK)),
        (12, Message(&OUTPUT_SYMLINK)),
    ];

    FIND_MISSING: reapi::FindMissingBlobsRequest, MANY, [(1, Bytes), digest(2)];
    MISSING: reapi::FindMissingBlobsResponse, ANSWERED, [digest(2)];
    UPDATE: reapi::batch_update_blobs_request::Request, MANY, [digest(1), (2, Bytes)];
    BATCH_UPDATE: reapi::BatchUpdateBlobsRequest, MANY, [(1, Bytes), (2, Message(&UPDATE))];
    BATCH_READ: reapi::BatchReadBlobsRequest, MANY, [(1, Bytes), digest(2), (3, Numbers)];
    READ_BLOB: reapi::batch_read_blobs_response::Response, ANSWERED, [digest(1), (2, Bytes), (3, Message(&STATUS))];
    BATCH_READ_RESPONSE: reapi::BatchReadBlobsResponse, ANSWERED, [(1, Message(&READ_BLOB))];
    GET_TREE: reapi::GetTreeRequest, FEW, [(1, Bytes), digest(2), (4, Bytes)];
    SPLIT: reapi::SplitBlobRequest, FEW, [(1, Bytes), digest(2)];
    GET_CHUNKS: reapi::GetChunkMappingRequest, FEW, [(1, Bytes), digest(2)];
    REGISTER_CHUNKS: reapi::RegisterChunkMappingRequest, MANY, [(1, Bytes), digest(2), digest(3)];
    SPLICE: reapi::SpliceBlobRequest, MANY, [(1, Bytes), digest(2), digest(3)];
    GET_RESULT: reapi::GetActionResultRequest, MANY, [(1, Bytes), digest(2), (5, Strings)];
    UPDATE_RESULT: reapi::UpdateActionResultRequest, MANY, [(1, Bytes), digest(2), (3, Message(&ACTION_RESULT))];
    GET_CAPABILITIES: reapi::GetCapabilitiesRequest, FEW, [(1, Bytes)];

    CACHE_CAPABILITIES: reapi::CacheCapabilities, FEW, [(1, Numbers), (6, Numbers), (7, Numbers)];
    TOOL: reapi::ToolDetails, FEW, [(1, Bytes), (2, Bytes)];
    REQUEST_METADATA: reapi::RequestMetadata, FEW, [
        (1, Message(&TOOL)),
        (2, Bytes),
        (3, Bytes),
        (4, Bytes),
        (5, Bytes),
        (6, Bytes),
        (7, Bytes),
    ];

    READ: bytestream::ReadRequest, FEW, [(1, Bytes)];
    READ_RESPONSE: bytestream::ReadResponse, FEW, [(10, Bytes)];
    WRITE: bytestream::WriteRequest, FEW, [(1, Bytes), (10, Bytes)];
    QUERY_WRITE: bytestream::QueryWriteStatusRequest, FEW, [(1, Bytes)];

    QUALIFIER: asset::Qualifier, FEW, [(1, Bytes), (2, Bytes)];
    FETCH_BLOB: asset::FetchBlobRequest, MANY, [(1, Bytes), (4, Strings), qualifiers(5)];
    FETCH_DIRECTORY: asset::FetchDirectoryRequest, MANY, [(1, Bytes), (4, Strings), qualifiers(5)];
    FETCHED_DIRECTORY: asset::FetchDirectoryResponse, FEW, [
        (1, Message(&STATUS)),
        (2, Bytes),
        qualifiers(3),
        digest(5),
    ];
    PUSH_BLOB: asset::PushBlobRequest, MANY, [
        (1, Bytes),
        (2, Strings),
        qualifiers(3),
        digest(5),
        digest(6),
        digest(7),
    ];
    PUSH_DIRECTORY: asset::PushDirectoryRequest, MANY, [
        (1, Bytes),
        (2, Strings),
        qualifiers(3),
        digest(5),
        digest(6),
        digest(7),
    ];
    PUSHED_DIRECTORY: asset::PushDirectoryResponse, FEW, [];
}

#[cfg(test)]
mod tests;
