//! What a store does besides calls, on a thread of its own: it sweeps unfinished files away, makes room, and tells the disk what
//! was used.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use object_store::{ObjectStore, ObjectStoreExt};

use super::location::{self, STALE};
use super::rarely::Rarely;
use super::space::{self, Space};

/// How often it looks for what is due.
const TICK: Duration = Duration::from_secs(60);

/// How often files of another process that ended badly are looked for. One that began while another one used the directory
/// could not tell at once whose they are.
const SWEEP: Duration = Duration::from_secs(6 * 3600);

/// How long it waits when no room could be made, as all is in use.
const PAUSE: Duration = Duration::from_millis(500);

/// What it is asked for.
#[derive(Debug)]
pub(super) enum Task {
    /// Find out what is there, and keep it within the quota from now on.
    Survey(Weak<Space>),
    /// Make room in what was surveyed.
    Evict,
}

/// A directory in which a process may have left unfinished files.
#[derive(Debug)]
pub(super) struct Sweep {
    pub(super) root: PathBuf,
    /// What was last written before this belongs to nobody.
    pub(super) before: SystemTime,
}

/// Starts the thread. It ends when nobody can ask it any more.
pub(super) fn start(objects: Arc<dyn ObjectStore>, sweep: Option<Sweep>) -> Sender<Task> {
    let (tasks, receiver) = channel();
    std::thread::spawn(move || run(&*objects, sweep.as_ref(), &receiver));
    tasks
}

fn run(objects: &dyn ObjectStore, sweep: Option<&Sweep>, tasks: &Receiver<Task>) {
    let mut space = Weak::new();
    let root = sweep.map(|sweep| sweep.root.as_path());
    let mut swept = Instant::now();
    if let Some(sweep) = sweep {
        location::sweep(&sweep.root, sweep.before);
    }
    loop {
        match tasks.recv_timeout(TICK) {
            Ok(Task::Survey(new)) => {
                space = new;
                if let Some(space) = space.upgrade() {
                    space::survey(&space, objects);
                    make_room(&space, objects, root);
                }
            }
            Ok(Task::Evict) => {
                if let Some(space) = space.upgrade() {
                    make_room(&space, objects, root);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if let Some(space) = space.upgrade() {
            space.forget_callers();
            if let Some(Sweep { root, .. }) = sweep {
                note_uses(&space, root);
            }
        }
        if let Some(Sweep { root, .. }) = sweep.filter(|_| swept.elapsed() >= SWEEP) {
            swept = Instant::now();
            let before = SystemTime::now().checked_sub(STALE);
            location::sweep(root, before.unwrap_or(SystemTime::UNIX_EPOCH));
        }
    }
}

fn make_room(space: &Arc<Space>, objects: &dyn ObjectStore, root: Option<&Path>) {
    let evicted = space::evict(space, |path| match objects.delete(path).now_or_never() {
        Some(Ok(()) | Err(object_store::Error::NotFound { .. })) => {
            if let Some(root) = root {
                location::prune(root, path);
            }
            Ok(())
        }
        Some(Err(error)) => Err(error.to_string()),
        None => Err("the storage is not local".to_owned()),
    });
    let space::Evicted {
        objects,
        bytes,
        short,
        age,
    } = evicted;
    if objects > 0 {
        tracing::info!(target: "casgate::store", objects, bytes, unused_for = age, "removed what was not used for the longest time");
    }
    if short > 0 {
        static SEEN: Rarely = Rarely::new();
        if let Some(times) = SEEN.due() {
            tracing::warn!(target: "casgate::store", short, times, "the quota is too small for what is in use: uploads wait");
        }
        // Whoever waits asks again and again.
        std::thread::sleep(PAUSE);
    }
}

/// The last use of an object is when its file was modified: that outlives the process.
fn note_uses(space: &Space, root: &Path) {
    for (path, used) in space.uses_to_note() {
        // It may have left by now; and an order that is a little wrong hurts nobody.
        let noted = File::open(root.join(path.as_ref())).and_then(|file| file.set_modified(used));
        if let Err(error) = noted {
            tracing::debug!(target: "casgate::store", %path, %error, "a use was not noted");
        }
    }
}
