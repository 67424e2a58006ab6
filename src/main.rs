//! The `casgate` program: see the library for how it works.

use std::process::ExitCode;

use clap::Parser;

use casgate::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
