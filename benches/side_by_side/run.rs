//! A whole comparison: who can take part, whether they do equal work, then round after round.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::Result;
use crate::calls::Call;
use crate::client::{Client, call};
use crate::contestants::{Contestant, Setup};
use crate::load::{self, Span, Target};
use crate::measure::{Measure, Quantity};
use crate::process::{self, OTHER_CORE, Running};
use crate::tls::Certificates;
use crate::workloads::{Arm, Workload};

/// What is to be compared, and how long.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) workloads: Vec<Workload>,
    pub(crate) contestants: Vec<Contestant>,
    /// Another build of casgate, for [`Contestant::Before`].
    pub(crate) before: Option<PathBuf>,
    pub(crate) rounds: usize,
    pub(crate) span: Span,
    /// Connections of the idle workload.
    pub(crate) idle: usize,
}

/// What came out of it.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) outcomes: Vec<(Workload, Vec<ArmOutcome>)>,
    /// Names and versions of those who took part.
    pub(crate) versions: Vec<String>,
    /// Who did not, and why.
    pub(crate) missing: Vec<(Contestant, String)>,
}

pub(crate) struct ArmOutcome {
    pub(crate) arm: Arm,
    pub(crate) runs: Vec<Measure>,
    /// What went wrong; then nothing that was measured counts.
    pub(crate) errors: Vec<String>,
}

/// What all runs share.
struct Bench {
    certificates: Certificates,
    dir: PathBuf,
    programs: Vec<(Contestant, PathBuf)>,
}

/// Compares.
pub(crate) async fn compare(plan: &Plan, dir: &Path) -> Result<Outcome> {
    // Each run says it anew.
    process::pin(OTHER_CORE)?;
    let certificates = Certificates::make(&dir.join("certificates"))?;
    let mut outcome = Outcome::default();
    let mut bench = Bench {
        certificates,
        dir: dir.to_owned(),
        programs: Vec::new(),
    };
    for contestant in plan.contestants.iter().copied() {
        let Some(program) = contestant.find(plan.before.as_deref()) else {
            let reason = format!("no program `{contestant}`: benches/install.py gets it");
            outcome.missing.push((contestant, reason));
            continue;
        };
        match bench.check(contestant, &program).await {
            Ok(()) => {
                outcome.versions.push(contestant.version(&program));
                bench.programs.push((contestant, program));
            }
            Err(error) => outcome.missing.push((contestant, error.to_string())),
        }
    }
    for (contestant, reason) in &outcome.missing {
        eprintln!("NOT MEASURED: {contestant}: {reason}");
    }
    let present: Vec<Contestant> = bench.programs.iter().map(|(contestant, _)| *contestant).collect();
    for workload in plan.workloads.iter().copied() {
        eprintln!("\n{workload}");
        let new = |arm| ArmOutcome {
            arm,
            runs: Vec::new(),
            errors: Vec::new(),
        };
        let mut arms: Vec<ArmOutcome> = workload.arms(&present).into_iter().map(new).collect();
        for round in 0..plan.rounds {
            for one in &mut arms {
                let result = bench.run(workload, &one.arm, plan).await;
                one.note(workload, round, result);
            }
        }
        outcome.outcomes.push((workload, arms));
    }
    Ok(outcome)
}

impl Bench {
    /// Whether a contestant lets `ci` push and `dev` not: else its work is not that of the others.
    async fn check(&self, contestant: Contestant, program: &Path) -> Result<()> {
        let (_backend, backend) = backend(OTHER_CORE)?;
        let setup = Setup::new(
            self.dir.join(format!("{contestant}-check")),
            &self.certificates.dir,
            backend,
        );
        let (_running, address) = contestant.start(program, &setup)?;
        let (find, read, write) = (Call::find()?, Call::read(64 * 1024)?, Call::write(64 * 1024)?);
        for (client, one, what) in [
            ("ci", &find, "find"),
            ("ci", &read, "pull"),
            ("ci", &write, "push"),
            ("dev", &find, "find"),
            ("dev", &read, "pull"),
        ] {
            self.try_call(address, client, one)
                .await
                .map_err(|error| format!("{client} can't {what}: {error}"))?;
        }
        match self.try_call(address, "dev", &write).await {
            Ok(()) if contestant != Contestant::Floor => Err("dev can push".into()),
            Ok(()) => Ok(()),
            Err(error) => {
                eprintln!("{contestant}: ci may push; dev may not: {error}");
                Ok(())
            }
        }
    }

    async fn try_call(&self, address: SocketAddr, client: &str, one: &Call) -> Result<()> {
        let connector = self.certificates.connector(Some(client))?;
        let client = Client::connect(address, Some(&connector)).await?;
        let moved = AtomicU64::new(0);
        tokio::time::timeout(Duration::from_secs(5), call(client.sender(), one, &moved)).await?
    }

    /// One run, with a backend and a contestant that were started for it.
    async fn run(&self, workload: Workload, arm: &Arm, plan: &Plan) -> Result<Measure> {
        process::pin(arm.other_cores)?;
        let (backend_running, backend) = backend(arm.other_cores)?;
        let dir = self.dir.join(arm.name.replace(' ', "-"));
        let setup = arm.setup(Setup::new(dir, &self.certificates.dir, backend));
        let (running, address) = match arm.contestant {
            None => (backend_running, backend),
            Some(contestant) => {
                let program = self.programs.iter().find(|(one, _)| *one == contestant);
                let (_, program) = program.ok_or("it is not there")?;
                contestant.start(program, &setup)?
            }
        };
        // It is there until the end of the run.
        let (_line, address) = if workload.is_far() {
            let (line, near) = Running::role(arm.other_cores, &role("delay", address))?;
            (Some(line), near)
        } else {
            (None, address)
        };
        let connector = match arm.contestant {
            None => None,
            Some(_) => Some(self.certificates.connector(Some("ci"))?),
        };
        let target = Target {
            running: &running,
            address,
            connector,
        };
        // Held until the end of the run.
        let _idle = load::connect(&target, arm.idle).await?;
        workload.run(&target, plan.span, plan.idle).await
    }
}

impl ArmOutcome {
    fn note(&mut self, workload: Workload, round: usize, result: Result<Measure>) {
        let name = &self.arm.name;
        match result {
            Ok(measure) => {
                let quantities = workload.quantities().into_iter();
                let values: Vec<String> = quantities
                    .filter_map(|(quantity, _)| Some(format!("{:.4} {}", quantity.of(&measure)?, quantity.unit())))
                    .collect();
                eprintln!("  round {}, {name}: {}", round + 1, values.join(", "));
                if let Some(first) = measure.errors.first() {
                    let text = format!("{} failed calls, the first: {first}", measure.errors.len());
                    eprintln!("  round {}, {name}: {text}", round + 1);
                    self.errors.push(text);
                }
                self.runs.push(measure);
            }
            Err(error) => {
                eprintln!("  round {}, {name}: {error}", round + 1);
                self.errors.push(error.to_string());
            }
        }
    }

    /// The median of a quantity, unless something went wrong.
    pub(crate) fn median(&self, quantity: Quantity) -> Option<f64> {
        crate::measure::median(self.values(quantity)?)
    }

    /// How much more of a quantity it has than another: the median of what each round says, whose runs stand side by side. A
    /// machine that is shared may be twice as fast in one round as in the next.
    pub(crate) fn ratio_to(&self, other: &ArmOutcome, quantity: Quantity) -> Option<f64> {
        let (mine, others) = (self.values(quantity)?, other.values(quantity)?);
        let ratios = mine.iter().zip(&others).map(|(mine, other)| mine / other);
        crate::measure::median(ratios.collect())
    }

    fn values(&self, quantity: Quantity) -> Option<Vec<f64>> {
        let values = self.runs.iter().map(|run| quantity.of(run)).collect();
        if self.errors.is_empty() { values } else { None }
    }
}

fn backend(cores: &str) -> Result<(Running, SocketAddr)> {
    Running::role(cores, &["backend", "127.0.0.1:0"].map(str::to_owned))
}

fn role(name: &str, to: SocketAddr) -> [String; 3] {
    [name.to_owned(), "127.0.0.1:0".to_owned(), to.to_string()]
}
