//! A program that was started here: pinned to cores, asked what it has used, ended with all of its children.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;

/// The core of whoever is measured.
pub(crate) const CORE: &str = "0";
/// The core of clients and backend.
pub(crate) const OTHER_CORE: &str = "1";
/// The two, where everybody shares them.
pub(crate) const BOTH_CORES: &str = "0,1";
/// Unit of times in `/proc/PID/stat`: USER_HZ, which is 100 on every Linux that people run (proc(5)).
const TICK: Duration = Duration::from_millis(10);
/// How long a program may take to end when asked to.
const PATIENCE: Duration = Duration::from_secs(5);

/// A program that runs until this is dropped.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

/// What a program and its children have used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu: Duration,
    /// Memory now, in bytes.
    pub(crate) resident: u64,
    /// Most memory so far, in bytes.
    pub(crate) peak: u64,
}

impl Running {
    /// Starts a program on these cores, as `taskset` names them. What it prints goes to a file.
    pub(crate) fn start(cores: &str, command: &[String], log: &Path) -> Result<Running> {
        let child = Command::new("taskset")
            .args(["-c", cores])
            .args(command)
            .stdin(Stdio::null())
            .stdout(File::create(log)?)
            .stderr(File::options().append(true).open(log)?)
            .spawn()
            .map_err(|error| format!("`taskset` can't be started: {error}"))?;
        Ok(Running {
            child,
            log: log.to_owned(),
        })
    }

    /// Starts this very program in another role; gives the address that it prints. It ends when its input does.
    pub(crate) fn role(cores: &str, role: &[String]) -> Result<(Running, SocketAddr)> {
        let mut child = Command::new("taskset")
            .args(["-c", cores])
            .arg(std::env::current_exe()?)
            .args(role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("`taskset` can't be started: {error}"))?;
        let out = child.stdout.take().ok_or("no output")?;
        let running = Running {
            child,
            log: PathBuf::from("/dev/null"),
        };
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let address = line
            .trim()
            .parse()
            .map_err(|_| format!("{role:?} did not start: `{line}`"))?;
        Ok((running, address))
    }

    /// Waits until it can be connected to.
    pub(crate) fn wait_for(&mut self, address: SocketAddr) -> Result<()> {
        let begun = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || begun.elapsed() > Duration::from_secs(20) {
                let said = std::fs::read_to_string(&self.log).unwrap_or_default();
                let end: Vec<&str> = said.lines().rev().take(8).collect();
                let end: Vec<&str> = end.into_iter().rev().collect();
                return Err(format!("it does not listen ({ended:?}):\n{}", end.join("\n")).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The id of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it and all of its children have used so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let mut sum = Usage::default();
        for pid in tree(self.id())? {
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
                continue;
            };
            let ticks: u32 = [11, 12].iter().filter_map(|index| field(&stat, *index)).sum();
            sum.cpu += TICK * ticks;
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            sum.resident += kib(&status, "VmRSS:") * 1024;
            sum.peak += kib(&status, "VmHWM:") * 1024;
        }
        Ok(sum)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let begun = Instant::now();
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        // Asked nicely, a program takes its children along; asked twice, it does not wait for calls.
        for pause in [Duration::from_millis(100), PATIENCE] {
            if let Some(pid) = pid {
                let _gone = kill_process(pid, Signal::TERM);
            }
            while begun.elapsed() < pause {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Moves this very process to these cores, as `taskset` names them.
pub(crate) fn pin(cores: &str) -> Result<()> {
    let moved = Command::new("taskset")
        .args(["-cp", cores, &std::process::id().to_string()])
        .output()?;
    if !moved.status.success() {
        return Err(format!("`taskset` failed: {}", String::from_utf8_lossy(&moved.stderr)).into());
    }
    Ok(())
}

/// A program and the children of its children.
fn tree(root: u32) -> Result<HashSet<u32>> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if let Some(parent) = field(&stat, 1) {
            parents.push((pid, parent));
        }
    }
    let mut tree = HashSet::from([root]);
    loop {
        let before = tree.len();
        for (pid, parent) in &parents {
            if tree.contains(parent) {
                tree.insert(*pid);
            }
        }
        if tree.len() == before {
            return Ok(tree);
        }
    }
}

/// A field of `/proc/PID/stat`, counted from the state, which follows a name that may hold anything.
fn field(stat: &str, index: usize) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(index)?.parse().ok()
}

fn kib(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}
