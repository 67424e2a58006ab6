//! `casgate audit`: who pushed it, when, and with which certificate.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

use super::Failure;
use crate::audit::{Event, Line};

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

/// Prints every call that is about what was asked for.
///
/// # Errors
/// When a file can't be read, has lines that are none of an audit log, or nothing was found.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut found = Found::default();
    let mut broken = Vec::new();
    for path in &args.files {
        let failed = |error: std::io::Error| Failure(format!("`{}` can't be read: {error}", path.display()));
        let lines = BufReader::new(File::open(path).map_err(failed)?).split(b'\n');
        for (number, bytes) in (1u64..).zip(lines) {
            let bytes = bytes.map_err(failed)?;
            if bytes.is_empty() {
                continue;
            }
            match serde_json::from_slice::<Line>(&bytes) {
                Ok(line) => found.take(args, line, bytes),
                Err(_) => broken.push(format!("`{}`, line {number}", path.display())),
            }
        }
    }
    let mut out = std::io::stdout().lock();
    let mut printed = false;
    for call in &found.calls {
        if args.all || call.may_have_changed() {
            printed = true;
            call.print(args, &mut out).map_err(Failure::of)?;
        }
    }
    // A line may have been cut off when the disk was full or the power went: the others count all the same.
    for place in broken.iter().take(10) {
        eprintln!("warning: {place} is no line of an audit log");
    }
    if broken.len() > 10 {
        eprintln!("warning: {} more lines are none of an audit log", broken.len() - 10);
    }
    if !printed {
        return Err(Failure("nobody did, as far as these files tell".to_owned()));
    }
    Ok(())
}

/// Calls that are about what was asked for, in the order in which they begin.
#[derive(Default)]
struct Found {
    calls: Vec<Call>,
    /// Where those are that have begun, by their ids.
    begun: HashMap<String, usize>,
}

/// What the log tells of a call.
struct Call {
    first: Line,
    end: Option<Line>,
    /// Its lines as they are in the log.
    json: Vec<Vec<u8>>,
}

impl Found {
    fn take(&mut self, args: &Args, line: Line, json: Vec<u8>) {
        if line.event != Event::Whole
            && let Some(call) = self.begun.get(&line.call).and_then(|index| self.calls.get_mut(*index))
        {
            call.json.push(json);
            match line.event {
                Event::End => call.end = Some(line),
                _ => call.first.absorb(line),
            }
            return;
        }
        if line.event != Event::End && is_wanted(args, &line) {
            if line.event == Event::Begin {
                self.begun.insert(line.call.clone(), self.calls.len());
            }
            self.calls.push(Call {
                first: line,
                end: None,
                json: vec![json],
            });
        }
    }
}

impl Call {
    /// The line that tells how it ended.
    fn last(&self) -> Option<&Line> {
        match self.first.event {
            Event::Whole => Some(&self.first),
            Event::Begin | Event::End => self.end.as_ref(),
        }
    }

    /// Whether something was changed, as far as the log can tell.
    fn may_have_changed(&self) -> bool {
        let Some(last) = self.last() else { return true };
        match last.code {
            // What was discarded looks like a success to its client only.
            Some(0) | None => last.answered.is_empty(),
            // It went to the backend, and the client was told of something else than the backend's answer, or the backend does
            // not know itself: CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE.
            Some(code) => {
                self.first.event == Event::Begin && (matches!(code, 1 | 2 | 4 | 13 | 14) || !last.reason.is_empty())
            }
        }
    }

    fn print(&self, args: &Args, out: &mut impl Write) -> std::io::Result<()> {
        if !args.json {
            return writeln!(out, "{}", self.describe());
        }
        self.json.iter().try_for_each(|json| {
            out.write_all(json)?;
            out.write_all(b"\n")
        })
    }

    /// One line for people. What certificates and clients say can't make it two.
    fn describe(&self) -> String {
        let line = &self.first;
        let who = match &line.certificate {
            None => "a caller without a certificate".to_owned(),
            Some(holder) => format!(
                "{} (issuer {}, serial {}, sha256 {})",
                holder.subject, holder.issuer, holder.serial, holder.sha256
            ),
        };
        let name = line.method.rsplit('/').next().unwrap_or_default();
        let mut about: Vec<&str> = line
            .uris
            .iter()
            .chain(&line.digests)
            .chain(&line.names)
            .map(String::as_str)
            .collect();
        if !line.resource.is_empty() {
            about.push(&line.resource);
        }
        let text = format!(
            "{} {name} by {who} from {}, {}, call {}: {}",
            line.time,
            line.peer,
            self.outcome(),
            line.call,
            about.join(" ")
        );
        escaped(&text)
    }

    fn outcome(&self) -> String {
        let Some(last) = self.last() else {
            return format!("allowed by rule \"{}\", and its end is unknown", self.first.rule);
        };
        match (last.code, last.reason.as_str()) {
            (_, reason) if !last.answered.is_empty() => format!("denied ({reason}), and answered as {}", last.answered),
            (Some(0), _) => format!("allowed by rule \"{}\"", self.first.rule),
            (Some(code), "") => format!("status {code}"),
            (Some(code), reason) => format!("status {code}, {reason}"),
            (None, _) => "its end is unknown".to_owned(),
        }
    }
}

fn is_wanted(args: &Args, line: &Line) -> bool {
    let has_uri = |wanted: &String| line.uris.contains(wanted);
    let has_digest = |wanted: &String| {
        // Some servers take hashes in upper case for the same.
        let is_it = |digest: &str| {
            digest.eq_ignore_ascii_case(wanted)
                || digest
                    .split_once('/')
                    .is_some_and(|(hash, _)| hash.eq_ignore_ascii_case(wanted))
        };
        line.digests.iter().any(|digest| is_it(digest)) || line.resource_digest().is_some_and(|digest| is_it(&digest))
    };
    args.uri.as_ref().is_none_or(has_uri) && args.digest.as_ref().is_none_or(has_digest)
}

/// Text without what a terminal acts on: control characters, and those that change the direction of text (UAX #9) or are not
/// seen.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let is_hidden =
            matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || is_hidden {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_forges_a_line_of_what_is_printed() {
        assert_eq!(
            escaped("a\nb\u{1b}[2K\u{202e}c\u{85}é"),
            "a\\nb\\u{1b}[2K\\u{202e}c\\u{85}é"
        );
    }
}
