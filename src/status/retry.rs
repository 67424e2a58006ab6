//! When a client may try again, as gRPC carries it.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bazel_remote_apis::google::protobuf::Any;
use bazel_remote_apis::google::rpc::Status;
use prost::Message;

use super::Code;

/// google/rpc/error_details.proto, `RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    /// At least so long after the answer.
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// The value of `grpc-status-details-bin`: a `google.rpc.Status` with a `RetryInfo`, in base64 without padding (grpc
/// PROTOCOL-HTTP2, "Binary-Header").
pub(super) fn details(code: Code, message: &str, after: Duration) -> String {
    let info = RetryInfo {
        // Of any length that there is.
        retry_delay: prost_types::Duration::try_from(after).ok(),
    };
    let status = Status {
        code: i32::from(code as u8),
        message: message.to_owned(),
        details: vec![Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: info.encode_to_vec(),
        }],
    };
    STANDARD_NO_PAD.encode(status.encode_to_vec())
}
