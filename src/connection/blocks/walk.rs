//! Walks over the fields of a header block (RFC 7541, 6) to see whether it changes the table: what fields say is not looked
//! at.

/// Where in a block a walk is.
#[derive(Debug)]
pub(super) enum Walk {
    /// Before a field.
    Field,
    /// In an integer, and what comes behind it.
    Integer { value: usize, shift: u32, then: Then },
    /// Before the length of a string.
    Length(Part),
    /// In a string.
    String { left: usize, of: Part },
    /// The block changes the table, or can't be read.
    Unknown,
}

/// What an integer is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    /// The index of a field.
    Nothing,
    /// The index of the name of a field.
    Value,
    /// The length of a string.
    String(Part),
}

/// A string of a field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Name,
    Value,
}

impl Walk {
    pub(super) fn new() -> Walk {
        Walk::Field
    }

    /// Whether the block so far is whole and leaves the table as it is.
    pub(super) fn changes_nothing(&self) -> bool {
        matches!(self, Walk::Field)
    }

    /// Goes on by these bytes.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            *self = match *self {
                Walk::Unknown => return,
                Walk::String { left, of } => {
                    let part = left.min(bytes.len());
                    bytes = bytes.get(part..).unwrap_or_default();
                    *self = string(left - part, of);
                    continue;
                }
                Walk::Field => match byte {
                    // An indexed field.
                    0x80.. => integer(byte, 0x7f, Then::Nothing),
                    // With a new entry of the table, or another size of it.
                    0x20.. => Walk::Unknown,
                    // Without an entry, now or ever.
                    _ if byte & 0x0f == 0 => Walk::Length(Part::Name),
                    _ => integer(byte, 0x0f, Then::Value),
                },
                Walk::Length(part) => integer(byte, 0x7f, Then::String(part)),
                Walk::Integer { value, shift, then } => more(value, shift, byte, then),
            };
            bytes = rest;
        }
    }
}

/// An integer that begins in the last bits of a byte (RFC 7541, 5.1).
fn integer(byte: u8, mask: u8, then: Then) -> Walk {
    let value = usize::from(byte & mask);
    if byte & mask == mask {
        Walk::Integer { value, shift: 0, then }
    } else {
        after(value, then)
    }
}

fn more(value: usize, shift: u32, byte: u8, then: Then) -> Walk {
    // No length or index is near this.
    if shift > 28 {
        return Walk::Unknown;
    }
    let value = value.saturating_add(usize::from(byte & 0x7f) << shift);
    if byte & 0x80 != 0 {
        let shift = shift + 7;
        Walk::Integer { value, shift, then }
    } else {
        after(value, then)
    }
}

fn after(value: usize, then: Then) -> Walk {
    match then {
        Then::Nothing => Walk::Field,
        Then::Value => Walk::Length(Part::Value),
        Then::String(part) => string(value, part),
    }
}

fn string(left: usize, of: Part) -> Walk {
    match (left, of) {
        (0, Part::Name) => Walk::Length(Part::Value),
        (0, Part::Value) => Walk::Field,
        (left, of) => Walk::String { left, of },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes_nothing(block: &[u8]) -> bool {
        let ways = [1, 2, 7, 4096].map(|size| {
            let mut walk = Walk::new();
            block.chunks(size).for_each(|part| walk.pass(part));
            walk.changes_nothing()
        });
        assert!(ways.iter().all(|way| *way == ways[0]), "{block:?}");
        ways[0]
    }

    #[test]
    fn only_what_leaves_the_table_as_it_is_is_said_to() {
        let long = [
            &[0x00, 1, b'x', 127, 0xf5, 0x03][..],
            &vec![b'y'; 127 + 0x75 + (3 << 7)],
        ]
        .concat();
        for block in [
            &[][..],
            &[0x83, 0x87],
            // The 62nd entry, the 200th, and names of the table.
            &[0xbe, 0xff, 0x49],
            &[0x04, 1, b'/', 0x0f, 0x10, 2, b'a', b'b', 0x14, 0],
            &long,
        ] {
            assert!(changes_nothing(block), "{block:?}");
        }
        for block in [
            &[0x40, 1, b'x', 1, b'y'][..],
            &[0x44, 1, b'/'],
            &[0x20],
            &[0x83, 0x3f, 0xe1, 0x1f],
            // Cut off.
            &[0x00, 1],
            &long[..long.len() - 1],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert!(!changes_nothing(block), "{block:?}");
        }
    }
}
