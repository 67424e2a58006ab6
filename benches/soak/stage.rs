//! The real program with its backends, its certificates and its configuration, all in one folder.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use casgate::certs::Folder;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::client::Door;
use crate::process::Running;
use crate::tls::Certificates;

const CONFIG: &str = include_str!("casgate.toml");
/// For how long a certificate is valid, in days.
const DAYS: u32 = 30;
/// How long a program may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that runs.
pub(crate) struct Stage {
    /// What is ended first is the gate.
    pub(crate) gate: Running,
    pub(crate) replicas: [Replica; 2],
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Its certificates. Whoever changes what the gate reads holds this, so that a reload is about one change.
    pub(crate) folder: tokio::sync::Mutex<Folder>,
    certificates: Certificates,
    dir: PathBuf,
}

/// A place of the backend that has two.
pub(crate) struct Replica {
    socket: PathBuf,
    store: PathBuf,
    log: PathBuf,
    running: Mutex<Option<Running>>,
}

impl Stage {
    /// Starts this build of the gate.
    pub(crate) fn start(program: &Path, dir: &Path, certificates: &[&str]) -> Result<Stage> {
        let folder = Folder::new(dir);
        folder.authority("soak", DAYS)?;
        folder.server(&["localhost".to_owned(), "127.0.0.1".to_owned()], DAYS)?;
        for name in certificates {
            folder.client(name, DAYS)?;
        }
        let replicas = ["a", "b"].map(|name| Replica::new(name, dir));
        for replica in &replicas {
            replica.start()?;
            replica.wait()?;
        }
        write(dir, "")?;
        let config = dir.join("casgate.toml");
        let command = [program, Path::new("serve"), Path::new("--config"), &config];
        let command = command.map(|part| part.display().to_string());
        let gate = Running::start(&cores()?, &command, &dir.join("log"))?;
        let log = dir.join("log");
        let [address, admin] = ["listening on https://", "admin on http://"].map(|words| told(&log, words));
        Ok(Stage {
            gate,
            replicas,
            address: address?,
            admin: admin?,
            folder: tokio::sync::Mutex::new(folder),
            certificates: Certificates::in_dir(dir),
            dir: dir.to_owned(),
        })
    }

    /// Where a client with this certificate knocks, or one without.
    pub(crate) fn door(&self, certificate: Option<&str>) -> Result<Door> {
        Ok(Door {
            address: self.address,
            from: Ipv4Addr::LOCALHOST,
            tls: self.certificates.connector(certificate)?,
        })
    }

    /// The same for those who mean no good: they come from an address of their own, as they would in life.
    pub(crate) fn back_door(&self, certificate: Option<&str>) -> Result<Door> {
        Ok(Door {
            from: Ipv4Addr::new(127, 0, 0, 2),
            ..self.door(certificate)?
        })
    }

    /// Puts another configuration where the gate looks for it: what it was in the beginning and this.
    pub(crate) fn write(&self, more: &str) -> Result<()> {
        write(&self.dir, more)
    }

    /// Takes the audit log away, so that the next reload opens another one.
    pub(crate) fn rotate(&self) -> Result<()> {
        Ok(std::fs::rename(
            self.dir.join("audit.jsonl"),
            self.dir.join("audit.old"),
        )?)
    }

    /// SIGHUP.
    pub(crate) fn hang_up(&self) -> Result<()> {
        let pid = i32::try_from(self.gate.id()).ok().and_then(Pid::from_raw);
        Ok(kill_process(pid.ok_or("no process")?, Signal::HUP)?)
    }

    /// What the gate has logged.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(self.dir.join("log"))?).into_owned())
    }
}

impl Replica {
    fn new(name: &str, dir: &Path) -> Replica {
        Replica {
            socket: dir.join(format!("{name}.sock")),
            store: dir.join("replicated"),
            log: dir.join(format!("{name}.log")),
            running: Mutex::new(None),
        }
    }

    /// Starts this very program as a backend.
    pub(crate) fn start(&self) -> Result<()> {
        let program = std::env::current_exe()?;
        let command =
            [&program, Path::new("replica"), &self.socket, &self.store].map(|part| part.display().to_string());
        *self.running.lock() = Some(Running::start(&cores()?, &command, &self.log)?);
        Ok(())
    }

    /// Ends it at once: it does nothing when it is told to go.
    pub(crate) fn kill(&self) {
        *self.running.lock() = None;
    }

    /// Whether it can be connected to.
    pub(crate) fn is_there(&self) -> bool {
        std::os::unix::net::UnixStream::connect(&self.socket).is_ok()
    }

    fn wait(&self) -> Result<()> {
        let begun = Instant::now();
        while !self.is_there() {
            if begun.elapsed() > PATIENCE {
                let said = std::fs::read_to_string(&self.log).unwrap_or_default();
                return Err(format!("a replica does not start: {said}").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Appears whole or not at all: the gate looks by itself.
fn write(dir: &Path, more: &str) -> Result<()> {
    let new = dir.join("casgate.new");
    std::fs::write(&new, format!("{CONFIG}{more}"))?;
    Ok(std::fs::rename(new, dir.join("casgate.toml"))?)
}

/// The cores that this program may use.
fn cores() -> Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    Ok(list.ok_or("no list of cores")?.trim().to_owned())
}

/// An address that the gate logs behind these words.
fn told(log: &Path, words: &str) -> Result<SocketAddr> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let text = std::fs::read_to_string(log)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        if let Some((_, address)) = whole.lines().find_map(|line| line.split_once(words)) {
            return Ok(address.trim().parse()?);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("the gate does not start:\n{}", std::fs::read_to_string(log)?).into())
}
