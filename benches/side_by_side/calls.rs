//! The calls that are measured, and their answers: made once, sent many times.

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::bytestream::{ReadRequest, ReadResponse, WriteRequest, WriteResponse};
use bytes::Bytes;
use http::Request;
use prost::Message;

use crate::Result;

pub(crate) const MIB: usize = 1024 * 1024;
/// Bytes of a blob in one message of ByteStream.
const PIECE: usize = 64 * 1024;
const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A call, ready to be sent any number of times.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) request: Request<()>,
    pub(crate) body: Bytes,
    /// Bytes of a blob that it moves.
    pub(crate) blob: usize,
}

impl Call {
    /// FindMissingBlobs of ten digests.
    pub(crate) fn find() -> Result<Call> {
        let digest = |number: i64| reapi::Digest {
            hash: HASH.to_owned(),
            size_bytes: 1000 + number,
        };
        let message = reapi::FindMissingBlobsRequest {
            instance_name: "main".to_owned(),
            blob_digests: (0..10).map(digest).collect(),
            ..Default::default()
        };
        let path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs";
        Call::new(path, framed(&message), 0)
    }

    /// ByteStream.Read of a blob of this size.
    pub(crate) fn read(size: usize) -> Result<Call> {
        let message = ReadRequest {
            resource_name: format!("main/blobs/{HASH}/{size}"),
            ..Default::default()
        };
        Call::new("/google.bytestream.ByteStream/Read", framed(&message), size)
    }

    /// ByteStream.Write of a blob of this size.
    pub(crate) fn write(size: usize) -> Result<Call> {
        let mut body = Vec::with_capacity(size + size / 256 + 1024);
        for offset in (0..size).step_by(PIECE) {
            let length = PIECE.min(size - offset);
            let message = WriteRequest {
                resource_name: if offset == 0 {
                    format!("main/uploads/6ba7b810-9dad-11d1-80b4-00c04fd430c8/blobs/{HASH}/{size}")
                } else {
                    String::new()
                },
                write_offset: i64::try_from(offset)?,
                finish_write: offset + length == size,
                data: noise(length),
            };
            body.extend_from_slice(&framed(&message));
        }
        Call::new("/google.bytestream.ByteStream/Write", body.into(), size)
    }

    /// With the headers that Bazel and grpc send.
    fn new(path: &str, body: Bytes, blob: usize) -> Result<Call> {
        let request = Request::post(format!("https://localhost{path}"))
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .header("user-agent", "grpc-c++/1.81.1 grpc-c/55.0.0 (linux; chttp2)")
            .header("grpc-accept-encoding", "identity, deflate, gzip")
            .header(
                "build.bazel.remote.execution.v2.requestmetadata-bin",
                "CgsKBWJhemVsEgI4LjISCGFjdGlvbiAxGiQ2YmE3YjgxMC05ZGFkLTExZDEtODBiNC0wMGMwNGZkNDMwYzg",
            )
            .body(())?;
        Ok(Call { request, body, blob })
    }
}

/// What the null backend answers.
#[derive(Clone)]
pub(crate) struct Answers {
    pub(crate) found: Bytes,
    pub(crate) written: Bytes,
    pub(crate) capabilities: Bytes,
    read: Bytes,
}

impl Answers {
    pub(crate) fn new() -> Answers {
        let missing = |number: i64| reapi::Digest {
            hash: HASH.to_owned(),
            size_bytes: 1000 + number,
        };
        let found = reapi::FindMissingBlobsResponse {
            missing_blob_digests: (0..2).map(missing).collect(),
        };
        let piece = framed(&ReadResponse { data: noise(PIECE) });
        Answers {
            found: framed(&found),
            written: framed(&WriteResponse { committed_size: 0 }),
            capabilities: framed(&reapi::ServerCapabilities::default()),
            read: piece.repeat(4 * MIB / PIECE).into(),
        }
    }

    /// The messages of a blob of this size, in runs that are as long as can be, so that HTTP/2 frames are full.
    pub(crate) fn blob(&self, size: usize) -> impl Iterator<Item = Bytes> {
        let one = self.read.len() / (4 * MIB / PIECE);
        let mut left = size.div_ceil(PIECE) * one;
        std::iter::from_fn(move || {
            let length = left.min(self.read.len());
            left -= length;
            (length > 0).then(|| self.read.slice(..length))
        })
    }
}

/// The size that a read asks for, from its message: the digits behind the last `/`.
pub(crate) fn size_of(message: &[u8]) -> Option<usize> {
    let start = message.iter().rposition(|byte| *byte == b'/')? + 1;
    let digits = message.get(start..)?.split(|byte| !byte.is_ascii_digit()).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A message as gRPC sends it (grpc PROTOCOL-HTTP2, Length-Prefixed-Message).
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0], length.as_slice(), &bytes].concat().into()
}

/// Bytes without a pattern that anything could make use of.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}
