//! The fields of a message that is there as a whole.

use super::protobuf::{BEYOND, Malformed, Varint, WireType, split_tag};

/// One field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its number.
    pub number: u32,
    /// What a length-delimited field holds.
    pub content: Option<&'a [u8]>,
    /// All of it, from its tag on.
    pub raw: &'a [u8],
}

/// The fields of a message in their order. After an error there are none.
pub fn fields(message: &[u8]) -> impl Iterator<Item = Result<Field<'_>, Malformed>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        let start = rest;
        if start.is_empty() {
            return None;
        }
        let field = field(start);
        rest = field.map_or(&[], |field| start.get(field.raw.len()..).unwrap_or_default());
        Some(field)
    })
}

fn field(start: &[u8]) -> Result<Field<'_>, Malformed> {
    let mut rest = start;
    let (number, wire_type) = split_tag(read(&mut rest, Varint::short)?)?;
    let length = match wire_type {
        WireType::Varint => {
            read(&mut rest, Varint::any)?;
            0
        }
        WireType::Fixed(length) => length,
        WireType::Length => read(&mut rest, Varint::short)?,
    };
    let length = usize::try_from(length).map_err(|_| BEYOND)?;
    let (content, behind) = rest.split_at_checked(length).ok_or(BEYOND)?;
    let raw = start.get(..start.len() - behind.len()).unwrap_or_default();
    let content = (wire_type == WireType::Length).then_some(content);
    Ok(Field { number, content, raw })
}

fn read(rest: &mut &[u8], take: fn(&mut Varint, u8) -> Result<Option<u64>, Malformed>) -> Result<u64, Malformed> {
    let mut varint = Varint::START;
    loop {
        let (first, behind) = rest.split_first().ok_or(BEYOND)?;
        *rest = behind;
        if let Some(value) = take(&mut varint, *first)? {
            return Ok(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::protobuf::{Then, Visitor, Walk};

    #[test]
    fn fields_come_with_their_content_and_in_one_piece() {
        let message = b"\x18\x07\x22\x02ab\x0d1234";
        let all: Vec<_> = fields(message).map(Result::unwrap).collect();
        let parts: Vec<_> = all.iter().map(|field| (field.number, field.content)).collect();
        assert_eq!(parts, [(3, None), (4, Some(&b"ab"[..])), (1, None)]);
        assert_eq!(all.iter().map(|field| field.raw).collect::<Vec<_>>().concat(), message);
        let broken: Vec<_> = fields(b"\x18\x07\x22\x03ab").collect();
        assert_eq!(broken.len(), 2);
        assert_eq!(broken[1], Err(BEYOND));
    }

    /// Writes down the numbers of fields.
    #[derive(Default)]
    struct Numbers(Vec<u32>);

    impl Visitor for Numbers {
        type Error = Malformed;

        fn field(&mut self, number: u32, _: u64) -> Result<Then, Malformed> {
            self.0.push(number);
            Ok(Then::Skip)
        }

        fn number(&mut self, number: u32, _: Option<u64>) -> Result<(), Malformed> {
            self.0.push(number);
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn the_walk_sees_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let here: Result<Vec<_>, _> = fields(&bytes).collect();
            let mut numbers = Numbers::default();
            let walked = Walk::new(bytes.len() as u64).push(&bytes, &mut numbers);
            prop_assert_eq!(here.is_ok(), walked.is_ok());
            if let Ok(here) = here {
                prop_assert_eq!(here.iter().map(|field| field.number).collect::<Vec<_>>(), numbers.0);
            }
        }
    }
}
