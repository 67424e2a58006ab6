//! The gate as a whole: listeners, threads, drain.

mod accept;
pub(crate) mod descriptors;
pub(crate) mod memory;
pub mod sockets;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::admin;
use crate::config::{self, Problems};
use crate::connection;
use crate::live::{Live, ReloadError, Shared};
use crate::metrics::Metrics;
use crate::sandbox::Sandbox;
use crate::snapshot::Snapshot;
use crate::snapshot::listen::ListenerId;

use accept::Entering;
use sockets::Inherited;
use worker::{Ends, Worker};

/// A gate that runs. Dropping it ends it at once; see [`Gate::drain`].
#[derive(Debug)]
pub struct Gate {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    /// They end when the drain begins.
    acceptors: Vec<JoinHandle<()>>,
    /// What they have accepted, and no worker has yet.
    entering: Entering,
    listen_addresses: Vec<SocketAddr>,
    admin_address: Option<SocketAddr>,
    // After the workers, since its tasks have doors to them as well.
    control: Runtime,
    // The embedded store has threads of its own: what it hashes and decodes must not hold up who accepts connections.
    _store: Runtime,
    // Last: the threads end when the last door is gone.
    _ends: Ends,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every connection ended by itself.
    Whole,
    /// The time was over before that.
    TimedOut,
    /// Somebody did not want to wait.
    Told,
}

/// Why a gate did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(#[from] Problems),
    /// A backend or the audit log can't be opened.
    #[error("{0}")]
    Open(#[from] ReloadError),
    /// An address can't be listened on.
    #[error("{key}: can't listen on `{address}`: {error}")]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The program was started with a socket that no address of the configuration is for.
    #[error(
        "a socket that listens on `{0}` was passed in, and neither `listen.address` nor `admin.address` is this address"
    )]
    Unused(SocketAddr),
    /// Threads can't be started.
    #[error("threads can't be started: {0}")]
    Threads(io::Error),
    /// Two metrics have one name.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl Gate {
    /// Reads a configuration and serves it, in threads of its own.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(path: &Path) -> Result<Gate, StartError> {
        Gate::serve(
            path,
            Snapshot::compile(&config::load(path)?)?,
            Inherited::default(),
            Sandbox::none(),
        )
    }

    /// Serves a configuration that is compiled already, on these sockets where they are for its addresses; `path` is read
    /// again by [`Gate::reload`], and not taken into use where it does not fit into the sandbox.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn serve(
        path: &Path,
        snapshot: Snapshot,
        mut inherited: Inherited,
        sandbox: Sandbox,
    ) -> Result<Gate, StartError> {
        descriptors::raise();
        let control = runtime("casgate-control")?;
        let store = runtime("casgate-store")?;
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = snapshot.threads.unwrap_or(cores);
        let metrics = Arc::new(Metrics::new(threads)?);
        let listeners: Vec<ListenerId> = snapshot.listeners.iter().map(|listener| listener.id).collect();
        let admin = snapshot.admin;
        let handle = store.handle().clone();
        let shared = control.block_on(Shared::start(
            path.to_owned(),
            snapshot,
            sandbox,
            threads,
            metrics,
            handle,
        ))?;
        let shared = Arc::new(shared);
        let in_runtime = control.enter();
        let bound = listeners
            .into_iter()
            .map(|id| Ok((id, inherited.take_or_bind("listen.address", id.address)?)))
            .collect::<Result<Vec<_>, StartError>>()?;
        let listen_addresses = bound.iter().map(|(id, socket)| local(socket, id.address)).collect();
        let mut admin_address = None;
        if let Some(address) = admin {
            let listener = inherited.take_or_bind("admin.address", address)?;
            admin_address = Some(local(&listener, address));
            control.spawn(admin::serve(listener, Arc::clone(&shared)));
        }
        drop(in_runtime);
        inherited.finish()?;
        let mut workers = (0..threads)
            .map(|number| Worker::start(number, &shared))
            .collect::<io::Result<Vec<_>>>()
            .map_err(StartError::Threads)?;
        let ends = Worker::ends(&mut workers);
        let doors: Arc<[_]> = workers.iter().map(Worker::door).collect();
        let entering = Entering::default();
        control.spawn(connection::sum_up(Arc::clone(&shared)));
        let accept = |(id, socket)| {
            let (doors, shared) = (Arc::clone(&doors), Arc::clone(&shared));
            control.spawn(accept::run(socket, id, doors, entering.clone(), shared))
        };
        let acceptors = bound.into_iter().map(accept).collect();
        Ok(Gate {
            shared,
            workers,
            acceptors,
            entering,
            listen_addresses,
            admin_address,
            control,
            _store: store,
            _ends: ends,
        })
    }

    /// Where clients connect, in the order of the configuration; the port that was taken where port 0 was asked for.
    pub fn listen_addresses(&self) -> &[SocketAddr] {
        &self.listen_addresses
    }

    /// The first of [`Gate::listen_addresses`].
    pub fn listen_address(&self) -> SocketAddr {
        // A snapshot has at least one listener.
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        self.listen_addresses.first().copied().unwrap_or(nowhere)
    }

    /// Where metrics and health are served.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Reads the configuration again, all or nothing: what SIGHUP does.
    ///
    /// # Errors
    /// Why the configuration before goes on.
    pub fn reload(&self) -> Result<(), ReloadError> {
        self.control.block_on(self.shared.reload())
    }

    /// The running configuration.
    pub fn live(&self) -> Arc<Live> {
        self.shared.live()
    }

    /// Begins to drain: no new connections, GOAWAY on the open ones, running calls go on.
    pub fn drain(&self) {
        self.shared.draining.send_replace(true);
    }

    /// Waits for the end of a drain: until the last connection is closed, or for `listen.drain-timeout`.
    pub fn wait(&self) -> Drained {
        self.wait_unless(std::future::pending())
    }

    /// The same, unless `told` ends first.
    pub fn wait_unless(&self, told: impl Future<Output = ()>) -> Drained {
        // One that was accepted last may still be on its way to a worker.
        let accepting = || self.acceptors.iter().filter(|task| !task.is_finished()).count();
        let open = || accepting() + self.entering.count() + self.workers.iter().map(Worker::connections).sum::<usize>();
        let timeout = self.shared.live().snapshot.drain_timeout();
        self.control.block_on(async {
            let drained = async {
                while open() > 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::select! {
                result = tokio::time::timeout(timeout, drained) => match result {
                    Ok(()) => Drained::Whole,
                    Err(_) => Drained::TimedOut,
                },
                () = told => Drained::Told,
            }
        })
    }

    /// Whether every thread that serves calls answers within this time.
    pub async fn is_alive(&self, patience: Duration) -> bool {
        let answers = async {
            for worker in &self.workers {
                if !worker.answers().await {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(patience, answers).await.unwrap_or(false)
    }

    /// Runs a future beside the gate, such as one that waits for signals.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.control.block_on(future)
    }

    /// What the threads share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

fn runtime(name: &str) -> Result<Runtime, StartError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(name)
        .enable_all()
        .build()
        .map_err(StartError::Threads)
}

fn local(listener: &tokio::net::TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}
