//! BuildStream 1: its `buildstream.v2.ReferenceStorage`, spoken on top of Remote Asset.
//!
//! BuildStream 1.2 to 1.4 know no other index; 1.5 and 1.6 fall back to it. No REAPI server has it any more. The names
//! under which 1.6 keeps its artifacts in Remote Asset are used here, so that all of 1.2 to 1.6 share them. Messages and
//! names are those of apache/buildstream 1.6.8, `buildstream/v2/buildstream.proto` and `_artifactcache/cascache.py`.

use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
use bazel_remote_apis::build::bazel::remote::execution::v2::Digest;

use crate::wire::Kept::{Bytes, Strings};
use crate::wire::shapes::{FEW, bounded, digest};

/// What stands before a key in the URN under which BuildStream 1.6 keeps an artifact.
pub const URN_PREFIX: &str = "urn:fdc:buildstream.build:2020:v1:";

/// Keys in one UpdateReference at most; BuildStream sends one, or the strong and the weak key.
const MOST_KEYS: usize = 64;

/// `GetReferenceRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetReferenceRequest {
    /// The instance; BuildStream leaves it empty.
    #[prost(string, tag = "1")]
    pub instance_name: String,
    /// The name of the reference.
    #[prost(string, tag = "2")]
    pub key: String,
}

/// `GetReferenceResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetReferenceResponse {
    /// The root directory.
    #[prost(message, optional, tag = "1")]
    pub digest: Option<Digest>,
}

/// `UpdateReferenceRequest`; its answer is empty.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateReferenceRequest {
    /// The instance; BuildStream leaves it empty.
    #[prost(string, tag = "1")]
    pub instance_name: String,
    /// The names of the reference.
    #[prost(string, repeated, tag = "2")]
    pub keys: Vec<String>,
    /// The root directory.
    #[prost(message, optional, tag = "3")]
    pub digest: Option<Digest>,
}

bounded! {
    GET_REFERENCE: GetReferenceRequest, FEW, [(1, Bytes), (2, Bytes)];
    UPDATE_REFERENCE: UpdateReferenceRequest, FEW, [(1, Bytes), (2, Strings), digest(3)];
}

/// `StatusResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusResponse {
    /// Whether the caller may push.
    #[prost(bool, tag = "1")]
    pub allow_updates: bool,
}

/// A request that no BuildStream sends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The bytes are not the message of the method.
    #[error("the request is malformed")]
    Malformed,
    /// No key, or a great many.
    #[error("a reference needs between 1 and {MOST_KEYS} keys")]
    Keys,
    /// A key that is no name of an artifact.
    #[error("the key is not `PROJECT/ELEMENT/CACHE-KEY`, with a cache key of 64 hexadecimal digits")]
    Key,
    /// No digest, or one that is none of SHA-256.
    #[error("the digest of the reference is not one of SHA-256")]
    Digest,
}

/// The URN of a key.
///
/// # Errors
/// When it is no key of BuildStream: project and element of letters, digits, `-`, `.` and `_`, and 64 hexadecimal
/// digits.
pub fn urn(key: &str) -> Result<String, Invalid> {
    let parts: Vec<&str> = key.split('/').collect();
    let is_name = |name: &str| {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        !name.is_empty() && name != "." && name != ".." && name.bytes().all(is_fine)
    };
    match parts.as_slice() {
        [project, element, cache_key] if is_name(project) && is_name(element) && is_sha256(cache_key) => {
            Ok(format!("{URN_PREFIX}{key}"))
        }
        _ => Err(Invalid::Key),
    }
}

/// The Remote Asset request for a GetReference.
///
/// # Errors
/// See [`urn`].
pub fn fetch(request: GetReferenceRequest) -> Result<asset::FetchDirectoryRequest, Invalid> {
    Ok(asset::FetchDirectoryRequest {
        uris: vec![urn(&request.key)?],
        instance_name: request.instance_name,
        ..Default::default()
    })
}

/// The Remote Asset request for an UpdateReference.
///
/// # Errors
/// See [`Invalid`].
pub fn push(request: UpdateReferenceRequest) -> Result<asset::PushDirectoryRequest, Invalid> {
    if !(1..=MOST_KEYS).contains(&request.keys.len()) {
        return Err(Invalid::Keys);
    }
    let digest = request
        .digest
        .filter(|digest| is_digest(&digest.hash, digest.size_bytes))
        .ok_or(Invalid::Digest)?;
    Ok(asset::PushDirectoryRequest {
        uris: request.keys.iter().map(|key| urn(key)).collect::<Result<_, _>>()?,
        instance_name: request.instance_name,
        root_directory_digest: Some(digest),
        ..Default::default()
    })
}

/// Whether a digest is one of SHA-256, the only function that BuildStream 1 knows.
pub fn is_digest(hash: &str, size_bytes: i64) -> bool {
    is_sha256(hash) && size_bytes >= 0
}

fn is_sha256(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 64 && text.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_key_is_a_project_an_element_and_64_digits() {
        assert_eq!(
            urn(&format!("my-project/base_stack.x-1/{HEX}")).unwrap(),
            format!("urn:fdc:buildstream.build:2020:v1:my-project/base_stack.x-1/{HEX}")
        );
        for bad in [
            "",
            HEX,
            &format!("a/{HEX}"),
            &format!("a/b/c/{HEX}"),
            &format!("../b/{HEX}"),
            &format!("a/./{HEX}"),
            &format!("a//{HEX}"),
            &format!("/a/b/{HEX}"),
            &format!("a/b/{HEX}/"),
            &format!("a/b/{HEX}0"),
            &format!("a/b/{}", HEX.to_uppercase()),
            &format!("a b/c/{HEX}"),
            &format!("a\0/b/{HEX}"),
            &format!("ä/b/{HEX}"),
        ] {
            assert_eq!(urn(bad), Err(Invalid::Key), "{bad}");
        }
    }

    #[test]
    fn a_reference_needs_a_digest_and_a_few_keys() {
        let digest = Some(Digest {
            hash: HEX.into(),
            size_bytes: 0,
        });
        let request = |keys: Vec<String>, digest| {
            push(UpdateReferenceRequest {
                keys,
                digest,
                ..Default::default()
            })
        };
        let key = format!("a/b/{HEX}");
        let good = request(vec![key.clone(), key.clone()], digest.clone()).unwrap();
        assert_eq!(good.uris, vec![urn(&key).unwrap(); 2]);
        assert_eq!(good.root_directory_digest, digest);
        assert_eq!(request(vec![], digest.clone()), Err(Invalid::Keys));
        assert_eq!(request(vec![key.clone(); 65], digest.clone()), Err(Invalid::Keys));
        assert_eq!(request(vec![key.clone(), "x".into()], digest), Err(Invalid::Key));
        assert_eq!(request(vec![key.clone()], None), Err(Invalid::Digest));
        let short = Some(Digest {
            hash: "abc".into(),
            size_bytes: 0,
        });
        assert_eq!(request(vec![key], short), Err(Invalid::Digest));
    }
}
