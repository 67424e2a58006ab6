//! What the gate says of itself, and whether it has come to rest.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Result;
use crate::stage::Stage;
use crate::vitals::Vitals;

/// Gauges that are 0 when no client is there.
const IDLE: [&str; 4] = [
    "casgate_connections_open",
    "casgate_calls_open",
    "casgate_window_bytes",
    "casgate_backend_waiting_calls",
];
/// How long the gate may take to come to rest once the last client has gone.
const PATIENCE: Duration = Duration::from_secs(120);
/// Threads for files end when they had nothing to do for 10 s (tokio, `thread_keep_alive`).
const REST: Duration = Duration::from_secs(12);

/// The metrics of a gate, as it tells them.
pub(crate) struct Metrics(String);

impl Metrics {
    pub(crate) async fn of(admin: SocketAddr) -> Result<Metrics> {
        let asking = async {
            let mut tcp = TcpStream::connect(admin).await?;
            tcp.write_all(b"GET /metrics HTTP/1.1\r\nhost: soak\r\nconnection: close\r\n\r\n")
                .await?;
            let mut text = String::new();
            tcp.read_to_string(&mut text).await?;
            Result::Ok(Metrics(text))
        };
        tokio::time::timeout(PATIENCE, asking).await?
    }

    /// The sum of all series of a metric whose labels contain a text.
    pub(crate) fn sum(&self, name: &str, label: &str) -> f64 {
        let series = self.series(name).filter(|(labels, _)| labels.contains(label));
        series.map(|(_, value)| value).sum()
    }

    /// Every series of a metric: its labels and its value.
    pub(crate) fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let is_whole = labels.is_empty() || labels.starts_with('{');
            is_whole.then_some((labels, value.parse().ok()?))
        })
    }
}

/// What the gate uses now, and its metrics.
pub(crate) async fn look(stage: &Stage) -> Result<(Vitals, Metrics)> {
    let mut vitals = Vitals::of(stage.gate.id())?;
    let metrics = Metrics::of(stage.admin).await?;
    vitals.backends = metrics.sum("casgate_backend_connections", "") as usize;
    Ok((vitals, metrics))
}

/// Waits until the gate has come to rest, and uses no more than `before`, if that was looked at; else tells what is left.
pub(crate) async fn rest(stage: &Stage, before: Option<&Vitals>) -> Result<(Vitals, Metrics, Vec<String>)> {
    let begun = Instant::now();
    let mut rested = None;
    loop {
        let (vitals, metrics) = look(stage).await?;
        let mut left: Vec<_> = IDLE
            .into_iter()
            .map(|name| (name, metrics.sum(name, "")))
            .filter(|(_, value)| *value != 0.0)
            .map(|(name, value)| format!("{name} is {value} though no client is there"))
            .collect();
        if left.is_empty() {
            rested.get_or_insert_with(Instant::now);
        }
        left.extend(before.map_or(Vec::new(), |before| vitals.grown_since(before)));
        let has_rested = rested.is_some_and(|since| since.elapsed() > REST);
        if has_rested && left.is_empty() || begun.elapsed() > PATIENCE {
            return Ok((vitals, metrics, left));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
