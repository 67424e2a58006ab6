//! The one door from bytes to messages: nothing gets through that was not counted.

use std::marker::PhantomData;

use bytes::Bytes;
use prost::Message;

use super::bound::{Bound, Cost, Counter, Shape, TooMuch};
use super::protobuf::{Malformed, Walk};

/// A message type that may be decoded, and how much of it.
pub trait Bounded: Message + Default {
    /// What the decoder makes of its fields.
    const SHAPE: &'static Shape;
    /// The most that one may be.
    const BOUND: Bound;
}

/// The bytes of a message that may be decoded.
#[derive(Clone, Debug)]
pub struct Measured<M> {
    bytes: Bytes,
    cost: Cost,
    kind: PhantomData<M>,
}

/// Counts what a message would take.
///
/// # Errors
/// Why it must not be decoded.
pub fn measure<M: Bounded>(bytes: impl Into<Bytes>) -> Result<Measured<M>, TooMuch> {
    let bytes = bytes.into();
    let cost = count(M::SHAPE, M::BOUND, &bytes)?;
    let kind = PhantomData;
    Ok(Measured { bytes, cost, kind })
}

/// Decodes a message whose cost is nobody's matter: of a kind that is small.
///
/// # Errors
/// Why not.
pub fn decode<M: Bounded>(bytes: impl Into<Bytes>) -> Result<M, TooMuch> {
    measure(bytes)?.decode()
}

impl<M: Bounded> Measured<M> {
    /// What it takes when it is decoded, and what whoever decodes it reserves.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Decodes it.
    ///
    /// # Errors
    /// When a field has another type than it should, or a string is not UTF-8.
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    pub fn decode(self) -> Result<M, TooMuch> {
        M::decode(self.bytes).map_err(|_| Malformed("a field is not of the type that it should be").into())
    }
}

pub(super) fn count(shape: &'static Shape, bound: Bound, bytes: &[u8]) -> Result<Cost, TooMuch> {
    let length = bytes.len() as u64;
    let mut counter = Counter::new(shape, bound, length)?;
    Walk::new(length).push(bytes, &mut counter)?;
    Ok(counter.cost())
}
