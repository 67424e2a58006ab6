//! Where a store keeps its objects: the URL, the directory, and what a crash left in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use percent_encoding::percent_decode_str;

use super::housekeeping::Sweep;
use super::rarely::Rarely;

/// The file that every process using the directory holds a shared lock on.
const LOCK: &str = "casgate.lock";

/// Age at which an unfinished file is swept away though other processes use the directory: none of
/// them keeps an upload that long.
pub(super) const STALE: Duration = Duration::from_secs(24 * 3600);

/// How far the clock of the file system may lag behind the system's.
const LAG: Duration = Duration::from_secs(1);

/// A store that can't be opened. The URL comes from the configuration, so the texts say what to
/// write there.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL has a scheme that no store goes by, or none.
    #[error("store `{url}`: the scheme is unknown; use `file:/absolute/directory` or `memory:`")]
    UnknownScheme {
        /// The URL as given.
        url: String,
    },
    /// `memory:` with something after it.
    #[error("store `{url}`: nothing can follow `memory:`")]
    MemoryPath {
        /// The URL as given.
        url: String,
    },
    /// `file:` without an absolute path, or with a host.
    #[error("store `{url}`: write the directory as an absolute path, `file:/absolute/directory`")]
    NotAbsolute {
        /// The URL as given.
        url: String,
    },
    /// A path with a query, a fragment, or bytes that are not UTF-8.
    #[error("store `{url}`: write `?` as `%3F`, `#` as `%23` and `%` as `%25`, all in UTF-8")]
    Encoding {
        /// The URL as given.
        url: String,
    },
    /// The path is a file.
    #[error("store `{}`: not a directory; name a directory or remove the file", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The directory can't be made.
    #[error("store `{}`: the directory can't be created ({source}); create it, owned by the user that casgate runs as", path.display())]
    Create {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory can't be written to.
    #[error("store `{}`: the directory can't be written to ({source}); make the user that casgate runs as its owner", path.display())]
    NotWritable {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory can't be used for another reason.
    #[error("store `{}`: the directory can't be opened ({source})", path.display())]
    Unusable {
        /// The path.
        path: PathBuf,
        /// Why.
        source: object_store::Error,
    },
    /// The runtime went away meanwhile.
    #[error("the store was not opened: {0}")]
    Interrupted(#[source] io::Error),
}

/// Device and number of a directory: the same by whatever name.
pub(super) type Identity = (u64, u64);

/// Opened storage.
#[derive(Debug)]
pub(super) struct Location {
    /// The objects.
    pub(super) objects: Arc<dyn ObjectStore>,
    /// Held shared while the store lives, so that no other process takes its unfinished files for
    /// those of a crash.
    pub(super) lock: Option<File>,
    /// The directory, where there is one.
    pub(super) root: Option<PathBuf>,
    /// What an earlier process may have left there.
    pub(super) sweep: Option<Sweep>,
}

impl Location {
    /// Memory, which ends with this.
    pub(super) fn memory() -> Self {
        Self {
            objects: Arc::new(InMemory::new()),
            lock: None,
            root: None,
            sweep: None,
        }
    }

    /// The directory that `url` names, which is made if it isn't there, and which one it is; None for `memory:`. Blocks on the
    /// file system.
    pub(super) fn prepare(url: &str) -> Result<Option<(PathBuf, Identity)>, OpenError> {
        let Some(path) = directory(url)? else {
            return Ok(None);
        };
        fs::create_dir_all(&path).map_err(|source| match path.exists() && !path.is_dir() {
            true => OpenError::NotADirectory { path: path.clone() },
            false => OpenError::Create {
                path: path.clone(),
                source,
            },
        })?;
        let metadata = fs::metadata(&path).map_err(|source| OpenError::Create {
            path: path.clone(),
            source,
        })?;
        Ok(Some((path, (metadata.dev(), metadata.ino()))))
    }

    /// Opens the directory. Blocks on the file system.
    pub(super) fn open(path: PathBuf) -> Result<Self, OpenError> {
        let claimed = claim(&path).map_err(|source| OpenError::NotWritable {
            path: path.clone(),
            source,
        })?;
        let unusable = |source| OpenError::Unusable {
            path: path.clone(),
            source,
        };
        let objects = LocalFileSystem::new_with_prefix(&path).map_err(unusable)?;
        Ok(Self {
            // An answer to an upload is a promise: the file and its directory entry are on disk.
            objects: Arc::new(objects.with_fsync(true)),
            lock: Some(claimed.lock),
            root: Some(path.clone()),
            sweep: Some(Sweep {
                root: path,
                before: claimed.unfinished_before,
            }),
        })
    }
}

/// The directory that a store of this URL keeps its objects in; None where there is none, or where the URL is wrong.
pub fn folder(url: &str) -> Option<PathBuf> {
    directory(url).ok().flatten()
}

/// A path without symbolic links and other spellings, as far as it is there.
pub fn found(path: &Path) -> PathBuf {
    let there = path
        .ancestors()
        .find_map(|there| Some((there, there.canonicalize().ok()?)));
    let Some((there, found)) = there else {
        return path.to_owned();
    };
    let rest = path.strip_prefix(there).unwrap_or(Path::new(""));
    found.components().chain(rest.components()).collect()
}

/// The directory of a `file:` URL (RFC 8089); None for `memory:`.
fn directory(url: &str) -> Result<Option<PathBuf>, OpenError> {
    let own = || url.to_owned();
    let Some((scheme, rest)) = url.split_once(':') else {
        return Err(OpenError::UnknownScheme { url: own() });
    };
    match scheme {
        "memory" if rest.is_empty() || rest == "//" => return Ok(None),
        "memory" => return Err(OpenError::MemoryPath { url: own() }),
        "file" => {}
        _ => return Err(OpenError::UnknownScheme { url: own() }),
    }
    let path = match rest.strip_prefix("//") {
        Some(path) => path.strip_prefix("localhost").unwrap_or(path),
        None => rest,
    };
    if !path.starts_with('/') {
        return Err(OpenError::NotAbsolute { url: own() });
    }
    let decoded = percent_decode_str(path).decode_utf8();
    match decoded {
        Ok(decoded) if !path.contains(['?', '#']) && !decoded.contains('\0') => Ok(Some(PathBuf::from(&*decoded))),
        Ok(_) | Err(_) => Err(OpenError::Encoding { url: own() }),
    }
}

struct Claim {
    lock: File,
    /// Unfinished files last written before this instant belong to nobody.
    unfinished_before: SystemTime,
}

/// Takes a shared lock on the directory, by way of an exclusive one where nobody else is in it.
///
/// The instant is read from the file system's clock, which may lag behind the system's.
fn claim(directory: &Path) -> io::Result<Claim> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut lock = options.open(directory.join(LOCK))?;
    let alone = match lock.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        // Some network file systems have no locks.
        Err(TryLockError::Error(error)) => {
            tracing::warn!(%error, "the store's directory can't be locked");
            false
        }
    };
    lock.set_len(0)?;
    let now = match lock.write_all(std::process::id().to_string().as_bytes()) {
        Ok(()) => lock.metadata()?.modified()?,
        // What a full disk holds can still be read, and what is unfinished must be swept off it.
        Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            tracing::warn!(%error, "the disk of the store is full");
            SystemTime::now() - LAG
        }
        Err(error) => return Err(error),
    };
    if let Err(error) = lock.lock_shared() {
        tracing::warn!(%error, "the store's directory can't be locked");
    }
    let unfinished_before = match alone {
        true => now,
        false => now.checked_sub(STALE).unwrap_or(SystemTime::UNIX_EPOCH),
    };
    Ok(Claim {
        lock,
        unfinished_before,
    })
}

/// Removes unfinished files below `directory` that were last written before `before`, and the folders of objects that are
/// empty. The object store writes `NAME#1` and renames it to `NAME`; it neither lists nor reads such files.
pub(super) fn sweep(directory: &Path, before: SystemTime) {
    sweep_within(directory, before, false);
}

/// The folders that objects are in, by kind.
pub(super) const KINDS: [&str; 3] = ["ac", "asset", "cas"];

fn sweep_within(directory: &Path, before: SystemTime, is_of_objects: bool) {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            static SEEN: Rarely = Rarely::new();
            if let Some(times) = SEEN.due() {
                tracing::warn!(directory = %directory.display(), %error, times, "directories can't be swept");
            }
            return;
        }
    };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            let is_of_objects = is_of_objects || KINDS.iter().any(|kind| entry.file_name() == *kind);
            sweep_within(&entry.path(), before, is_of_objects);
            if is_of_objects {
                // Most are not empty. Who makes an object there at the same time makes the folder anew.
                let _stays = fs::remove_dir(entry.path());
            }
        } else if kind.is_file() && is_unfinished(&entry.file_name().to_string_lossy()) {
            let written = entry.metadata().and_then(|metadata| metadata.modified());
            if written.is_ok_and(|written| written < before) {
                match fs::remove_file(entry.path()) {
                    Ok(()) => {
                        static SEEN: Rarely = Rarely::new();
                        if let Some(times) = SEEN.due() {
                            tracing::info!(file = %entry.path().display(), times, "unfinished files are swept away");
                        }
                    }
                    Err(error) => {
                        static SEEN: Rarely = Rarely::new();
                        if let Some(times) = SEEN.due() {
                            tracing::warn!(file = %entry.path().display(), %error, times, "can't be swept away");
                        }
                    }
                }
            }
        }
    }
}

/// Removes the folders that an object is in, below `root`, as far as they are empty. Who makes an object there at the same
/// time makes them anew.
pub(super) fn prune(root: &Path, object: &object_store::path::Path) {
    let path = root.join(object.as_ref());
    for folder in path.ancestors().skip(1).take_while(|folder| *folder != root) {
        if fs::remove_dir(folder).is_err() {
            return;
        }
    }
}

fn is_unfinished(name: &str) -> bool {
    let suffix = name.split_once('#').map(|(_, suffix)| suffix);
    suffix.is_some_and(|suffix| !suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn urls_name_directories() {
        for (url, path) in [
            ("file:/var/lib/casgate", "/var/lib/casgate"),
            ("file:///var/lib/casgate", "/var/lib/casgate"),
            ("file://localhost/srv", "/srv"),
            ("file:/a%20b%23c", "/a b#c"),
        ] {
            assert_eq!(directory(url).unwrap(), Some(PathBuf::from(path)), "{url}");
        }
        assert_eq!(directory("memory:").unwrap(), None);
    }

    #[test]
    fn other_urls_are_refused_with_advice() {
        for (url, advice) in [
            ("", "file:/absolute/directory"),
            ("/var/lib/casgate", "memory:"),
            ("s3://bucket", "memory:"),
            ("memory:x", "nothing can follow"),
            ("file:relative", "absolute"),
            ("file:", "absolute"),
            ("file://host/x", "absolute"),
            ("file:/a?b", "%3F"),
            ("file:/a#b", "%23"),
            ("file:/a%ff", "UTF-8"),
            ("file:/a%00", "UTF-8"),
        ] {
            let text = directory(url).unwrap_err().to_string();
            assert!(text.contains(advice), "{url}: {text}");
        }
    }

    #[test]
    fn a_second_process_spares_what_the_first_has_not_finished() {
        let directory = tempfile::tempdir().unwrap();
        let alone = claim(directory.path()).unwrap();
        let shard = directory.path().join("cas/_/ab");
        fs::create_dir_all(&shard).unwrap();
        let unfinished = shard.join("abcd-7#1");
        let finished = shard.join("abcd-7");
        let other = shard.join("x#y");
        for file in [&unfinished, &finished, &other] {
            fs::write(file, b"x").unwrap();
        }
        let second = claim(directory.path()).unwrap();
        sweep(directory.path(), second.unfinished_before);
        assert!(unfinished.exists());

        drop((alone, second));
        // The clock of the file system ticks every few milliseconds.
        let written = fs::metadata(&unfinished).unwrap().modified().unwrap();
        let earlier = written - Duration::from_secs(1);
        let file = File::options().write(true).open(&unfinished).unwrap();
        file.set_modified(earlier).unwrap();
        let third = claim(directory.path()).unwrap();
        sweep(directory.path(), third.unfinished_before);
        assert!(!unfinished.exists());
        assert!(finished.exists() && other.exists());
    }
}
