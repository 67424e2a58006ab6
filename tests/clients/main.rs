//! Tests with real clients.
fn main() {}
