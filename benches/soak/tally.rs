//! What came of the calls: how many ended as they had to, and why the others did not, as far as something explains it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// PERMISSION_DENIED (grpc doc/statuscodes.md).
pub(crate) const REFUSED: u8 = 7;
/// How many events are told with something that nothing explains.
const EVENTS: usize = 6;
/// How many things that nothing explains are told; all are counted.
const STORIES: u64 = 20;

/// Why a call failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// The gRPC status; `None` if there was none: the stream or the connection broke, or the answer is a wrong one.
    pub(crate) code: Option<u8>,
    pub(crate) text: String,
}

/// Counts of the whole run.
pub(crate) struct Tally {
    begun: Instant,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Calls that ended as they had to, by what they are.
    good: BTreeMap<&'static str, Latencies>,
    /// Failures, by what explains them and their status.
    explained: BTreeMap<(&'static str, Option<u8>), u64>,
    unexplained: u64,
    /// What was done to the gate.
    done: BTreeMap<String, u64>,
    events: VecDeque<(Instant, String)>,
}

/// How long calls took: their number by eighths of an octave of microseconds, so within 9 %.
#[derive(Default)]
struct Latencies(BTreeMap<u32, u64>);

impl Failure {
    /// One without a gRPC status.
    pub(crate) fn broken(why: impl ToString) -> Failure {
        Failure {
            code: None,
            text: why.to_string(),
        }
    }
}

impl Tally {
    pub(crate) fn new() -> Tally {
        Tally {
            begun: Instant::now(),
            counts: Mutex::default(),
        }
    }

    /// A call has ended that `who` might make or not. One that is refused is refused every time and says so, whatever else
    /// happens; a failure of any other is told by `explain`, or by nothing.
    pub(crate) fn ended(
        &self,
        who: &str,
        (call, may): (&'static str, bool),
        begun: Instant,
        done: Result<(), Failure>,
        explain: impl FnOnce(&Failure) -> Option<&'static str>,
    ) {
        match done {
            Ok(()) if may => self.good(call, begun.elapsed()),
            Ok(()) => self.fault(&format!("{call} of {who} was let through")),
            Err(failure) => {
                let because = match may {
                    false => (failure.code == Some(REFUSED)).then_some("it has no right"),
                    true => explain(&failure),
                };
                self.failed(&format!("{call} of {who}"), &failure, because);
            }
        }
    }

    pub(crate) fn good(&self, call: &'static str, took: Duration) {
        self.counts.lock().good.entry(call).or_default().add(took);
    }

    pub(crate) fn failed(&self, what: &str, failure: &Failure, because: Option<&'static str>) {
        match because {
            Some(because) => {
                let kind = (because, failure.code);
                *self.counts.lock().explained.entry(kind).or_default() += 1;
            }
            None => self.fault(&format!("{what}: {failure:?}")),
        }
    }

    /// Something that nothing explains, or that may not be: it is told at once.
    pub(crate) fn fault(&self, what: &str) {
        let mut counts = self.counts.lock();
        counts.unexplained += 1;
        if counts.unexplained > STORIES {
            return;
        }
        println!("UNEXPLAINED at {:.1} s: {what}", self.begun.elapsed().as_secs_f64());
        for (at, event) in &counts.events {
            println!("    {:.1} s before: {event}", at.elapsed().as_secs_f64());
        }
    }

    /// Something was done to the gate that may have to do with what comes next.
    pub(crate) fn did(&self, what: &str) {
        let mut counts = self.counts.lock();
        counts.events.push_back((Instant::now(), what.to_owned()));
        if counts.events.len() > EVENTS {
            counts.events.pop_front();
        }
        *counts.done.entry(what.to_owned()).or_default() += 1;
    }

    /// The same for what happens all the time.
    pub(crate) fn counted(&self, what: String) {
        *self.counts.lock().done.entry(what).or_default() += 1;
    }

    /// How many things nothing explains.
    pub(crate) fn unexplained(&self) -> u64 {
        self.counts.lock().unexplained
    }

    /// One line: calls, and failures by kind.
    pub(crate) fn line(&self) -> String {
        let counts = self.counts.lock();
        let mut line = format!("{} calls", counts.calls());
        let mut failures = BTreeMap::<_, u64>::new();
        for ((because, _), count) in &counts.explained {
            *failures.entry(because).or_default() += count;
        }
        for (because, count) in failures {
            let _ = write!(line, ", {count} {because}");
        }
        let _ = write!(line, ", {} UNEXPLAINED", counts.unexplained);
        line
    }

    /// All of it.
    pub(crate) fn report(&self) -> String {
        let counts = self.counts.lock();
        let mut text = format!(
            "{:<28} {:>9} {:>9} {:>9}\n",
            "calls that ended well", "", "p50 ms", "p99 ms"
        );
        for (call, latencies) in &counts.good {
            let [p50, p99] = [0.5, 0.99].map(|part| latencies.quantile(part).as_secs_f64() * 1000.0);
            let _ = writeln!(text, "  {call:<26} {:>9} {p50:>9.1} {p99:>9.1}", latencies.count());
        }
        text.push_str("calls that failed, and why\n");
        for ((because, code), count) in &counts.explained {
            let code = code.map_or("no status".to_owned(), |code| format!("code {code}"));
            let _ = writeln!(text, "  {because:<26} {count:>9} {code:>9}");
        }
        let _ = writeln!(text, "  {:<26} {:>9}", "UNEXPLAINED", counts.unexplained);
        text.push_str("what was done to the gate\n");
        for (what, count) in &counts.done {
            let _ = writeln!(text, "  {what:<60} {count:>5}");
        }
        text
    }
}

impl Counts {
    fn calls(&self) -> u64 {
        let good: u64 = self.good.values().map(Latencies::count).sum();
        good + self.explained.values().sum::<u64>()
    }
}

impl Latencies {
    fn add(&mut self, took: Duration) {
        let bucket = (took.as_secs_f64() * 1e6).max(1.0).log2() * 8.0;
        *self.0.entry(bucket as u32).or_default() += 1;
    }

    fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// What this part of all calls did not exceed.
    fn quantile(&self, part: f64) -> Duration {
        let mut left = (part * self.count() as f64).ceil();
        for (bucket, count) in &self.0 {
            left -= *count as f64;
            if left <= 0.0 {
                return Duration::from_secs_f64((f64::from(bucket + 1) / 8.0).exp2() / 1e6);
            }
        }
        Duration::ZERO
    }
}
