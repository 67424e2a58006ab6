//! The connections of one thread to one backend: made when they are needed, shared by calls, replaced when they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntGauge};
use tokio::sync::watch;

use super::Unreachable;
use super::dial::{Dialed, Dialer};
use crate::http2;
use crate::metrics::Metrics;
use crate::snapshot::backends::BackendPlan;

/// A connection with this many calls or more lets the next one be opened. Fewer connections mean more frames in one
/// system call.
const SHARE_UP_TO: usize = 16;
/// For this long after the first failure calls wait for the backend to come back: a restart goes unnoticed. Longer
/// outages are answered at once.
const GRACE: Duration = Duration::from_secs(2);
/// Pauses between attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// After the grace, a backend that is down is tried again at most this often.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The connections of one thread to one backend.
#[derive(Debug)]
pub(super) struct Pool {
    slots: Vec<Arc<Slot>>,
}

#[derive(Debug)]
struct Slot {
    name: Arc<str>,
    dialer: Arc<Dialer>,
    calls: Arc<AtomicUsize>,
    state: Mutex<State>,
    /// Counts changes of the state, for those who wait.
    changed: watch::Sender<u64>,
    gauges: Gauges,
}

#[derive(Debug)]
enum State {
    Idle,
    Dialing,
    Open {
        sender: SendRequest<Bytes>,
        serial: u64,
    },
    Down {
        since: Instant,
        retry_at: Instant,
        error: Unreachable,
    },
}

#[derive(Clone, Debug)]
struct Gauges {
    connections: IntGauge,
    failures: IntCounter,
    up: IntGauge,
}

/// Counts a call to a connection, until dropped.
#[derive(Debug)]
pub struct Load(Arc<AtomicUsize>);

/// A connection as a call borrows it.
pub(super) struct Channel {
    slot: Arc<Slot>,
    sender: SendRequest<Bytes>,
    serial: u64,
    load: Load,
}

impl Pool {
    pub(super) fn new(plan: &BackendPlan, dialer: Arc<Dialer>, metrics: &Metrics) -> Pool {
        let label = [&*plan.name];
        let gauges = Gauges {
            connections: metrics.backend_connections.with_label_values(&label),
            failures: metrics.backend_failures.with_label_values(&label),
            up: metrics.backend_up.with_label_values(&label),
        };
        let slot = |_| {
            Arc::new(Slot {
                name: Arc::clone(&plan.name),
                dialer: Arc::clone(&dialer),
                calls: Arc::default(),
                state: Mutex::new(State::Idle),
                changed: watch::Sender::new(0),
                gauges: gauges.clone(),
            })
        };
        Pool {
            slots: (0..plan.connections).map(slot).collect(),
        }
    }

    /// An open connection: the first with room, else the one with the fewest calls.
    pub(super) async fn channel(&self) -> Result<Channel, Unreachable> {
        let calls = |slot: &Arc<Slot>| slot.calls.load(Ordering::Relaxed);
        let slot = self
            .slots
            .iter()
            .find(|slot| calls(slot) < SHARE_UP_TO)
            .or_else(|| self.slots.iter().min_by_key(|slot| calls(slot)));
        match slot {
            Some(slot) => Slot::channel(slot).await,
            None => Err(Unreachable("it has no connections".to_owned())),
        }
    }
}

impl Drop for Pool {
    /// The driver of a connection knows its slot, and the slot the connection: without this they would keep each other
    /// alive. Calls that are under way still end.
    fn drop(&mut self) {
        for slot in &self.slots {
            slot.set(State::Idle);
        }
    }
}

impl Slot {
    async fn channel(slot: &Arc<Slot>) -> Result<Channel, Unreachable> {
        slot.calls.fetch_add(1, Ordering::Relaxed);
        let load = Load(Arc::clone(&slot.calls));
        let mut changes = slot.changed.subscribe();
        loop {
            changes.mark_unchanged();
            {
                let mut state = slot.state.lock();
                match &*state {
                    State::Open { sender, serial } => {
                        return Ok(Channel {
                            slot: Arc::clone(slot),
                            sender: sender.clone(),
                            serial: *serial,
                            load,
                        });
                    }
                    State::Dialing => {}
                    State::Down { retry_at, error, .. } if Instant::now() < *retry_at => return Err(error.clone()),
                    State::Down { since, .. } => {
                        let since = *since;
                        *state = State::Dialing;
                        tokio::spawn(Slot::dial(Arc::clone(slot), since));
                    }
                    State::Idle => {
                        *state = State::Dialing;
                        tokio::spawn(Slot::dial(Arc::clone(slot), Instant::now()));
                    }
                }
            }
            if changes.changed().await.is_err() {
                return Err(Unreachable("it is being closed".to_owned()));
            }
        }
    }

    /// Tries until it works or the grace since the first failure is over.
    async fn dial(slot: Arc<Slot>, since: Instant) {
        let mut pause = FIRST_PAUSE;
        loop {
            match slot.dialer.dial().await {
                Ok(dialed) => return Slot::open(&slot, dialed),
                Err(error) => {
                    slot.gauges.failures.inc();
                    slot.gauges.up.set(0);
                    if since.elapsed() + pause > GRACE {
                        tracing::warn!(target: "casgate::backend", backend = &*slot.name, %error, "backend can't be reached");
                        let error = Unreachable(format!("it can't be reached: {error}"));
                        let retry_at = Instant::now() + RETRY_AFTER;
                        slot.set(State::Down { since, retry_at, error });
                        return;
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn open(slot: &Arc<Slot>, dialed: Dialed) {
        let Dialed {
            sender,
            ping_pong,
            driver,
        } = dialed;
        slot.gauges.up.set(1);
        slot.gauges.connections.inc();
        let serial = *slot.changed.borrow() + 1;
        let slot = Arc::clone(slot);
        slot.set(State::Open { sender, serial });
        let driven = Arc::clone(&slot);
        tokio::spawn(async move {
            let calls = Arc::clone(&driven.calls);
            let silent = http2::until_peer_is_silent(ping_pong, move || calls.load(Ordering::Relaxed) > 0);
            tokio::select! {
                ended = driver => match ended {
                    Ok(()) => tracing::debug!(target: "casgate::backend", backend = &*driven.name, "connection closed"),
                    Err(error) => tracing::info!(target: "casgate::backend", backend = &*driven.name, %error, "connection ended"),
                },
                () = silent => {
                    tracing::warn!(target: "casgate::backend", backend = &*driven.name, "no answer to PING: connection closed");
                }
            }
            driven.gauges.connections.dec();
            driven.discard(serial);
        });
    }

    /// Forgets a connection, so that the next call makes another. Calls that are on it go on.
    fn discard(&self, serial: u64) {
        let is_current = matches!(&*self.state.lock(), State::Open { serial: current, .. } if *current == serial);
        if is_current {
            self.set(State::Idle);
        }
    }

    fn set(&self, state: State) {
        *self.state.lock() = state;
        self.changed.send_modify(|changes| *changes += 1);
    }
}

impl Channel {
    /// Waits until a stream can be opened.
    pub(super) async fn ready(&mut self) -> Result<(), h2::Error> {
        std::future::poll_fn(|cx| self.sender.poll_ready(cx)).await
    }

    /// Says that the connection takes no more streams.
    pub(super) fn discard(self) {
        self.slot.discard(self.serial);
    }

    /// Opens a stream.
    pub(super) fn send(
        mut self,
        request: Request<()>,
        end_of_stream: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>, Load), h2::Error> {
        let (response, body) = self.sender.send_request(request, end_of_stream)?;
        Ok((response, body, self.load))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
