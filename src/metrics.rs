//! The whole catalogue of metrics, in one struct of handles that is handed to whoever counts.
//!
//! Labels come from closed sets or from the configuration, never from a client. Handles that a call needs are found by
//! index: no label is looked up on the path of a call.

use std::sync::OnceLock;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use tracing_appender::non_blocking::ErrorCounter;

use crate::policy::kindness::Kindly;
use crate::policy::method::Method;
use crate::policy::rights::Right;
use crate::status::{CODE_NAMES, Excess};

/// Every metric of the program.
#[derive(Debug)]
pub struct Metrics {
    /// Where all of them are registered.
    pub registry: Registry,
    calls: Vec<CallCells>,
    unknown: CallCells,
    started: IntCounterVec,
    handled: IntCounterVec,
    handling: HistogramVec,
    /// `casgate_decisions_total{decision,rule,right,reason}`
    pub decisions: IntCounterVec,
    /// `casgate_received_bytes_total`: DATA bytes from clients.
    pub received: IntCounter,
    /// `casgate_sent_bytes_total`: DATA bytes to clients.
    pub sent: IntCounter,
    /// `casgate_tls_handshakes_total{result,reason}`
    pub handshakes: IntCounterVec,
    /// `casgate_connections_open`
    pub connections: IntGauge,
    /// `casgate_window_bytes`
    pub windows: IntGauge,
    /// `casgate_calls_open`
    pub streams: IntGauge,
    /// `casgate_accept_errors_total`
    pub accept_errors: IntCounter,
    /// `casgate_backend_connections{backend}`
    pub backend_connections: IntGaugeVec,
    /// `casgate_backend_connect_failures_total{backend}`
    pub backend_failures: IntCounterVec,
    /// `casgate_backend_up{backend}`: 1 when one of its endpoints is up, 0 when all are down.
    pub backend_up: IntGaugeVec,
    /// `casgate_endpoint_up{backend,endpoint}`
    pub endpoint_up: IntGaugeVec,
    /// `casgate_endpoint_ejections_total{backend,endpoint}`: how often it was found to be down.
    pub endpoint_ejections: IntCounterVec,
    /// `casgate_health_check_failures_total{backend,endpoint}`
    pub health_failures: IntCounterVec,
    backend_faults: IntCounterVec,
    /// `casgate_backend_resent_total{backend}`: calls sent again because a backend had certainly not seen them.
    pub backend_resent: IntCounterVec,
    /// `casgate_backend_waiting_calls{backend}`
    pub backend_waiting: IntGaugeVec,
    /// `casgate_backend_wait_timeouts_total{backend}`: calls that got no stream in time.
    pub backend_wait_timeouts: IntCounterVec,
    /// `casgate_store_bytes{backend}`: what an embedded store with a quota holds.
    pub store_bytes: IntGaugeVec,
    /// `casgate_store_quota_bytes{backend}`
    pub store_quota: IntGaugeVec,
    /// `casgate_store_evicted_total{backend}`: blobs, action results and assets that were removed to make room.
    pub store_evicted: IntCounterVec,
    /// `casgate_store_evicted_bytes_total{backend}`
    pub store_evicted_bytes: IntCounterVec,
    /// `casgate_certificate_not_after_seconds{certificate}`
    pub not_after: IntGaugeVec,
    /// `casgate_audit_lost_lines_total`
    pub audit_lost: IntCounter,
    /// `casgate_audit_write_failures_total`
    pub audit_failures: IntCounter,
    /// `casgate_config_generation`
    pub generation: IntGauge,
    /// `casgate_config_reload_total{result}`
    pub reloads: IntCounterVec,
    /// `casgate_config_last_reload_success_timestamp_seconds`
    pub last_reload: IntGauge,
    limited: IntCounterVec,
    kind_answers: IntCounterVec,
    /// `casgate_log_dropped_total`
    log_dropped: IntCounter,
    log_counter: OnceLock<ErrorCounter>,
}

/// The handles of one method, found when they are first needed.
#[derive(Debug, Default)]
struct CallCells {
    started: OnceLock<IntCounter>,
    handling: OnceLock<Histogram>,
    handled: [OnceLock<IntCounter>; CODE_NAMES.len()],
}

/// A limit for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `limits.connections`
    Connections,
    /// `limits.connections-per-address`
    ConnectionsPerAddress,
    /// `limits.handshakes`
    Handshakes,
    /// `limits.first-request-timeout`
    FirstRequestTimeout,
    /// `limits.idle-timeout` and `limits.anonymous-idle-timeout`
    IdleTimeout,
    /// `limits.resets-at-once` and `limits.resets-per-second`
    Resets,
    /// `limits.control-frames-at-once` and `limits.control-frames-per-second`
    ControlFrames,
    /// What h2 limits by itself: headers, small frames, streams that must be reset.
    Http2,
    /// `limits.stall-timeout`
    StallTimeout,
    /// `rate` of a rule
    Rate,
    /// `bandwidth` of a rule
    Bandwidth,
    /// `max-calls` of a rule
    MaxCalls,
    /// `limits.calls-per-certificate`
    CallsPerCertificate,
    /// `limits.memory`
    Memory,
}

/// What a limit did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A connection was not taken, or a call.
    Refused,
    /// A connection was closed, or a stream.
    Closed,
    /// A call was slowed down.
    Delayed,
    /// A connection got a smaller window than it would have had.
    Reduced,
}

impl Limit {
    /// All of them, in order.
    pub const ALL: [Limit; 14] = [
        Limit::Connections,
        Limit::ConnectionsPerAddress,
        Limit::Handshakes,
        Limit::FirstRequestTimeout,
        Limit::IdleTimeout,
        Limit::Resets,
        Limit::ControlFrames,
        Limit::Http2,
        Limit::StallTimeout,
        Limit::Rate,
        Limit::Bandwidth,
        Limit::MaxCalls,
        Limit::CallsPerCertificate,
        Limit::Memory,
    ];

    /// Its name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Connections => "connections",
            Limit::ConnectionsPerAddress => "connections-per-address",
            Limit::Handshakes => "handshakes",
            Limit::FirstRequestTimeout => "first-request-timeout",
            Limit::IdleTimeout => "idle-timeout",
            Limit::Resets => "resets",
            Limit::ControlFrames => "control-frames",
            Limit::Http2 => "http2",
            Limit::StallTimeout => "stall-timeout",
            Limit::Rate => "rate",
            Limit::Bandwidth => "bandwidth",
            Limit::MaxCalls => "max-calls",
            Limit::CallsPerCertificate => "calls-per-certificate",
            Limit::Memory => "memory",
        }
    }
}

impl From<Excess> for Limit {
    fn from(excess: Excess) -> Limit {
        match excess {
            Excess::Rate => Limit::Rate,
            Excess::Calls => Limit::MaxCalls,
            Excess::CallsOfCertificate => Limit::CallsPerCertificate,
        }
    }
}

impl Action {
    /// Its name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Action::Refused => "refused",
            Action::Closed => "closed",
            Action::Delayed => "delayed",
            Action::Reduced => "reduced",
        }
    }
}

impl Metrics {
    /// Makes and registers the catalogue.
    ///
    /// # Errors
    /// When two metrics have one name.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        let method = &["grpc_service", "grpc_method"];
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help));
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));
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
        Ok(Metrics {
            calls: Method::ALL.iter().map(|_| CallCells::default()).collect(),
            unknown: CallCells::default(),
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
            handshakes: counters(
                "casgate_tls_handshakes_total",
                "TLS handshakes of clients, by result and reason.",
                &["result", "reason"],
            )?,
            connections: gauge("casgate_connections_open", "Connections of clients that are open.")?,
            windows: gauge(
                "casgate_window_bytes",
                "Bytes of uploads that clients may have waiting here, of those in `limits.memory`.",
            )?,
            streams: gauge("casgate_calls_open", "Calls that are under way.")?,
            accept_errors: counter("casgate_accept_errors_total", "Errors of accept(2).")?,
            backend_connections: gauges(
                "casgate_backend_connections",
                "Open connections to a backend.",
                &["backend"],
            )?,
            backend_failures: counters(
                "casgate_backend_connect_failures_total",
                "Attempts to connect to a backend that failed.",
                &["backend"],
            )?,
            backend_up: gauges(
                "casgate_backend_up",
                "Whether an endpoint of a backend is up.",
                &["backend"],
            )?,
            endpoint_up: gauges(
                "casgate_endpoint_up",
                "Whether an endpoint can be reached and passed its last check.",
                &["backend", "endpoint"],
            )?,
            endpoint_ejections: counters(
                "casgate_endpoint_ejections_total",
                "How often an endpoint was found to be down, so that calls go to the others.",
                &["backend", "endpoint"],
            )?,
            health_failures: counters(
                "casgate_health_check_failures_total",
                "Checks of an endpoint that failed.",
                &["backend", "endpoint"],
            )?,
            backend_faults: counters(
                "casgate_backend_faults_total",
                "Calls that failed because of a backend: it was not available, or did not answer as a gRPC server.",
                &["backend", "reason"],
            )?,
            backend_resent: counters(
                "casgate_backend_resent_total",
                "Calls sent again because the backend had certainly not seen them.",
                &["backend"],
            )?,
            backend_waiting: gauges(
                "casgate_backend_waiting_calls",
                "Calls that wait because a backend allows no more streams.",
                &["backend"],
            )?,
            backend_wait_timeouts: counters(
                "casgate_backend_wait_timeouts_total",
                "Calls that ended because they got no stream to a backend in time.",
                &["backend"],
            )?,
            store_bytes: gauges(
                "casgate_store_bytes",
                "Bytes that an embedded store with a quota holds.",
                &["backend"],
            )?,
            store_quota: gauges(
                "casgate_store_quota_bytes",
                "Bytes that an embedded store may hold.",
                &["backend"],
            )?,
            store_evicted: counters(
                "casgate_store_evicted_total",
                "Blobs, action results and assets that an embedded store removed to make room.",
                &["backend"],
            )?,
            store_evicted_bytes: counters("casgate_store_evicted_bytes_total", "Their bytes.", &["backend"])?,
            not_after: gauges(
                "casgate_certificate_not_after_seconds",
                "End of the validity of certificates and revocation lists of the configuration, in seconds since 1970.",
                &["certificate"],
            )?,
            audit_lost: counter(
                "casgate_audit_lost_lines_total",
                "Lines of the audit log that were not written.",
            )?,
            audit_failures: counter(
                "casgate_audit_write_failures_total",
                "Attempts to write the audit log that failed.",
            )?,
            generation: gauge("casgate_config_generation", "Configurations loaded since the start.")?,
            reloads: counters(
                "casgate_config_reload_total",
                "Reloads of the configuration.",
                &["result"],
            )?,
            last_reload: gauge(
                "casgate_config_last_reload_success_timestamp_seconds",
                "When the configuration was last loaded, in seconds since 1970.",
            )?,
            limited: counters(
                "casgate_limited_total",
                "How often a limit bit: which, and what was done.",
                &["limit", "action"],
            )?,
            kind_answers: counters(
                "casgate_kind_answers_total",
                "Denied pushes that were answered as if they were not, and probes for a right that the caller lacks.",
                &["answered"],
            )?,
            log_dropped: counter(
                "casgate_log_dropped_total",
                "Lines of the log that were dropped, as nobody read standard error fast enough.",
            )?,
            log_counter: OnceLock::new(),
            registry,
        })
    }

    /// Counts that a limit bit. `casgate_limited_total{limit,action}`
    pub fn limited(&self, limit: Limit, action: Action) {
        self.limited.with_label_values(&[limit.name(), action.name()]).inc();
    }

    /// Counts a call that a backend made fail. `casgate_backend_faults_total{backend,reason}`
    pub fn backend_fault(&self, backend: &str, reason: &str) {
        self.backend_faults.with_label_values(&[backend, reason]).inc();
    }

    /// Counts an answer that tells of a right which its caller does not have. `casgate_kind_answers_total{answered}`
    pub fn kind_answer(&self, kindly: Kindly) {
        self.kind_answers.with_label_values(&[kindly.name()]).inc();
    }

    /// Where the dropped lines of the log are counted; without it none are.
    pub fn count_dropped_lines(&self, counter: ErrorCounter) {
        let _first = self.log_counter.get_or_init(|| counter);
    }

    /// All of them, in the text format of Prometheus.
    ///
    /// # Errors
    /// When a metric can't be written in that format.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        if let Some(counter) = self.log_counter.get() {
            let more = (counter.dropped_lines() as u64).saturating_sub(self.log_dropped.get());
            self.log_dropped.inc_by(more);
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Counts a call that begins; `None` for a method that is not known.
    pub fn call_started(&self, method: Option<Method>) {
        let [service, name] = labels(method);
        self.cells(method)
            .started
            .get_or_init(|| self.started.with_label_values(&[service, name]))
            .inc();
        self.streams.inc();
    }

    /// Counts a call that ended with a gRPC status code, after so many seconds.
    pub fn call_handled(&self, method: Option<Method>, code: u8, seconds: f64) {
        let [service, name] = labels(method);
        // A status that gRPC does not know reads as Unknown (grpc doc/statuscodes.md).
        let code = if usize::from(code) < CODE_NAMES.len() {
            usize::from(code)
        } else {
            2
        };
        let cells = self.cells(method);
        if let (Some(cell), Some(code)) = (cells.handled.get(code), CODE_NAMES.get(code)) {
            cell.get_or_init(|| self.handled.with_label_values(&[service, name, code]))
                .inc();
        }
        cells
            .handling
            .get_or_init(|| self.handling.with_label_values(&[service, name]))
            .observe(seconds);
        self.streams.dec();
    }

    /// Counts a denial.
    pub fn denied(&self, right: Option<Right>, reason: &str) {
        let right = right.map_or("", Right::name);
        self.decisions.with_label_values(&["deny", "", right, reason]).inc();
    }

    fn cells(&self, method: Option<Method>) -> &CallCells {
        method
            .and_then(|method| self.calls.get(method as usize))
            .unwrap_or(&self.unknown)
    }
}

fn labels(method: Option<Method>) -> [&'static str; 2] {
    method.map_or(["unknown", "unknown"], |method| [method.grpc_service(), method.name()])
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: Result<C, prometheus::Error>,
) -> Result<C, prometheus::Error> {
    let collector = collector?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn a_call_is_counted_once_and_unknown_codes_read_as_unknown() {
        let metrics = Metrics::new().unwrap();
        metrics.call_started(Some(Method::Write));
        metrics.call_handled(Some(Method::Write), 7, 0.1);
        metrics.call_started(None);
        metrics.call_handled(None, 99, 0.1);
        let text = metrics.text().unwrap();
        for line in [
            r#"grpc_server_handled_total{grpc_code="PermissionDenied",grpc_method="Write",grpc_service="google.bytestream.ByteStream"} 1"#,
            r#"grpc_server_handled_total{grpc_code="Unknown",grpc_method="unknown",grpc_service="unknown"} 1"#,
            "casgate_calls_open 0",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
