//! The `casgate` program: see the library for how it works.
/// Runs the command line.
fn main() {}
