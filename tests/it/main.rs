//! Integration tests of the gate.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says by a panic what is wrong")]

mod configs;
mod readme;
