//! casgate beside others that could do its work, on one machine in one run: `cargo bench --bench side_by_side`.
//!
//! Whoever is measured has one core, and clients and backend have another; where threads are compared, all share both.
//! [`run`] starts a backend and a contestant for each run, [`load`] calls it, [`process`] reads what it used, [`report`] tells.
//! The programs that are no one else's (the null backend, the floor, the delaying line) are this program in other roles.

mod backend;
mod calls;
mod chart;
mod client;
mod contestants;
mod load;
mod measure;
mod process;
mod relays;
mod report;
mod run;
mod tls;
mod workloads;

use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use contestants::Contestant;
use load::Span;
use run::Plan;
use workloads::Workload;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures casgate beside nginx, HAProxy, Envoy and the floor
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// Short runs, to see that all of it works; the results go to `target/` only
    #[arg(long)]
    quick: bool,
    /// 10,000 idle connections as well
    #[arg(long)]
    full: bool,
    /// Runs of each, of which the median counts
    #[arg(long)]
    rounds: Option<usize>,
    /// Length of a run
    #[arg(long)]
    seconds: Option<f64>,
    /// Only these; the results go to `target/` only
    #[arg(long, value_delimiter = ',', value_name = "WORKLOAD")]
    only: Vec<Workload>,
    /// Only these and casgate: `floor`, `haproxy`, `nginx`, `envoy`; the results go to `target/` only
    #[arg(long, value_delimiter = ',', value_name = "CONTESTANT")]
    beside: Option<Vec<String>>,
    /// Another build of casgate, to be measured too: what a change has brought
    #[arg(long, value_name = "PROGRAM")]
    before: Option<PathBuf>,
    /// cargo says it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
#[command(hide = true)]
enum Role {
    /// The null backend
    Backend { listen: SocketAddr },
    /// The relay that ends TLS and copies bytes
    Floor {
        listen: SocketAddr,
        backend: SocketAddr,
        certificates: PathBuf,
    },
    /// The line of 40 ms
    Delay { listen: SocketAddr, to: SocketAddr },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.role {
        Some(role) => play(role),
        None => compare(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn play(role: Role) -> Result<()> {
    // Whoever started it is gone when its input ends.
    std::thread::spawn(|| {
        let _ended = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match role {
            Role::Backend { listen } => backend::run(listen).await,
            Role::Floor {
                listen,
                backend,
                certificates,
            } => relays::end_tls(listen, backend, &certificates).await,
            Role::Delay { listen, to } => relays::delay(listen, to).await,
        }
    })
}

fn compare(args: &Args) -> Result<()> {
    let (seconds, rounds) = if args.quick { (1.0, 3) } else { (1.0, 15) };
    let mut workloads = args.only.clone();
    if workloads.is_empty() {
        workloads.extend(Workload::USUAL);
    }
    if args.full {
        workloads.push(Workload::Idle10000);
    }
    let measured = Duration::from_secs_f64(args.seconds.unwrap_or(seconds));
    let plan = Plan {
        workloads,
        contestants: contestants(args)?,
        before: args.before.clone(),
        rounds: args.rounds.unwrap_or(rounds).max(1),
        span: Span {
            warm_up: measured / 4,
            measured,
        },
        idle: if args.quick { 500 } else { 2000 },
    };
    raise_open_files()?;
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(run::compare(&plan, dir.path()))?;
    // What the README tells of is a whole run, and no other.
    let is_whole = !args.quick && args.only.is_empty() && args.beside.is_none() && args.before.is_none();
    let folder = if is_whole {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches")
    } else {
        contestants::tools().with_file_name("side_by_side")
    };
    std::fs::create_dir_all(&folder)?;
    let text = report::markdown(&plan, &outcome);
    println!("{text}");
    std::fs::write(folder.join("RESULTS.md"), text)?;
    std::fs::write(folder.join("results.svg"), chart::svg(&outcome))?;
    eprintln!("written to {}", folder.display());
    Ok(())
}

/// Contestants inherit it.
fn raise_open_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    Ok(setrlimit(Resource::Nofile, most)?)
}

fn contestants(args: &Args) -> Result<Vec<Contestant>> {
    let of = |name: &String| {
        let found = Contestant::ALL
            .into_iter()
            .find(|one| one.to_string().eq_ignore_ascii_case(name));
        found.ok_or_else(|| format!("`{name}` can't be measured").into())
    };
    let mut contestants = match &args.beside {
        None => Contestant::ALL.to_vec(),
        Some(names) => names.iter().map(of).collect::<Result<Vec<_>>>()?,
    };
    if !contestants.contains(&Contestant::Casgate) {
        contestants.push(Contestant::Casgate);
    }
    if args.before.is_some() {
        contestants.push(Contestant::Before);
    }
    Ok(contestants)
}
