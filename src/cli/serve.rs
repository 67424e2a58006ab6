//! `casgate serve`: logs what it serves, reloads on SIGHUP and when files have changed, drains on SIGTERM and SIGINT.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failure, check, supervisor};
use crate::config;
use crate::live::ReloadError;
use crate::log::Log;
use crate::reload::Watch;
use crate::sandbox::{self, Sandbox};
use crate::server::sockets::Inherited;
use crate::server::{Drained, Gate};
use crate::snapshot::Snapshot;

/// How long the last lines of the audit log may take to be written, at the end.
const LAST_LINES: Duration = Duration::from_secs(30);

/// Arguments of `casgate serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file; it is read again when it has changed, and at SIGHUP
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// What kept it from starting.
pub fn run(args: &Args) -> Result<(), Failure> {
    serve(&args.config, |_| {})
}

/// Serves a configuration file. `ready` is called once clients can connect.
///
/// # Errors
/// What kept it from starting.
pub fn serve(path: &Path, ready: impl FnOnce(&Gate)) -> Result<(), Failure> {
    // Before there are threads.
    let inherited = Inherited::from_env().map_err(|error| Failure(format!("a socket that was passed in: {error}")))?;
    // What was read is wiped at once.
    let snapshot = config::load(path)
        .and_then(|loaded| Snapshot::compile(&loaded))
        .map_err(Failure::of)?;
    if !snapshot.core_dumps {
        sandbox::hide_memory().map_err(|error| Failure(format!("core-dumps: can't be turned off: {error}")))?;
    }
    // Before anything is made: the folder of a store is.
    rustix::process::umask(Mode::from_raw_mode(snapshot.umask));
    // Before there are threads.
    let sandbox = Sandbox::enter(&snapshot).map_err(Failure::of)?;
    let given_up = sandbox.describe();
    // Before the gate, so that it ends after it: the last lines are of calls that are cut off.
    let log = Log::start(&snapshot.log);
    let description = check::describe(&snapshot);
    let warnings = check::warnings(&snapshot);
    let gate = Gate::serve(path, snapshot, inherited, sandbox).map_err(Failure::of)?;
    gate.shared().metrics.count_dropped_lines(log.dropped());
    for line in description
        .lines()
        .filter(|line| !line.starts_with("listens") && !line.starts_with("admin"))
    {
        tracing::info!(target: "casgate::serve", "{line}");
    }
    tracing::info!(target: "casgate::serve", "{given_up}");
    for warning in warnings {
        tracing::warn!(target: "casgate::serve", "{warning}");
    }
    if let Some(address) = gate.admin_address() {
        tracing::info!(target: "casgate::serve", "admin on http://{address}");
    }
    for (listener, address) in gate.live().snapshot.listeners.iter().zip(gate.listen_addresses()) {
        tracing::info!(target: "casgate::serve", "listening on {}://{address}", listener.scheme());
    }
    let connections = gate.shared().census.connections(&gate.live().snapshot.limits);
    tracing::info!(target: "casgate::serve", "at most {connections} connections of clients");
    ready(&gate);
    supervisor::ready();
    let signals = gate.block_on(async { Signals::new() });
    let mut signals = signals.map_err(|error| Failure(format!("signals can't be received: {error}")))?;
    let mut watch = Watch::new(Arc::clone(gate.shared()));
    gate.block_on(until_told_to_stop(&gate, &mut signals, &mut watch));
    tracing::info!(target: "casgate::serve", "draining: no new connections, running calls go on");
    gate.drain();
    supervisor::stopping();
    // What is revoked meanwhile must not go on until the end, which may be hours away.
    let told_again = until_told_to_stop(&gate, &mut signals, &mut watch);
    match gate.wait_unless(told_again) {
        Drained::Whole => {}
        Drained::TimedOut => {
            tracing::warn!(target: "casgate::serve", "the drain timeout is over: the rest is cut off");
        }
        Drained::Told => tracing::warn!(target: "casgate::serve", "told to stop again: the rest is cut off"),
    }
    let writers = Arc::clone(&gate.shared().writers);
    // With it all calls end, and write their last lines.
    drop(gate);
    let lost = writers.finish(LAST_LINES);
    if lost > 0 {
        return Err(Failure(format!(
            "{lost} lines of the audit log are lost, of calls that were answered: it could not be written, see the log"
        )));
    }
    tracing::info!(target: "casgate::serve", "stopped");
    Ok(())
}

/// The signals that are asked for, from the first wait on to the end: none is lost in between.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// Takes changed configurations into use until a signal tells to stop.
async fn until_told_to_stop(gate: &Gate, signals: &mut Signals, watch: &mut Watch) {
    loop {
        tokio::select! {
            Some(()) = signals.hangup.recv() => {
                let is_stopping = *gate.shared().draining.borrow();
                if !is_stopping {
                    supervisor::reloading();
                }
                tell(gate, "SIGHUP", gate.shared().reload().await);
                // Also where the configuration before goes on.
                if !is_stopping {
                    supervisor::ready();
                }
            }
            () = supervisor::watchdog(gate) => {}
            result = watch.reload() => tell(gate, "changed files", result),
            Some(()) = signals.terminate.recv() => return,
            Some(()) = signals.interrupt.recv() => return,
        }
    }
}

fn tell(gate: &Gate, cause: &str, result: Result<(), ReloadError>) {
    match result {
        Ok(()) => {
            let live = gate.live();
            tracing::info!(target: "casgate::reload", cause, "configuration reloaded");
            for line in check::describe(&live.snapshot).lines() {
                tracing::info!(target: "casgate::reload", "{line}");
            }
            for warning in check::warnings(&live.snapshot) {
                tracing::warn!(target: "casgate::reload", "{warning}");
            }
        }
        Err(error) => {
            for line in error.to_string().lines() {
                tracing::error!(target: "casgate::reload", cause, "configuration kept as it was: {line}");
            }
        }
    }
}
