//! What a process uses, as the system tells it, and whether that has grown more than it may.

use std::collections::BTreeMap;
use std::io;

/// What descriptors of uploads that are not finished are counted as.
const INTERRUPTED: &str = "interrupted uploads";
/// How many of those the embedded store keeps, for whoever goes on with them.
const MOST_INTERRUPTED: usize = 256;

/// What a process uses.
#[derive(Clone, Debug)]
pub(crate) struct Vitals {
    /// Bytes of memory now.
    pub(crate) resident: u64,
    /// The most there ever were.
    pub(crate) peak: u64,
    threads: usize,
    /// Descriptors by what they are.
    descriptors: BTreeMap<String, usize>,
    /// Of them, connections to backends, which stay as long as they may be of use: whoever looks knows how many.
    pub(crate) backends: usize,
}

impl Vitals {
    /// Those of a process.
    pub(crate) fn of(pid: u32) -> io::Result<Vitals> {
        let mut descriptors = BTreeMap::new();
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
            // Some are gone by now.
            let Ok(target) = std::fs::read_link(entry?.path()) else {
                continue;
            };
            let target = target.display().to_string();
            let kind = match target.split_once(":[") {
                Some((kind, _)) => kind,
                // As the embedded store calls what is not finished.
                None if target.contains('#') => INTERRUPTED,
                None => target.rsplit('/').next().unwrap_or_default(),
            };
            *descriptors.entry(kind.to_owned()).or_default() += 1;
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let number = |name| {
            let line = status.lines().find_map(|line: &str| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number.unwrap_or_default()
        };
        Ok(Vitals {
            resident: number("VmRSS:") << 10,
            peak: number("VmHWM:") << 10,
            threads: number("Threads:") as usize,
            descriptors,
            backends: 0,
        })
    }

    pub(crate) fn line(&self) -> String {
        format!(
            "{:>4} MiB, {} threads, {} descriptors ({} of interrupted uploads, {} to backends)",
            self.resident >> 20,
            self.threads,
            self.descriptors(),
            self.interrupted(),
            self.backends
        )
    }

    fn descriptors(&self) -> usize {
        self.descriptors.values().sum()
    }

    /// Those of uploads to the embedded store that were interrupted, and may be resumed within an hour.
    fn interrupted(&self) -> usize {
        self.descriptors.get(INTERRUPTED).copied().unwrap_or_default()
    }

    /// Descriptors but those that may stay.
    fn own(&self) -> usize {
        self.descriptors().saturating_sub(self.backends + self.interrupted())
    }

    /// How much memory may be there at the end. Pages that an allocator keeps are no leak; what goes on and on is more than
    /// this sooner or later.
    pub(crate) fn most(&self) -> u64 {
        self.resident + self.resident / 10 + (32 << 20)
    }

    /// What has grown since more than it may.
    pub(crate) fn grown_since(&self, before: &Vitals) -> Vec<String> {
        let mut grown = Vec::new();
        if self.threads > before.threads {
            grown.push(format!("{} threads, {} before", self.threads, before.threads));
        }
        if self.own() > before.own() {
            grown.push(format!(
                "{} descriptors that have no reason to be there, {} before: {:?}, {:?} before",
                self.own(),
                before.own(),
                self.descriptors,
                before.descriptors
            ));
        }
        if self.interrupted() > MOST_INTERRUPTED {
            grown.push(format!("{} interrupted uploads are kept open", self.interrupted()));
        }
        if self.resident > before.most() {
            let [now, most] = [self.resident, before.most()].map(|bytes| bytes >> 20);
            grown.push(format!("{now} MiB of memory at the end: more than {most} MiB"));
        }
        grown
    }
}
