//! Denied pushes that a rule wants answered kindly: `on-denied-push = "discard"` and `push-probe = "accept"`.
//!
//! There is no permit here, so nothing of such a call can reach a backend; what it brings is thrown away while it is read.
//! What is kept of it, to answer it, is bounded for the call and for its connection: its caller has no rights.

mod batch;

use std::future::poll_fn;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use bazel_remote_apis::google::bytestream::{QueryWriteStatusResponse, WriteResponse};

use super::answer::Answer;
use super::body::Upload;
use super::message::{frame, framed};
use super::own::Status;
use super::record::Record;
use super::right::Held;
use super::subject::Subject;
use super::verdict;
use crate::connection::{Caller, Share};
use crate::policy::kindness::Kindly;
use crate::policy::method::{Method, ResourceKind};
use crate::policy::{Scope, resource};
use crate::status::Rejection;
use crate::wire::fields::fields;

/// The longest UpdateActionResult that is answered kindly, in bytes: what gRPC servers take of one message by default.
const LONGEST_ACTION_RESULT: usize = 4 << 20;

/// A denied call, and how it is to be answered.
pub(super) struct Kind<'a> {
    /// Whose call it is.
    pub(super) caller: &'a Arc<Caller>,
    /// The method.
    pub(super) method: Method,
    /// The instance.
    pub(super) scope: Scope,
    /// How.
    pub(super) kindly: Kindly,
    /// The denial.
    pub(super) denial: Rejection,
}

/// An answer, and what the call was about.
struct Found {
    answer: Result<Bytes, Status>,
    subject: Subject,
}

impl Kind<'_> {
    /// Answers; gives the status.
    ///
    /// # Errors
    /// The denial, where the request turns out to be none that is answered kindly; or what is wrong with it.
    pub(super) async fn answer(
        self,
        upload: &mut Upload,
        answer: &mut Answer,
        record: &mut Record,
        held: &mut Held,
    ) -> Result<u8, Rejection> {
        // Until the answer is out: its client may take its time.
        let mut share = self.caller.kept.share();
        let found = tokio::select! {
            biased;
            rejection = held.lost_kindness(self.method, &self.scope, &self.denial) => Err(rejection),
            () = poll_fn(|cx| answer.poll_closed(cx)) => Err(Rejection::Cancelled),
            found = find(self.method, self.kindly, upload, &mut share) => found,
        };
        record.received(upload.received());
        let Some(Found { answer: found, subject }) = found? else {
            return Err(self.denial);
        };
        record.kindly(&self.denial, self.kindly);
        record.subject(subject);
        if let Ok(message) = &found {
            record.sent(message.len());
            // What it was made of is gone.
            answer.prepay(share.settle(message.len()));
        }
        let code = answer.message(found).await;
        drop(share);
        code
    }
}

/// Reads as much of the request as the answer needs; `None` where it is to be denied.
async fn find(
    method: Method,
    kindly: Kindly,
    upload: &mut Upload,
    share: &mut Share<'_>,
) -> Result<Option<Found>, Rejection> {
    let answer = match method {
        Method::BatchUpdateBlobs => return batch::find(kindly, upload, share).await,
        Method::Write | Method::QueryWriteStatus => Ok(uploaded(method, upload.name()?)?),
        Method::UpdateActionResult => {
            let Some(message) = whole(upload, share).await? else {
                return Ok(None);
            };
            match only_message(message.get(5..).unwrap_or_default(), 3) {
                Some(action_result) => Ok(frame(action_result)),
                None => return Ok(None),
            }
        }
        Method::PushBlob | Method::PushDirectory => {
            let (code, message) = verdict::kind_status(method, kindly);
            Err(Status {
                code: code as u8,
                message: message.to_owned(),
            })
        }
        _ => return Ok(None),
    };
    let subject = Subject::default();
    Ok(Some(Found { answer, subject }))
}

/// The answer to an upload of which nothing more is wanted, as if another client had brought the blob meanwhile: its size,
/// and -1 for a compressed one, as nobody knows how many bytes of it would have come (remote_execution.proto, comment of
/// `service ContentAddressableStorage`).
fn uploaded(method: Method, name: &str) -> Result<Bytes, Rejection> {
    let resource = resource::read(name, ResourceKind::Write)?;
    let committed_size = if resource.is_compressed { -1 } else { resource.size };
    Ok(match method {
        Method::QueryWriteStatus => framed(&QueryWriteStatusResponse {
            committed_size,
            complete: true,
        }),
        _ => framed(&WriteResponse { committed_size }),
    })
}

/// The only message of a call, with its prefix; `None` where it is too long.
async fn whole(upload: &mut Upload, share: &mut Share<'_>) -> Result<Option<BytesMut>, Rejection> {
    let mut message = BytesMut::new();
    while let Some(chunk) = upload.pass().await? {
        let length = message.len() + chunk.len();
        // Twice: it grows by copying, and the answer is a copy.
        if length > LONGEST_ACTION_RESULT || !share.grow(2 * length) {
            return Ok(None);
        }
        message.extend_from_slice(&chunk);
    }
    Ok(Some(message))
}

/// The content of the one field with this number, which holds a message. It is not decoded: in memory, an action result may
/// be a hundred times as large as it came.
fn only_message(message: &[u8], wanted: u32) -> Option<&[u8]> {
    let mut found = None;
    for field in fields(message) {
        let field = field.ok()?;
        if field.number == wanted && found.replace(field.content?).is_some() {
            return None;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    #![expect(clippy::disallowed_methods, reason = "it reads what it wrote")]
    use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    #[test]
    fn the_action_result_is_taken_as_it_came() {
        let action_result = reapi::ActionResult {
            exit_code: 7,
            ..Default::default()
        };
        let request = reapi::UpdateActionResultRequest {
            instance_name: "main".into(),
            action_digest: Some(reapi::Digest::default()),
            action_result: Some(action_result.clone()),
            ..Default::default()
        };
        let mut bytes = request.encode_to_vec();
        assert_eq!(only_message(&bytes, 3), Some(&action_result.encode_to_vec()[..]));
        // Parsers make one of two.
        bytes.extend_from_slice(b"\x1a\x00");
        assert_eq!(only_message(&bytes, 3), None);
        for bad in [&b"\x1a\x05x"[..], b"\x18\x01", b"\x1b", b"\xff", b""] {
            assert_eq!(only_message(bad, 3), None, "{bad:?}");
        }
    }

    #[test]
    fn uploads_are_complete_before_they_begin() {
        let hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let name = |kind: &str| format!("a/uploads/u/{kind}/{hash}/12");
        let written = |name: &str| WriteResponse::decode(&uploaded(Method::Write, name).unwrap()[5..]).unwrap();
        assert_eq!(written(&name("blobs")).committed_size, 12);
        assert_eq!(written(&name("compressed-blobs/zstd")).committed_size, -1);
        let status = uploaded(Method::QueryWriteStatus, &name("blobs")).unwrap();
        let status = QueryWriteStatusResponse::decode(&status[5..]).unwrap();
        assert!(status.complete && status.committed_size == 12);
        assert!(uploaded(Method::Write, "blobs/x/1").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _found = only_message(&bytes, 3);
        }
    }
}
