//! What a call is about, for the audit log: digests, URIs and names, picked out of the request as it streams by. Sans-I/O.
//!
//! What can't be read whole, and by every parser alike, is refused: a push that the log can't tell of would be one that
//! nobody finds. So a field that parsers merge or of which the last one counts is taken once only, and nothing is left out.

use bazel_remote_apis::build::bazel::remote::execution::v2::Digest;

use super::prefix::Refusal;
use crate::policy::method::Method;
use crate::reference_storage::URN_PREFIX;
use crate::wire::{Malformed, Then, Visitor, Walk};

/// What is kept for the audit log.
const NOTED: Bounds = Bounds { most: 64 * 1024 };
/// The longest text of a name, in bytes. Those of Remote Asset that decide anything are shorter.
const LONGEST_NAME: u64 = 4096;
/// The longest hash, in bytes: SHA-512 in hexadecimal digits.
const LONGEST_HASH: u64 = 128;

/// How much is kept of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// How many digests, URIs and names. A call with more is refused.
    pub(crate) most: usize,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// A message, or one of many.
    Messages(Fields),
    /// A message that is there once.
    Message(Fields),
    /// A digest that is there once.
    Digest,
    /// One of many.
    Digests,
    /// One of many.
    Uris,
    /// Keys of BuildStream 1, each of which stands for a URI.
    Keys,
    /// A name that is there once.
    Name,
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
            | Method::CreateBotSession
            | Method::UpdateBotSession
            | Method::PushBlob
            | Method::PushDirectory
            | Method::UpdateReference
    )
}

/// Where a method's request names what it changes (remote_execution.proto, remote_asset.proto, buildstream.proto,
/// google/longrunning/operations.proto, google/devtools/remoteworkers/v1test2/bots.proto).
fn fields(method: Method) -> Option<Fields> {
    /// BotSession: 1 name, 2 bot_id.
    const BOT: Fields = &[(1, Shape::Name), (2, Shape::Name)];
    Some(match method {
        Method::BatchUpdateBlobs => &[(2, Shape::Messages(&[(1, Shape::Digest)]))],
        Method::SpliceBlob => &[(2, Shape::Digest), (3, Shape::Digests)],
        Method::UpdateActionResult => &[(2, Shape::Digest)],
        Method::Execute => &[(6, Shape::Digest)],
        Method::PushBlob | Method::PushDirectory => &[(2, Shape::Uris), (5, Shape::Digest)],
        Method::UpdateReference => &[(2, Shape::Keys), (3, Shape::Digest)],
        Method::CancelOperation | Method::DeleteOperation => &[(1, Shape::Name)],
        Method::CreateBotSession => &[(2, Shape::Message(BOT))],
        Method::UpdateBotSession => &[(1, Shape::Name), (2, Shape::Message(BOT))],
        // The resource name, which decides, says all.
        _ => return None,
    })
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Digests.
    pub(crate) digests: Vec<Digest>,
    /// URIs.
    pub(crate) uris: Vec<String>,
    /// Names of operations, of worker sessions and of bots.
    pub(crate) names: Vec<String>,
}

impl Subject {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.digests.len() + self.uris.len() + self.names.len()
    }
}

/// Digests as `HASH/SIZE`.
pub(crate) fn digest_names(digests: &[Digest]) -> Vec<String> {
    let name = |digest: &Digest| format!("{}/{}", digest.hash, digest.size_bytes);
    digests.iter().map(name).collect()
}

/// Picks the subject out of a request.
#[derive(Debug)]
pub(crate) struct Picker {
    fields: Fields,
    head: [u8; 5],
    filled: usize,
    walk: Option<Walk>,
    found: Found,
}

/// What is found in the message of the call.
#[derive(Debug)]
struct Found {
    subject: Subject,
    bounds: Bounds,
    /// How many messages within the message of the call have begun.
    messages: u64,
    /// Bytes of texts.
    texts: u64,
    /// The messages that the reading is in, outermost first, with those of their fields that are there.
    levels: Vec<(Fields, u64)>,
    /// The digest or text that is being read.
    reading: Reading,
    text: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Nothing,
    /// A digest, and whether its hash and its size have come.
    Digest {
        hash: bool,
        size: bool,
    },
    /// The hash of one.
    Hash {
        size: bool,
    },
    Uri,
    Key,
    Name,
}

impl Picker {
    /// The picker for a method, of what the audit log notes; `None` where nothing in its messages is.
    pub(crate) fn new(method: Method) -> Option<Picker> {
        Picker::bounded(method, NOTED)
    }

    /// The picker for a method, within bounds.
    pub(crate) fn bounded(method: Method, bounds: Bounds) -> Option<Picker> {
        let fields = fields(method)?;
        Some(Picker {
            fields,
            head: [0; 5],
            filled: 0,
            walk: None,
            found: Found {
                subject: Subject::default(),
                bounds,
                messages: 0,
                texts: 0,
                levels: Vec::new(),
                reading: Reading::Nothing,
                text: Vec::new(),
            },
        })
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// Where they can't be told of. None of these bytes may be forwarded then.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while !bytes.is_empty() {
            if let Some(walk) = &mut self.walk {
                let passed = walk.push(bytes, &mut self.found)?;
                bytes = bytes.get(passed..).unwrap_or_default();
                if walk.is_over() {
                    self.walk = None;
                }
                continue;
            }
            let (now, rest) = bytes.split_at(bytes.len().min(self.head.len() - self.filled));
            if let Some(place) = self.head.get_mut(self.filled..self.filled + now.len()) {
                place.copy_from_slice(now);
            }
            self.filled += now.len();
            bytes = rest;
            if self.filled == self.head.len() {
                let [flag, a, b, c, d] = self.head;
                if flag != 0 {
                    return Err(Refusal::Compressed);
                }
                self.filled = 0;
                let length = u32::from_be_bytes([a, b, c, d]);
                self.found.levels = vec![(self.fields, 0)];
                self.walk = (length > 0).then(|| Walk::new(length.into()));
            }
        }
        Ok(())
    }

    /// How many messages within the message of the call have begun: of a batch, one for each blob.
    pub(crate) fn messages(&self) -> u64 {
        self.found.messages
    }

    /// How many digests, URIs and names are kept.
    pub(crate) fn kept(&self) -> usize {
        self.found.subject.len()
    }

    /// Bytes of memory that they take, at most.
    pub(crate) fn bytes(&self) -> u64 {
        const EACH: u64 = 2 * size_of::<Digest>() as u64 + 16;
        self.kept() as u64 * EACH + self.found.texts
    }

    /// What was found.
    pub(crate) fn subject(&self) -> &Subject {
        &self.found.subject
    }

    /// The same, for good.
    pub(crate) fn finish(self) -> Subject {
        self.found.subject
    }
}

impl Found {
    /// Takes a field that may be there once.
    fn once(&mut self, number: u32) -> Result<(), Refusal> {
        let bit = 1_u64.checked_shl(number).unwrap_or(0);
        match self.levels.last_mut() {
            Some((_, seen)) if *seen & bit == 0 => {
                *seen |= bit;
                Ok(())
            }
            _ => Err(Refusal::Ambiguous("a digest or a name is given twice")),
        }
    }

    /// Makes room for one more.
    fn one_more(&self) -> Result<(), Refusal> {
        match self.subject.len() < self.bounds.most {
            true => Ok(()),
            false => Err(Refusal::TooLong(
                "it names more than the audit log takes of one call, 65536 at most",
            )),
        }
    }

    fn digest(&mut self) -> Result<Then, Refusal> {
        self.one_more()?;
        self.subject.digests.push(Digest::default());
        self.levels.push((&[], 0));
        self.reading = Reading::Digest {
            hash: false,
            size: false,
        };
        Ok(Then::Enter)
    }

    fn text(&mut self, reading: Reading, length: u64) -> Result<Then, Refusal> {
        self.one_more()?;
        if length > LONGEST_NAME {
            return Err(Refusal::TooLong("a URI or a name that is pushed may have 4096 bytes"));
        }
        self.reading = reading;
        Ok(Then::Take)
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Refusal {
        Refusal::Malformed(malformed.0)
    }
}

impl Visitor for Found {
    type Error = Refusal;

    fn field(&mut self, number: u32, length: u64) -> Result<Then, Refusal> {
        match (self.reading, number) {
            (Reading::Digest { hash: true, .. }, 1) => return Err(Refusal::Ambiguous("a hash is given twice")),
            (Reading::Digest { size, .. }, 1) => {
                if length > LONGEST_HASH {
                    return Err(Refusal::TooLong("a hash may have 128 bytes"));
                }
                self.reading = Reading::Hash { size };
                return Ok(Then::Take);
            }
            (Reading::Digest { .. }, 2) => return Err(Refusal::Malformed("a size is no number")),
            (Reading::Digest { .. }, _) => return Ok(Then::Skip),
            _ => {}
        }
        let fields = self.levels.last().map_or(&[][..], |(fields, _)| fields);
        let Some((_, shape)) = fields.iter().find(|(field, _)| *field == number) else {
            return Ok(Then::Skip);
        };
        match shape {
            Shape::Messages(fields) => {
                self.messages += 1;
                self.levels.push((fields, 0));
                Ok(Then::Enter)
            }
            Shape::Message(fields) => {
                self.once(number)?;
                self.levels.push((fields, 0));
                Ok(Then::Enter)
            }
            Shape::Digest => {
                self.once(number)?;
                self.digest()
            }
            Shape::Digests => self.digest(),
            Shape::Uris => self.text(Reading::Uri, length),
            Shape::Keys => self.text(Reading::Key, length),
            Shape::Name => {
                self.once(number)?;
                self.text(Reading::Name, length)
            }
        }
    }

    fn number(&mut self, number: u32, value: Option<u64>) -> Result<(), Refusal> {
        if let Reading::Digest { hash, size } = self.reading {
            match (number, value, self.subject.digests.last_mut()) {
                (2, _, _) if size => return Err(Refusal::Ambiguous("a size is given twice")),
                (2, Some(value), Some(digest)) => {
                    digest.size_bytes = value.cast_signed();
                    self.reading = Reading::Digest { hash, size: true };
                }
                (1 | 2, ..) => return Err(Refusal::Malformed("a digest has a field of another type")),
                _ => {}
            }
            return Ok(());
        }
        let fields = self.levels.last().map_or(&[][..], |(fields, _)| fields);
        match fields.iter().any(|(field, _)| *field == number) {
            true => Err(Refusal::Malformed("a name or a digest has another type")),
            false => Ok(()),
        }
    }

    fn bytes(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        self.text.extend_from_slice(piece);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Refusal> {
        let reading = std::mem::replace(&mut self.reading, Reading::Nothing);
        if matches!(reading, Reading::Nothing | Reading::Digest { .. }) {
            self.levels.pop();
            return Ok(());
        }
        let text = std::mem::take(&mut self.text);
        self.texts += text.len() as u64;
        let text = String::from_utf8(text).map_err(|_| Refusal::Malformed("a name is not UTF-8"))?;
        // What no name has, and what would take six times its length in the log.
        if text.chars().any(char::is_control) {
            return Err(Refusal::Malformed("a URI, a name or a hash has a control character"));
        }
        match reading {
            Reading::Hash { size } => {
                if let Some(digest) = self.subject.digests.last_mut() {
                    digest.hash = text;
                }
                self.reading = Reading::Digest { hash: true, size };
            }
            Reading::Uri => self.subject.uris.push(text),
            Reading::Key => self.subject.uris.push(format!("{URN_PREFIX}{text}")),
            Reading::Name => self.subject.names.push(text),
            Reading::Nothing | Reading::Digest { .. } => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
    use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn picked(method: Method, message: &impl prost::Message, split: usize) -> Subject {
        let bytes = message.encode_to_vec();
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        let framed = [&[0], length.as_slice(), &bytes].concat();
        let mut picker = Picker::new(method).unwrap();
        framed.chunks(split).for_each(|piece| picker.push(piece).unwrap());
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
        assert_eq!(subject.digests, [digest("x")]);
        let update = reapi::UpdateActionResultRequest {
            action_digest: Some(digest("action")),
            action_result: Some(reapi::ActionResult {
                stdout_digest: Some(digest("not this one")),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(
            picked(Method::UpdateActionResult, &update, 1).digests,
            [digest("action")]
        );
        assert!(Picker::new(Method::GetActionResult).is_none());
        let splice = reapi::SpliceBlobRequest {
            blob_digest: Some(digest("whole")),
            chunk_digests: vec![digest("one"), digest("two")],
            ..Default::default()
        };
        let subject = picked(Method::SpliceBlob, &splice, 2);
        assert_eq!(subject.digests, [digest("whole"), digest("one"), digest("two")]);
    }

    fn refused(method: Method, message: &[u8]) -> Option<Refusal> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let framed = [&[0], length.as_slice(), message].concat();
        let why = |split| {
            let mut picker = Picker::new(method).unwrap();
            framed.chunks(split).find_map(|piece| picker.push(piece).err())
        };
        assert_eq!(why(1), why(framed.len()));
        why(1)
    }

    #[test]
    fn what_can_not_be_told_whole_is_refused() {
        let text = |number: u8, text: &[u8]| [&[number << 3 | 2, u8::try_from(text.len()).unwrap()], text].concat();
        let hash = text(1, b"aa");
        let update = Method::UpdateActionResult;
        // A digest in two parts, which parsers merge, and a hash of which the last one counts.
        let parts = [text(2, &hash), text(2, b"\x10\x06")].concat();
        assert!(matches!(refused(update, &parts), Some(Refusal::Ambiguous(_))));
        let twice = text(2, &[hash.clone(), text(1, b"bb")].concat());
        assert!(matches!(refused(update, &twice), Some(Refusal::Ambiguous(_))));
        let sizes = text(2, b"\x10\x06\x10\x07");
        assert!(matches!(refused(update, &sizes), Some(Refusal::Ambiguous(_))));
        // Numbers in more bytes than needed, and groups.
        let long = [&b"\x12\x84\x00"[..], &hash].concat();
        assert!(matches!(refused(update, &long), Some(Refusal::Malformed(_))));
        let group = [&b"\x3b\x3c"[..], &text(2, &hash)].concat();
        assert!(matches!(refused(update, &group), Some(Refusal::Malformed(_))));
        // Other types, text that is none, and what would forge a line.
        assert!(matches!(refused(update, b"\x10\x01"), Some(Refusal::Malformed(_))));
        assert!(matches!(
            refused(update, &text(2, b"\x08\x01")),
            Some(Refusal::Malformed(_))
        ));
        assert!(matches!(
            refused(update, &text(2, &text(1, b"\xff"))),
            Some(Refusal::Malformed(_))
        ));
        assert!(matches!(
            refused(Method::PushBlob, &text(2, b"a\nb")),
            Some(Refusal::Malformed(_))
        ));
        // Too long.
        let uri = asset::PushBlobRequest {
            uris: vec!["u".repeat(4097)],
            ..Default::default()
        };
        assert!(matches!(
            refused(Method::PushBlob, &uri.encode_to_vec()),
            Some(Refusal::TooLong(_))
        ));
        // A digest that is padded with what nobody knows is read all the same.
        let padded = text(2, &[hash, text(9, &[b'x'; 100])].concat());
        assert_eq!(refused(update, &padded), None);
        let mut compressed = Picker::new(update).unwrap();
        assert_eq!(compressed.push(b"\x01\0\0\0\x01x"), Err(Refusal::Compressed));
    }

    #[test]
    fn sessions_and_operations_are_named() {
        let text = |number: u8, text: &[u8]| [&[number << 3 | 2, u8::try_from(text.len()).unwrap()], text].concat();
        let framed = |message: &[u8]| [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()], message].concat();
        let named = |method, message: &[u8]| {
            let mut picker = Picker::new(method).unwrap();
            picker.push(&framed(message)).unwrap();
            picker.finish().names
        };
        assert_eq!(named(Method::CancelOperation, &text(1, b"op")), ["op"]);
        let bot = text(2, &[text(1, b"session"), text(2, b"bot")].concat());
        assert_eq!(
            named(Method::CreateBotSession, &[text(1, b"parent"), bot.clone()].concat()),
            ["session", "bot"]
        );
        assert_eq!(
            named(Method::UpdateBotSession, &[text(1, b"name"), bot].concat()),
            ["name", "session", "bot"]
        );
    }

    #[test]
    fn what_is_kept_is_bounded_and_nothing_is_left_out() {
        let many = batch(&[0; 100]).encode_to_vec();
        let length = u32::try_from(many.len()).unwrap().to_be_bytes();
        let mut picker = Picker::bounded(Method::BatchUpdateBlobs, Bounds { most: 99 }).unwrap();
        let framed = [&[0], length.as_slice(), &many].concat();
        assert!(matches!(picker.push(&framed), Err(Refusal::TooLong(_))));
    }

    proptest! {
        #[test]
        fn every_blob_of_a_batch_is_picked_on_every_split(sizes in proptest::collection::vec(0usize..300, 0..20), split in 1usize..50) {
            let subject = picked(Method::BatchUpdateBlobs, &batch(&sizes), split);
            let expected: Vec<_> = (0..sizes.len()).map(|index| digest(&format!("hash {index}"))).collect();
            prop_assert_eq!(subject.digests, expected);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), split in 1usize..20) {
            for method in [Method::BatchUpdateBlobs, Method::PushBlob, Method::Execute] {
                let mut picker = Picker::new(method).unwrap();
                let _refused = bytes.chunks(split).find_map(|piece| picker.push(piece).err());
                picker.finish();
            }
        }
    }
}
