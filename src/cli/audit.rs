//! `casgate audit`: who pushed it, when, and with which certificate.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

use super::Failure;
use crate::audit::Line;

/// Arguments of `casgate audit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The audit log, as `audit.file` names it; several are read one after the other
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A name of Remote Asset, such as urn:fdc:buildstream.build:2020:artifact:...
    #[arg(long, required_unless_present = "digest")]
    pub uri: Option<String>,
    /// The digest of a blob or of an action: HASH or HASH/SIZE
    #[arg(long, value_name = "HASH[/SIZE]")]
    pub digest: Option<String>,
    /// Print what was denied or failed as well
    #[arg(long)]
    pub all: bool,
    /// Print the lines as they are in the log
    #[arg(long)]
    pub json: bool,
}

/// Prints every line that is about what was asked for.
///
/// # Errors
/// When a file can't be read, has lines that are none of an audit log, or nothing was found.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let (mut found, mut broken) = (0u64, Vec::new());
    for path in &args.files {
        let failed = |error: std::io::Error| Failure(format!("`{}` can't be read: {error}", path.display()));
        let lines = BufReader::new(File::open(path).map_err(failed)?).split(b'\n');
        for (number, bytes) in (1u64..).zip(lines) {
            let bytes = bytes.map_err(failed)?;
            if bytes.is_empty() {
                continue;
            }
            let Ok(line) = serde_json::from_slice::<Line>(&bytes) else {
                broken.push(format!("`{}`, line {number}", path.display()));
                continue;
            };
            // What was discarded looks like a success to its client only.
            let is_done = line.code == 0 && line.answered.is_empty();
            if (args.all || is_done) && is_wanted(args, &line) {
                found += 1;
                let printed = if args.json {
                    out.write_all(&bytes).and_then(|()| out.write_all(b"\n"))
                } else {
                    writeln!(out, "{}", describe(&line))
                };
                printed.map_err(Failure::of)?;
            }
        }
    }
    // A line may have been cut off when the disk was full or the power went: the others count all the same.
    for place in broken.iter().take(10) {
        eprintln!("warning: {place} is no line of an audit log");
    }
    if broken.len() > 10 {
        eprintln!("warning: {} more lines are none of an audit log", broken.len() - 10);
    }
    if found == 0 {
        return Err(Failure("nobody did, as far as these files tell".to_owned()));
    }
    Ok(())
}

fn is_wanted(args: &Args, line: &Line) -> bool {
    let has_uri = |wanted: &String| line.uris.contains(wanted);
    let has_digest = |wanted: &String| {
        let is_it = |digest: &str| digest == wanted || digest.split_once('/').is_some_and(|(hash, _)| hash == wanted);
        line.digests.iter().any(|digest| is_it(digest)) || line.resource_digest().is_some_and(|digest| is_it(&digest))
    };
    args.uri.as_ref().is_none_or(has_uri) && args.digest.as_ref().is_none_or(has_digest)
}

/// One line for people.
fn describe(line: &Line) -> String {
    let who = match &line.certificate {
        None => "a caller without a certificate".to_owned(),
        Some(holder) => format!(
            "{} (issuer {}, serial {}, sha256 {})",
            holder.subject, holder.issuer, holder.serial, holder.sha256
        ),
    };
    let name = line.method.rsplit('/').next().unwrap_or_default();
    let outcome = match (line.code, line.reason.as_str()) {
        (_, reason) if !line.answered.is_empty() => format!("denied ({reason}), and answered as {}", line.answered),
        (0, _) => format!("allowed by rule \"{}\"", line.rule),
        (code, "") => format!("status {code}"),
        (code, reason) => format!("status {code}, {reason}"),
    };
    let mut about: Vec<&str> = line.uris.iter().chain(&line.digests).map(String::as_str).collect();
    if !line.resource.is_empty() {
        about.push(&line.resource);
    }
    format!(
        "{} {name} by {who} from {}, {outcome}, call {}: {}",
        line.time,
        line.peer,
        line.call,
        about.join(" ")
    )
}
