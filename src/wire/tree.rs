//! What a `Directory` or a `Tree` names (remote_execution.proto), without decoding it: of an entry, its digest is all that
//! is ever in memory.

use super::bound::TooMuch;
use super::protobuf::{Malformed, Then, Visitor, Walk};

/// The longest hash, in bytes: SHA-512 in hexadecimal digits.
const LONGEST_HASH: usize = 128;

/// Which message the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A `Directory`: its files (1) and directories (2).
    Directory,
    /// A `Tree`: the same of its root (1) and its children (2).
    Tree,
}

/// A file or a directory that a message names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Its digest, where it has one.
    pub digest: Option<DigestOf<'a>>,
}

/// A digest where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestOf<'a> {
    /// The hash.
    pub hash: &'a str,
    /// The size, in bytes.
    pub size_bytes: i64,
}

/// Reads a message as it comes, and gives each entry to a function.
pub struct Reader<F> {
    walk: Walk,
    names: Names<F>,
}

struct Names<F> {
    each: F,
    /// Messages around a `Directory`.
    above: usize,
    depth: usize,
    is_directory: bool,
    has_digest: bool,
    hash: Vec<u8>,
    size_bytes: i64,
}

impl<F, E> Reader<F>
where
    F: FnMut(Entry<'_>) -> Result<(), E>,
    E: From<TooMuch>,
{
    /// A reader of a message with so many bytes.
    pub fn new(kind: Kind, length: u64, each: F) -> Self {
        let names = Names {
            each,
            above: usize::from(kind == Kind::Tree),
            depth: 0,
            is_directory: false,
            has_digest: false,
            hash: Vec::new(),
            size_bytes: 0,
        };
        let walk = Walk::new(length);
        Self { walk, names }
    }

    /// Reads on.
    ///
    /// # Errors
    /// What the function says; [`TooMuch::Malformed`] where the bytes are no such message.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), E> {
        match self.walk.push(bytes, &mut self.names) {
            Ok(passed) if passed == bytes.len() => Ok(()),
            Ok(_) => Err(TooMuch::from(Malformed("there are more bytes than were announced")).into()),
            Err(Stop::Malformed(malformed)) => Err(TooMuch::from(malformed).into()),
            Err(Stop::Other(error)) => Err(error),
        }
    }

    /// Ends the message.
    ///
    /// # Errors
    /// [`TooMuch::Malformed`] where not all of it has come.
    pub fn finish(self) -> Result<(), E> {
        match self.walk.is_over() {
            true => Ok(()),
            false => Err(TooMuch::from(super::protobuf::BEYOND).into()),
        }
    }
}

/// Reads a message that is there as a whole.
///
/// # Errors
/// What the function says; [`TooMuch::Malformed`] where the bytes are no such message.
pub fn read<E: From<TooMuch>>(kind: Kind, bytes: &[u8], each: impl FnMut(Entry<'_>) -> Result<(), E>) -> Result<(), E> {
    let mut reader = Reader::new(kind, bytes.len() as u64, each);
    reader.push(bytes)?;
    reader.finish()
}

/// Why the walk ends.
enum Stop<E> {
    Malformed(Malformed),
    Other(E),
}

impl<E> From<Malformed> for Stop<E> {
    fn from(malformed: Malformed) -> Self {
        Stop::Malformed(malformed)
    }
}

impl<F, E> Visitor for Names<F>
where
    F: FnMut(Entry<'_>) -> Result<(), E>,
{
    type Error = Stop<E>;

    fn field(&mut self, number: u32, _: u64) -> Result<Then, Stop<E>> {
        // Within a `Directory`: 0 its entries, 1 their digests, 2 what is in these.
        let Some(depth) = self.depth.checked_sub(self.above) else {
            // Tree: 1 root, 2 children.
            return Ok(self.enter(matches!(number, 1 | 2)));
        };
        match (depth, number) {
            (0, 1 | 2) => {
                self.is_directory = number == 2;
                self.has_digest = false;
                self.hash.clear();
                self.size_bytes = 0;
                Ok(self.enter(true))
            }
            // A message that comes twice is one (protobuf.dev, "Last One Wins").
            (1, 2) => {
                self.has_digest = true;
                Ok(self.enter(true))
            }
            (2, 1) => {
                self.hash.clear();
                self.depth += 1;
                Ok(Then::Take)
            }
            _ => Ok(Then::Skip),
        }
    }

    fn number(&mut self, number: u32, value: Option<u64>) -> Result<(), Stop<E>> {
        if self.depth == self.above + 2 && number == 2 {
            self.size_bytes = value.unwrap_or_default().cast_signed();
        }
        Ok(())
    }

    fn bytes(&mut self, piece: &[u8]) -> Result<(), Stop<E>> {
        if self.hash.len() + piece.len() > LONGEST_HASH {
            return Err(Malformed("a hash is too long").into());
        }
        self.hash.extend_from_slice(piece);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Stop<E>> {
        self.depth = self.depth.saturating_sub(1);
        if self.depth != self.above {
            return Ok(());
        }
        let hash = str::from_utf8(&self.hash).map_err(|_| Malformed("a hash is not UTF-8"))?;
        let digest = self.has_digest.then_some(DigestOf {
            hash,
            size_bytes: self.size_bytes,
        });
        let entry = Entry {
            is_directory: self.is_directory,
            digest,
        };
        (self.each)(entry).map_err(Stop::Other)
    }
}

impl<F> Names<F> {
    fn enter(&mut self, is_wanted: bool) -> Then {
        if !is_wanted {
            return Then::Skip;
        }
        self.depth += 1;
        Then::Enter
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    #![expect(clippy::disallowed_methods, reason = "compared with what the decoder says")]
    use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    type Named = (bool, Option<(String, i64)>);

    fn named(kind: Kind, bytes: &[u8], piece: usize) -> Result<Vec<Named>, TooMuch> {
        let mut found = Vec::new();
        let each = |entry: Entry<'_>| {
            let digest = entry.digest.map(|digest| (digest.hash.to_owned(), digest.size_bytes));
            found.push((entry.is_directory, digest));
            Ok::<(), TooMuch>(())
        };
        let mut reader = Reader::new(kind, bytes.len() as u64, each);
        for piece in bytes.chunks(piece.max(1)) {
            reader.push(piece)?;
        }
        reader.finish()?;
        Ok(found)
    }

    /// What the decoder makes of it. Its lists are apart.
    fn decoded(directory: &reapi::Directory) -> Vec<Named> {
        let of =
            |digest: &Option<reapi::Digest>| digest.as_ref().map(|digest| (digest.hash.clone(), digest.size_bytes));
        let files = directory.files.iter().map(|file| (false, of(&file.digest)));
        let directories = directory
            .directories
            .iter()
            .map(|directory| (true, of(&directory.digest)));
        files.chain(directories).collect()
    }

    fn directory(count: usize) -> reapi::Directory {
        let digest = |number: usize| {
            (number % 5 != 4).then(|| reapi::Digest {
                hash: format!("{number:x}").repeat(number % 3),
                size_bytes: number as i64 - 1,
            })
        };
        reapi::Directory {
            files: (0..count)
                .map(|number| reapi::FileNode {
                    name: "n".repeat(number),
                    digest: digest(number),
                    is_executable: true,
                    ..Default::default()
                })
                .collect(),
            directories: (0..count / 2)
                .map(|number| reapi::DirectoryNode {
                    name: String::new(),
                    digest: digest(number + 100),
                })
                .collect(),
            symlinks: vec![reapi::SymlinkNode::default(); count],
            ..Default::default()
        }
    }

    #[test]
    fn entries_are_those_of_the_decoder() {
        for count in [0, 1, 12] {
            let directory = directory(count);
            let bytes = directory.encode_to_vec();
            for piece in [1, 3, bytes.len()] {
                assert_eq!(named(Kind::Directory, &bytes, piece).unwrap(), decoded(&directory));
            }
        }
        let tree = reapi::Tree {
            root: Some(directory(3)),
            children: vec![directory(0), directory(5)],
        };
        let all = [decoded(&directory(3)), decoded(&directory(5))].concat();
        assert_eq!(named(Kind::Tree, &tree.encode_to_vec(), 1).unwrap(), all);
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_no_directory() {
        let bytes = directory(3).encode_to_vec();
        let mut reader = Reader::new(Kind::Directory, bytes.len() as u64, |_| Ok::<_, TooMuch>(()));
        reader.push(&bytes[..10]).unwrap();
        assert!(reader.finish().is_err());
        let mut reader = Reader::new(Kind::Directory, 2, |_| Ok::<_, TooMuch>(()));
        assert!(reader.push(&bytes).is_err());
        let long = reapi::Directory {
            files: vec![reapi::FileNode {
                digest: Some(reapi::Digest {
                    hash: "a".repeat(129),
                    size_bytes: 1,
                }),
                ..Default::default()
            }],
            ..Default::default()
        };
        assert!(named(Kind::Directory, &long.encode_to_vec(), 7).is_err());
    }

    proptest! {
        #[test]
        fn bytes_that_both_take_name_the_same(
            bytes in proptest::collection::vec(prop_oneof![0_u8..4, 8_u8..28, Just(0x61)], 0..60),
        ) {
            let read = named(Kind::Directory, &bytes, 5);
            if let (Ok(read), Ok(directory)) = (read, reapi::Directory::decode(&*bytes)) {
                let (directories, files): (Vec<_>, Vec<_>) = read.into_iter().partition(|(is_directory, _)| *is_directory);
                prop_assert_eq!([files, directories].concat(), decoded(&directory));
            }
        }
    }
}
