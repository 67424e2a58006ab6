//! Bytes and what they mean: protobuf as it comes from clients, backends and disks.
//!
//! Pure, and below everything else: the gate and the embedded store read with the same code. Nothing is decoded before
//! its elements were counted where they stand: two bytes of protobuf can become two hundred in memory.

pub mod bound;
pub mod decode;
pub mod fields;
pub mod protobuf;
pub mod shapes;
pub mod tree;

pub use bound::{Bound, Cost, Counter, Kept, Shape, TooMuch};
pub use decode::{Bounded, Measured, decode, measure};
pub use protobuf::{Malformed, Then, Visitor, Walk};
