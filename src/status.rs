//! Everything that the gate itself answers instead of a backend: one closed enum, with the gRPC code, the text that the
//! client's user will read, and the label under which it is counted.

mod retry;

use std::fmt;
use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::policy::identity::{Identity, printable};
use crate::policy::instance::InvalidInstance;
use crate::policy::method::Service;
use crate::policy::resource::InvalidResource;
use crate::policy::rights::Right;
use crate::policy::{Because, Denial};
use crate::proxy::prefix::Refusal;

/// The gRPC status codes that the gate uses (grpc doc/statuscodes.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// Not an error.
    Ok = 0,
    /// The client went away.
    Cancelled = 1,
    /// The backend answered with something that is no gRPC.
    Unknown = 2,
    /// The request can't be understood; trying again does not help.
    InvalidArgument = 3,
    /// What was asked for is not there.
    NotFound = 5,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// The method is not known here.
    Unimplemented = 12,
    /// The backend, or the way to it, failed; trying again may help.
    Unavailable = 14,
}

/// The names of the codes 0 to 16, as metrics spell them (grpc doc/statuscodes.md, in the form of go-grpc-prometheus).
pub const CODE_NAMES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// An answer that the gate gives by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The path is not in the method table.
    #[error("`{path}` is not served here")]
    UnknownMethod {
        /// The path, made safe to print.
        path: String,
    },
    /// No route leads to a backend for the service.
    #[error("no backend here serves {}", .0.name())]
    NoBackend(Service),
    /// Routes lead to backends for the service, but none for the instance.
    #[error("no backend here serves {} for this instance: set another instance name", .0.name())]
    NoRoute(Service),
    /// The policy denies the call.
    #[error("{}", denial_text(.0, .1))]
    Denied(Identity, Denial),
    /// The certificate's validity ended while the connection was open.
    #[error("{0} has expired: renew it and connect again")]
    Expired(Identity),
    /// After a reload the certificate is not accepted any more.
    #[error("{0} is not accepted any more: {1}")]
    Withdrawn(Identity, String),
    /// The first message can't be read.
    #[error("{0}")]
    Unreadable(#[from] Refusal),
    /// The instance name breaks the grammar.
    #[error("{0}")]
    Instance(#[from] InvalidInstance),
    /// The resource name breaks the grammar.
    #[error("{0}")]
    Resource(#[from] InvalidResource),
    /// The backend could not be reached, or broke off.
    #[error("backend `{backend}` is not available: {reason}")]
    Unavailable {
        /// Its name in the configuration.
        backend: String,
        /// What happened.
        reason: String,
    },
    /// The backend answered, but not as a gRPC server does.
    #[error("backend `{backend}` did not answer as a gRPC server: {reason}")]
    NotGrpc {
        /// Its name in the configuration.
        backend: String,
        /// What it answered.
        reason: String,
        /// What the gRPC mapping of HTTP statuses makes of it.
        code: Code,
    },
    /// A request of BuildStream 1 that no BuildStream sends.
    #[error("{0}")]
    Reference(#[from] crate::reference_storage::Invalid),
    /// A directory tree is larger than the gate walks.
    #[error("the artifact has a directory tree that is too large to be checked: {0}")]
    TooLarge(&'static str),
    /// Nothing may be changed while the audit log can't be written.
    #[error("{0}")]
    Audit(#[from] crate::audit::Failing),
    /// The caller takes more than it may at a time; it may try again after so long.
    #[error("{0} {1}: try again in {seconds:.1} s", seconds = .2.as_secs_f64().max(0.1))]
    Limited(Identity, Excess, Duration),
    /// What may be kept for the caller is used up.
    #[error(
        "casgate keeps as much in memory for this caller as it may (limits.memory): try again when other calls of it have ended, or with fewer at a time"
    )]
    Memory,
    /// The client took nothing of its answer for too long, and was reset.
    #[error("the client took nothing of its answer for as long as `limits.stall-timeout`")]
    Stalled,
    /// The client sent nothing of its request for too long, and was given up.
    #[error("the client sent nothing of its request for as long as `limits.stall-timeout`")]
    Silent,
    /// A watch of the health whose connection did nothing else for too long.
    #[error("this connection is closed, since it has done nothing for long: watch again on another one")]
    Idle,
    /// The request has more metadata than is taken. Not RESOURCE_EXHAUSTED, which other servers use for it: BuildStream takes
    /// that for a cache that is full, or for a blob that is there already; and to try again does not help.
    #[error("the metadata of this call (HTTP/2 header fields) has more than 16 KiB: send shorter headers or tokens")]
    LargeHeaders,
    /// The fields of the request build on others that were too large to be read.
    #[error("the metadata of an earlier call was too large, and this connection is closed for it: call again")]
    UnreadableHeaders,
    /// The client reset the stream or closed the connection.
    #[error("the client cancelled the call")]
    Cancelled,
}

/// Of what a caller takes more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Calls in a time.
    Rate,
    /// Calls that are open at once by a rule.
    Calls,
    /// Calls that are open at once, by all rules.
    CallsOfCertificate,
    /// Watches of the health that are open on a connection.
    Watches,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Excess::Rate => "makes calls faster than it may here",
            Excess::Calls => "has more calls open than it may here",
            Excess::CallsOfCertificate => "has as many calls open as anybody may here",
            Excess::Watches => "has as many watches of the health open as a connection may here",
        })
    }
}

impl Rejection {
    /// A denial for this caller.
    pub fn denied(identity: &Identity, denial: Denial) -> Rejection {
        Rejection::Denied(identity.clone(), denial)
    }

    /// A call for a path that is in no table.
    pub fn unknown_method(path: &str) -> Rejection {
        Rejection::UnknownMethod { path: printable(path) }
    }

    /// The gRPC code.
    pub fn code(&self) -> Code {
        match self {
            Rejection::UnknownMethod { .. }
            | Rejection::NoBackend(_)
            | Rejection::Unreadable(Refusal::Compressed)
            | Rejection::Resource(InvalidResource::Legacy) => Code::Unimplemented,
            Rejection::Denied(..) | Rejection::Expired(_) | Rejection::Withdrawn(..) => Code::PermissionDenied,
            // As servers answer for an instance that they do not have.
            Rejection::NoRoute(_)
            | Rejection::Unreadable(_)
            | Rejection::Instance(_)
            | Rejection::Resource(_)
            | Rejection::LargeHeaders
            | Rejection::Reference(_) => Code::InvalidArgument,
            Rejection::TooLarge(_) => Code::Unknown,
            // Never RESOURCE_EXHAUSTED: BuildStream takes that for a cache that is full, or for a blob that is there already.
            Rejection::Unavailable { .. }
            | Rejection::Audit(_)
            | Rejection::Limited(..)
            | Rejection::UnreadableHeaders
            | Rejection::Idle
            | Rejection::Memory => Code::Unavailable,
            Rejection::NotGrpc { code, .. } => *code,
            Rejection::Stalled | Rejection::Silent | Rejection::Cancelled => Code::Cancelled,
        }
    }

    /// The name of the reason in metrics and access lines.
    pub fn label(&self) -> &'static str {
        match self {
            Rejection::UnknownMethod { .. } => "unknown-method",
            Rejection::NoBackend(_) => "no-backend",
            Rejection::NoRoute(_) => "no-route",
            Rejection::Denied(_, denial) => match denial.because {
                Because::NoRule => "no-rule",
                Because::NoRight => "no-right",
                Because::Forbidden(_) => "forbidden",
                Because::NotOnInstance(_) => "not-on-instance",
                Because::InstanceUnknown => "instance-unknown",
                Because::NotForUri(_) => "not-for-uri",
                Because::Ambiguous(_) => "ambiguous",
                Because::Moved => "instance-moved",
            },
            Rejection::Expired(_) => "expired",
            Rejection::Withdrawn(..) => "withdrawn",
            Rejection::Unreadable(_) => "unreadable-request",
            Rejection::Instance(_) => "invalid-instance",
            Rejection::Resource(_) => "invalid-resource",
            Rejection::Reference(_) => "invalid-reference",
            Rejection::TooLarge(_) => "too-large",
            Rejection::Audit(_) => "audit-failing",
            Rejection::Unavailable { .. } => "unavailable",
            Rejection::NotGrpc { .. } => "not-grpc",
            Rejection::Limited(_, Excess::Rate, _) => "over-rate",
            Rejection::Limited(_, Excess::Calls, _) => "over-max-calls",
            Rejection::Limited(_, Excess::CallsOfCertificate, _) => "over-calls-per-certificate",
            Rejection::Limited(_, Excess::Watches, _) => "over-watches",
            Rejection::Idle => "idle",
            Rejection::LargeHeaders => "large-headers",
            Rejection::UnreadableHeaders => "unreadable-headers",
            Rejection::Memory => "over-memory",
            Rejection::Stalled => "stalled",
            Rejection::Silent => "silent",
            Rejection::Cancelled => "cancelled",
        }
    }

    /// Whether the caller was denied something.
    pub fn is_denial(&self) -> bool {
        self.code() == Code::PermissionDenied
    }

    /// The value of `grpc-status-details-bin`, which tells when to try again, where the gate knows that.
    pub fn details(&self) -> Option<String> {
        let Rejection::Limited(_, _, after) = self else {
            return None;
        };
        Some(retry::details(self.code(), &self.to_string(), *after))
    }

    /// The text as a `grpc-message` carries it: UTF-8, percent-encoded (grpc PROTOCOL-HTTP2, "Responses"). A denial names
    /// its call, so that its user can ask the administrator about it.
    pub fn grpc_message(&self, call: impl fmt::Display) -> String {
        if self.is_denial() {
            encode_message(&format!("{self} (call {call})"))
        } else {
            encode_message(&self.to_string())
        }
    }
}

/// Percent-encodes a text for `grpc-message`, cut at 2 KiB: BuildStream 1 accepts 8 KiB of headers in all.
pub fn encode_message(text: &str) -> String {
    const ENCODED: &AsciiSet = &CONTROLS.add(b'%');
    const LONGEST: usize = 2048;
    let mut encoded = String::new();
    for letter in text.chars() {
        let whole = encoded.len();
        encoded.extend(utf8_percent_encode(letter.encode_utf8(&mut [0; 4]), ENCODED));
        if encoded.len() > LONGEST {
            encoded.truncate(whole);
            break;
        }
    }
    encoded
}

fn denial_text(identity: &Identity, denial: &Denial) -> String {
    let (verb, advice) = match denial.right {
        Right::Pull => ("pull", "ask the administrator of this cache for the right to pull"),
        Right::CasPush | Right::ActionPush | Right::AssetPush => (
            "push",
            "set `push: false` for this remote (BuildStream) or `--remote_upload_local_results=false` (Bazel)",
        ),
        Right::Execute => ("run actions", "unset the remote executor"),
        Right::Worker => ("work for this server", "ask its administrator for the right `worker`"),
        Right::Events => ("publish build events", "unset the build event service"),
        Right::FetchRemote => (
            "let the server fetch URIs other than `urn:`",
            "ask the administrator of this cache for the right `fetch-remote`",
        ),
        Right::Admin => (
            "manage operations",
            "ask the administrator of this server for the right `admin`",
        ),
    };
    let place = match &denial.because {
        Because::NotOnInstance(name) if name.as_str().is_empty() => {
            " on the instance with the empty name: set another instance name, or".to_owned()
        }
        Because::NotOnInstance(name) => {
            format!(
                " on instance `{}`: set another instance name, or",
                printable(name.as_str())
            )
        }
        Because::NotForUri(uri) => format!(" here for the URI `{uri}`;"),
        Because::InstanceUnknown => " by a name that does not tell its instance:".to_owned(),
        Because::Ambiguous(_) => {
            " here, since its names fit a rule about instances only in part: show a certificate with one name, or"
                .to_owned()
        }
        Because::Moved => {
            " there any more, since the instance has another name at the server now: try again, or".to_owned()
        }
        Because::NoRule | Because::NoRight | Because::Forbidden(_) => " here;".to_owned(),
    };
    match identity {
        Identity::Certificate(_) => format!("{identity} may not {verb}{place} {advice}"),
        Identity::Anonymous => {
            format!(
                "callers without a client certificate may not {verb}{place} show a certificate that may, or {advice}"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::identity::Certificate;

    fn dev() -> Identity {
        Identity::Certificate(Box::new(Certificate {
            common_names: vec!["dev".into()],
            ..Certificate::default()
        }))
    }

    #[test]
    fn a_denied_push_names_the_certificate_and_the_remedy() {
        let rejection = Rejection::denied(
            &dev(),
            Denial {
                right: Right::CasPush,
                because: Because::NoRight,
            },
        );
        assert_eq!(rejection.code(), Code::PermissionDenied);
        let text = rejection.to_string();
        assert!(
            text.starts_with("certificate `CN=dev` may not push here; set `push: false` for this remote"),
            "{text}"
        );
    }

    #[test]
    fn texts_are_encoded_and_bounded() {
        assert_eq!(encode_message("100 % größer\n"), "100 %25 gr%C3%B6%C3%9Fer%0A");
        // Cut between characters, of which this one has six bytes when encoded.
        assert_eq!(encode_message(&"ü".repeat(5000)).len(), 2046);
        assert_eq!(encode_message(&"x".repeat(5000)).len(), 2048);
        let rejection = Rejection::unknown_method(&format!("/\n{}", "x".repeat(9000)));
        assert!(rejection.grpc_message("1").len() < 400);
    }

    #[test]
    fn a_known_certificate_is_never_told_to_authenticate() {
        for code in [Code::Ok, Code::Unavailable, Code::PermissionDenied] {
            assert_ne!(code as u8, 16);
        }
        assert_eq!(
            CODE_NAMES.get(Code::PermissionDenied as usize),
            Some(&"PermissionDenied")
        );
        assert_eq!(CODE_NAMES.get(Code::Unavailable as usize), Some(&"Unavailable"));
        assert_eq!(CODE_NAMES.get(Code::Unimplemented as usize), Some(&"Unimplemented"));
    }
}
