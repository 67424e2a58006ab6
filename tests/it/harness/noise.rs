//! Blobs whose bytes follow from a number, so that nobody has to keep them.

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;

/// SplitMix64: a generator that another one has seeded goes ways of its own.
pub(crate) struct Random(pub(crate) u64);

/// A blob, told by what makes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blob {
    pub(crate) seed: u64,
    pub(crate) size: usize,
}

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Blob {
    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut random = Random(self.seed);
        let mut bytes = Vec::with_capacity(self.size + 8);
        while bytes.len() < self.size {
            bytes.extend(random.next().to_le_bytes());
        }
        bytes.truncate(self.size);
        bytes
    }
}

/// SHA-256 in hexadecimal digits.
pub(crate) fn hash(bytes: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn digest(bytes: &[u8]) -> reapi::Digest {
    reapi::Digest {
        hash: hash(bytes),
        size_bytes: bytes.len() as i64,
    }
}
