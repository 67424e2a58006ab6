//! `[limits]`: what clients may take of the gate. The defaults bound broken and hostile clients, and no honest one.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::Loaded;
use crate::config::file::{self, Key};

use super::report::Report;
use crate::policy::quota::bytes;

/// Connections are not more than this by default, also where the system would allow more.
pub const MOST_CONNECTIONS: usize = 10_000;

/// What clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all; `None` for what the open files of the process leave, at most [`MOST_CONNECTIONS`].
    pub connections: Option<usize>,
    /// Connections of one address: an IPv4 address, or an IPv6 network of 64 bits, as one customer has it.
    pub connections_per_address: usize,
    /// TLS handshakes at once; takes a restart.
    pub handshakes: usize,
    /// How long a connection may be open before its first request.
    pub first_request_timeout: Duration,
    /// How long a connection with a certificate may be without an open stream.
    pub idle_timeout: Duration,
    /// The same for one without.
    pub anonymous_idle_timeout: Duration,
    /// Calls that a connection may reset at once.
    pub resets_at_once: u32,
    /// And how many more of them it may reset each second.
    pub resets_per_second: u32,
    /// Frames that a connection may send at once besides those that its calls account for.
    pub control_frames_at_once: u32,
    /// And how many more of them it may send each second.
    pub control_frames_per_second: u32,
    /// How long a client may take nothing at all of an answer that waits for it.
    pub stall_timeout: Duration,
    /// Calls that a connection may have open; for new connections.
    pub calls_per_connection: u32,
    /// Calls that a certificate may have open on all of its connections, or an address without one.
    pub calls_per_certificate: usize,
    /// Bytes that are kept for clients in all; `None` for half of the memory that there is.
    pub memory: Option<u64>,
}

const KEYS: [&str; 14] = [
    "connections",
    "connections-per-address",
    "handshakes",
    "first-request-timeout",
    "idle-timeout",
    "anonymous-idle-timeout",
    "resets-at-once",
    "resets-per-second",
    "control-frames-at-once",
    "control-frames-per-second",
    "stall-timeout",
    "calls-per-connection",
    "calls-per-certificate",
    "memory",
];

/// A week is as good as for ever, and no sum of times overflows.
const SECONDS: RangeInclusive<u64> = 1..=604_800;

/// Compiles the table; with the defaults where it is not there.
pub fn compile(loaded: &Loaded, report: &mut Report) -> Limits {
    let absent = file::Limits::default();
    let table = report.value(&loaded.file.limits, "limits").unwrap_or(&absent);
    report.unknown(&table.unknown, "limits.", &KEYS);
    let mut count = |key: &Key<usize>, name: &str, range| ranged(key, &format!("limits.{name}"), range, report);
    let connections = count(&table.connections, "connections", 16..=1_000_000);
    let connections_per_address = count(&table.connections_per_address, "connections-per-address", 1..=1_000_000);
    let handshakes = count(&table.handshakes, "handshakes", 4..=100_000);
    let calls_per_certificate = count(&table.calls_per_certificate, "calls-per-certificate", 1..=1_000_000);
    let mut events =
        |key: &Key<u32>, name: &str, least| ranged(key, &format!("limits.{name}"), least..=1_000_000, report);
    let resets_at_once = events(&table.resets_at_once, "resets-at-once", 1);
    let resets_per_second = events(&table.resets_per_second, "resets-per-second", 1);
    let control_frames_at_once = events(&table.control_frames_at_once, "control-frames-at-once", 100);
    let control_frames_per_second = events(&table.control_frames_per_second, "control-frames-per-second", 1);
    let calls_per_connection = ranged(
        &table.calls_per_connection,
        "limits.calls-per-connection",
        10..=100_000,
        report,
    );
    let mut time = |key: &Key<u64>, name: &str, default| {
        let seconds = ranged(key, &format!("limits.{name}"), SECONDS, report);
        Duration::from_secs(seconds.unwrap_or(default))
    };
    Limits {
        connections,
        // A farm behind one address must fit.
        connections_per_address: connections_per_address.unwrap_or(1000),
        handshakes: handshakes.unwrap_or(512),
        // Bazel and BuildStream connect before they know whether they will call.
        first_request_timeout: time(&table.first_request_timeout, "first-request-timeout", 300),
        idle_timeout: time(&table.idle_timeout, "idle-timeout", 1800),
        anonymous_idle_timeout: time(&table.anonymous_idle_timeout, "anonymous-idle-timeout", 60),
        // Bazel cancels all of its calls when a build is interrupted, a thousand at most.
        resets_at_once: resets_at_once.unwrap_or(5000),
        resets_per_second: resets_per_second.unwrap_or(500),
        // Honest clients send hardly any besides those that their calls account for.
        control_frames_at_once: control_frames_at_once.unwrap_or(10_000),
        control_frames_per_second: control_frames_per_second.unwrap_or(1000),
        // A user may stop a client for a while, and go on.
        stall_timeout: time(&table.stall_timeout, "stall-timeout", 300),
        // Bazel throttles or hangs below a few hundred.
        calls_per_connection: calls_per_connection.unwrap_or(1000),
        // A farm may share one certificate.
        calls_per_certificate: calls_per_certificate.unwrap_or(10_000),
        memory: memory(&table.memory, report),
    }
}

fn memory(key: &Key<String>, report: &mut Report) -> Option<u64> {
    let text = report.value(key, "limits.memory")?;
    let bytes = bytes(text).filter(|bytes| (64 << 20..=1 << 50).contains(bytes));
    let no_size = || format!("`{text}` is no size from 64MiB to 1024TiB, such as \"2GiB\"");
    report.ok(bytes.ok_or_else(no_size), "limits.memory")
}

fn ranged<T: Copy + PartialOrd + std::fmt::Display>(
    key: &Key<T>,
    name: &str,
    range: RangeInclusive<T>,
    report: &mut Report,
) -> Option<T> {
    let value = *report.value(key, name)?;
    if !range.contains(&value) {
        report.add(name, format!("is not between {} and {}", range.start(), range.end()));
    }
    Some(value)
}
