//! `casgate certs`: makes an authority, server certificates and client certificates, and revokes them.

use std::path::PathBuf;

use super::Failure;
use crate::certs::{Folder, Made, distinct_name};

/// Days that an authority is valid unless told otherwise.
pub const AUTHORITY_DAYS: u32 = 3650;

/// Days that other certificates are valid unless told otherwise: 825 is the most that Apple's clients accept.
pub const DAYS: u32 = 825;

/// Names that a server certificate is for unless told otherwise.
pub const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Most days that a certificate may be valid: a century, well within what X.509 dates can say.
const MOST_DAYS: i64 = 36_500;

/// The kinds of certificates.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make an authority: DIR/ca.crt and DIR/ca.key, and an empty revocation list: DIR/ca.crl
    ///
    /// `ca.crt` goes to `listen.client-ca` of the gate, and to clients as the certificate that they check the server
    /// against. `ca.key` makes certificates: keep it off the server.
    Init {
        /// The folder; it is made if it is not there
        dir: PathBuf,
        /// The authority's commonName; without it, one that no other has: `casgate authority` and eight digits
        #[arg(long)]
        name: Option<String>,
        /// How long it is valid, in days
        #[arg(long, default_value_t = AUTHORITY_DAYS, value_parser = clap::value_parser!(u32).range(1..=MOST_DAYS))]
        days: u32,
    },
    /// Make a server's certificate: DIR/server.crt and DIR/server.key
    Server {
        /// The folder with the authority
        dir: PathBuf,
        /// Names and IP addresses by which clients reach the server
        #[arg(value_name = "HOST", default_values = LOCAL_HOSTS)]
        hosts: Vec<String>,
        /// How long it is valid, in days, at most as long as its authority
        #[arg(long, default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=MOST_DAYS))]
        days: u32,
    },
    /// Make clients' certificates: DIR/NAME.crt and DIR/NAME.key
    ///
    /// NAME is the certificate's commonName, as rules of the gate name it: `certificate = { common-name = "NAME" }`. To
    /// renew a certificate with its key, move NAME.crt away first.
    Client {
        /// The folder with the authority
        dir: PathBuf,
        /// The clients' names
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        /// How long they are valid, in days, at most as long as their authority
        #[arg(long, default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=MOST_DAYS))]
        days: u32,
    },
    /// Revoke certificates: put them into DIR/ca.crl
    ///
    /// The gate refuses them once its `listen.client-crl` names the new list. It needs no restart.
    Revoke {
        /// The folder with the authority
        dir: PathBuf,
        /// Clients' names, or paths of certificates with a `/` in them
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        /// How long the list holds, in days; without it, as long as the authority is valid
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=MOST_DAYS))]
        days: Option<u32>,
    },
    /// Renew the revocation list DIR/ca.crl with what stands in it, or make an empty one
    Crl {
        /// The folder with the authority
        dir: PathBuf,
        /// How long the list holds, in days; without it, as long as the authority is valid
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=MOST_DAYS))]
        days: Option<u32>,
    },
}

/// Makes what is asked for, and prints the files.
///
/// # Errors
/// When it can't be made, or is there already: nothing is overwritten.
pub fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Init { dir, name, days } => {
            let folder = Folder::new(dir);
            let name = name.clone().unwrap_or_else(|| distinct_name("casgate authority"));
            print(&folder.authority(&name, *days).map_err(Failure::of)?)?;
            println!("{}", folder.list_path().display());
            Ok(())
        }
        Command::Server { dir, hosts, days } => print(&Folder::new(dir).server(hosts, *days).map_err(Failure::of)?),
        Command::Revoke { dir, names, days } => {
            let folder = Folder::new(dir);
            for revoked in folder.revoke(names, *days).map_err(Failure::of)? {
                let (certificate, serial) = (revoked.certificate.display(), revoked.serial);
                let what = if revoked.is_new {
                    "revoked"
                } else {
                    "was revoked before:"
                };
                println!("{what} {certificate}, serial number {serial}");
            }
            println!("{}", folder.list_path().display());
            Ok(())
        }
        Command::Crl { dir, days } => {
            let folder = Folder::new(dir);
            folder.renew_list(*days).map_err(Failure::of)?;
            println!("{}", folder.list_path().display());
            Ok(())
        }
        Command::Client { dir, names, days } => {
            let folder = Folder::new(dir);
            // Each of them is tried, so that one run makes all that can be made.
            let failures: Vec<String> = names
                .iter()
                .filter_map(|name| {
                    let made = folder.client(name, *days).map_err(Failure::of);
                    made.and_then(|made| print(&made)).err()
                })
                .map(|failure| failure.to_string())
                .collect();
            if failures.is_empty() {
                Ok(())
            } else {
                Err(Failure(failures.join("\n")))
            }
        }
    }
}

fn print(made: &Made) -> Result<(), Failure> {
    if !made.is_new {
        return Err(Failure(format!(
            "`{}` is there already and was kept: move it away to have another one",
            made.certificate.display()
        )));
    }
    println!("{}\n{}", made.certificate.display(), made.key.display());
    Ok(())
}
