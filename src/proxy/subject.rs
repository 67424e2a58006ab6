//! What a call is about, for the audit log: digests and URIs, picked out of the request as it streams by. Sans-I/O; what
//! was decided does not depend on it, and bytes that it can't read only end the picking.

use bazel_remote_apis::build::bazel::remote::execution::v2::Digest;

use crate::policy::method::Method;
use crate::reference_storage::URN_PREFIX;
use crate::wire;

/// Digests and URIs that a line of the audit log has at most; more are counted.
const MOST: usize = 1024;
/// What is kept for the audit log.
const NOTED: Bounds = Bounds {
    most: MOST,
    longest: 4096,
};

/// How much is kept of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// How many digests and URIs; more are counted.
    pub(crate) most: usize,
    /// The longest field, in bytes; longer ones are not seen.
    pub(crate) longest: u64,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Message(Fields),
    Digest,
    Uri,
    /// A key of BuildStream 1, which stands for a URI.
    Key,
}

type Fields = &'static [(u32, Shape)];

/// Whether the audit log notes calls of a method: those that change what others get, or run something.
pub(crate) fn is_noted(method: Method) -> bool {
    matches!(
        method,
        Method::BatchUpdateBlobs
            | Method::SpliceBlob
            | Method::Write
            | Method::UpdateActionResult
            | Method::Execute
            | Method::CancelOperation
            | Method::DeleteOperation
            | Method::PushBlob
            | Method::PushDirectory
            | Method::UpdateReference
    )
}

/// Where a method's request names what it changes (remote_execution.proto, remote_asset.proto, buildstream.proto).
fn fields(method: Method) -> Fields {
    match method {
        Method::BatchUpdateBlobs => &[(2, Shape::Message(&[(1, Shape::Digest)]))],
        Method::SpliceBlob | Method::UpdateActionResult => &[(2, Shape::Digest)],
        Method::Execute => &[(6, Shape::Digest)],
        Method::PushBlob | Method::PushDirectory => &[(2, Shape::Uri), (5, Shape::Digest)],
        Method::UpdateReference => &[(2, Shape::Key), (3, Shape::Digest)],
        _ => &[],
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Digests.
    pub(crate) digests: Vec<Digest>,
    /// URIs.
    pub(crate) uris: Vec<String>,
    /// How many more there were.
    pub(crate) more: u64,
}

impl Subject {
    /// The digests as `HASH/SIZE`.
    pub(crate) fn digest_names(&self) -> Vec<String> {
        let name = |digest: &Digest| format!("{}/{}", digest.hash, digest.size_bytes);
        self.digests.iter().map(name).collect()
    }

    /// Drops the digests that are too many for a line of the audit log, and counts them.
    pub(crate) fn shorten(&mut self) {
        self.more += self.digests.len().saturating_sub(MOST) as u64;
        self.digests.truncate(MOST);
    }
}

/// Picks the subject out of a request.
#[derive(Debug)]
pub(crate) struct Picker {
    subject: Subject,
    bounds: Bounds,
    /// How many messages within the message of the call there were.
    messages: u64,
    /// The messages that the reading is in, outermost first, each with the bytes of it that are still to come.
    levels: Vec<(Fields, u64)>,
    token: Token,
    head: Vec<u8>,
    fields: Fields,
    broken: bool,
}

#[derive(Debug)]
enum Token {
    Tag(u64, u32),
    Number,
    Length { field: u64, value: u64, shift: u32 },
    Keep { shape: Shape, left: u64, bytes: Vec<u8> },
    Skip(u64),
}

const START: Token = Token::Tag(0, 0);

impl Picker {
    /// The picker for a method, of what the audit log notes.
    pub(crate) fn new(method: Method) -> Picker {
        Picker::bounded(method, NOTED)
    }

    /// The picker for a method, within bounds.
    pub(crate) fn bounded(method: Method, bounds: Bounds) -> Picker {
        let fields = fields(method);
        Picker {
            subject: Subject::default(),
            bounds,
            messages: 0,
            levels: Vec::new(),
            token: START,
            head: Vec::new(),
            fields,
            broken: fields.is_empty(),
        }
    }

    /// Takes the next bytes of the stream.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.broken {
            match self.step(bytes) {
                Some(rest) => bytes = rest,
                None => self.broken = true,
            }
        }
    }

    /// How many messages within the message of the call have begun: of a batch, one for each blob.
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    /// How many digests and URIs are kept.
    pub(crate) fn kept(&self) -> usize {
        self.subject.digests.len() + self.subject.uris.len()
    }

    /// Whether the bytes are no such message.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// What was found.
    pub(crate) fn finish(self) -> Subject {
        self.subject
    }

    /// One step; `None` for bytes that are no such message.
    fn step<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        if self.levels.is_empty() {
            return self.frame_head(bytes);
        }
        let (first, rest) = bytes.split_first()?;
        let taken = match &mut self.token {
            Token::Tag(value, shift) => {
                if varint(*first, value, shift)? {
                    let tag = *value;
                    self.token = match tag & 7 {
                        0 => Token::Number,
                        1 => Token::Skip(8),
                        2 => Token::Length {
                            field: tag >> 3,
                            value: 0,
                            shift: 0,
                        },
                        5 => Token::Skip(4),
                        _ => return None,
                    };
                }
                1
            }
            Token::Number => {
                if first & 0x80 == 0 {
                    self.token = START;
                }
                1
            }
            Token::Length { field, value, shift } => {
                if varint(*first, value, shift)? {
                    let (field, length) = (*field, *value);
                    self.take(1)?;
                    self.begin(field, length)?;
                    self.close();
                    return Some(rest);
                }
                1
            }
            Token::Keep { left, bytes: kept, .. } => {
                let take = usize::try_from(*left).ok()?.min(bytes.len());
                kept.extend_from_slice(bytes.get(..take)?);
                *left -= take as u64;
                take
            }
            Token::Skip(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= take as u64;
                take
            }
        };
        self.take(taken as u64)?;
        self.close();
        bytes.get(taken..)
    }

    /// The prefix of a message: a compressed flag and a length of four bytes.
    fn frame_head<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let take = bytes.len().min(5 - self.head.len());
        self.head.extend_from_slice(bytes.get(..take)?);
        if let [flag, a, b, c, d] = *self.head {
            if flag != 0 {
                return None;
            }
            self.head.clear();
            let length = u32::from_be_bytes([a, b, c, d]);
            if length > 0 {
                self.levels.push((self.fields, length.into()));
            }
        }
        bytes.get(take..)
    }

    /// Counts bytes off every message that they lie in.
    fn take(&mut self, bytes: u64) -> Option<()> {
        for (_, left) in &mut self.levels {
            *left = left.checked_sub(bytes)?;
        }
        Some(())
    }

    /// Begins the value of a field.
    fn begin(&mut self, field: u64, length: u64) -> Option<()> {
        let (fields, left) = *self.levels.last()?;
        if length > left {
            return None;
        }
        let shape = fields.iter().find(|(number, _)| u64::from(*number) == field);
        self.token = match shape {
            Some((_, Shape::Message(fields))) => {
                self.levels.push((*fields, length));
                self.messages += 1;
                START
            }
            Some((_, shape)) if length <= self.bounds.longest => Token::Keep {
                shape: *shape,
                left: length,
                bytes: Vec::new(),
            },
            _ => Token::Skip(length),
        };
        Some(())
    }

    /// Ends what has no bytes left: a value, and the messages that end with it.
    fn close(&mut self) {
        match std::mem::replace(&mut self.token, START) {
            Token::Keep { shape, left: 0, bytes } => self.found(shape, &bytes),
            Token::Skip(0) => {}
            other => self.token = other,
        }
        while self.levels.last().is_some_and(|(_, left)| *left == 0) {
            self.levels.pop();
        }
    }

    fn found(&mut self, shape: Shape, bytes: &[u8]) {
        let is_full = self.kept() >= self.bounds.most;
        let subject = &mut self.subject;
        if is_full {
            subject.more += 1;
            return;
        }
        match shape {
            Shape::Digest => {
                if let Ok(digest) = wire::decode::<Digest>(bytes.to_vec()) {
                    subject.digests.push(digest);
                }
            }
            Shape::Uri => subject.uris.push(String::from_utf8_lossy(bytes).into_owned()),
            Shape::Key => subject
                .uris
                .push(format!("{URN_PREFIX}{}", String::from_utf8_lossy(bytes))),
            Shape::Message(_) => {}
        }
    }
}

/// Takes a byte of a number; whether it is the last one. `None` where the number is too long.
fn varint(byte: u8, value: &mut u64, shift: &mut u32) -> Option<bool> {
    if *shift > 28 {
        return None;
    }
    *value |= u64::from(byte & 0x7f) << *shift;
    *shift += 7;
    Some(byte & 0x80 == 0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
    use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
    use proptest::prelude::*;

    use super::*;

    fn picked(method: Method, message: &impl prost::Message, split: usize) -> Subject {
        let bytes = message.encode_to_vec();
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        let framed = [&[0], length.as_slice(), &bytes].concat();
        let mut picker = Picker::new(method);
        framed.chunks(split).for_each(|piece| picker.push(piece));
        picker.finish()
    }

    fn digest(hash: &str) -> Digest {
        Digest {
            hash: hash.to_owned(),
            size_bytes: 7,
        }
    }

    fn batch(sizes: &[usize]) -> reapi::BatchUpdateBlobsRequest {
        let requests = sizes
            .iter()
            .enumerate()
            .map(|(index, size)| reapi::batch_update_blobs_request::Request {
                digest: Some(digest(&format!("hash {index}"))),
                data: vec![0x0a; *size],
                ..Default::default()
            });
        reapi::BatchUpdateBlobsRequest {
            instance_name: "main".to_owned(),
            requests: requests.collect(),
            ..Default::default()
        }
    }

    #[test]
    fn names_and_their_digests_are_picked() {
        let push = asset::PushBlobRequest {
            uris: vec!["urn:a".into(), "urn:b".into()],
            blob_digest: Some(digest("x")),
            references_blobs: vec![digest("not this one")],
            ..Default::default()
        };
        let subject = picked(Method::PushBlob, &push, 3);
        assert_eq!(subject.uris, ["urn:a", "urn:b"]);
        assert_eq!(subject.digest_names(), ["x/7"]);
        let update = reapi::UpdateActionResultRequest {
            action_digest: Some(digest("action")),
            action_result: Some(reapi::ActionResult {
                stdout_digest: Some(digest("not this one")),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(
            picked(Method::UpdateActionResult, &update, 1).digest_names(),
            ["action/7"]
        );
        assert_eq!(picked(Method::GetActionResult, &update, 1), Subject::default());
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_rest_counted() {
        let subject = picked(Method::BatchUpdateBlobs, &batch(&[1; MOST + 5]), 4096);
        assert_eq!((subject.digests.len(), subject.more), (MOST, 5));
    }

    proptest! {
        #[test]
        fn every_blob_of_a_batch_is_picked_on_every_split(sizes in proptest::collection::vec(0usize..300, 0..20), split in 1usize..50) {
            let subject = picked(Method::BatchUpdateBlobs, &batch(&sizes), split);
            let expected: Vec<_> = (0..sizes.len()).map(|index| format!("hash {index}/7")).collect();
            prop_assert_eq!(subject.digest_names(), expected);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), split in 1usize..20) {
            for method in [Method::BatchUpdateBlobs, Method::PushBlob, Method::Execute] {
                let mut picker = Picker::new(method);
                bytes.chunks(split).for_each(|piece| picker.push(piece));
                picker.finish();
            }
        }
    }
}
