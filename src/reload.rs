//! The watch on the files of the configuration: when a reload is due without SIGHUP.
//!
//! Events of the system only say when to look. What counts is whether the files say something else than before: touching a
//! file changes nothing, and a configuration that was refused is not tried again until it is another one.

mod trail;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::live::{ReloadError, Shared};

/// Files are read after so long without a change: a certificate is followed by its key.
const QUIET: Duration = Duration::from_millis(250);
/// And after so long in any case, so that something that never stops writing hides no change.
const LONGEST: Duration = Duration::from_secs(2);
/// How often files are looked at that nothing tells of.
const POLL: Duration = Duration::from_secs(1);
/// The same beside a watch, since network file systems tell nothing of what other machines write.
const SLOW_POLL: Duration = Duration::from_secs(60);

/// The watch on the files of the running configuration, and of the one that was refused last.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    told: Told,
}

/// What was last said of how files are watched, to say it once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Told {
    #[default]
    Nothing,
    Polls,
}

/// What tells of changes. Dropped and made anew after each of them, since other files may be behind the names then.
enum Notices {
    Events {
        changed: Arc<Notify>,
        _watcher: RecommendedWatcher,
    },
    None,
}

impl Watch {
    /// The watch for a gate that runs.
    pub fn new(shared: Arc<Shared>) -> Watch {
        Watch {
            shared,
            told: Told::Nothing,
        }
    }

    /// Waits until the files say something else, and tries to take it into use. When it is dropped before that, nothing is
    /// lost: the next one looks at the files first.
    ///
    /// # Errors
    /// Why the configuration before goes on.
    pub async fn reload(&mut self) -> Result<(), ReloadError> {
        let mut generation = self.shared.generation.subscribe();
        loop {
            if self.shared.live().snapshot.watch {
                let notices = self.notices(&self.shared.files().await);
                // Only now, so that what changes while the files are read is told of.
                if self.shared.has_changed().await {
                    // A file that is half written may well be good, and say less than it will.
                    notices.until_quiet().await;
                    if let Some(result) = self.shared.reload_if_changed().await {
                        return result;
                    }
                }
                tokio::select! {
                    () = notices.next() => {}
                    // Another configuration may name other files.
                    Ok(()) = generation.changed() => {}
                }
            } else if generation.changed().await.is_err() {
                // Its sender is in `self.shared`.
                std::future::pending::<()>().await;
            }
        }
    }

    fn notices(&mut self, files: &[PathBuf]) -> Notices {
        match Notices::of(files) {
            Ok(notices) => {
                self.told = Told::Nothing;
                notices
            }
            Err(error) => {
                if self.told != Told::Polls {
                    tracing::warn!(
                        target: "casgate::reload",
                        %error,
                        "the system can't tell of changed files: they are looked at every second"
                    );
                }
                self.told = Told::Polls;
                Notices::None
            }
        }
    }
}

impl Notices {
    fn of(files: &[PathBuf]) -> notify::Result<Notices> {
        let names: BTreeSet<PathBuf> = files.iter().flat_map(|file| trail::of(file)).collect();
        // A folder and not the file: editors and `mv` put another file under the name.
        let folders: BTreeSet<PathBuf> = names
            .iter()
            .filter_map(|name| name.parent())
            .map(Path::to_owned)
            .collect();
        // A folder that is moved away tells so under its own name.
        let ours: BTreeSet<PathBuf> = names.union(&folders).cloned().collect();
        let changed = Arc::new(Notify::new());
        let notify = Arc::clone(&changed);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| is_change(&event, &ours)) {
                notify.notify_one();
            }
        })?;
        for folder in &folders {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        Ok(Notices::Events {
            changed,
            _watcher: watcher,
        })
    }

    /// Ends when it is time to look at the files.
    async fn next(&self) {
        match self {
            Notices::Events { changed, .. } => {
                let _or_never_told = timeout(SLOW_POLL, changed.notified()).await;
            }
            Notices::None => sleep(POLL).await,
        }
    }

    /// Ends when nothing was told of for a while.
    async fn until_quiet(&self) {
        match self {
            Notices::Events { changed, .. } => {
                let begun = Instant::now();
                while begun.elapsed() < LONGEST && timeout(QUIET, changed.notified()).await.is_ok() {}
            }
            Notices::None => sleep(QUIET).await,
        }
    }
}

/// Whether an event may change what one of these files says.
fn is_change(event: &notify::Event, ours: &BTreeSet<PathBuf>) -> bool {
    let is_change = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        // Reading the files is an event as well, and would lead to reading them again for ever.
        EventKind::Access(_) => false,
        _ => true,
    };
    event.need_rescan() || (is_change && event.paths.iter().any(|path| ours.contains(path)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::fs;

    /// Whether a change is told of in a time that is short of [`SLOW_POLL`].
    async fn tells(notices: &Notices) -> bool {
        timeout(SLOW_POLL / 6, notices.next()).await.is_ok()
    }

    #[tokio::test]
    async fn whatever_puts_another_content_under_a_name_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (file, other) = (root.join("a/file"), root.join("other"));
        for folder in ["a", "b"] {
            fs::create_dir(root.join(folder)).unwrap();
            fs::write(root.join(folder).join("file"), folder).unwrap();
        }
        let changes: [&dyn Fn(); 6] = [
            &|| fs::write(&file, "written").unwrap(),
            &|| fs::remove_file(&file).unwrap(),
            &|| fs::write(&file, "made").unwrap(),
            &|| {
                fs::write(&other, "moved").unwrap();
                fs::rename(&other, &file).unwrap();
            },
            &|| fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap(),
            &|| {
                fs::rename(root.join("a"), root.join("c")).unwrap();
                fs::rename(root.join("b"), root.join("a")).unwrap();
            },
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let notices = Notices::of(std::slice::from_ref(&file)).unwrap();
            change();
            assert!(tells(&notices).await, "change {number}");
        }
    }

    #[tokio::test]
    async fn reading_a_file_and_writing_beside_it_is_not_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let file = root.join("file");
        fs::write(&file, "").unwrap();
        let notices = Notices::of(std::slice::from_ref(&file)).unwrap();
        fs::read(&file).unwrap();
        fs::write(root.join("beside"), "").unwrap();
        let Notices::Events { changed, .. } = &notices else {
            unreachable!()
        };
        // What comes behind them in the queue of the system.
        assert!(timeout(2 * QUIET, changed.notified()).await.is_err());
        fs::write(&file, "").unwrap();
        assert!(tells(&notices).await);
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_yet_is_told_of_when_it_comes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let file = root.join("later/file");
        for change in [&(|| fs::create_dir(root.join("later")).unwrap()) as &dyn Fn(), &|| {
            fs::write(&file, "").unwrap()
        }] {
            let notices = Notices::of(std::slice::from_ref(&file)).unwrap();
            change();
            assert!(tells(&notices).await);
        }
    }

    #[tokio::test]
    async fn without_events_it_is_time_every_second() {
        assert!(timeout(10 * POLL, Notices::None.next()).await.is_ok());
    }
}
