//! What the program gives up before it serves, so that whoever takes it over gets no more than it needs.
//!
//! With Landlock (landlock(7)) it gives up to start programs, to send signals to others, and to write anywhere but in the
//! folders of embedded stores and of the audit log. It still reads what its user may read: certificates that are renewed
//! come by symbolic links from anywhere, and a renewal must not fail at night.

use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, make_bitflags, path_beneath_rules,
};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::config::file::SandboxMode;
use crate::snapshot::Snapshot;
use crate::snapshot::backends::Target;
use crate::store;

/// What the process gave up.
#[derive(Debug)]
pub struct Sandbox {
    /// Where it can still write; `None` where the sandbox was not entered.
    writable: Option<Vec<Folder>>,
    /// Why not, if somebody wanted it.
    unsupported: Option<String>,
}

/// A folder that a configuration wants to write to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Folder {
    key: String,
    path: PathBuf,
    usage: Usage,
}

/// What is done in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usage {
    Store,
    Audit,
}

/// The sandbox is required, and can't be entered.
#[derive(Debug, thiserror::Error)]
#[error(
    "sandbox: it is required, and this kernel does not offer it ({0}): look for `landlock` in `/sys/kernel/security/lsm`, or write `sandbox = \"if-supported\"` to serve without it"
)]
pub struct Unsupported(String);

/// A configuration wants to write where the sandbox does not let it.
#[derive(Debug, thiserror::Error)]
#[error(
    "{key}: `{}` is none of the folders that casgate kept the right to write to when it started: restart it to take this into use",
    path.display()
)]
pub struct Outside {
    key: String,
    path: PathBuf,
}

/// Keeps core dumps from being written, and other processes of the user from reading the memory: the private keys are in
/// it. See PR_SET_DUMPABLE(2const).
///
/// # Errors
/// What the system says.
pub fn hide_memory() -> std::io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

impl Sandbox {
    /// A process that gave up nothing.
    pub fn none() -> Sandbox {
        Sandbox {
            writable: None,
            unsupported: None,
        }
    }

    /// Gives up what this configuration does not need. It holds for the calling thread and for those that it starts: call
    /// it while there is no other one.
    ///
    /// # Errors
    /// Where it is required and can't be had.
    pub fn enter(snapshot: &Snapshot) -> Result<Sandbox, Unsupported> {
        if snapshot.sandbox == SandboxMode::Off {
            return Ok(Sandbox::none());
        }
        let folders = wanted(snapshot);
        for folder in folders.iter().filter(|folder| folder.usage == Usage::Store) {
            // There must be something to keep a right to. Whoever opens the store says what is wrong with it.
            let _ = fs::create_dir_all(&folder.path);
        }
        let why = match restrict(&folders) {
            Ok(RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced) => {
                return Ok(Sandbox {
                    writable: Some(folders.into_iter().map(Folder::found).collect()),
                    unsupported: None,
                });
            }
            Ok(RulesetStatus::NotEnforced) | Err(RulesetError::HandleAccesses(_)) => {
                "it has no Landlock of Linux 5.19 or later, or a filter of system calls keeps it away".to_owned()
            }
            Err(error) => error.to_string(),
        };
        match snapshot.sandbox {
            SandboxMode::Required => Err(Unsupported(why)),
            SandboxMode::IfSupported | SandboxMode::Off => Ok(Sandbox {
                writable: None,
                unsupported: Some(why),
            }),
        }
    }

    /// Whether this configuration writes only where the process still can.
    ///
    /// # Errors
    /// The first folder where it can't.
    pub fn admits(&self, snapshot: &Snapshot) -> Result<(), Outside> {
        let Some(writable) = &self.writable else {
            return Ok(());
        };
        for folder in wanted(snapshot).into_iter().map(Folder::found) {
            let holds = |kept: &Folder| kept.usage == folder.usage && folder.path.starts_with(&kept.path);
            if !writable.iter().any(holds) {
                return Err(Outside {
                    key: folder.key,
                    path: folder.path,
                });
            }
        }
        Ok(())
    }

    /// What was given up, in a line for the log.
    pub fn describe(&self) -> String {
        match (&self.writable, &self.unsupported) {
            (Some(writable), _) if writable.is_empty() => "sandbox: no writing, no programs".to_owned(),
            (Some(writable), _) => {
                let paths: Vec<_> = writable
                    .iter()
                    .map(|folder| folder.path.display().to_string())
                    .collect();
                format!("sandbox: no writing but in {}, no programs", paths.join(", "))
            }
            (None, Some(why)) => format!("sandbox: none, this kernel does not offer it ({why})"),
            (None, None) => "sandbox: off".to_owned(),
        }
    }
}

impl Folder {
    /// The same with a path without symbolic links, as far as it is there.
    fn found(mut self) -> Folder {
        self.path = store::found(&self.path);
        self
    }
}

impl Usage {
    /// What takes place in such a folder. Audit lines are added to a file, and to a new one where the old one was moved
    /// away: nothing there is ever removed.
    fn access(self) -> BitFlags<AccessFs> {
        match self {
            Usage::Store => {
                make_bitflags!(AccessFs::{WriteFile | RemoveDir | RemoveFile | MakeDir | MakeReg | Refer | Truncate})
            }
            Usage::Audit => make_bitflags!(AccessFs::{WriteFile | MakeReg}),
        }
    }
}

/// Where a configuration writes.
fn wanted(snapshot: &Snapshot) -> Vec<Folder> {
    let stores = snapshot.backends.iter().flat_map(|plan| {
        let folders = plan.endpoints.iter().filter_map(|target| match target {
            Target::Store(url) => store::folder(url),
            _ => None,
        });
        folders.map(|path| Folder {
            key: format!("backends.{}.store", plan.name),
            path,
            usage: Usage::Store,
        })
    });
    let audit = snapshot.audit.iter().map(|plan| Folder {
        key: "audit.file".to_owned(),
        path: written(&plan.file),
        usage: Usage::Audit,
    });
    stores.chain(audit).collect()
}

/// The folder of a file, by way of its symbolic links.
fn written(file: &Path) -> PathBuf {
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    match file.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn restrict(folders: &[Folder]) -> Result<RulesetStatus, RulesetError> {
    // Before Linux 5.19 (Landlock ABI 2) a process in a sandbox can't move files between folders, as the store does.
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_write(ABI::V2) | AccessFs::Execute)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::Truncate)?
        .scope(Scope::Signal)?
        .create()?;
    for folder in folders {
        rules = rules.add_rules(path_beneath_rules([&folder.path], folder.usage.access()))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::process::Command;

    fn folder(path: &Path, usage: Usage) -> Folder {
        Folder {
            key: String::new(),
            path: path.to_owned(),
            usage,
        }
    }

    #[test]
    fn a_process_keeps_what_it_needs_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let [store, audit, other] = ["store", "audit", "other"].map(|name| dir.path().join(name));
        for path in [&store, &audit, &other] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("old"), "old").unwrap();
        }
        // A thread of its own: there is no way back.
        let tried = std::thread::spawn(move || {
            match restrict(&[folder(&store, Usage::Store), folder(&audit, Usage::Audit)]) {
                Ok(RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced) => {}
                result => return eprintln!("NOT RUN: a sandbox: this kernel does not offer it: {result:?}"),
            }
            let denied = |result: std::io::Result<()>| {
                assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::PermissionDenied));
            };
            fs::create_dir(store.join("shard")).unwrap();
            fs::write(store.join("new"), "new").unwrap();
            fs::rename(store.join("new"), store.join("shard/new")).unwrap();
            fs::hard_link(store.join("shard/new"), store.join("linked")).unwrap();
            fs::remove_file(store.join("old")).unwrap();
            fs::write(audit.join("new"), "a line").unwrap();
            denied(fs::remove_file(audit.join("old")));
            denied(fs::create_dir(audit.join("folder")));
            assert_eq!(fs::read_to_string(other.join("old")).unwrap(), "old");
            denied(fs::write(other.join("old"), "changed"));
            denied(fs::write(other.join("new"), "new"));
            denied(fs::remove_file(other.join("old")));
            denied(
                fs::rename(other.join("old"), store.join("stolen")).map_err(|error| match error.kind() {
                    // Landlock says of a move between folders that it is one between disks.
                    ErrorKind::CrossesDevices => ErrorKind::PermissionDenied.into(),
                    _ => error,
                }),
            );
            denied(Command::new("true").status().map(drop));
        });
        tried.join().unwrap();
    }

    #[test]
    fn a_folder_is_one_by_whatever_way_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("real");
        let link = dir.path().join("link");
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let found = folder(&link.join("a/b"), Usage::Store).found();
        assert_eq!(found.path, real.join("a/b"));
        fs::write(real.join("audit.log"), "").unwrap();
        assert_eq!(written(&link.join("audit.log")), real);
    }
}
