//! What was pushed, and what was said of it.

use std::fmt::Write;

use bazel_remote_apis::build::bazel::remote::execution::v2::Digest;

/// SplitMix64: a generator that another one has seeded goes ways of its own.
pub(super) struct Random(pub(super) u64);

/// A blob, told by what makes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blob {
    pub(super) seed: u64,
    pub(super) size: usize,
}

/// A name that was given to a blob or a directory.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) name: u64,
    pub(super) kind: Kind,
    pub(super) blob: Blob,
}

/// What names it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    ActionResult,
    BlobAsset,
}

/// What one storm has done, or several.
#[derive(Default)]
pub(super) struct Log {
    pub(super) blobs: Vec<Blob>,
    pub(super) names: Vec<Named>,
    /// Pushed without an answer: they may be there or not.
    pub(super) unanswered: Vec<Blob>,
}

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Blob {
    pub(super) fn bytes(self) -> Vec<u8> {
        let mut random = Random(self.seed);
        let mut bytes = Vec::with_capacity(self.size + 8);
        while bytes.len() < self.size {
            bytes.extend(random.next().to_le_bytes());
        }
        bytes.truncate(self.size);
        bytes
    }
}

impl Log {
    pub(super) fn add(&mut self, other: Log) {
        self.blobs.extend(other.blobs);
        self.names.extend(other.names);
        self.unanswered.extend(other.unanswered);
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.blobs.len() + self.names.len()
    }

    pub(super) fn in_doubt(&self) -> usize {
        self.unanswered.len()
    }
}

/// SHA-256 in hexadecimal digits.
pub(super) fn hash(bytes: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    hash.as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

pub(super) fn digest(bytes: &[u8]) -> Digest {
    Digest {
        hash: hash(bytes),
        size_bytes: bytes.len() as i64,
    }
}
