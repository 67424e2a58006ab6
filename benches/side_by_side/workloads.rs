//! What is measured: the work, who does it, and what casgate must reach in it.

use std::fmt::{self, Display};
use std::time::Duration;

use crate::Result;
use crate::calls::{Call, MIB};
use crate::contestants::{Contestant, Setup};
use crate::load::{self, Span, Target};
use crate::measure::{Measure, Quantity};
use crate::process::{BOTH_CORES, CORE, OTHER_CORE};

/// Calls per second at the fixed rate.
const RATE: u32 = 5000;
/// One call is as long as a run, nearly: a new one costs a round trip.
const WAN_BLOB: usize = 128 * MIB;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Workload {
    /// FindMissingBlobs of 10 digests, 4 connections x 16 streams
    Unary,
    /// ByteStream.Read of 4 MiB in 64 KiB messages, 2 connections x 4 streams
    Read,
    /// ByteStream.Write of the same
    Write,
    /// A new connection with mutual TLS and one call on it, 4 at once
    Connect,
    /// 85 % FindMissingBlobs, 10 % Read and 5 % Write of 1 MiB, 4 connections x 4 streams
    Mixed,
    /// FindMissingBlobs at 5000 calls/s, latencies from the time at which a call was to be sent
    Rate,
    /// Connections that are idle after one call
    Idle,
    /// 10,000 of them
    Idle10000,
    /// Upload of one stream, round trip 40 ms, 1 Gbit/s
    WanWrite,
    /// Download of one stream, the same
    WanRead,
    /// Unary with 100,000 rules instead of 10
    Rules,
    /// Unary with 200 backends, each with a route for instances of its own, instead of 1
    Backends,
    /// Unary beside 5,000 connections that are idle instead of none
    Open,
    /// Unary with `threads = 2` instead of 1, on two cores that clients and backend share
    Threads,
}

/// Who does a piece of work, in a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arm {
    pub(crate) name: String,
    /// Without one, clients call the backend directly, in the clear.
    pub(crate) contestant: Option<Contestant>,
    pub(crate) threads: usize,
    pub(crate) cores: &'static str,
    /// Those of clients and backend.
    pub(crate) other_cores: &'static str,
    pub(crate) more_rules: usize,
    pub(crate) more_backends: usize,
    /// Connections that do nothing meanwhile.
    pub(crate) idle: usize,
}

/// What casgate has to reach, as ratios.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goals {
    /// Against the best competitor, or the first arm where casgate is measured alone.
    pub(crate) must: f64,
    pub(crate) aim: Option<f64>,
    /// Against the floor.
    pub(crate) floor_aim: Option<f64>,
}

impl Workload {
    /// Those of the usual run.
    pub(crate) const USUAL: [Workload; 13] = [
        Workload::Unary,
        Workload::Read,
        Workload::Write,
        Workload::Connect,
        Workload::Mixed,
        Workload::Rate,
        Workload::Idle,
        Workload::WanWrite,
        Workload::WanRead,
        Workload::Rules,
        Workload::Backends,
        Workload::Open,
        Workload::Threads,
    ];

    /// What is told of it: the quantities, with goals for those that have some.
    pub(crate) fn quantities(self) -> Vec<(Quantity, Option<Goals>)> {
        let goals = |must, aim, floor_aim| Some(Goals { must, aim, floor_aim });
        let (quantity, goals) = match self {
            Workload::Unary => (Quantity::CpuPerCall, goals(0.90, Some(0.80), Some(1.7))),
            Workload::Read => (Quantity::CpuPerGigabyte, goals(0.85, Some(0.75), Some(1.5))),
            Workload::Write => (Quantity::CpuPerGigabyte, goals(0.92, Some(0.88), Some(1.10))),
            Workload::Connect => (Quantity::CpuPerCall, goals(0.70, Some(0.60), None)),
            Workload::Mixed => (Quantity::CpuPerCall, goals(0.65, Some(0.55), None)),
            Workload::Rate => (Quantity::P99, goals(1.0, Some(0.9), None)),
            Workload::Idle | Workload::Idle10000 => (Quantity::BytesPerConnection, goals(1.0, Some(0.7), None)),
            Workload::WanWrite | Workload::WanRead => (Quantity::BytesPerSecond, goals(0.80, None, None)),
            Workload::Rules | Workload::Threads => (Quantity::CpuPerCall, goals(1.05, None, None)),
            Workload::Backends | Workload::Open => (Quantity::CpuPerCall, None),
        };
        let more = match self {
            Workload::Unary | Workload::Mixed => {
                &[Quantity::CallsPerSecond, Quantity::P50, Quantity::P99, Quantity::Peak][..]
            }
            Workload::Read | Workload::Write => &[Quantity::BytesPerSecond, Quantity::Peak],
            Workload::Connect => &[Quantity::CallsPerSecond],
            Workload::Rate => &[Quantity::P50, Quantity::P999, Quantity::CpuPerCall],
            _ => &[],
        };
        let more = more.iter().map(|quantity| (*quantity, None));
        [(quantity, goals)].into_iter().chain(more).collect()
    }

    /// Who does it; the first one is what casgate is compared with where there are no competitors.
    pub(crate) fn arms(self, among: &[Contestant]) -> Vec<Arm> {
        let arm = |contestant: Contestant| Arm {
            name: contestant.to_string(),
            contestant: Some(contestant),
            threads: 1,
            cores: CORE,
            other_cores: OTHER_CORE,
            more_rules: 8,
            more_backends: 0,
            idle: 0,
        };
        let alone = arm(Contestant::Casgate);
        let named = |name: &str, arm: Arm| Arm {
            name: name.to_owned(),
            ..arm
        };
        let all = among.iter().copied().map(arm);
        match self {
            Workload::WanWrite | Workload::WanRead => {
                let direct = Arm {
                    name: "direct".to_owned(),
                    contestant: None,
                    ..alone
                };
                [direct].into_iter().chain(all).collect()
            }
            Workload::Rules => {
                let many = Arm {
                    more_rules: 99_998,
                    ..alone.clone()
                };
                vec![named("10 rules", alone), named("100,000 rules", many)]
            }
            Workload::Backends => {
                let many = Arm {
                    more_backends: 199,
                    ..alone.clone()
                };
                vec![named("1 backend", alone), named("200 backends", many)]
            }
            Workload::Open => {
                let many = Arm {
                    idle: 5000,
                    ..alone.clone()
                };
                vec![named("4 connections", alone), named("5,004 connections", many)]
            }
            Workload::Threads => {
                // The floor has no threads.
                let threaded = among.iter().filter(|one| **one != Contestant::Floor);
                let pairs = threaded.map(|contestant| {
                    [1, 2].map(|threads| Arm {
                        name: format!("{contestant} with {threads}"),
                        threads,
                        // Everybody on the same cores, so that the threads are the one thing that differs.
                        cores: BOTH_CORES,
                        other_cores: BOTH_CORES,
                        ..arm(*contestant)
                    })
                });
                pairs.flatten().collect()
            }
            // The floor never gives a buffer back: it says nothing of what an idle connection must cost.
            Workload::Idle | Workload::Idle10000 => {
                let holders = all.filter(|arm| arm.contestant != Some(Contestant::Floor));
                holders.collect()
            }
            _ => all.collect(),
        }
    }

    /// Whether each is compared with itself: its arms are pairs, and only of casgate but for threads.
    pub(crate) fn is_of_each_alone(self) -> bool {
        matches!(
            self,
            Workload::Rules | Workload::Backends | Workload::Open | Workload::Threads
        )
    }

    /// Whether it goes over a line with a delay.
    pub(crate) fn is_far(self) -> bool {
        matches!(self, Workload::WanWrite | Workload::WanRead)
    }

    /// Does the work.
    pub(crate) async fn run(self, target: &Target<'_>, span: Span, idle: usize) -> Result<Measure> {
        let find = Call::find()?;
        match self {
            Workload::Unary | Workload::Rules | Workload::Backends | Workload::Open | Workload::Threads => {
                load::closed(target, (4, 16), &[find], span).await
            }
            Workload::Read => load::closed(target, (2, 4), &[Call::read(4 * MIB)?], span).await,
            Workload::Write => load::closed(target, (2, 4), &[Call::write(4 * MIB)?], span).await,
            Workload::Connect => load::connections(target, 4, &find, span).await,
            Workload::Mixed => {
                let (read, write) = (Call::read(MIB)?, Call::write(MIB)?);
                let script: Vec<Call> = (0..20)
                    .map(|number| match number {
                        3 | 13 => read.clone(),
                        8 => write.clone(),
                        _ => find.clone(),
                    })
                    .collect();
                load::closed(target, (4, 4), &script, span).await
            }
            Workload::Rate => load::open(target, 4, &find, RATE, span).await,
            Workload::Idle => load::idle(target, idle, &find).await,
            Workload::Idle10000 => load::idle(target, 10_000, &find).await,
            Workload::WanWrite => load::closed(target, (1, 1), &[Call::write(WAN_BLOB)?], longer(span)).await,
            Workload::WanRead => load::closed(target, (1, 1), &[Call::read(WAN_BLOB)?], longer(span)).await,
        }
    }
}

impl Arm {
    /// What its contestant is started with.
    pub(crate) fn setup(&self, setup: Setup) -> Setup {
        Setup {
            cores: self.cores,
            threads: self.threads,
            more_rules: self.more_rules,
            more_backends: self.more_backends,
            ..setup
        }
    }
}

impl Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use clap::ValueEnum;
        let value = self.to_possible_value();
        let help = value.as_ref().and_then(|value| value.get_help());
        match help {
            Some(help) => write!(f, "{help}"),
            None => write!(f, "{self:?}"),
        }
    }
}

/// Windows open over some round trips.
fn longer(span: Span) -> Span {
    Span {
        warm_up: span.warm_up.max(Duration::from_secs(1)),
        measured: span.measured.max(Duration::from_secs(3)),
    }
}
