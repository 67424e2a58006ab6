//! The digest of a blob: SHA-256 and size.

use std::fmt;
use std::io::{self, Read};

use aws_lc_rs::digest::{self, SHA256};
use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;

use super::fault::Fault;
use crate::wire::tree::DigestOf;

/// A well-formed SHA-256 digest (remote_execution.proto, `Digest`). The size never exceeds
/// `i64::MAX`, so it goes back into a message as it came.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct BlobDigest {
    hash: [u8; 32],
    size: u64,
}

impl BlobDigest {
    /// The blob of no bytes, which every cache holds.
    pub(super) const EMPTY: Self = Self {
        hash: [
            0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae,
            0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
        ],
        size: 0,
    };

    /// A digest that no blob has: what stands in for one that can't be read.
    pub(super) const NOWHERE: Self = Self { hash: [0; 32], size: 0 };

    /// The digest of `data`.
    #[cfg(test)]
    pub(super) fn of(data: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(data);
        hasher.finish()
    }

    /// Reads the digest in `field` of a request.
    ///
    /// # Errors
    /// [`Fault::Absent`] without one, [`Fault::Digest`] where the hash is not 64 lower-case hex
    /// digits or the size is negative.
    pub(super) fn required(digest: Option<&reapi::Digest>, field: &'static str) -> Result<Self, Fault> {
        Self::parse(digest.ok_or(Fault::Absent(field))?, field)
    }

    /// Reads a digest that a directory names; None where the hash is not 64 lower-case hex digits or the size is negative.
    pub(super) fn named(digest: &DigestOf<'_>) -> Option<Self> {
        let hash = unhex(digest.hash)?;
        let size = u64::try_from(digest.size_bytes).ok()?;
        Some(Self { hash, size })
    }

    /// Reads a digest that stands in `field` of a request.
    ///
    /// # Errors
    /// [`Fault::Digest`] where the hash is not 64 lower-case hex digits or the size is negative.
    pub(super) fn parse(digest: &reapi::Digest, field: &'static str) -> Result<Self, Fault> {
        let fault = |reason| Fault::Digest {
            field,
            hash: digest.hash.clone(),
            size: digest.size_bytes,
            reason,
        };
        let hash = unhex(&digest.hash).ok_or_else(|| fault("a SHA-256 hash is 64 lower-case hex digits"))?;
        let size = u64::try_from(digest.size_bytes).map_err(|_| fault("a size can't be negative"))?;
        Ok(Self { hash, size })
    }

    /// Reads `HASH/SIZE` as they stand in a resource name. None where either is malformed; a size
    /// has one spelling only, so that a blob has one name only.
    pub(super) fn from_segments(hash: &str, size: &str) -> Option<Self> {
        let digits = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_digit());
        let canonical = digits && (size == "0" || !size.starts_with('0'));
        let size = size.parse::<i64>().ok().filter(|_| canonical)?;
        let size = u64::try_from(size).ok()?;
        Some(Self {
            hash: unhex(hash)?,
            size,
        })
    }

    /// Bytes in the blob.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The hash, raw.
    pub(super) fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The hash in lower-case hex.
    pub(super) fn hex(&self) -> String {
        hex(&self.hash)
    }

    /// The message for it.
    pub(super) fn to_proto(self) -> reapi::Digest {
        reapi::Digest {
            hash: self.hex(),
            size_bytes: i64::try_from(self.size).unwrap_or(i64::MAX),
        }
    }
}

impl fmt::Display for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}/{}`", self.hex(), self.size)
    }
}

impl fmt::Debug for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Computes a digest piece by piece.
#[derive(Clone)]
pub(super) struct Hasher {
    context: digest::Context,
    size: u64,
}

impl Hasher {
    pub(super) fn new() -> Self {
        Self {
            context: digest::Context::new(&SHA256),
            size: 0,
        }
    }

    pub(super) fn update(&mut self, data: &[u8]) {
        self.context.update(data);
        self.size += data.len() as u64;
    }

    /// The digest of what is in a file, from where it stands to its end. Tells of each piece how many bytes it has. Blocks on
    /// the file system.
    pub(super) fn of_file(file: &mut impl Read, mut piece_read: impl FnMut(u64)) -> io::Result<BlobDigest> {
        let mut hasher = Self::new();
        let mut piece = vec![0; 256 << 10];
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(read) => {
                    hasher.update(&piece[..read]);
                    piece_read(read as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn finish(self) -> BlobDigest {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.context.finish().as_ref());
        BlobDigest { hash, size: self.size }
    }
}

/// Lower-case hex of `bytes`.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// The 32 bytes of 64 lower-case hex digits.
pub(super) fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_empty_blob_has_its_well_known_digest() {
        assert_eq!(BlobDigest::of(b""), BlobDigest::EMPTY);
    }

    #[test]
    fn hex_goes_both_ways() {
        let digest = BlobDigest::of(b"hello");
        assert_eq!(
            digest.hex(),
            "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        );
        assert_eq!(BlobDigest::parse(&digest.to_proto(), "digest").unwrap(), digest);
        assert_eq!(BlobDigest::from_segments(&digest.hex(), "5").unwrap(), digest);
    }

    #[test]
    fn malformed_digests_are_refused() {
        let good = BlobDigest::of(b"x").hex();
        let long = format!("{good}0");
        for hash in [
            "",
            &good[1..],
            &long,
            &good.to_uppercase().replace('0', "A"),
            &"é".repeat(32),
        ] {
            let digest = reapi::Digest {
                hash: hash.to_owned(),
                size_bytes: 1,
            };
            assert!(BlobDigest::parse(&digest, "digest").is_err(), "{hash}");
        }
        for size in ["", "+1", "-1", "01", "1 ", "9223372036854775808", "0x1"] {
            assert!(BlobDigest::from_segments(&good, size).is_none(), "{size}");
        }
        let digest = reapi::Digest {
            hash: good,
            size_bytes: -1,
        };
        assert!(BlobDigest::parse(&digest, "digest").is_err());
    }
}
