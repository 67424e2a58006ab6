//! GetCapabilities told truly: what a server announces is cut down to what this caller may do, so that clients do not
//! try what will be refused.
//!
//! The answer is edited on the wire, field by field (field numbers: remote_execution.proto, `ServerCapabilities` and
//! `CacheCapabilities`), so that fields which are newer than this program stay as they are.

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine, alphabet};
use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint};

use bazel_remote_apis::build::bazel::remote::execution::v2::{CacheCapabilities, RequestMetadata};

use super::message;
use crate::wire;
use crate::wire::fields::fields;

/// The longest GetCapabilities answer that is read, in bytes; real ones have about 100.
pub const LONGEST: usize = 64 * 1024;

/// What a caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// What of it is left, by the caller's rights.
    pub may: May,
    /// What stands in the place of a `max_batch_total_size_bytes` of 0, in bytes: 0 means no limit, but the messages of
    /// the backend have one that clients can't know.
    pub max_batch_total_size: u64,
}

/// What a caller may do of what an answer announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct May {
    /// Write action results.
    pub action_push: bool,
    /// Write blobs.
    pub cas_push: bool,
    /// Run actions.
    pub execute: bool,
}

/// An answer that is not what remote_execution.proto says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the capabilities that the backend announces can't be read")]
pub struct Unreadable;

/// Whether `update_enabled` must stay for this client: Bazel before 6 fails the build when it is not set, even if it
/// only wants to read. Takes the value of the header `build.bazel.remote.execution.v2.requestmetadata-bin`.
///
/// A Bazel that does not tell its version, as Debian's 4.2.3, counts as one before 6: told of a right that it lacks, a
/// newer one prints a warning, but an older one that is told the truth fails.
pub fn client_fails_without_update(metadata: Option<&[u8]>) -> bool {
    let Some(details) = metadata
        .and_then(|bytes| wire::decode::<RequestMetadata>(bytes.to_vec()).ok())
        .and_then(|metadata| metadata.tool_details)
    else {
        return false;
    };
    let major = details
        .tool_version
        .split(['.', '-', ' '])
        .next()
        .and_then(|text| text.parse::<u32>().ok());
    details.tool_name == "bazel" && major.is_none_or(|major| major < 6)
}

/// The value of a `-bin` header: base64, with or without padding (grpc PROTOCOL-HTTP2, "Requests").
pub fn decode_binary(value: &[u8]) -> Option<Vec<u8>> {
    const EITHER: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    EITHER.decode(value).ok()
}

/// The gRPC message of an answer, edited.
///
/// # Errors
/// When the bytes are not one uncompressed gRPC message that holds `ServerCapabilities`.
pub fn tell(answer: &[u8], told: Told) -> Result<Bytes, Unreadable> {
    let may = told.may;
    let mut rest = BytesMut::from(answer);
    let message = message::take(&mut rest).ok().flatten().ok_or(Unreadable)?;
    if !rest.is_empty() {
        return Err(Unreadable);
    }
    // ServerCapabilities: 1 cache_capabilities, 2 execution_capabilities
    let edited = edit(&message, &|number, value| match number {
        1 => cache(value, told).map(Edit::Replace),
        2 if !may.execute => Ok(Edit::Drop),
        _ => Ok(Edit::Keep),
    })?;
    Ok(message::frame(&edited))
}

/// CacheCapabilities: 2 action_cache_update_capabilities (whose 1 is update_enabled), 4 max_batch_total_size_bytes,
/// 10 splice_blob_support.
fn cache(message: &[u8], told: Told) -> Result<Bytes, Unreadable> {
    let may = told.may;
    let edited = edit(message, &|number, value| match number {
        2 if !may.action_push => edit(value, &|number, _| {
            Ok(if number == 1 { Edit::Drop } else { Edit::Keep })
        })
        .map(Edit::Replace),
        10 if !may.cas_push => Ok(Edit::Drop),
        _ => Ok(Edit::Keep),
    })?;
    let announced: CacheCapabilities = wire::decode(message.to_vec()).map_err(|_| Unreadable)?;
    if announced.max_batch_total_size_bytes != 0 {
        return Ok(edited);
    }
    // Of a field that is there twice the last one counts.
    let mut edited = BytesMut::from(edited);
    encode_key(4, WireType::Varint, &mut edited);
    encode_varint(told.max_batch_total_size, &mut edited);
    Ok(edited.freeze())
}

type Decide<'a> = dyn Fn(u32, &[u8]) -> Result<Edit, Unreadable> + 'a;

enum Edit {
    Keep,
    Drop,
    Replace(Bytes),
}

/// Copies a message field by field. `decide` gets the content of length-delimited fields, and nothing of the others.
fn edit(message: &[u8], decide: &Decide<'_>) -> Result<Bytes, Unreadable> {
    let mut edited = BytesMut::with_capacity(message.len());
    for field in fields(message) {
        let field = field.map_err(|_| Unreadable)?;
        match decide(field.number, field.content.unwrap_or_default())? {
            Edit::Keep => edited.put_slice(field.raw),
            Edit::Drop => {}
            Edit::Replace(new) => {
                encode_key(field.number, WireType::LengthDelimited, &mut edited);
                encode_varint(new.len() as u64, &mut edited);
                edited.put(new);
            }
        }
    }
    Ok(edited.freeze())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    #![expect(clippy::disallowed_methods, reason = "it reads what it wrote")]
    use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
    use prost::Message as _;

    use super::*;

    fn announced() -> reapi::ServerCapabilities {
        reapi::ServerCapabilities {
            cache_capabilities: Some(CacheCapabilities {
                digest_functions: vec![1],
                action_cache_update_capabilities: Some(reapi::ActionCacheUpdateCapabilities { update_enabled: true }),
                max_batch_total_size_bytes: 4_000_000,
                splice_blob_support: true,
                ..Default::default()
            }),
            execution_capabilities: Some(reapi::ExecutionCapabilities {
                exec_enabled: true,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn limited(may: May) -> Told {
        Told {
            may,
            max_batch_total_size: 1000,
        }
    }

    fn told(message: &[u8], may: May) -> reapi::ServerCapabilities {
        let bytes = tell(&message::frame(message), limited(may)).unwrap();
        reapi::ServerCapabilities::decode(&bytes[5..]).unwrap()
    }

    const ALL: May = May {
        action_push: true,
        cas_push: true,
        execute: true,
    };
    const NONE: May = May {
        action_push: false,
        cas_push: false,
        execute: false,
    };

    #[test]
    fn a_caller_is_told_what_it_may_do_and_nothing_else_changes() {
        let announced = announced();
        let bytes = announced.encode_to_vec();
        assert_eq!(told(&bytes, ALL), announced);

        let mut expected = announced;
        expected.execution_capabilities = None;
        let cache = expected.cache_capabilities.as_mut().unwrap();
        cache.action_cache_update_capabilities = Some(reapi::ActionCacheUpdateCapabilities { update_enabled: false });
        cache.splice_blob_support = false;
        assert_eq!(told(&bytes, NONE), expected);
    }

    #[test]
    fn no_limit_becomes_the_limit_of_messages_and_another_limit_stays() {
        let mut announced = announced();
        let limit = |announced: &reapi::ServerCapabilities| {
            let told = told(&announced.encode_to_vec(), ALL);
            told.cache_capabilities.unwrap().max_batch_total_size_bytes
        };
        assert_eq!(limit(&announced), 4_000_000);
        let cache = announced.cache_capabilities.as_mut().unwrap();
        cache.max_batch_total_size_bytes = 0;
        assert_eq!(limit(&announced), 1000);
    }

    #[test]
    fn fields_of_the_future_stay() {
        let mut bytes = announced().encode_to_vec();
        bytes.extend_from_slice(b"\xa2\x06\x03new\x98\x06\x07");
        let edited = tell(&message::frame(&bytes), limited(NONE)).unwrap();
        assert!(edited.ends_with(b"\xa2\x06\x03new\x98\x06\x07"));
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_not_passed_on() {
        for bytes in [
            &b""[..],
            b"\0\0\0\0\x01",
            b"\x01\0\0\0\0",
            b"\0\0\0\0\x02\x0a\x05",
            b"\0\0\0\0\x01\x0b",
        ] {
            assert_eq!(tell(bytes, limited(NONE)), Err(Unreadable));
        }
    }

    #[test]
    fn only_bazel_before_6_keeps_update_enabled() {
        let metadata = |name: &str, version: &str| {
            RequestMetadata {
                tool_details: Some(reapi::ToolDetails {
                    tool_name: name.into(),
                    tool_version: version.into(),
                }),
                ..Default::default()
            }
            .encode_to_vec()
        };
        assert!(client_fails_without_update(Some(&metadata(
            "bazel",
            "4.2.3- (@non-git)"
        ))));
        assert!(client_fails_without_update(Some(&metadata("bazel", "5.4.1"))));
        assert!(client_fails_without_update(Some(&metadata("bazel", ""))));
        for (name, version) in [("bazel", "6.0.0"), ("bazel", "10.1"), ("recc", "1.0"), ("", "")] {
            assert!(
                !client_fails_without_update(Some(&metadata(name, version))),
                "{name} {version}"
            );
        }
        assert!(!client_fails_without_update(None));
        assert!(!client_fails_without_update(Some(b"\xff\xff")));
    }
}
