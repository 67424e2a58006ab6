//! The load: calls one after the other on each stream, calls at a fixed rate, connection after connection, and
//! connections that do nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::Result;
use crate::calls::Call;
use crate::client::{Client, call};
use crate::measure::Measure;
use crate::process::{Running, Usage};

/// How long calls may take to end after the end of a run.
const GRACE: Duration = Duration::from_secs(20);
/// Connections that are opened at once.
const DIALS: usize = 8;

/// Who is called, and what it uses meanwhile.
pub(crate) struct Target<'a> {
    pub(crate) running: &'a Running,
    pub(crate) address: SocketAddr,
    /// Without one, in the clear.
    pub(crate) connector: Option<TlsConnector>,
}

/// How long a load is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// What the tasks of a load count together.
#[derive(Default)]
struct Tally {
    calls: AtomicU64,
    bytes: AtomicU64,
    latencies: Mutex<Vec<Duration>>,
    errors: Mutex<Vec<String>>,
    is_measured: AtomicBool,
    is_over: AtomicBool,
}

impl Tally {
    fn note(&self, begun: Instant, result: Result<()>) {
        match result {
            Ok(()) => {
                self.calls.fetch_add(1, Ordering::Relaxed);
                if self.is_measured.load(Ordering::Relaxed) {
                    self.latencies.lock().push(begun.elapsed());
                }
            }
            Err(error) => self.errors.lock().push(error.to_string()),
        }
    }

    /// Lets the load run for so long; gives what was done and used between the two looks at it.
    async fn observe(&self, span: Span, running: &Running) -> Result<Measure> {
        tokio::time::sleep(span.warm_up).await;
        let look = || Result::Ok((Instant::now(), self.now(), running.usage()?));
        let (begun, (calls, bytes), before) = look()?;
        self.is_measured.store(true, Ordering::Relaxed);
        tokio::time::sleep(span.measured).await;
        self.is_measured.store(false, Ordering::Relaxed);
        let (ended, (calls_after, bytes_after), after) = look()?;
        self.is_over.store(true, Ordering::Relaxed);
        Ok(Measure {
            calls: calls_after - calls,
            bytes: bytes_after - bytes,
            span: ended - begun,
            cpu: after.cpu.saturating_sub(before.cpu),
            ..Measure::default()
        })
    }

    fn now(&self) -> (u64, u64) {
        (self.calls.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Adds what is known only when all calls have ended.
    async fn finish(&self, mut tasks: JoinSet<()>, running: &Running, measure: Measure) -> Result<Measure> {
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, all).await.is_err() {
            self.errors.lock().push("calls that did not end".to_owned());
        }
        let mut latencies = std::mem::take(&mut *self.latencies.lock());
        latencies.sort_unstable();
        Ok(Measure {
            latencies,
            peak: running.usage()?.peak,
            errors: std::mem::take(&mut *self.errors.lock()),
            ..measure
        })
    }
}

/// Calls one after the other on each of so many streams of so many connections, in the order of a script.
pub(crate) async fn closed(target: &Target<'_>, shape: (usize, usize), script: &[Call], span: Span) -> Result<Measure> {
    let (connections, streams) = shape;
    let clients = connect(target, connections).await?;
    let tally = Arc::new(Tally::default());
    let script: Arc<[Call]> = script.into();
    let mut tasks = JoinSet::new();
    for number in 0..connections * streams {
        let Some(client) = clients.get(number % connections) else {
            continue;
        };
        let (sender, tally, script) = (client.sender(), Arc::clone(&tally), Arc::clone(&script));
        tasks.spawn(async move {
            // Each stream begins elsewhere, so that they are not all at the same kind of call.
            for one in script.iter().cycle().skip(number * 7 % script.len()) {
                if tally.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let begun = Instant::now();
                let result = call(sender.clone(), one, &tally.bytes).await;
                if result.is_err() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                tally.note(begun, result);
            }
        });
    }
    let measure = tally.observe(span, target.running).await?;
    tally.finish(tasks, target.running, measure).await
}

/// Calls at a fixed rate, whether earlier ones have ended or not; latencies count from the time at which a call was to be
/// sent.
pub(crate) async fn open(
    target: &Target<'_>,
    connections: usize,
    one: &Call,
    rate: u32,
    span: Span,
) -> Result<Measure> {
    let clients = connect(target, connections).await?;
    let tally = Arc::new(Tally::default());
    let (due, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let pacer = {
        let tally = Arc::clone(&tally);
        // A thread of its own: the runtime's timer knows milliseconds only.
        std::thread::spawn(move || {
            let begun = Instant::now();
            let pause = Duration::from_secs(1) / rate;
            for number in 0.. {
                let time = begun + pause * number;
                std::thread::sleep(time.saturating_duration_since(Instant::now()));
                if tally.is_over.load(Ordering::Relaxed) || due.send(time).is_err() {
                    return;
                }
            }
        })
    };
    let mut tasks = JoinSet::new();
    let dispatch = {
        let tally = Arc::clone(&tally);
        let senders: Vec<_> = clients.iter().map(Client::sender).collect();
        let one = one.clone();
        async move {
            let mut inner = JoinSet::new();
            for sender in senders.iter().cycle() {
                let Some(time) = calls.recv().await else { break };
                let (sender, tally, one) = (sender.clone(), Arc::clone(&tally), one.clone());
                inner.spawn(async move {
                    let result = call(sender, &one, &tally.bytes).await;
                    tally.note(time, result);
                });
                while inner.try_join_next().is_some() {}
            }
            while inner.join_next().await.is_some() {}
        }
    };
    tasks.spawn(dispatch);
    let measure = tally.observe(span, target.running).await?;
    let _panicked = pacer.join();
    tally.finish(tasks, target.running, measure).await
}

/// Connection after connection on each of so many lanes, each for one call.
pub(crate) async fn connections(target: &Target<'_>, lanes: usize, one: &Call, span: Span) -> Result<Measure> {
    let tally = Arc::new(Tally::default());
    let mut tasks = JoinSet::new();
    for _ in 0..lanes {
        let (tally, one) = (Arc::clone(&tally), one.clone());
        let (address, connector) = (target.address, target.connector.clone());
        tasks.spawn(async move {
            while !tally.is_over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let result = async {
                    let client = Client::connect(address, connector.as_ref()).await?;
                    call(client.sender(), &one, &tally.bytes).await?;
                    client.close().await
                };
                let result = result.await;
                if result.is_err() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                tally.note(begun, result);
            }
        });
    }
    let measure = tally.observe(span, target.running).await?;
    tally.finish(tasks, target.running, measure).await
}

/// So many connections that do nothing after one call each; gives the memory that each of them takes.
pub(crate) async fn idle(target: &Target<'_>, number: usize, one: &Call) -> Result<Measure> {
    // What is set up for the first client is not for each.
    let first = Client::connect(target.address, target.connector.as_ref()).await?;
    let bytes = AtomicU64::new(0);
    call(first.sender(), one, &bytes).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = target.running.usage()?;
    let clients = connect(target, number).await?;
    let mut errors = Vec::new();
    for client in &clients {
        if let Err(error) = call(client.sender(), one, &bytes).await {
            errors.push(error.to_string());
        }
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after: Usage = target.running.usage()?;
    Ok(Measure {
        calls: number as u64,
        resident: after.resident.saturating_sub(before.resident),
        peak: after.peak,
        errors,
        ..Measure::default()
    })
}

/// So many connections, with nothing on them.
pub(crate) async fn connect(target: &Target<'_>, number: usize) -> Result<Vec<Client>> {
    let mut lanes = JoinSet::new();
    let left = Arc::new(AtomicUsize::new(number));
    for _ in 0..DIALS.min(number) {
        let (left, address, connector) = (Arc::clone(&left), target.address, target.connector.clone());
        lanes.spawn(async move {
            let mut clients = Vec::new();
            let take = |left: usize| left.checked_sub(1);
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                let client = Client::connect(address, connector.as_ref()).await;
                clients.push(client.map_err(|error| error.to_string())?);
            }
            std::result::Result::<_, String>::Ok(clients)
        });
    }
    let mut clients = Vec::with_capacity(number);
    while let Some(lane) = lanes.join_next().await {
        clients.append(&mut lane??);
    }
    Ok(clients)
}
