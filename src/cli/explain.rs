//! `casgate explain`: why a call is allowed or not, found by the code that decides calls.

mod account;
mod method;
mod print;

use std::path::PathBuf;
use std::process::ExitCode;

use rustls::pki_types::CertificateDer;

use super::Failure;
use crate::config;
use crate::snapshot::Snapshot;
use crate::snapshot::listen::Security;
use crate::tls::pem;

use account::{Account, Call};

/// The exit code for a call that is not allowed; 1 is for mistakes of the command line and the configuration.
const DENIED: u8 = 2;

/// Arguments of `casgate explain`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("caller").required(true).args(["certificate", "peer"]))]
pub struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The client's certificate, a PEM file, with the intermediates that it shows
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// A caller without a certificate
    #[arg(long)]
    pub peer: Option<Peer>,
    /// The method: `Write`, `ByteStream/Write` or the whole path
    #[arg(long)]
    pub method: String,
    /// The instance name, where the method has one
    #[arg(long, default_value = "")]
    pub instance: String,
    /// A URI of a Remote Asset request; may be given several times
    #[arg(long = "uri", value_name = "URI")]
    pub uris: Vec<String>,
    /// Which listener, counted from 1 [default: the first with TLS]
    #[arg(long, value_name = "N")]
    pub listener: Option<usize>,
    /// How to print it
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// A caller that needs no file.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Peer {
    /// Without a certificate
    Anonymous,
}

/// How to print.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// One JSON object
    Json,
}

/// Explains a decision, and gives the exit code.
///
/// # Errors
/// What is wrong with the configuration, the certificate's file or the arguments.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let loaded = config::load(&args.config).map_err(Failure::of)?;
    let snapshot = Snapshot::compile(&loaded).map_err(Failure::of)?;
    let call = Call {
        listener: listener(&snapshot, args.listener)?,
        chain: chain(args)?,
        method: method::find(&args.method)?,
        instance: &args.instance,
        uris: &args.uris,
    };
    let account = Account::of(&snapshot, &call, crate::live::now())?;
    match args.format {
        Format::Text => print!("{}", print::text(&account)),
        Format::Json => println!("{:#}", print::json(&account)),
    }
    let is_allowed = account.outcome.is_ok();
    Ok(if is_allowed { ExitCode::SUCCESS } else { DENIED.into() })
}

/// The index of the listener that is meant.
fn listener(snapshot: &Snapshot, given: Option<usize>) -> Result<usize, Failure> {
    let count = snapshot.listeners.len();
    let Some(number) = given else {
        let mut listeners = snapshot.listeners.iter();
        let with_tls = listeners.position(|listener| matches!(listener.security, Security::Tls { .. }));
        return Ok(with_tls.unwrap_or(0));
    };
    match number.checked_sub(1).filter(|index| *index < count) {
        Some(index) => Ok(index),
        None => Err(Failure(format!(
            "--listener {number}: there are {count}, counted from 1"
        ))),
    }
}

fn chain(args: &Args) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let Some(path) = &args.certificate else {
        return Ok(Vec::new());
    };
    let failure = |text: String| Failure(format!("{}: {text}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| failure(format!("can't be read: {error}")))?;
    pem::certificates(&bytes).map_err(failure)
}
