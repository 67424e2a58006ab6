//! ByteStream resource names (remote_execution.proto, `ContentAddressableStorage`).

use super::digest::BlobDigest;
use super::fault::Fault;
use super::instance::{Instance, KEYWORDS};

/// Longest resource name, in bytes: an instance name and as much again.
const LONGEST: usize = 4096;

/// What `[INSTANCE/]blobs/[sha256/]HASH/SIZE` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlobName {
    /// The instance.
    pub(super) instance: Instance,
    /// The blob.
    pub(super) digest: BlobDigest,
}

/// What `[INSTANCE/]uploads/UUID/blobs/[sha256/]HASH/SIZE[/METADATA]` names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct UploadName {
    /// The instance.
    pub(super) instance: Instance,
    /// What the client calls this upload: any non-empty segment, for real clients don't all send
    /// a UUID.
    pub(super) uuid: String,
    /// The blob to be.
    pub(super) digest: BlobDigest,
}

impl BlobName {
    /// Reads the name of a blob to be read.
    ///
    /// # Errors
    /// [`Fault::ResourceName`] and [`Fault::Instance`].
    pub(super) fn parse(name: &str) -> Result<Self, Fault> {
        let fault = faults(name);
        let (instance, segments) = split(name)?;
        match segments.as_slice() {
            ["blobs", rest @ ..] => match blob(rest) {
                Some((digest, [])) => Ok(Self { instance, digest }),
                Some(_) | None => Err(fault(BLOB)),
            },
            ["compressed-blobs", ..] => Err(fault(COMPRESSED)),
            _ => Err(fault(BLOB)),
        }
    }
}

impl UploadName {
    /// Reads the name of a blob to be written. Metadata after the size is ignored.
    ///
    /// # Errors
    /// [`Fault::ResourceName`] and [`Fault::Instance`].
    pub(super) fn parse(name: &str) -> Result<Self, Fault> {
        let fault = faults(name);
        let (instance, segments) = split(name)?;
        match segments.as_slice() {
            ["uploads", uuid, "blobs", rest @ ..] if !uuid.is_empty() => {
                let (digest, _metadata) = blob(rest).ok_or_else(|| fault(UPLOAD))?;
                Ok(Self {
                    instance,
                    uuid: (*uuid).to_owned(),
                    digest,
                })
            }
            ["uploads", _, "compressed-blobs", ..] => Err(fault(COMPRESSED)),
            _ => Err(fault(UPLOAD)),
        }
    }
}

const BLOB: &str = "expected `[INSTANCE/]blobs/HASH/SIZE` with a SHA-256 hash in lower-case hex";
const UPLOAD: &str = "expected `[INSTANCE/]uploads/UUID/blobs/HASH/SIZE` with a SHA-256 hash in lower-case hex";
const COMPRESSED: &str = "compressed blobs are not supported; use `blobs` without a compressor";

fn faults(name: &str) -> impl Fn(&'static str) -> Fault {
    move |reason| Fault::ResourceName {
        name: name.to_owned(),
        reason,
    }
}

/// Splits a name at its first keyword: no segment of an instance name is one.
fn split(name: &str) -> Result<(Instance, Vec<&str>), Fault> {
    if name.len() > LONGEST {
        return Err(faults(name)("longer than 4096 bytes"));
    }
    let mut start = 0;
    for segment in name.split('/') {
        if KEYWORDS.contains(&segment) {
            break;
        }
        start += segment.len() + 1;
    }
    let Some(rest) = name.get(start..) else {
        return Err(faults(name)("neither `blobs` nor `uploads` in it"));
    };
    // A name that starts with `/` has an empty first segment, which is not the empty instance.
    if start == 1 {
        return Err(faults(name)("starts with `/`"));
    }
    let instance = Instance::parse(name.get(..start.saturating_sub(1)).unwrap_or_default())?;
    Ok((instance, rest.split('/').collect()))
}

/// Reads `[sha256/]HASH/SIZE` and gives back what follows.
fn blob<'s, 'n>(segments: &'s [&'n str]) -> Option<(BlobDigest, &'s [&'n str])> {
    let segments = segments.strip_prefix(&["sha256"]).unwrap_or(segments);
    let [hash, size, rest @ ..] = segments else {
        return None;
    };
    Some((BlobDigest::from_segments(hash, size)?, rest))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn hash() -> String {
        BlobDigest::of(b"hello").hex()
    }

    #[test]
    fn blobs_are_read_with_and_without_an_instance() {
        let digest = BlobDigest::of(b"hello");
        for (prefix, instance) in [("", ""), ("main/", "main"), ("a/../b/", "a/../b")] {
            for function in ["", "sha256/"] {
                let name = format!("{prefix}blobs/{function}{}/5", hash());
                let parsed = BlobName::parse(&name).unwrap();
                assert_eq!(parsed.instance, Instance::parse(instance).unwrap());
                assert_eq!(parsed.digest, digest);
            }
        }
    }

    #[test]
    fn uploads_keep_their_uuid_and_drop_metadata() {
        let name = format!("a/b/uploads/some-uuid/blobs/{}/5/dir/blobs/x", hash());
        let parsed = UploadName::parse(&name).unwrap();
        assert_eq!(parsed.instance, Instance::parse("a/b").unwrap());
        assert_eq!(parsed.uuid, "some-uuid");
        assert_eq!(parsed.digest, BlobDigest::of(b"hello"));
    }

    #[test]
    fn malformed_names_are_refused() {
        let hash = hash();
        let long = format!("{}/blobs/{hash}/5", "x/".repeat(3000));
        let names = [
            String::new(),
            "/".to_owned(),
            "main".to_owned(),
            "blobs".to_owned(),
            "blobs/".to_owned(),
            format!("{hash}/5"),
            format!("/blobs/{hash}/5"),
            format!("a//blobs/{hash}/5"),
            format!("blobs/{hash}"),
            format!("blobs/{hash}/"),
            format!("blobs/{hash}/05"),
            format!("blobs/{hash}/5/"),
            format!("blobs/{hash}/5/x"),
            format!("blobs/blake3/{hash}/5"),
            format!("blobs/../{hash}/5"),
            format!("actions/blobs/{hash}/5"),
            format!("compressed-blobs/zstd/{hash}/5"),
            format!("uploads/u/blobs/{hash}/5"),
            long,
        ];
        for name in names {
            assert!(BlobName::parse(&name).is_err(), "{name}");
        }
        let names = [
            format!("uploads//blobs/{hash}/5"),
            format!("uploads/blobs/{hash}/5"),
            format!("uploads/u/{hash}/5"),
            format!("uploads/u/x/blobs/{hash}/5"),
            format!("uploads/u/compressed-blobs/zstd/{hash}/5"),
            format!("blobs/{hash}/5"),
        ];
        for name in names {
            assert!(UploadName::parse(&name).is_err(), "{name}");
        }
    }
}
