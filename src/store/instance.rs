//! Instance names: their grammar, and the directory that each one gets.

use super::digest::{BlobDigest, Hasher};
use super::fault::Fault;

/// Words that end an instance name in a resource name, and so can't be part of one
/// (remote_execution.proto, `ContentAddressableStorage`).
pub(super) const KEYWORDS: [&str; 7] = [
    "blobs",
    "uploads",
    "actions",
    "actionResults",
    "operations",
    "capabilities",
    "compressed-blobs",
];

/// Longest instance name, in bytes.
const LONGEST: usize = 1024;

/// Longest directory name that spells an instance out. File systems stop at 255 bytes.
const SPELLED: usize = 200;

/// An instance, as the one path segment that holds everything it owns.
///
/// The segment is made of `a-z`, `0-9`, `-` and `_` only, and no two names share one, not even on a
/// file system that ignores case. So no name can be a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Instance {
    segment: String,
}

impl Instance {
    /// Checks a name against the grammar: any text of up to 1024 bytes, in segments separated by
    /// `/`, none empty and none a keyword. The empty name is the default instance.
    ///
    /// # Errors
    /// [`Fault::Instance`].
    pub(super) fn parse(name: &str) -> Result<Self, Fault> {
        let fault = |reason| Fault::Instance {
            name: name.to_owned(),
            reason,
        };
        if name.len() > LONGEST {
            return Err(fault("longer than 1024 bytes"));
        }
        if !name.is_empty() && name.split('/').any(str::is_empty) {
            return Err(fault("an empty segment"));
        }
        if name.split('/').any(|segment| KEYWORDS.contains(&segment)) {
            return Err(fault("a segment is a keyword of resource names"));
        }
        Ok(Self { segment: encode(name) })
    }

    /// The path segment.
    pub(super) fn segment(&self) -> &str {
        &self.segment
    }
}

/// `_` stands for the default instance. Elsewhere it is followed by two hex digits for a byte
/// outside `a-z0-9-`, or by `h` and the SHA-256 of a name too long to spell.
fn encode(name: &str) -> String {
    if name.is_empty() {
        return "_".to_owned();
    }
    let mut segment = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => segment.push(char::from(byte)),
            _ => segment.push_str(&format!("_{byte:02x}")),
        }
    }
    if segment.len() <= SPELLED {
        return segment;
    }
    let mut hasher = Hasher::new();
    hasher.update(name.as_bytes());
    let digest: BlobDigest = hasher.finish();
    format!("_h{}", digest.hex())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_become_safe_and_distinct_segments() {
        let long = "x".repeat(300);
        let longer = "x".repeat(301);
        let capitals = "A".repeat(150);
        let names = [
            "", "main", "Main", "MAIN", "a/b", "a_2fb", "a%2Fb", "..", ".", "../..", "-", "_", "__", "_h", "ö",
            "o\u{308}", "\0", "a b", "~", "C:\\x", "x#1", "x#2", "CON", &long, &longer, &capitals,
        ];
        let mut seen = HashSet::new();
        for name in names {
            let instance = Instance::parse(name).unwrap();
            let segment = instance.segment().to_owned();
            assert!(
                segment
                    .bytes()
                    .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_')),
                "{name:?} -> {segment}"
            );
            assert!(!segment.is_empty() && segment.len() <= SPELLED);
            assert!(seen.insert(segment), "{name:?} collides");
        }
    }

    #[test]
    fn names_outside_the_grammar_are_refused() {
        let too_long = "x".repeat(1025);
        for name in [
            "/",
            "/a",
            "a/",
            "a//b",
            "blobs",
            "a/uploads",
            "compressed-blobs/x",
            "a/actionResults/b",
            &too_long,
        ] {
            assert!(Instance::parse(name).is_err(), "{name:?}");
        }
    }
}
