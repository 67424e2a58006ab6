//! The command line: one file a command.

pub mod audit;
pub mod certs;
pub mod check;
pub mod explain;
pub mod quickstart;
pub mod serve;
pub mod store;
mod supervisor;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A mutual-TLS gate for Remote Execution API caches: who may pull and who may push, decided call by call.
///
/// casgate stands in front of buildbox-casd, Buildbarn, NativeLink, BuildGrid, bazel-remote or its own embedded store,
/// takes the client certificates of BuildStream and Bazel, and lets through what its rules allow.
#[derive(Debug, Parser)]
#[command(name = "casgate", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a configuration until SIGTERM or SIGINT
    Serve(serve::Args),
    /// Check a configuration: all errors at once, then who may do what
    Check(check::Args),
    /// Look into an audit log: who pushed a name or a digest, when, with which certificate
    Audit(audit::Args),
    /// Explain a decision: who a certificate is, which rules match, and what the client is answered
    Explain(explain::Args),
    /// Look after the folder of an embedded store
    #[command(subcommand)]
    Store(store::Command),
    /// Make certificates: an authority, servers, clients; and revoke them
    #[command(subcommand)]
    Certs(certs::Command),
    /// Try it: make certificates and a configuration with the embedded store, serve, print settings for clients
    Quickstart(quickstart::Args),
}

/// A command that did not succeed; the text is for the user.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// What the user should read.
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Serve(args) => serve::run(&args)?,
            Command::Check(args) => check::run(&args)?,
            Command::Explain(args) => return explain::run(&args),
            Command::Audit(args) => audit::run(&args)?,
            Command::Store(command) => return store::run(&command),
            Command::Certs(command) => certs::run(&command)?,
            Command::Quickstart(args) => quickstart::run(&args)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Failure {
    /// The failure of an error's text.
    pub fn of(error: impl ToString) -> Failure {
        Failure(error.to_string())
    }
}
