//! What is counted of calls, by each thread for itself: threads that count in one place wait for each other at every call.

use std::sync::OnceLock;

use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::register;
use crate::policy::method::Method;
use crate::policy::rights::Right;
use crate::status::CODE_NAMES;

/// The counters of one thread. `/metrics` shows the sums of all threads.
#[derive(Debug)]
pub struct Calls {
    registry: Registry,
    methods: Vec<Cells>,
    unknown: Cells,
    started: IntCounterVec,
    handled: IntCounterVec,
    handling: HistogramVec,
    decisions: IntCounterVec,
    received: IntCounter,
    sent: IntCounter,
    open: IntGauge,
}

/// How a call ended.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// The gRPC status code.
    pub code: u8,
    /// Seconds from its headers to its end.
    pub seconds: f64,
    /// Bytes of DATA frames from the client.
    pub received: u64,
    /// Bytes of DATA frames to the client.
    pub sent: u64,
}

/// The handles of one method, found when they are first needed.
#[derive(Debug, Default)]
struct Cells {
    started: OnceLock<IntCounter>,
    handling: OnceLock<Histogram>,
    handled: [OnceLock<IntCounter>; CODE_NAMES.len()],
}

impl Calls {
    pub(super) fn new() -> Result<Calls, prometheus::Error> {
        let registry = Registry::new();
        let method = &["grpc_service", "grpc_method"];
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help));
        let handling = HistogramVec::new(
            HistogramOpts::new(
                "grpc_server_handling_seconds",
                "Time from the headers of a call to its end.",
            )
            .buckets(vec![
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
            ]),
            method,
        );
        let open = IntGauge::new("casgate_calls_open", "Calls that are under way.");
        Ok(Calls {
            methods: Method::ALL.iter().map(|_| Cells::default()).collect(),
            unknown: Cells::default(),
            started: counters("grpc_server_started_total", "Calls that began.", method)?,
            handled: counters(
                "grpc_server_handled_total",
                "Calls that ended, by the status that the client got.",
                &["grpc_service", "grpc_method", "grpc_code"],
            )?,
            handling: register(&registry, handling)?,
            decisions: counters(
                "casgate_decisions_total",
                "Decisions of the policy: the rule and right that allowed, or the right and reason of a denial.",
                &["decision", "rule", "right", "reason"],
            )?,
            received: counter("casgate_received_bytes_total", "Bytes of DATA frames from clients.")?,
            sent: counter("casgate_sent_bytes_total", "Bytes of DATA frames to clients.")?,
            open: register(&registry, open)?,
            registry,
        })
    }

    /// Counts a call that begins; `None` for a method that is not known.
    pub fn started(&self, method: Option<Method>) {
        let started = &self.cells(method).started;
        started
            .get_or_init(|| self.started.with_label_values(&labels(method)))
            .inc();
        self.open.inc();
    }

    /// Counts a call that ended.
    pub fn handled(&self, method: Option<Method>, end: End) {
        // A status that gRPC does not know reads as Unknown (grpc doc/statuscodes.md).
        let code = Some(usize::from(end.code))
            .filter(|code| *code < CODE_NAMES.len())
            .unwrap_or(2);
        let cells = self.cells(method);
        if let (Some(cell), Some(code)) = (cells.handled.get(code), CODE_NAMES.get(code)) {
            let [service, name] = labels(method);
            cell.get_or_init(|| self.handled.with_label_values(&[service, name, code]))
                .inc();
        }
        cells
            .handling
            .get_or_init(|| self.handling.with_label_values(&labels(method)))
            .observe(end.seconds);
        self.received.inc_by(end.received);
        self.sent.inc_by(end.sent);
        self.open.dec();
    }

    /// Counts a denial.
    pub fn denied(&self, right: Option<Right>, reason: &str) {
        let right = right.map_or("", Right::name);
        self.decisions.with_label_values(&["deny", "", right, reason]).inc();
    }

    /// The counter of the calls that a rule allows for a right, for who keeps it: its labels are looked up.
    pub fn allowed(&self, rule: &str, right: Right) -> IntCounter {
        self.decisions.with_label_values(&["allow", rule, right.name(), ""])
    }

    /// What was counted.
    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    fn cells(&self, method: Option<Method>) -> &Cells {
        method
            .and_then(|method| self.methods.get(method as usize))
            .unwrap_or(&self.unknown)
    }
}

fn labels(method: Option<Method>) -> [&'static str; 2] {
    method.map_or(["unknown", "unknown"], |method| [method.grpc_service(), method.name()])
}
