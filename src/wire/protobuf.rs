//! Walks through a protobuf message in pieces of any size, without keeping any of it (protobuf.dev, "Encoding").
//!
//! Stricter than parsers are, where they differ: tags and lengths have their shortest spelling and at most 32 bits, there
//! are no groups, and no field goes beyond the end of its message.

/// Messages within each other that a walk enters; no message of the protocols here has more than six.
pub const DEEPEST: usize = 12;
/// The same, for who follows a walk.
pub(super) const WALK_DEPTH: usize = DEEPEST;

/// Bytes that are no protobuf, or none that every parser reads alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

pub(super) const BEYOND: Malformed = Malformed("a field goes beyond the end of its message");
const GROUP: Malformed = Malformed("a field has a wire type that is not in use");
const LONG_NUMBER: Malformed = Malformed("a number has too many bytes");
const NO_FIELD: Malformed = Malformed("a field number is out of range");
const TOO_DEEP: Malformed = Malformed("messages are nested too deeply");

/// What becomes of a length-delimited field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is a message: its fields are visited, then [`Visitor::end`].
    Enter,
    /// Its bytes go to [`Visitor::bytes`] as they come, then [`Visitor::end`].
    Take,
    /// It is passed over.
    Skip,
}

/// Whoever looks at a message while a [`Walk`] goes through it.
pub trait Visitor {
    /// Why it goes no further; every walk can also fail for what is malformed.
    type Error: From<Malformed>;

    /// A length-delimited field: its number, and its length in bytes.
    ///
    /// # Errors
    /// To end the walk.
    fn field(&mut self, number: u32, length: u64) -> Result<Then, Self::Error>;

    /// A field that is a number; of 32 and 64 bits those that have a fixed length are told without their value.
    ///
    /// # Errors
    /// To end the walk.
    fn number(&mut self, number: u32, value: Option<u64>) -> Result<(), Self::Error> {
        let _ = (number, value);
        Ok(())
    }

    /// The next bytes of a field that is taken; never none.
    ///
    /// # Errors
    /// To end the walk.
    fn bytes(&mut self, piece: &[u8]) -> Result<(), Self::Error> {
        let _ = piece;
        Ok(())
    }

    /// The end of the field that was entered or taken last and has not ended.
    ///
    /// # Errors
    /// To end the walk.
    fn end(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// A walk through one message.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Bytes that were passed.
    at: u64,
    /// Where the message ends, and those within it that were entered.
    ends: [u64; DEEPEST],
    /// How many of `ends` there are, less one.
    depth: usize,
    place: Place,
}

/// Where in a field a walk stands.
#[derive(Clone, Copy, Debug)]
enum Place {
    Tag(Varint),
    Value { number: u32, varint: Varint },
    Length { number: u32, varint: Varint },
    Content { end: u64, taken: bool },
}

impl Place {
    const START: Place = Place::Tag(Varint::START);
}

impl Walk {
    /// A walk through a message of so many bytes.
    pub fn new(length: u64) -> Walk {
        let mut ends = [0; DEEPEST];
        if let Some(end) = ends.first_mut() {
            *end = length;
        }
        Walk {
            at: 0,
            ends,
            depth: 0,
            place: Place::START,
        }
    }

    /// Whether all of the message was passed.
    pub fn is_over(&self) -> bool {
        self.at == self.end_at(0)
    }

    /// Walks on over the next bytes of the message; gives how many it has passed, which are all but those behind the end
    /// of the message.
    ///
    /// # Errors
    /// What the visitor says; or [`Malformed`].
    pub fn push<V: Visitor>(&mut self, bytes: &[u8], visitor: &mut V) -> Result<usize, V::Error> {
        let mut rest = bytes;
        while !self.is_over() {
            let Some((first, behind)) = rest.split_first() else {
                break;
            };
            match &mut self.place {
                Place::Content { end, taken } => {
                    let left = usize::try_from(*end - self.at).unwrap_or(usize::MAX);
                    let (now, behind) = rest.split_at(left.min(rest.len()));
                    let (is_taken, is_end) = (*taken, now.len() == left);
                    self.at += now.len() as u64;
                    rest = behind;
                    if is_taken {
                        visitor.bytes(now)?;
                    }
                    if is_end {
                        self.place = Place::START;
                        if is_taken {
                            visitor.end()?;
                        }
                    }
                }
                Place::Tag(varint) => {
                    self.at += 1;
                    rest = behind;
                    if let Some(tag) = varint.short(*first)? {
                        self.place = after_tag(tag, self.at, visitor)?;
                    }
                }
                Place::Value { number, varint } => {
                    let number = *number;
                    self.at += 1;
                    rest = behind;
                    if let Some(value) = varint.any(*first)? {
                        self.place = Place::START;
                        visitor.number(number, Some(value))?;
                    }
                }
                Place::Length { number, varint } => {
                    let number = *number;
                    self.at += 1;
                    rest = behind;
                    if let Some(length) = varint.short(*first)? {
                        self.begin(number, length, visitor)?;
                    }
                }
            }
            self.leave(visitor)?;
        }
        Ok(bytes.len() - rest.len())
    }

    /// Begins the content of a length-delimited field.
    fn begin<V: Visitor>(&mut self, number: u32, length: u64, visitor: &mut V) -> Result<(), V::Error> {
        let end = self.at + length;
        if end > self.end_at(self.depth) {
            return Err(BEYOND.into());
        }
        self.place = Place::START;
        match visitor.field(number, length)? {
            Then::Enter => {
                let place = self.ends.get_mut(self.depth + 1).ok_or(TOO_DEEP)?;
                *place = end;
                self.depth += 1;
            }
            Then::Take if length == 0 => visitor.end()?,
            Then::Skip if length == 0 => {}
            then => {
                let taken = then == Then::Take;
                self.place = Place::Content { end, taken };
            }
        }
        Ok(())
    }

    /// Leaves the messages that end here.
    fn leave<V: Visitor>(&mut self, visitor: &mut V) -> Result<(), V::Error> {
        let end = self.end_at(self.depth);
        match self.place {
            Place::Tag(Varint { bytes: 0, .. }) => {}
            // A field of a fixed length may lead beyond it.
            Place::Content { end: content, .. } if content > end => return Err(BEYOND.into()),
            _ if self.at >= end => return Err(BEYOND.into()),
            _ => return Ok(()),
        }
        while self.depth > 0 && self.at == self.end_at(self.depth) {
            self.depth -= 1;
            visitor.end()?;
        }
        Ok(())
    }

    fn end_at(&self, depth: usize) -> u64 {
        self.ends.get(depth).copied().unwrap_or(0)
    }
}

fn after_tag<V: Visitor>(tag: u64, at: u64, visitor: &mut V) -> Result<Place, V::Error> {
    let (number, wire_type) = split_tag(tag)?;
    let fixed = |bytes| Place::Content {
        end: at + bytes,
        taken: false,
    };
    let varint = Varint::START;
    Ok(match wire_type {
        WireType::Varint => Place::Value { number, varint },
        WireType::Length => Place::Length { number, varint },
        WireType::Fixed(bytes) => {
            visitor.number(number, None)?;
            fixed(bytes)
        }
    })
}

/// How a field is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WireType {
    /// A number.
    Varint,
    /// So many bytes.
    Fixed(u64),
    /// A length, and so many bytes.
    Length,
}

/// The number and the encoding of a field.
pub(super) fn split_tag(tag: u64) -> Result<(u32, WireType), Malformed> {
    let number = u32::try_from(tag >> 3).ok();
    let number = number.filter(|number| (1..1 << 29).contains(number)).ok_or(NO_FIELD)?;
    match tag & 7 {
        0 => Ok((number, WireType::Varint)),
        1 => Ok((number, WireType::Fixed(8))),
        2 => Ok((number, WireType::Length)),
        5 => Ok((number, WireType::Fixed(4))),
        // Groups can hold anything, and no message of these protocols has one.
        _ => Err(GROUP),
    }
}

/// A number whose bytes come one by one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Varint {
    value: u64,
    bytes: u32,
}

impl Varint {
    pub(crate) const START: Varint = Varint { value: 0, bytes: 0 };

    /// Whether none of its bytes has come.
    pub(crate) fn is_empty(self) -> bool {
        self.bytes == 0
    }

    /// Takes a byte of a tag or a length; the number when it was the last one. It has at most 32 bits, and a longer
    /// spelling than needed is refused: parsers differ in how many bytes they take.
    pub(crate) fn short(&mut self, byte: u8) -> Result<Option<u64>, Malformed> {
        let value = self.any(byte)?;
        if self.bytes > 5 || self.value > u64::from(u32::MAX) || byte == 0 && self.bytes > 1 {
            return Err(LONG_NUMBER);
        }
        Ok(value)
    }

    /// The same for a number of 64 bits in at most ten bytes. Negative numbers of 32 bits have ten, too.
    pub(super) fn any(&mut self, byte: u8) -> Result<Option<u64>, Malformed> {
        let bits = u64::from(byte & 0x7f);
        if self.bytes == 9 && byte > 1 {
            return Err(LONG_NUMBER);
        }
        self.value |= bits << (7 * self.bytes);
        self.bytes += 1;
        Ok((byte & 0x80 == 0).then_some(self.value))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use proptest::prelude::*;

    use super::*;

    /// Writes down what it sees; enters fields below 4, takes those below 8.
    #[derive(Default)]
    struct Scribe(String);

    impl Visitor for Scribe {
        type Error = Malformed;

        fn field(&mut self, number: u32, length: u64) -> Result<Then, Malformed> {
            self.0 += &format!("{number}:{length}(");
            Ok(match number {
                0..4 => Then::Enter,
                4..8 => Then::Take,
                _ => {
                    self.0 += ")";
                    Then::Skip
                }
            })
        }

        fn number(&mut self, number: u32, value: Option<u64>) -> Result<(), Malformed> {
            self.0 += &match value {
                Some(value) => format!("{number}={value} "),
                None => format!("{number}=? "),
            };
            Ok(())
        }

        fn bytes(&mut self, piece: &[u8]) -> Result<(), Malformed> {
            self.0 += str::from_utf8(piece).unwrap_or("?");
            Ok(())
        }

        fn end(&mut self) -> Result<(), Malformed> {
            self.0 += ")";
            Ok(())
        }
    }

    fn walk(bytes: &[u8], piece: usize) -> Result<String, Malformed> {
        let mut walk = Walk::new(bytes.len() as u64);
        let mut scribe = Scribe::default();
        for piece in bytes.chunks(piece.max(1)) {
            assert_eq!(walk.push(piece, &mut scribe)?, piece.len());
        }
        assert!(walk.is_over());
        Ok(scribe.0)
    }

    #[test]
    fn fields_are_met_in_order_whatever_the_pieces() {
        let message = b"\x0a\x09\x12\x03\x22\x01a\x12\x00\x18\x07\x22\x00\x2a\x02bc\x42\x01d\x0d1234\x4912345678\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        let expected = "1:9(2:3(4:1(a))2:0()3=7 )4:0()5:2(bc)8:1()1=? 9=? 1=18446744073709551615 ";
        for piece in 1..=message.len() {
            assert_eq!(walk(message, piece).unwrap(), expected, "{piece}");
        }
        let mut walk = Walk::new(2);
        assert_eq!(walk.push(b"\x18\x01\x18\x01", &mut Scribe::default()), Ok(2));
        assert!(Walk::new(0).is_over());
    }

    #[test]
    fn what_parsers_read_in_two_ways_is_refused() {
        for (bad, why) in [
            (&b"\x0b\x0c"[..], GROUP),
            (b"\x0f", GROUP),
            (b"\x02\x00", NO_FIELD),
            (b"\x82\x00\x00", LONG_NUMBER),
            (b"\x8a\x00\x00", LONG_NUMBER),
            (b"\x22\x80\x00", LONG_NUMBER),
            (b"\x22\xff\xff\xff\xff\x1f", LONG_NUMBER),
            (b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", LONG_NUMBER),
            (b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", LONG_NUMBER),
            (b"\x22\x02a", BEYOND),
            (b"\x18", BEYOND),
            (b"\x18\x80", BEYOND),
            (b"\x22", BEYOND),
            (b"\x0d123", BEYOND),
            (b"\x0a\x02\x22\x01a", BEYOND),
            (b"\x0a\x01\x18\x01", BEYOND),
            (b"\x0a\x03\x0d123456", BEYOND),
        ] {
            for piece in 1..=bad.len() {
                assert_eq!(walk(bad, piece), Err(why), "{bad:?} by {piece}");
            }
        }
        let mut deep = Vec::new();
        for _ in 0..DEEPEST {
            let mut outer = vec![0x0a, u8::try_from(deep.len()).unwrap()];
            outer.append(&mut deep);
            deep = outer;
        }
        assert_eq!(walk(&deep, 1), Err(TOO_DEEP));
        assert!(walk(&deep[2..], 1).is_ok());
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(bytes in proptest::collection::vec(any::<u8>(), 0..60), piece in 1..9_usize) {
            let whole = walk(&bytes, 60);
            let pieces = walk(&bytes, piece);
            prop_assert_eq!(whole.is_ok(), pieces.is_ok());
            if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
                prop_assert_eq!(whole, pieces);
            }
        }
    }
}
