//! What a message would take in memory, counted on the wire against a bound.
//!
//! A [`Shape`] tells what becomes of the fields of a message type when it is decoded. A [`Counter`] goes through a message
//! with it and stops at the field that is too much. Fields without an entry are dropped by the decoder and cost nothing;
//! how deep messages can be nested follows from the shapes, which have no cycles.

use super::protobuf::{Malformed, Then, Visitor, WALK_DEPTH};

/// What a message type is in memory.
#[derive(Debug)]
pub struct Shape {
    /// Bytes of the decoded type itself (`size_of`).
    pub size: usize,
    /// What the decoder keeps.
    pub fields: &'static [(u32, Kept)],
}

/// What the decoder keeps of a field.
#[derive(Clone, Copy, Debug)]
pub enum Kept {
    /// A string or bytes.
    Bytes,
    /// One of many strings.
    Strings,
    /// A message, or one of many.
    Message(&'static Shape),
    /// One of many numbers, alone or packed (protobuf.dev, "Packed Repeated Fields").
    Numbers,
}

/// The most that a message may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Bytes on the wire.
    pub longest: u64,
    /// Messages, strings of lists, and numbers of lists.
    pub elements: u64,
    /// Bytes in memory for each byte on the wire, beyond [`Bound::FREE`].
    pub ratio: u64,
}

/// What a message takes when it is decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Messages, strings of lists, and numbers of lists.
    pub elements: u64,
    /// Bytes in memory, at most.
    pub memory: u64,
}

/// Why a message is not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// It is no protobuf.
    #[error("the message is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// It is longer than messages of its kind may be.
    #[error("the message has more than {0} bytes, the most for its kind")]
    Long(u64),
    /// It has too many entries.
    #[error("the message has more than {0} entries, the most for its kind")]
    Elements(u64),
    /// Its entries are so short that it would take many times its size.
    #[error("the message has more entries than its size allows: most of them must be empty")]
    Memory,
}

/// Counts what a message takes.
#[derive(Clone, Debug)]
pub struct Counter {
    bound: Bound,
    /// The most memory, by the length of the message.
    most: u64,
    cost: Cost,
    /// Of the message and those within it that were entered.
    shapes: [Option<&'static Shape>; WALK_DEPTH],
    depth: usize,
}

impl Bound {
    /// Bytes in memory that a message of any length may take. A few hundred entries without content are no attack.
    pub const FREE: u64 = 1 << 20;
}

impl Shape {
    fn kept(&self, number: u32) -> Option<Kept> {
        let entry = self.fields.iter().find(|(entry, _)| *entry == number);
        entry.map(|(_, kept)| *kept)
    }
}

impl Counter {
    /// A counter for a message of so many bytes on the wire.
    ///
    /// # Errors
    /// [`TooMuch::Long`].
    pub fn new(shape: &'static Shape, bound: Bound, length: u64) -> Result<Counter, TooMuch> {
        if length > bound.longest {
            return Err(TooMuch::Long(bound.longest));
        }
        let mut shapes = [None; WALK_DEPTH];
        shapes[0] = Some(shape);
        Ok(Counter {
            bound,
            most: Bound::FREE.saturating_add(length.saturating_mul(bound.ratio)),
            cost: Cost {
                elements: 0,
                memory: shape.size as u64,
            },
            shapes,
            depth: 0,
        })
    }

    /// What was counted so far.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    fn add(&mut self, elements: u64, memory: u64) -> Result<(), TooMuch> {
        self.cost.elements = self.cost.elements.saturating_add(elements);
        self.cost.memory = self.cost.memory.saturating_add(memory);
        if self.cost.elements > self.bound.elements {
            return Err(TooMuch::Elements(self.bound.elements));
        }
        if self.cost.memory > self.most {
            return Err(TooMuch::Memory);
        }
        Ok(())
    }

    fn kept(&self, number: u32) -> Option<Kept> {
        let shape = self.shapes.get(self.depth).copied().flatten();
        shape.and_then(|shape| shape.kept(number))
    }
}

impl Visitor for Counter {
    type Error = TooMuch;

    fn field(&mut self, number: u32, length: u64) -> Result<Then, TooMuch> {
        match self.kept(number) {
            None => {}
            Some(Kept::Bytes) => self.add(0, allocated(length))?,
            Some(Kept::Strings) => self.add(1, in_a_list(size_of::<String>()) + allocated(length))?,
            // At most one for each byte.
            Some(Kept::Numbers) => self.add(length, length.saturating_mul(in_a_list(size_of::<u64>())))?,
            Some(Kept::Message(shape)) => {
                self.add(1, in_a_list(shape.size))?;
                self.depth += 1;
                if let Some(place) = self.shapes.get_mut(self.depth) {
                    *place = Some(shape);
                }
                return Ok(Then::Enter);
            }
        }
        Ok(Then::Skip)
    }

    fn number(&mut self, number: u32, _: Option<u64>) -> Result<(), TooMuch> {
        match self.kept(number) {
            Some(Kept::Numbers) => self.add(1, in_a_list(size_of::<u64>())),
            _ => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), TooMuch> {
        self.depth = self.depth.saturating_sub(1);
        Ok(())
    }
}

/// Bytes of an entry in a list, of which half may be spare.
fn in_a_list(size: usize) -> u64 {
    2 * size as u64
}

/// Bytes that an allocator gives for so many.
fn allocated(length: u64) -> u64 {
    match length {
        0 => 0,
        // Size classes of allocators are a quarter apart.
        length => (length + length / 4).max(16),
    }
}
