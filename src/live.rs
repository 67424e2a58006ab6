//! The running configuration: a snapshot with what it needs to be used, behind one pointer that a reload swaps.

mod allowed;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use allowed::Allowed;
use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};

use crate::audit::{Audit, AuditPlan, Counters, Writers};
use crate::clients::Ledger;
use crate::config::file::SandboxMode;
use crate::config::{self, Loaded, Problems, Source};
use crate::connection::{Census, Parties};
use crate::metrics::Metrics;
use crate::policy::Permit;
use crate::proxy::completeness::Known;
use crate::route::BackendId;
use crate::sandbox::{Outside, Sandbox};
use crate::server::{descriptors, memory};
use crate::snapshot::listen::{ListenerId, Security};
use crate::snapshot::{LogPlan, Snapshot};
use crate::upstream::{Backend, OpenError};

/// A snapshot, its backends and its counters.
#[derive(Debug)]
pub struct Live {
    /// The configuration.
    pub snapshot: Snapshot,
    /// Where pushes are noted.
    pub audit: Option<Audit>,
    backends: Vec<Arc<Backend>>,
    allowed: Allowed,
}

/// What all threads share: the running configuration, and the signals that change it.
#[derive(Debug)]
pub struct Shared {
    /// The threads that write audit logs, of this configuration and of those before.
    pub writers: Arc<Writers>,
    path: PathBuf,
    threads: usize,
    store_runtime: Handle,
    check_runtime: Handle,
    live: ArcSwap<Live>,
    started: Started,
    sandbox: Sandbox,
    /// What was read last, whether or not it could be used.
    tried: Mutex<Source>,
    /// Counts configurations; connections look at their callers again when it changes.
    pub generation: watch::Sender<u64>,
    /// True from the begin of a drain on.
    pub draining: watch::Sender<bool>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The open connections of clients.
    pub census: Arc<Census>,
    /// Those whose connections they are.
    pub parties: Arc<Parties>,
    /// The memory that is kept for clients.
    pub ledger: Arc<Ledger>,
    /// Artifacts that were found whole a moment ago.
    pub known: Known,
}

/// What a program gets when it starts, and a reload can't change.
#[derive(Debug)]
struct Started {
    listeners: HashSet<ListenerId>,
    admin: Option<SocketAddr>,
    threads: Option<usize>,
    log: LogPlan,
    handshakes: usize,
    sandbox: SandboxMode,
    core_dumps: bool,
    umask: u32,
}

/// Why a configuration was not taken into use. The one before goes on.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(#[from] Problems),
    /// It wants to write where this process can't any more.
    #[error("{0}")]
    Sandbox(#[from] Outside),
    /// A backend can't be opened.
    #[error("{0}")]
    Backend(#[from] OpenError),
    /// The audit log can't be opened.
    #[error("audit.file: `{}` can't be opened: {error}", path.display())]
    Audit {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl Live {
    /// The backend with this id.
    pub fn backend(&self, id: BackendId) -> Option<&Arc<Backend>> {
        self.backends.get(id.index())
    }

    /// Every backend.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// Shows the state of these backends in the metrics, and of no others.
    fn publish(&self, metrics: &Metrics) {
        metrics.backend_up.reset();
        metrics.endpoint_up.reset();
        self.backends.iter().for_each(|backend| backend.publish());
    }

    /// Counts a decision that allowed a call, which the thread with this number serves.
    pub fn count_allowed(&self, metrics: &Metrics, thread: usize, permit: &Permit) {
        self.allowed
            .count(metrics, thread, permit, self.snapshot.policy.rules());
    }

    /// Puts a snapshot into use. Backends of `before` that did not change are kept, with their connections.
    async fn open(
        snapshot: Snapshot,
        before: &[Arc<Backend>],
        threads: usize,
        (metrics, ledger, writers): (&Arc<Metrics>, &Arc<Ledger>, &Writers),
        store_runtime: &Handle,
        check_runtime: &Handle,
    ) -> Result<Live, ReloadError> {
        let audit = snapshot
            .audit
            .as_ref()
            .map(|plan| open_audit(plan, metrics, writers))
            .transpose()?;
        let mut backends: Vec<Arc<Backend>> = Vec::new();
        for plan in &snapshot.backends {
            let kept = before.iter().find(|backend| backend.fingerprint() == plan.fingerprint);
            backends.push(match kept {
                Some(backend) => Arc::clone(backend),
                None => {
                    let others = before.iter().chain(&backends);
                    let (counted, runtime) = ((Arc::clone(metrics), ledger), store_runtime.clone());
                    Arc::new(Backend::open(plan.clone(), threads, counted, (runtime, check_runtime), others).await?)
                }
            });
        }
        // Nothing can fail any more: a store that is kept does not get the quota of a configuration that is not taken.
        for (plan, backend) in snapshot.backends.iter().zip(&backends) {
            backend.set_up_store(plan.quota, plan.verify_reads);
        }
        metrics.not_after.reset();
        for (what, end) in ends(&snapshot) {
            metrics.not_after.with_label_values(&[&what]).set(end);
        }
        let allowed = Allowed::new(snapshot.policy.rules().len(), threads);
        Ok(Live {
            snapshot,
            audit,
            backends,
            allowed,
        })
    }
}

impl Shared {
    /// Puts the first configuration into use. Backends are checked on the runtime that it is called in.
    ///
    /// # Errors
    /// When a backend or the audit log can't be opened.
    pub async fn start(
        path: PathBuf,
        snapshot: Snapshot,
        sandbox: Sandbox,
        threads: usize,
        metrics: Arc<Metrics>,
        store_runtime: Handle,
    ) -> Result<Shared, ReloadError> {
        let room = descriptors::room(&snapshot, threads);
        let census = Census::new(&snapshot.limits, room, Arc::clone(&metrics));
        let started = Started::with(&snapshot);
        let tried = Mutex::new(snapshot.source.clone());
        let check_runtime = Handle::current();
        let writers = Arc::new(Writers::default());
        let ledger = Ledger::new(memory::half(), metrics.memory.clone());
        ledger.set_limit(snapshot.limits.memory);
        let live = Live::open(
            snapshot,
            &[],
            threads,
            (&metrics, &ledger, &writers),
            &store_runtime,
            &check_runtime,
        )
        .await?;
        live.publish(&metrics);
        let shared = Shared {
            path,
            writers,
            threads,
            store_runtime,
            check_runtime,
            live: ArcSwap::from_pointee(live),
            started,
            sandbox,
            tried,
            generation: watch::Sender::new(1),
            draining: watch::Sender::new(false),
            metrics,
            census: Arc::new(census),
            parties: Arc::new(Parties::new(Arc::clone(&ledger))),
            ledger,
            known: Known::new(),
        };
        shared.note_success();
        Ok(shared)
    }

    /// The running configuration, for a longer time.
    pub fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// Whether this is the running configuration.
    pub fn is_current(&self, live: &Arc<Live>) -> bool {
        Arc::ptr_eq(&self.live.load(), live)
    }

    /// Reads the configuration again and takes it into use, all or nothing.
    ///
    /// # Errors
    /// Why the configuration before goes on.
    pub async fn reload(&self) -> Result<(), ReloadError> {
        // Held to the end: one reload at a time.
        let mut tried = self.tried.lock().await;
        let (source, loaded) = self.read().await;
        *tried = source;
        self.take(loaded).await
    }

    /// The same, unless every file says what it said when it was read last: be it that this configuration runs, or that it
    /// was refused, and would be again.
    pub async fn reload_if_changed(&self) -> Option<Result<(), ReloadError>> {
        let mut tried = self.tried.lock().await;
        let (source, loaded) = self.read().await;
        if source.fingerprint == tried.fingerprint {
            return None;
        }
        *tried = source;
        Some(self.take(loaded).await)
    }

    /// Whether a file says something else than when it was read last.
    pub async fn has_changed(&self) -> bool {
        let last = self.tried.lock().await.clone();
        let changed = tokio::task::spawn_blocking(move || last.has_changed()).await;
        changed.unwrap_or(true)
    }

    /// The files whose content decides what a reload does.
    pub async fn files(&self) -> Vec<PathBuf> {
        self.tried.lock().await.files.clone()
    }

    /// Reads the files on a thread that may wait for the disk.
    async fn read(&self) -> (Source, Result<Loaded, Problems>) {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || config::read(&path)).await;
        read.unwrap_or_else(|_| config::read(&self.path))
    }

    async fn take(&self, loaded: Result<Loaded, Problems>) -> Result<(), ReloadError> {
        let result = self.try_take(loaded).await;
        let label = if result.is_ok() { "success" } else { "failure" };
        self.metrics.reloads.with_label_values(&[label]).inc();
        result
    }

    async fn try_take(&self, loaded: Result<Loaded, Problems>) -> Result<(), ReloadError> {
        let snapshot = Snapshot::compile(&loaded?)?;
        self.sandbox.admits(&snapshot)?;
        let before = self.live();
        let wanted = Started::with(&snapshot);
        let live = Live::open(
            snapshot,
            &before.backends,
            self.threads,
            (&self.metrics, &self.ledger, &self.writers),
            &self.store_runtime,
            &self.check_runtime,
        )
        .await?;
        for backend in &before.backends {
            if !live.backends.iter().any(|kept| Arc::ptr_eq(kept, backend)) {
                backend.retire();
            }
        }
        live.publish(&self.metrics);
        self.ledger.set_limit(live.snapshot.limits.memory);
        self.live.store(Arc::new(live));
        self.started.warn_of_restart(&wanted);
        self.generation.send_modify(|generation| *generation += 1);
        self.note_success();
        Ok(())
    }

    fn note_success(&self) {
        self.metrics.generation.inc();
        self.metrics.last_reload.set(now());
    }
}

fn open_audit(plan: &AuditPlan, metrics: &Metrics, writers: &Writers) -> Result<Audit, ReloadError> {
    let counters = Counters {
        lost: metrics.audit_lost.clone(),
        failures: metrics.audit_failures.clone(),
    };
    Audit::open(plan, counters, writers).map_err(|error| ReloadError::Audit {
        path: plan.file.clone(),
        error,
    })
}

impl Started {
    fn with(snapshot: &Snapshot) -> Started {
        Started {
            listeners: snapshot.listeners.iter().map(|listener| listener.id).collect(),
            admin: snapshot.admin,
            threads: snapshot.threads,
            log: snapshot.log.clone(),
            handshakes: snapshot.limits.handshakes,
            sandbox: snapshot.sandbox,
            core_dumps: snapshot.core_dumps,
            umask: snapshot.umask,
        }
    }

    /// Says what a configuration asks for in vain: at each reload, as long as that is so.
    fn warn_of_restart(&self, wanted: &Started) {
        let changed = [
            ("listen.address", self.listeners != wanted.listeners),
            ("admin.address", self.admin != wanted.admin),
            ("threads", self.threads != wanted.threads),
            ("limits.handshakes", self.handshakes != wanted.handshakes),
            ("sandbox", self.sandbox != wanted.sandbox),
            ("core-dumps", self.core_dumps != wanted.core_dumps),
            ("umask", self.umask != wanted.umask),
            ("log.format", self.log.format != wanted.log.format),
            ("log.filter", self.log.filter != wanted.log.filter),
        ];
        for (key, _) in changed.into_iter().filter(|(_, changed)| *changed) {
            tracing::warn!(target: "casgate::reload", key, "`{key}` has changed, which takes a restart");
        }
    }
}

/// Seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// When certificates and revocation lists end, by what they are for. Of several with one name the first to end is the one
/// to know about.
fn ends(snapshot: &Snapshot) -> BTreeMap<String, i64> {
    let mut ends = BTreeMap::new();
    let mut note = |what: String, end: i64| {
        let first = ends.entry(what).or_insert(end);
        *first = end.min(*first);
    };
    for listener in &snapshot.listeners {
        for (certificate, end) in &listener.expiries {
            note(certificate.clone(), *end);
        }
        if let Security::Tls { verifier, .. } = &listener.security {
            for (issuer, end) in verifier.lists().ends() {
                note(format!("client-crl {issuer}"), end);
            }
        }
    }
    ends
}
