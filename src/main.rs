//! The `casgate` program: see the library for how it works.

use std::process::ExitCode;

use clap::Parser;
use tikv_jemallocator::Jemalloc;

use casgate::cli::Cli;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
