//! The whole catalogue of metrics, in one struct of handles that is handed to whoever counts.
//!
//! Labels come from closed sets or from the configuration, never from a client. Handles that a call needs are found by
//! index: no label is looked up on the path of a call that is allowed, and it is counted by its thread alone (see [`Calls`]).

mod calls;
mod limit;
mod sum;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

pub use calls::{Calls, End};
pub use limit::{Action, Limit};

use crate::policy::kindness::Kindly;

/// Every metric of the program.
#[derive(Debug)]
pub struct Metrics {
    /// Where those are registered that are not of calls.
    registry: Registry,
    /// Of each thread; at least one.
    calls: Vec<Calls>,
    /// `casgate_tls_handshakes_total{result,reason}`
    pub handshakes: IntCounterVec,
    /// `casgate_connections_open`
    pub connections: IntGauge,
    /// `casgate_window_bytes`
    pub windows: IntGauge,
    /// `casgate_memory_bytes`
    pub memory: IntGauge,
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
    /// `casgate_store_damaged_total{backend}`: blobs, action results and assets that the disk did not keep.
    pub store_damaged: IntCounterVec,
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
    log_counter: OnceLock<Arc<AtomicU64>>,
}

impl Metrics {
    /// Makes and registers the catalogue, for so many threads that serve calls.
    ///
    /// # Errors
    /// When two metrics of one registry have one name.
    pub fn new(threads: usize) -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help));
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));
        Ok(Metrics {
            calls: (0..threads.max(1)).map(|_| Calls::new()).collect::<Result<_, _>>()?,
            handshakes: counters(
                "casgate_tls_handshakes_total",
                "TLS handshakes of clients, by result and reason.",
                &["result", "reason"],
            )?,
            connections: gauge("casgate_connections_open", "Connections of clients that are open.")?,
            windows: gauge(
                "casgate_window_bytes",
                "Bytes of `limits.memory` that clients may send at any time: the windows of their connections.",
            )?,
            memory: gauge(
                "casgate_memory_bytes",
                "Bytes of `limits.memory` that are kept for clients, besides the windows of their connections.",
            )?,
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
            store_damaged: counters(
                "casgate_store_damaged_total",
                "Blobs, action results and assets that the disk did not keep as they were written, and that were removed.",
                &["backend"],
            )?,
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
    pub fn count_dropped_lines(&self, counter: Arc<AtomicU64>) {
        let _first = self.log_counter.get_or_init(|| counter);
    }

    /// All of them, in the text format of Prometheus.
    ///
    /// # Errors
    /// When a metric can't be written in that format.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        if let Some(counter) = self.log_counter.get() {
            let more = counter.load(Ordering::Relaxed).saturating_sub(self.log_dropped.get());
            self.log_dropped.inc_by(more);
        }
        let calls = self.calls.iter().flat_map(Calls::gather);
        TextEncoder::new().encode_to_string(&sum::sum(self.registry.gather().into_iter().chain(calls)))
    }

    /// What the thread with this number counts of its calls.
    pub fn calls(&self, thread: usize) -> &Calls {
        // None has a higher number; if one had, its calls would be counted with those of another.
        &self.calls[thread % self.calls.len()]
    }
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
    use crate::policy::method::Method;
    use crate::policy::rights::Right;

    fn end(code: u8, seconds: f64) -> End {
        End {
            code,
            seconds,
            received: 5,
            sent: 7,
        }
    }

    #[track_caller]
    fn assert_has(metrics: &Metrics, lines: &[&str]) {
        let text = metrics.text().unwrap();
        for line in lines {
            assert!(text.lines().any(|has| has == *line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_call_is_counted_once_and_unknown_codes_read_as_unknown() {
        let metrics = Metrics::new(1).unwrap();
        metrics.calls(0).started(Some(Method::Write));
        metrics.calls(0).handled(Some(Method::Write), end(7, 0.1));
        metrics.calls(0).started(None);
        metrics.calls(0).handled(None, end(99, 0.1));
        assert_has(
            &metrics,
            &[
                r#"grpc_server_handled_total{grpc_code="PermissionDenied",grpc_method="Write",grpc_service="google.bytestream.ByteStream"} 1"#,
                r#"grpc_server_handled_total{grpc_code="Unknown",grpc_method="unknown",grpc_service="unknown"} 1"#,
                "casgate_calls_open 0",
            ],
        );
    }

    #[test]
    fn what_threads_count_is_added_up() {
        let metrics = Metrics::new(3).unwrap();
        let [method, other] = [Method::Write, Method::Read].map(Some);
        for (thread, seconds) in [(0, 0.002), (1, 0.002), (2, 0.02), (2, 1000.0)] {
            metrics.calls(thread).started(method);
            metrics.calls(thread).handled(method, end(0, seconds));
        }
        metrics.calls(1).started(other);
        metrics.calls(0).allowed("ci", Right::CasPush).inc();
        metrics.calls(2).allowed("ci", Right::CasPush).inc_by(2);
        metrics.calls(2).denied(Some(Right::CasPush), "no-rule");
        let of = r#"grpc_method="Write",grpc_service="google.bytestream.ByteStream""#;
        let histogram = |line: &str| format!("grpc_server_handling_seconds_{line}");
        assert_has(
            &metrics,
            &[
                &format!("grpc_server_started_total{{{of}}} 4"),
                r#"grpc_server_started_total{grpc_method="Read",grpc_service="google.bytestream.ByteStream"} 1"#,
                &format!(r#"grpc_server_handled_total{{grpc_code="OK",{of}}} 4"#),
                &histogram(&format!(r#"bucket{{{of},le="0.001"}} 0"#)),
                &histogram(&format!(r#"bucket{{{of},le="0.0025"}} 2"#)),
                &histogram(&format!(r#"bucket{{{of},le="300"}} 3"#)),
                &histogram(&format!(r#"bucket{{{of},le="+Inf"}} 4"#)),
                &histogram(&format!("count{{{of}}} 4")),
                &histogram(&format!("sum{{{of}}} 1000.024")),
                r#"casgate_decisions_total{decision="allow",reason="",right="cas-push",rule="ci"} 3"#,
                r#"casgate_decisions_total{decision="deny",reason="no-rule",right="cas-push",rule=""} 1"#,
                "casgate_received_bytes_total 20",
                "casgate_sent_bytes_total 28",
                "casgate_calls_open 1",
            ],
        );
        // Each has one head.
        let text = metrics.text().unwrap();
        assert_eq!(text.matches("# TYPE grpc_server_started_total counter").count(), 1);
    }
}
