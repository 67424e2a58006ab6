//! A configuration compiled: everything that a call needs, immutable, made in one go.
//!
//! [`Snapshot::compile`] is the only way from a file to running state. It reads no disk, and it reports everything that
//! is wrong in one run.

pub mod backends;
mod endpoints;
mod forward;
mod instances;
pub mod limits;
pub mod listen;
mod quota;
mod report;
mod routes;
mod rules;

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderName;

use crate::audit::AuditPlan;
use crate::config::file::{Capabilities, LogFormat, SandboxMode};
use crate::config::{Loaded, Problems, Source};
use crate::policy::Policy;
use crate::route::Routes;

use backends::BackendPlan;
use limits::Limits;
use listen::{Listen, ListenerId};
use report::Report;

/// All configuration of the gate at one time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The listeners for clients; at least one.
    pub listeners: Vec<Listen>,
    /// Where metrics and health are served; taking another address takes a restart.
    pub admin: Option<SocketAddr>,
    /// Who may do what.
    pub policy: Policy,
    /// The backends, by the index of their [`crate::route::BackendId`].
    pub backends: Vec<BackendPlan>,
    /// Headers by which some backend is told who calls: what a client sends under these names goes to none.
    pub identity_headers: Vec<HeaderName>,
    /// Which backend serves which service.
    pub routes: Routes,
    /// Whether GetCapabilities is told caller by caller.
    pub capabilities: Capabilities,
    /// Whether `buildstream.v2.ReferenceStorage` is served.
    pub reference_storage: bool,
    /// Whether a change of the files is noticed without SIGHUP.
    pub watch: bool,
    /// The files, and what they said.
    pub source: Source,
    /// How many threads serve calls; `None` for one a core. Takes a restart.
    pub threads: Option<usize>,
    /// Whether to give up rights before serving; takes a restart.
    pub sandbox: SandboxMode,
    /// Whether the memory of the program may be read from outside, by a core dump or a debugger; takes a restart.
    pub core_dumps: bool,
    /// What others may not do with files and folders that the program makes (umask(2)).
    pub umask: u32,
    /// What clients may take.
    pub limits: Limits,
    /// How to log; takes a restart.
    pub log: LogPlan,
    /// Where to note who pushed what.
    pub audit: Option<AuditPlan>,
    /// What was seen of the files that an administrator should look at.
    pub warnings: Vec<String>,
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPlan {
    /// Lines for people, or JSON.
    pub format: LogFormat,
    /// An `EnvFilter` directive.
    pub filter: String,
}

impl Snapshot {
    /// Compiles a configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(loaded: &Loaded) -> Result<Snapshot, Problems> {
        let mut report = Report::default();
        let file = &loaded.file;
        report.unknown(
            &file.unknown,
            "",
            &[
                "listen",
                "admin",
                "backends",
                "routes",
                "rules",
                "capabilities",
                "reference-storage",
                "watch",
                "threads",
                "sandbox",
                "core-dumps",
                "umask",
                "limits",
                "log",
                "audit",
            ],
        );
        let policy = rules::compile(&file.rules, &listen::authority_names(loaded), &mut report);
        let listeners = listen::compile(loaded, &policy, &mut report);
        let (backends, routes) = backends::compile(loaded, &policy, &mut report);
        let admin = report.value(&file.admin, "admin").and_then(|admin| {
            report.unknown(&admin.unknown, "admin.", &["address"]);
            listen::address(
                &admin.address,
                "admin.address",
                "such as \"127.0.0.1:9090\"",
                &mut report,
            )
        });
        let capabilities = report
            .value(&file.capabilities, "capabilities")
            .copied()
            .unwrap_or_default();
        let reference_storage = report.value(&file.reference_storage, "reference-storage") != Some(&false);
        let watch = report.value(&file.watch, "watch") != Some(&false);
        let threads = report.value(&file.threads, "threads").copied();
        if threads.is_some_and(|threads| !(1..=256).contains(&threads)) {
            report.add("threads", "is not between 1 and 256");
        }
        let sandbox = report.value(&file.sandbox, "sandbox").copied().unwrap_or_default();
        let core_dumps = report.value(&file.core_dumps, "core-dumps") == Some(&true);
        let umask = umask(loaded, &mut report);
        let limits = limits::compile(loaded, &mut report);
        let log = log(loaded, &mut report);
        let audit = audit(loaded, &mut report);
        warn_of_keys(loaded, &mut report);
        if !report.problems.is_empty() {
            return Err(Problems::new(&loaded.path, report.problems));
        }
        let named = backends.iter().flat_map(|plan| plan.forward.names());
        let identity_headers = named.cloned().collect();
        Ok(Snapshot {
            identity_headers,
            listeners,
            admin,
            policy,
            backends,
            routes,
            capabilities,
            reference_storage,
            watch,
            source: loaded.source.clone(),
            threads,
            sandbox,
            core_dumps,
            umask,
            limits,
            log,
            audit,
            warnings: report.warnings,
        })
    }

    /// The listener with this id, if it is still in the configuration.
    pub fn listener(&self, id: ListenerId) -> Option<&Listen> {
        self.listeners.iter().find(|listener| listener.id == id)
    }

    /// How long running calls may go on after SIGTERM.
    pub fn drain_timeout(&self) -> Duration {
        let timeouts = self.listeners.iter().map(|listener| listener.drain_timeout);
        timeouts.max().unwrap_or_default()
    }
}

/// What files and folders are not open to, unless told otherwise: everybody but their owner.
const UMASK: u32 = 0o077;

fn umask(loaded: &Loaded, report: &mut Report) -> u32 {
    let Some(text) = report.value(&loaded.file.umask, "umask") else {
        return UMASK;
    };
    let digits = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match u32::from_str_radix(text, 8) {
        Ok(mask) if digits && mask <= 0o077 => mask,
        _ => {
            let hint = "three or four octal digits, such as \"0077\" for nobody else or \"0027\" for readers of the group; the owner keeps all rights";
            report.add_with_hint("umask", format!("`{text}` is no mask"), hint);
            UMASK
        }
    }
}

fn audit(loaded: &Loaded, report: &mut Report) -> Option<AuditPlan> {
    let table = report.value(&loaded.file.audit, "audit")?;
    report.unknown(&table.unknown, "audit.", &["file", "on-failure", "sync"]);
    let file = report.required(&table.file, "audit.file", "where to add the lines");
    if let Some(problem) = &loaded.audit_problem {
        report.add("audit.file", problem.clone());
    }
    let on_failure = report.value(&table.on_failure, "audit.on-failure").copied();
    let sync = report.value(&table.sync, "audit.sync").copied();
    Some(AuditPlan {
        file: loaded.resolve(file?),
        on_failure: on_failure.unwrap_or_default(),
        sync: sync.unwrap_or_default(),
    })
}

/// Keys that other users of the machine can read.
fn warn_of_keys(loaded: &Loaded, report: &mut Report) {
    for name in loaded.named_keys() {
        if loaded.open_to_all.contains(&loaded.resolve(name)) {
            report.warnings.push(format!(
                "every user of this machine can read the key `{name}`: take that right away with `chmod o-r`, and make a new key if somebody else is on the machine"
            ));
        }
    }
}

fn log(loaded: &Loaded, report: &mut Report) -> LogPlan {
    let mut plan = LogPlan {
        format: LogFormat::Text,
        filter: "info".to_owned(),
    };
    if let Some(log) = report.value(&loaded.file.log, "log") {
        report.unknown(&log.unknown, "log.", &["format", "filter"]);
        if let Some(format) = report.value(&log.format, "log.format") {
            plan.format = *format;
        }
        if let Some(filter) = report.value(&log.filter, "log.filter") {
            let checked = tracing_subscriber::EnvFilter::try_new(filter)
                .map_err(|error| format!("`{filter}` is no filter: {error}"));
            report.ok(checked, "log.filter");
            plan.filter = filter.clone();
        }
    }
    plan
}
