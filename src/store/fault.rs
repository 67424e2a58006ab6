//! Everything that can end a call to the store, and the gRPC status that says so.

use std::io;

use tonic::{Code, Status};

use super::digest::BlobDigest;
use super::rarely::Rarely;
use super::space::NoRoom;

/// Longest piece of a caller's input that is repeated in a message, in bytes. Clients announce
/// header lists of 8 KiB, and a message that does not fit kills the call.
const QUOTE: usize = 160;

/// Why a call was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The caller's: an instance name outside the grammar.
    #[error("instance name {}: {reason}", quote(name))]
    Instance {
        /// What the caller sent.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The caller's: a ByteStream resource name outside the grammar.
    #[error("resource name {}: {reason}", quote(name))]
    ResourceName {
        /// What the caller sent.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The caller's: a digest that no blob can have.
    #[error("{field} `{}/{size}`: {reason}", clip(hash))]
    Digest {
        /// Which field of the request.
        field: &'static str,
        /// The hash as sent.
        hash: String,
        /// The size as sent, bytes.
        size: i64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The caller's: a field that the method needs.
    #[error("{0} is missing")]
    Absent(&'static str),
    /// The caller's: a field with a value that the method can't take.
    #[error("{field}: {reason}")]
    Field {
        /// Which field of the request.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The caller's: an action result that no client could use.
    #[error("action_result.{output}{}: {}", named(path), clip(reason))]
    ActionResult {
        /// The list, and the place in it.
        output: String,
        /// The path of the output as sent.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The caller's: a digest function other than SHA-256.
    #[error("digest function {0} is not supported; use SHA256 (1) or leave the field unset")]
    DigestFunction(i32),
    /// The caller's: a compressor that was never announced.
    #[error("compressor {0} is not supported; send the blob uncompressed")]
    Compressor(i32),
    /// The caller's: more bytes than a batch may carry.
    #[error("the batch carries {total} bytes, more than {limit}; use ByteStream for large blobs, and several batches")]
    BatchTooLarge {
        /// Bytes in the batch.
        total: u64,
        /// Bytes that a batch may carry.
        limit: u64,
    },
    /// The caller's: bytes that are not those of the digest.
    #[error("the content sent has digest {actual}, not {expected} as announced; nothing was stored")]
    WrongContent {
        /// The digest announced.
        expected: BlobDigest,
        /// The digest of what arrived.
        actual: BlobDigest,
    },
    /// The caller's: more or fewer bytes than the digest says.
    #[error("{received} bytes were sent for {expected}; nothing was stored")]
    WrongSize {
        /// The digest announced.
        expected: BlobDigest,
        /// Bytes that had arrived when the mismatch was certain.
        received: u64,
    },
    /// The caller's: an upload that goes on somewhere else than where it stood.
    #[error("write_offset is {offset}, but {committed} bytes are committed; ask QueryWriteStatus, or start again at 0")]
    WriteOffset {
        /// The offset sent.
        offset: i64,
        /// The offset that would have been right.
        committed: u64,
    },
    /// The caller's: an upload that just stops.
    #[error("the stream ended after {committed} bytes without finish_write; go on at that offset, or start again")]
    Unfinished {
        /// Bytes committed so far.
        committed: u64,
    },
    /// The caller's: a read outside the blob.
    #[error("{field} {value} is out of range for a blob of {size} bytes")]
    OutOfRange {
        /// Which field of the request.
        field: &'static str,
        /// Its value.
        value: i64,
        /// The size of the blob, bytes.
        size: u64,
    },
    /// Nobody's: the blob isn't here.
    #[error("blob {0} is not in this cache")]
    NoBlob(BlobDigest),
    /// Nobody's: no action result, or one whose outputs are gone.
    #[error("no complete action result for {0}")]
    NoActionResult(BlobDigest),
    /// Nobody's: none of the URIs has an asset that is whole, young and alive.
    #[error("no asset for {} with these qualifiers; this cache fetches nothing from elsewhere", quote(.0))]
    NoAsset(String),
    /// Nobody's: an upload that was never started, or was forgotten.
    #[error("no upload {} is known; start it at offset 0", quote(.0))]
    NoUpload(String),
    /// Nobody's: the same upload is running on another stream.
    #[error("upload {} is still running on another stream; try again", quote(.0))]
    UploadBusy(String),
    /// The caller's, or an earlier caller's: a blob that should be a message of this kind.
    #[error("blob {digest} is not a {kind} message")]
    NotA {
        /// The blob.
        digest: BlobDigest,
        /// The message that was expected.
        kind: &'static str,
    },
    /// The caller's, or an earlier caller's: a message too large to be handled in memory.
    #[error("blob {digest} is too large for a {kind} message; the limit is {limit} bytes")]
    TooLarge {
        /// The blob.
        digest: BlobDigest,
        /// The message that was expected.
        kind: &'static str,
        /// The limit, bytes.
        limit: u64,
    },
    /// The caller's: a tree that is too much for one walk.
    #[error(
        "the tree has more than 2^19 directories, or 256 MiB of them, or is too deep or too slow to walk; read its directories one by one"
    )]
    TreeTooLarge,
    /// The storage's: a blob that has other bytes than were written.
    #[error("blob {0} is damaged on the server, and was removed; push it again")]
    Damaged(BlobDigest),
    /// An interrupted upload of which a part was lost.
    #[error("a part of the upload of {0} was lost; start again at offset 0")]
    LostPart(BlobDigest),
    /// The caller's: it read so slowly that others needed the space.
    #[error("blob {0} was removed to make room while it was read; read it again")]
    Evicted(BlobDigest),
    /// The caller's: more than the store may hold.
    #[error(
        "insufficient disk quota: {size} bytes are more than this cache takes, which is half of its quota of {quota} bytes; nothing was stored"
    )]
    OverQuota {
        /// Bytes to be stored.
        size: u64,
        /// The quota, bytes.
        quota: u64,
    },
    /// Nobody's: the quota is used up by what is in use.
    #[error("insufficient disk quota: the cache is full, and all that it holds is in use; try again later")]
    NoRoom,
    /// The caller's: its other uploads have its share.
    #[error(
        "insufficient disk quota: uploads that are not finished have all that one caller may have arriving; finish them first"
    )]
    NoShare,
    /// The storage's: its disk is full.
    #[error("insufficient disk quota: the disk of the cache is full; try again when there is space")]
    DiskFull(#[source] object_store::Error),
    /// The storage's. The source goes to the log, not to the caller: it names files.
    #[error("the cache can't use its storage; its log says why")]
    Storage(#[source] object_store::Error),
    /// The caller's other calls: what may be kept for it is used up.
    #[error(
        "casgate keeps as much in memory for this caller as it may (limits.memory); try again when other calls have ended"
    )]
    NoMemory,
    /// Nobody's: a method that this store does not have.
    #[error("{0} is not supported by this cache")]
    Unsupported(&'static str),
}

impl Fault {
    /// The gRPC code that real clients expect.
    ///
    /// A storage fault is UNAVAILABLE, for buildbox-casd tries again on nothing else. A cache or a disk that is full is
    /// RESOURCE_EXHAUSTED (remote_execution.proto, `BatchUpdateBlobs`: "There is insufficient disk quota to store the blob"):
    /// BuildStream 1 fails whole builds on every other status. BuildStream may name then what was not stored; such a name is
    /// not found, as it is not whole.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Instance { .. }
            | Self::ResourceName { .. }
            | Self::Digest { .. }
            | Self::Absent(_)
            | Self::Field { .. }
            | Self::ActionResult { .. }
            | Self::DigestFunction(_)
            | Self::Compressor(_)
            | Self::BatchTooLarge { .. }
            | Self::WrongContent { .. }
            | Self::WrongSize { .. }
            | Self::WriteOffset { .. }
            | Self::Unfinished { .. } => Code::InvalidArgument,
            Self::OutOfRange { .. } => Code::OutOfRange,
            Self::NoBlob(_) | Self::NoActionResult(_) | Self::NoAsset(_) | Self::NoUpload(_) => Code::NotFound,
            Self::NotA { .. } | Self::TooLarge { .. } | Self::TreeTooLarge => Code::FailedPrecondition,
            Self::OverQuota { .. } | Self::NoRoom | Self::NoShare | Self::DiskFull(_) => Code::ResourceExhausted,
            Self::Damaged(_) | Self::LostPart(_) => Code::DataLoss,
            Self::UploadBusy(_) | Self::NoMemory | Self::Evicted(_) | Self::Storage(_) => Code::Unavailable,
            Self::Unsupported(_) => Code::Unimplemented,
        }
    }
}

impl From<object_store::Error> for Fault {
    fn from(source: object_store::Error) -> Self {
        match is_disk_full(&source) {
            true => Self::DiskFull(source),
            false => Self::Storage(source),
        }
    }
}

impl From<NoRoom> for Fault {
    fn from(why: NoRoom) -> Self {
        match why {
            NoRoom::Quota => Self::NoRoom,
            NoRoom::Share => Self::NoShare,
        }
    }
}

impl From<Fault> for Status {
    /// The only way from a fault to a caller, and so the place where storage faults are logged.
    fn from(fault: Fault) -> Self {
        static STORAGE: Rarely = Rarely::new();
        static FULL: Rarely = Rarely::new();
        // The disk and whoever calls can repeat it without end.
        match &fault {
            Fault::Storage(source) => {
                if let Some(times) = STORAGE.due() {
                    tracing::error!(error = %source, times, "storage fault");
                }
            }
            Fault::DiskFull(source) => {
                if let Some(times) = FULL.due() {
                    tracing::error!(error = %source, times, "the disk of the store is full");
                }
            }
            _ => {}
        }
        Self::new(fault.code(), fault.to_string())
    }
}

/// Whether the system said ENOSPC or EDQUOT.
fn is_disk_full(error: &object_store::Error) -> bool {
    has_kind(error, &[io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded])
}

/// Whether an error of the system of one of these kinds is behind it.
pub(super) fn has_kind(error: &object_store::Error, kinds: &[io::ErrorKind]) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if kind.is_some_and(|kind| kinds.contains(&kind)) {
            return true;
        }
        next = error.source();
    }
    false
}

/// The caller's input in backticks, cut to a length that fits a trailer.
fn quote(input: &str) -> String {
    format!("`{}`", clip(input))
}

/// The same behind a space; nothing for nothing.
fn named(input: &str) -> String {
    match input {
        "" => String::new(),
        input => format!(" {}", quote(input)),
    }
}

fn clip(input: &str) -> String {
    if input.len() <= QUOTE {
        return input.to_owned();
    }
    let mut end = QUOTE;
    while !input.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &input[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_input_is_cut_at_a_character() {
        let name = "é".repeat(4000);
        let text = Fault::NoAsset(name).to_string();
        assert!(text.len() < 400, "{} bytes", text.len());
        assert!(text.contains('…'));
    }

    #[test]
    fn storage_faults_hide_their_source() {
        let fault = Fault::from(object_store::Error::NotFound {
            path: "/secret/place".to_owned(),
            source: "gone".into(),
        });
        let status = Status::from(fault);
        assert_eq!(status.code(), Code::Unavailable);
        assert!(!status.message().contains("secret"));
    }
}
