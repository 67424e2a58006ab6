//! What one run has measured, and the median of several.

use std::time::Duration;

use crate::calls::MIB;

/// One run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measure {
    pub(crate) calls: u64,
    /// Of blobs.
    pub(crate) bytes: u64,
    pub(crate) span: Duration,
    /// Time of the processor that whoever was measured has used.
    pub(crate) cpu: Duration,
    /// In order.
    pub(crate) latencies: Vec<Duration>,
    /// Most memory that it had, in bytes.
    pub(crate) peak: u64,
    /// Memory that it has for the calls' connections, in bytes.
    pub(crate) resident: u64,
    /// Each failed call; one is enough to make the run worth nothing.
    pub(crate) errors: Vec<String>,
}

/// What is read off a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quantity {
    CpuPerCall,
    CpuPerGigabyte,
    CallsPerSecond,
    BytesPerSecond,
    P50,
    P99,
    P999,
    Peak,
    BytesPerConnection,
}

impl Quantity {
    /// Its value, in its unit; `None` where there is nothing to read.
    pub(crate) fn of(self, measure: &Measure) -> Option<f64> {
        let calls = measure.calls as f64;
        let bytes = measure.bytes as f64;
        let value = match self {
            Quantity::CpuPerCall => measure.cpu.as_secs_f64() * 1e6 / calls,
            Quantity::CpuPerGigabyte => measure.cpu.as_secs_f64() * 1e9 / bytes,
            Quantity::CallsPerSecond => calls / measure.span.as_secs_f64(),
            Quantity::BytesPerSecond => bytes / 1e6 / measure.span.as_secs_f64(),
            Quantity::P50 => percentile(&measure.latencies, 0.5)?,
            Quantity::P99 => percentile(&measure.latencies, 0.99)?,
            Quantity::P999 => percentile(&measure.latencies, 0.999)?,
            Quantity::Peak => measure.peak as f64 / MIB as f64,
            Quantity::BytesPerConnection => measure.resident as f64 / 1024.0 / calls,
        };
        value.is_finite().then_some(value)
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Quantity::CpuPerCall => "CPU, µs/call",
            Quantity::CpuPerGigabyte => "CPU, s/GB",
            Quantity::CallsPerSecond => "calls/s",
            Quantity::BytesPerSecond => "MB/s",
            Quantity::P50 => "p50, ms",
            Quantity::P99 => "p99, ms",
            Quantity::P999 => "p999, ms",
            Quantity::Peak => "peak memory, MiB",
            Quantity::BytesPerConnection => "KiB/connection",
        }
    }

    /// Whether more of it is better.
    pub(crate) fn is_speed(self) -> bool {
        matches!(self, Quantity::CallsPerSecond | Quantity::BytesPerSecond)
    }
}

/// In ms.
fn percentile(latencies: &[Duration], part: f64) -> Option<f64> {
    let last = latencies.len().checked_sub(1)?;
    let index = (latencies.len() as f64 * part) as usize;
    Some(latencies.get(index.min(last))?.as_secs_f64() * 1000.0)
}

/// The middle one; of an even number, the mean of both in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    let upper = *values.get(half)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some((values.get(half.checked_sub(1)?)? + upper) / 2.0)
}
