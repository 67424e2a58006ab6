//! gRPC messages and REAPI requests.

use bytes::{Bytes, BytesMut};
use casgate::policy::method::{InstanceIn, Method, ResourceKind};
use prost::Message;

use bazel_remote_apis::google::bytestream::WriteRequest;

/// SHA-256 of nothing.
pub(crate) const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Bytes as one gRPC message (grpc PROTOCOL-HTTP2, Length-Prefixed-Message).
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::from(&[0][..]);
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(message);
    framed.freeze()
}

/// A string field of a protobuf message.
pub(crate) fn string(number: u32, text: &str) -> Vec<u8> {
    let mut field = Vec::new();
    prost::encoding::string::encode(number, &text.to_owned(), &mut field);
    field
}

/// The first message of a call of this method on an instance.
pub(crate) fn request(method: Method, instance: &str) -> Bytes {
    match method.instance_in() {
        InstanceIn::Field(_) if instance.is_empty() => frame(b""),
        InstanceIn::Field(number) => frame(&string(number, instance)),
        InstanceIn::ResourceName(ResourceKind::Read) => frame(&string(1, &blob(instance))),
        InstanceIn::ResourceName(ResourceKind::Write) => frame(&string(1, &upload(instance))),
        InstanceIn::Unknown => frame(&string(1, "operations/7")),
    }
}

/// The resource name of a blob.
pub(crate) fn blob(instance: &str) -> String {
    format!("{}blobs/{HASH}/0", prefix(instance))
}

/// The resource name of an upload.
pub(crate) fn upload(instance: &str) -> String {
    format!(
        "{}uploads/7e0e2c0c-0000-4000-8000-000000000000/blobs/{HASH}/0",
        prefix(instance)
    )
}

/// A message of an upload with so many bytes.
pub(crate) fn write(size: usize) -> Bytes {
    let message = WriteRequest {
        resource_name: upload(""),
        data: vec![b'x'; size],
        ..Default::default()
    };
    frame(&message.encode_to_vec())
}

fn prefix(instance: &str) -> String {
    match instance {
        "" => String::new(),
        name => format!("{name}/"),
    }
}
