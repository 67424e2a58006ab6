//! What BuildStream 1 is answered: ReferenceStorage by Remote Asset, and no artifact that is not whole.
//!
//! The servers that BuildStream 1 was made for promised that a reference which they return is complete. casd hands out
//! names whose blobs are gone; BuildStream 1 then takes the artifact for uploaded, and every later pull fails.

use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
use bazel_remote_apis::build::bazel::remote::execution::v2::Digest;
use bytes::{Buf, Bytes};

use super::completeness::{self, Known};
use super::message::{frame, framed};
use super::own::{Decoded, Failed, OwnCalls, Status};
use crate::policy::Uris;
use crate::policy::method::{Method, Service};
use crate::reference_storage::{self, GetReferenceResponse, Invalid, StatusResponse};
use crate::route::Completeness;
use crate::status::Rejection;
use crate::wire::{self, Bounded};

/// The longest request of ReferenceStorage, in bytes; real ones have about 200.
pub(super) const LONGEST: usize = 64 * 1024;

/// Answers a call of ReferenceStorage, whose message comes with its prefix and names the instance as Remote Asset's backend
/// calls it.
pub(super) async fn reference_storage(
    calls: &OwnCalls<'_>,
    known: &Known,
    method: Method,
    message: Bytes,
) -> Result<Bytes, Failed> {
    match method {
        Method::GetReference => {
            let request = reference_storage::fetch(read(message)?).map_err(Rejection::from)?;
            let response = fetch(calls, known, names(&request.uris), framed(&request)).await?;
            let digest = response.message.root_directory_digest;
            Ok(framed(&GetReferenceResponse { digest }))
        }
        Method::UpdateReference => {
            let request = reference_storage::push(read(message)?).map_err(Rejection::from)?;
            let uris = names(&request.uris);
            calls
                .unary::<asset::PushDirectoryResponse>(Method::PushDirectory, uris, framed(&request))
                .await?;
            Ok(framed(&()))
        }
        Method::Status => Ok(framed(&StatusResponse {
            allow_updates: calls.may_push() || calls.accepts_probes(),
        })),
        other => Err(Rejection::unknown_method(other.path()).into()),
    }
}

/// Answers a FetchDirectory for an artifact of BuildStream 1; the message comes with its prefix.
pub(super) async fn fetch_directory(
    calls: &OwnCalls<'_>,
    known: &Known,
    uris: Uris,
    message: Bytes,
) -> Result<Bytes, Failed> {
    let response = fetch(calls, known, uris, message).await?;
    Ok(frame(&response.bytes))
}

async fn fetch(
    calls: &OwnCalls<'_>,
    known: &Known,
    uris: Uris,
    request: Bytes,
) -> Result<Decoded<asset::FetchDirectoryResponse>, Failed> {
    let answer = calls
        .unary::<asset::FetchDirectoryResponse>(Method::FetchDirectory, uris, request)
        .await?;
    let response = &answer.message;
    // Some servers say OK, and NOT_FOUND within the message (remote_asset.proto allows it). BuildStream 1 does not look
    // there.
    if let Some(status) = &response.status
        && status.code != 0
    {
        return Err(Failed::Status(Status {
            code: u8::try_from(status.code).unwrap_or(crate::status::Code::Unknown as u8),
            message: status.message.clone(),
        }));
    }
    let digest = response.root_directory_digest.as_ref();
    let digest: &Digest = digest
        .filter(|digest| reference_storage::is_digest(&digest.hash, digest.size_bytes))
        .ok_or_else(|| Failed::Status(Status::not_found("the name has no directory")))?;
    if calls.way(Service::Asset)?.route.completeness != Completeness::Trust {
        completeness::check(calls, known, digest).await?;
    }
    Ok(answer)
}

/// The names that a request became, which are judged as if the caller had asked for them itself.
fn names(uris: &[String]) -> Uris {
    Uris::of(uris.iter().map(String::as_str))
}

/// The message of a request, whose reader has seen that it is whole and the only one.
fn read<M: Bounded>(mut framed: Bytes) -> Result<M, Rejection> {
    framed.advance(framed.len().min(5));
    wire::decode(framed).map_err(|_| Rejection::Reference(Invalid::Malformed))
}
