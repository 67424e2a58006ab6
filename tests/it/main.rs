//! Integration tests of the gate.
fn main() {}
