//! The audit log: a JSON line for every push, execution and denial, written by a thread of its own.
//!
//! A call never waits for the disk. It takes a place in a bounded queue before it goes to a backend, and fills it when it
//! ends; what happens when there is none, or when the file can't be written, is `audit.on-failure`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use prometheus::IntCounter;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::file::OnFailure;

/// Lines that may wait for the disk, and calls under way that will write one.
const PLACES: usize = 64 * 1024;
/// How long the thread waits before it tries a file again that could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// Where to write, and what to do when that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditPlan {
    /// The file; lines are added to what it has.
    pub file: PathBuf,
    /// What becomes of calls that can't be noted.
    pub on_failure: OnFailure,
}

/// One line: what a call changed, or was denied to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Line {
    /// When the call ended (RFC 3339, UTC).
    pub time: String,
    /// The call's id, which access lines and denials have as well.
    pub call: String,
    /// The client's address.
    pub peer: String,
    /// The certificate; none for anonymous callers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Holder>,
    /// The rule that allowed it; empty for denials.
    pub rule: String,
    /// `gRPC service/method`, as it was asked for.
    pub method: String,
    /// The instance, where the call names one.
    pub instance: String,
    /// What it is called behind the gate, where that is another name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instance_at_backend: String,
    /// Resource name of an upload.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// Digests that were pushed or executed, as `HASH/SIZE`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<String>,
    /// Names that were pushed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uris: Vec<String>,
    /// How many more digests and names there were.
    #[serde(skip_serializing_if = "is_zero")]
    pub more: u64,
    /// Bytes received from the client.
    pub received: u64,
    /// The gRPC status that the client got.
    pub code: u8,
    /// Why the gate answered itself; empty if the backend did.
    pub reason: String,
    /// How a denial was answered instead of being told: `discarded` or `probe`; empty for all other calls.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub answered: String,
}

impl Line {
    /// The digest in the resource name, as `HASH/SIZE` (remote_execution.proto, "resource_name").
    pub fn resource_digest(&self) -> Option<String> {
        let mut parts = self.resource.split('/').skip_while(|part| *part != "uploads").skip(2);
        let mut next = parts.next()?;
        if next == "compressed-blobs" {
            parts.next()?;
        }
        next = parts.next()?;
        let is_hash = |text: &str| text.len() >= 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hash(next) {
            // The digest function.
            next = parts.next()?;
        }
        Some(format!("{next}/{}", parts.next()?))
    }
}

/// Who held the certificate of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holder {
    /// Its subject.
    pub subject: String,
    /// Its issuer.
    pub issuer: String,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub sha256: String,
    /// URIs among its names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uris: Vec<String>,
    /// DNS names among its names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
}

/// The time now, as lines have it.
pub fn now() -> String {
    // It fails for years beyond 9999 only.
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Counts of what went wrong.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Lines that were not written.
    pub lost: IntCounter,
    /// Attempts to write that failed.
    pub failures: IntCounter,
}

/// The way to the thread that writes. Dropping it lets the thread end, once all that waits is written.
#[derive(Debug)]
pub struct Audit {
    lines: Sender<Vec<u8>>,
    state: Arc<State>,
    on_failure: OnFailure,
}

#[derive(Debug)]
struct State {
    places: AtomicUsize,
    failing: AtomicBool,
    counters: Counters,
}

/// A place in the queue, given back when the line is written or when this is dropped.
#[derive(Debug)]
pub struct Place {
    lines: Sender<Vec<u8>>,
    state: Arc<State>,
}

/// The audit log can't be written now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log of the gate can't be written, and nothing may be changed until it can")]
pub struct Failing;

impl Audit {
    /// Opens the file and starts the thread.
    ///
    /// # Errors
    /// When the file can't be opened.
    pub fn open(plan: &AuditPlan, counters: Counters) -> io::Result<Audit> {
        let file = open(&plan.file)?;
        let (lines, receiver) = channel();
        let state = Arc::new(State {
            places: AtomicUsize::new(PLACES),
            failing: AtomicBool::new(false),
            counters,
        });
        let (path, shared) = (plan.file.clone(), Arc::clone(&state));
        std::thread::Builder::new()
            .name("casgate-audit".to_owned())
            .spawn(move || write(&receiver, &path, file, &shared))?;
        Ok(Audit {
            lines,
            state,
            on_failure: plan.on_failure,
        })
    }

    /// A place for the line of a call; `None` where the line will be lost, and is counted as that.
    ///
    /// # Errors
    /// When nothing may be changed without a line.
    pub fn place(&self) -> Result<Option<Place>, Failing> {
        let is_failing = self.state.failing.load(Ordering::Relaxed);
        if is_failing && self.on_failure == OnFailure::Refuse {
            return Err(Failing);
        }
        let places = &self.state.places;
        let taken = places.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |places| places.checked_sub(1));
        match (taken, self.on_failure) {
            (Ok(_), _) => Ok(Some(Place {
                lines: self.lines.clone(),
                state: Arc::clone(&self.state),
            })),
            (Err(_), OnFailure::Refuse) => Err(Failing),
            (Err(_), OnFailure::Count) => {
                self.state.counters.lost.inc();
                Ok(None)
            }
        }
    }
}

impl Place {
    /// Hands the line to the thread.
    pub fn fill(self, line: &Line) {
        let Ok(mut bytes) = serde_json::to_vec(line) else {
            return self.state.counters.lost.inc();
        };
        bytes.push(b'\n');
        if self.lines.send(bytes).is_err() {
            return self.state.counters.lost.inc();
        }
        // The thread gives the place back.
        self.state.places.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.state.places.fetch_add(1, Ordering::Relaxed);
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Who pushed what is not for everybody.
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn write(lines: &Receiver<Vec<u8>>, path: &Path, file: File, state: &State) {
    let mut out = Some(BufWriter::new(file));
    let mut unwritten: Vec<Vec<u8>> = Vec::new();
    loop {
        let wait = if unwritten.is_empty() { Duration::MAX } else { RETRY };
        match lines.recv_timeout(wait) {
            Ok(line) => {
                unwritten.push(line);
                unwritten.extend(lines.try_iter());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) if unwritten.is_empty() => return,
            Err(RecvTimeoutError::Disconnected) => {
                if let Err(error) = write_all(&mut out, path, &mut unwritten, state) {
                    tracing::error!(target: "casgate::audit", path = %path.display(), %error, lines = unwritten.len(), "lines of the audit log are lost");
                    state.counters.lost.inc_by(unwritten.len() as u64);
                }
                return;
            }
        }
        let failed = write_all(&mut out, path, &mut unwritten, state).err();
        let was_failing = state.failing.swap(failed.is_some(), Ordering::Relaxed);
        match failed {
            Some(error) => {
                state.counters.failures.inc();
                if !was_failing {
                    tracing::error!(target: "casgate::audit", path = %path.display(), %error, "the audit log can't be written");
                }
                // Nothing is gained by trying for each line that comes.
                std::thread::sleep(RETRY);
            }
            None if was_failing => {
                tracing::info!(target: "casgate::audit", path = %path.display(), "the audit log is written again");
            }
            None => {}
        }
    }
}

/// Writes what waits, whole lines only: after a failure the file is opened again, and the lines that did not get through
/// are tried again.
fn write_all(
    out: &mut Option<BufWriter<File>>,
    path: &Path,
    unwritten: &mut Vec<Vec<u8>>,
    state: &State,
) -> io::Result<()> {
    let mut writer = match out.take() {
        Some(writer) => writer,
        None => {
            let mut writer = BufWriter::new(open(path)?);
            // The line before may have been cut off.
            writer.write_all(b"\n")?;
            writer
        }
    };
    let result = unwritten
        .iter()
        .try_for_each(|line| writer.write_all(line))
        .and_then(|()| writer.flush());
    if let Err(error) = result {
        // Dropping the writer would try once more.
        let (_file, _rest) = writer.into_parts();
        return Err(error);
    }
    state.places.fetch_add(unwritten.len(), Ordering::Relaxed);
    unwritten.clear();
    *out = Some(writer);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_an_upload_is_in_its_name() {
        let hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest = |resource: String| {
            Line {
                resource,
                ..Line::default()
            }
            .resource_digest()
        };
        for resource in [
            format!("uploads/u/blobs/{hash}/7"),
            format!("a/b/uploads/u/blobs/sha256/{hash}/7/meta"),
            format!("a/uploads/u/compressed-blobs/zstd/{hash}/7"),
        ] {
            assert_eq!(digest(resource.clone()), Some(format!("{hash}/7")), "{resource}");
        }
        assert_eq!(digest(format!("blobs/{hash}/7")), None);
    }
}
