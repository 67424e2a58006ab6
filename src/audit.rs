//! The audit log: JSON lines about every push, execution and denial, written by a thread of its own.
//!
//! What changes something has two lines: one that begins it, with all that it names, and one that tells how it ended; both
//! have the call's id. With `audit.on-failure = "refuse"` the last byte of a push goes to a backend only when the line that
//! begins it is in the file, so that nobody can use what has no line. A denial has one line.

mod queue;
mod writer;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::file::OnFailure;

pub use queue::{Audit, Counters, Failing, Place};
pub use writer::Writers;

/// Where to write, and what to do when that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditPlan {
    /// The file; lines are added to what it has.
    pub file: PathBuf,
    /// What becomes of calls that can't be noted.
    pub on_failure: OnFailure,
    /// Whether a line is on the disk before it counts as written, and not only with the kernel.
    pub sync: bool,
}

/// What a line tells of its call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// All of it: denials, and lines of casgate before it wrote two.
    #[default]
    Whole,
    /// That it begins, and what it names. It may take several such lines.
    Begin,
    /// How it ended.
    End,
}

/// One line: what a call changed, or was denied to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Line {
    /// When it was written (RFC 3339, UTC).
    pub time: String,
    /// What it tells of the call.
    #[serde(skip_serializing_if = "is_whole")]
    pub event: Event,
    /// The call's id, which access lines and denials have as well.
    pub call: String,
    /// The client's address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub peer: String,
    /// The certificate; none for anonymous callers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Holder>,
    /// The rule that allowed it; empty for denials.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// `gRPC service/method`, as it was asked for.
    pub method: String,
    /// The instance, where the call names one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// What it is called behind the gate, where that is another name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instance_at_backend: String,
    /// Resource name of an upload.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// Digests that were pushed or executed, as `HASH/SIZE`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<String>,
    /// Names that were pushed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uris: Vec<String>,
    /// The operation, or the session of a worker and the bot's own name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// How many more digests there were, of a call that has changed nothing.
    #[serde(skip_serializing_if = "is_zero")]
    pub more: u64,
    /// Bytes received from the client.
    #[serde(skip_serializing_if = "is_zero")]
    pub received: u64,
    /// The gRPC status that the client got; none where the call has only begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// Why the gate answered itself; empty if the backend did.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How a denial was answered instead of being told: `discarded` or `probe`; empty for all other calls.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub answered: String,
}

impl Line {
    /// Adds what a further line that begins the same call names.
    pub fn absorb(&mut self, further: Line) {
        self.digests.extend(further.digests);
        self.uris.extend(further.uris);
    }

    /// The digest in the resource name, as `HASH/SIZE` (remote_execution.proto, "resource_name").
    pub fn resource_digest(&self) -> Option<String> {
        let mut parts = self.resource.split('/').skip_while(|part| *part != "uploads").skip(2);
        let mut next = parts.next()?;
        if next == "compressed-blobs" {
            parts.next()?;
        }
        next = parts.next()?;
        let is_hash = |text: &str| text.len() >= 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hash(next) {
            // The digest function.
            next = parts.next()?;
        }
        Some(format!("{next}/{}", parts.next()?))
    }
}

/// Who held the certificate of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holder {
    /// Its subject.
    pub subject: String,
    /// Its issuer.
    pub issuer: String,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub sha256: String,
    /// URIs among its names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uris: Vec<String>,
    /// DNS names among its names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
}

/// The time now, as lines have it.
pub fn now() -> String {
    // It fails for years beyond 9999 only.
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}

fn is_whole(event: &Event) -> bool {
    *event == Event::Whole
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_an_upload_is_in_its_name() {
        let hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest = |resource: String| {
            Line {
                resource,
                ..Line::default()
            }
            .resource_digest()
        };
        for resource in [
            format!("uploads/u/blobs/{hash}/7"),
            format!("a/b/uploads/u/blobs/sha256/{hash}/7/meta"),
            format!("a/uploads/u/compressed-blobs/zstd/{hash}/7"),
        ] {
            assert_eq!(digest(resource.clone()), Some(format!("{hash}/7")), "{resource}");
        }
        assert_eq!(digest(format!("blobs/{hash}/7")), None);
    }
}
