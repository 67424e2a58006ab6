//! The real program, with certificates that it made itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::{Running, SOON, run};

/// A gate that runs, and the folder with its certificates and with whatever a test puts there.
pub(crate) struct Gate {
    /// Where clients connect.
    pub(crate) port: String,
    running: Running,
    folder: TempDir,
}

/// A folder for a gate, with the certificates of an authority for `ci` and `dev`, and those of a stranger.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let stranger = folder.path().join("stranger");
    certs(&["init"], folder.path());
    certs(&["server"], folder.path());
    certs(&["client", "ci", "dev"], folder.path());
    certs(&["init"], &stranger);
    certs(&["client", "ci"], &stranger);
    folder
}

/// Runs `casgate certs` in a folder.
pub(crate) fn certs(arguments: &[&str], dir: &Path) {
    let mut command = casgate();
    command.arg("certs").arg(arguments[0]).arg(dir).args(&arguments[1..]);
    run(&mut command, SOON).success();
}

impl Gate {
    /// Serves `backend`, the keys of its table, to clients whose certificates `client-ca` names.
    pub(crate) fn start(folder: TempDir, client_ca: &str, backend: &str) -> Gate {
        Gate::start_with(folder, client_ca, backend, "")
    }

    /// The same, with more keys of the rule for everyone.
    pub(crate) fn start_with(folder: TempDir, client_ca: &str, backend: &str, everyone: &str) -> Gate {
        let text = format!(
            r#"
[listen]
address = "127.0.0.1:0"
certificate = "server.crt"
key = "server.key"
client-ca = [{client_ca}]

[backends.cache]
{backend}

[[rules]]
name = "ci runners"
certificate = {{ common-name = "ci" }}
allow = ["pull", "push"]

[[rules]]
name = "everyone with a certificate"
certificate = "any"
allow = ["pull"]
{everyone}
"#
        );
        Gate::serve(folder, &text)
    }

    /// Serves a configuration, whose last listener has TLS.
    pub(crate) fn serve(folder: TempDir, text: &str) -> Gate {
        let config = folder.path().join("casgate.toml");
        std::fs::write(&config, text).unwrap();
        let mut command = casgate();
        command.arg("serve").arg("--config").arg(&config);
        let mut running = Running::start(&mut command, &folder.path().join("casgate.log"));
        let port = running.wait_for("listening on https://127.0.0.1:");
        Gate { port, running, folder }
    }

    /// The same in front of a casd or of another server.
    pub(crate) fn before(folder: TempDir, endpoint: &str) -> Gate {
        Gate::start(folder, r#""ca.crt""#, &format!("endpoint = {endpoint:?}"))
    }

    /// The same with the embedded store, on the disk.
    pub(crate) fn with_store() -> Gate {
        Gate::start(folder(), r#""ca.crt""#, r#"store = "file:store""#)
    }

    /// A file of its folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its log until now.
    pub(crate) fn log(&self) -> String {
        self.running.text()
    }

    /// A line of `/proc/PID/status`, in bytes: `VmRSS` is its memory now, `VmHWM` the most that it ever was.
    pub(crate) fn memory(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.running.id())).unwrap();
        let line = status.lines().find(|found| found.starts_with(line)).unwrap();
        let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kibibytes * 1024
    }
}

/// The program.
pub(crate) fn casgate() -> Command {
    Command::new(env!("CARGO_BIN_EXE_casgate"))
}
