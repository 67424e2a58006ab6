//! A small disk that only the programs of one test see: a tmpfs in a mount namespace of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The disk, with a file on it that can make it full. It goes when this is dropped.
pub(crate) struct SmallDisk {
    holder: Child,
    folder: tempfile::TempDir,
    is_root: bool,
}

const FILLER: &str = "filler";

impl SmallDisk {
    /// A disk of so many KiB; None, said loudly, where it can't be had.
    pub(crate) fn of(kibibytes: u64) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let is_root = rustix::process::geteuid().is_root();
        // It ends with its input.
        let script = "mount -t tmpfs -o size=\"$1\"k tmpfs \"$0\"\necho mounted\nexec cat";
        let mut holder = Command::new("unshare")
            .arg(if is_root { "-m" } else { "-rm" })
            .args(["sh", "-euc", script])
            .arg(folder.path())
            .arg(kibibytes.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut said = String::new();
        let out = holder.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut said).unwrap();
        if said.trim() == "mounted" {
            return Some(SmallDisk {
                holder,
                folder,
                is_root,
            });
        }
        holder.wait().unwrap();
        let is_promised = is_root && std::env::var("CI").as_deref() == Ok("true");
        assert!(!is_promised, "no disk can be mounted, though this is root");
        eprintln!("NOT RUN: a full disk: no disk can be mounted in a namespace of its own");
        None
    }

    /// What a shell runs to go on as a program that sees the disk.
    pub(crate) fn commands(&self) -> String {
        let user = if self.is_root { "" } else { "-U --preserve-credentials" };
        format!("exec nsenter -t {} -m {user} \"$0\" \"$@\"", self.holder.id())
    }

    /// Where the programs see it.
    pub(crate) fn inside(&self) -> &Path {
        self.folder.path()
    }

    /// Where the test sees it.
    pub(crate) fn outside(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.inside().strip_prefix("/").unwrap())
    }

    /// Takes so many KiB of it.
    pub(crate) fn take(&self, kibibytes: usize) {
        std::fs::write(self.outside().join(FILLER), vec![0; kibibytes << 10]).unwrap();
    }

    /// Gives them back.
    pub(crate) fn give_back(&self) {
        std::fs::remove_file(self.outside().join(FILLER)).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        self.holder.wait().unwrap();
    }
}
