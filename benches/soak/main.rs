//! The gate under everything at once, for as long as you like: `cargo bench --bench soak -- --minutes 5`.
//!
//! Clients with several certificates call through the real program ([`callers`]) and check every answer ([`work`]);
//! meanwhile rules change, certificates are revoked and backends restart ([`trouble`]), and others mean no good ([`floods`]).
//! Every failure must have an explanation ([`tally`], [`outages`]). After a first part, and at the end, everybody leaves, and
//! what the gate uses then is compared ([`vitals`]).
#![expect(clippy::disallowed_methods, reason = "answers of a gate that is under test")]

mod callers;
#[expect(
    dead_code,
    reason = "here calls are made that are checked; shared is how a message is framed"
)]
#[path = "../side_by_side/calls.rs"]
mod calls;
mod catalogue;
mod client;
mod floods;
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "floods take some kinds of frames only, whose lengths fit"
)]
#[path = "../../tests/it/harness/frames.rs"]
mod frames;
mod metrics;
#[path = "../../tests/it/harness/noise.rs"]
mod noise;
mod outages;
#[expect(dead_code, reason = "what runs here is waited for in other ways")]
#[path = "../side_by_side/process.rs"]
mod process;
mod replica;
mod scene;
mod stage;
mod tally;
#[expect(dead_code, reason = "no end of TLS is needed but that of clients")]
#[path = "../side_by_side/tls.rs"]
mod tls;
mod trouble;
mod vitals;
mod work;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use tokio::task::JoinSet;

use callers::CALLERS;
use metrics::Metrics;
use scene::Scene;
use stage::Stage;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Mixed load, reloads, revocations, restarts and floods at once; fails on a leak or a failure that nothing explains
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// Length of the run. A fifth of it, at most a minute, comes before the first look at memory
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Another build of casgate than that of this tree
    #[arg(long, default_value = env!("CARGO_BIN_EXE_casgate"), hide_default_value = true)]
    program: PathBuf,
    /// cargo says it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
#[command(hide = true)]
enum Role {
    /// A backend behind a unix socket
    Replica { socket: PathBuf, folder: PathBuf },
}

/// How often it tells how far it is.
const PROGRESS: Duration = Duration::from_secs(10);
/// How long calls may take to end when nobody makes new ones.
const PATIENCE: Duration = Duration::from_secs(180);

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.role {
        Some(Role::Replica { socket, folder }) => replica(&socket, &folder),
        None => soak(&args.program, Duration::from_secs_f64(args.minutes * 60.0)),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn replica(socket: &Path, folder: &Path) -> Result<bool> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(replica::run(socket, folder)).map(|()| true)
}

/// Whether nothing is wrong.
fn soak(program: &Path, length: Duration) -> Result<bool> {
    let dir = tempfile::Builder::new().prefix("casgate-soak-").tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let callers = CALLERS.iter().filter_map(|caller| caller.certificate);
    let certificates: Vec<_> = callers.chain([trouble::FICKLE, "flood"]).collect();
    // Replicas end with the thread that started them, so it is one that stays: this one, or those of the runtime.
    let scene = Arc::new(Scene::new(Stage::start(program, dir.path(), &certificates)?));
    let clean = runtime.block_on(run(&scene, length));
    if !matches!(clean, Ok(true)) {
        let kept = dir.keep();
        println!("configuration, log and stores are kept in {}", kept.display());
    }
    clean
}

async fn run(scene: &Arc<Scene>, length: Duration) -> Result<bool> {
    let warm_up = (length / 5).min(Duration::from_secs(60));
    let begun = Instant::now();
    part(scene, begun, warm_up).await?;
    let (before, _, busy) = metrics::rest(&scene.stage, None).await?;
    busy.iter().for_each(|what| scene.tally.fault(what));
    part(scene, begun, length.saturating_sub(warm_up)).await?;
    let (after, metrics, left) = metrics::rest(&scene.stage, Some(&before)).await?;
    left.iter().for_each(|what| scene.tally.fault(what));
    check_counts(scene, &metrics);
    check_log(scene)?;

    print!("\n{}", scene.tally.report());
    println!("limits that bit");
    for (labels, count) in metrics
        .series("casgate_limited_total")
        .filter(|(_, count)| *count > 0.0)
    {
        println!("  {labels:<60} {count:>5}");
    }
    println!("what the gate uses at rest");
    println!("  after {:>3} s {}", warm_up.as_secs(), before.line());
    println!(
        "  at the end {}; at most {} MiB in between",
        after.line(),
        after.peak >> 20
    );
    println!(
        "  it may use {:>4} MiB then, and no further threads and descriptors",
        before.most() >> 20
    );
    let unexplained = scene.tally.unexplained();
    println!(
        "{}: {:.1} minutes, {unexplained} things that nothing explains",
        if unexplained == 0 { "PASSED" } else { "FAILED" },
        begun.elapsed().as_secs_f64() / 60.0
    );
    Ok(unexplained == 0)
}

/// Everything at once for a while; then all clients have gone.
async fn part(scene: &Arc<Scene>, begun: Instant, length: Duration) -> Result<()> {
    let end = Instant::now() + length;
    scene.set_over(false);
    let mut tasks = JoinSet::new();
    for (number, caller) in CALLERS.into_iter().enumerate() {
        let door = scene.stage.door(caller.certificate)?;
        tasks.spawn(caller.run(Arc::clone(scene), door, number as u64 + 100));
    }
    let fickle = scene.stage.door(Some(trouble::FICKLE))?;
    tasks.spawn(trouble::reload(Arc::clone(scene), fickle));
    tasks.spawn(trouble::revoke(Arc::clone(scene)));
    tasks.spawn(trouble::restart(Arc::clone(scene)));
    let floods = floods::begin(scene)?;
    while Instant::now() < end {
        tokio::time::sleep(PROGRESS.min(end - Instant::now())).await;
        let (vitals, _) = metrics::look(&scene.stage).await?;
        let seconds = begun.elapsed().as_secs();
        println!("{seconds:>5} s: {}; {}", scene.tally.line(), vitals.line());
    }
    scene.set_over(true);
    let ending = async {
        while let Some(ended) = tasks.join_next().await {
            ended?;
        }
        Result::Ok(())
    };
    match tokio::time::timeout(PATIENCE, ending).await {
        Ok(ended) => ended?,
        Err(_) => scene.tally.fault("some calls do not end"),
    }
    drop(floods);
    Ok(())
}

/// Every call that began must have ended in exactly one count.
fn check_counts(scene: &Scene, metrics: &Metrics) {
    let [started, handled] =
        ["grpc_server_started_total", "grpc_server_handled_total"].map(|name| metrics.sum(name, ""));
    if started != handled {
        scene
            .tally
            .fault(&format!("{started} calls began, and {handled} are counted as ended"));
    }
}

/// What the gate says must be no error but those that were made here.
fn check_log(scene: &Scene) -> Result<()> {
    for line in scene.stage.log()?.lines() {
        let is_error = line.contains(" ERROR ") || line.contains("panicked");
        if is_error && !line.contains(trouble::MISTAKE) {
            scene.tally.fault(&format!("the gate logs: {line}"));
        }
    }
    Ok(())
}
