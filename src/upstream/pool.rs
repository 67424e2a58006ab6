//! The connections of one thread to one endpoint of a backend: made when they are needed, shared by calls, replaced when they end.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntGauge};
use tokio::sync::{oneshot, watch};

use super::Unreachable;
use super::dial::{Dialed, Dialer};
use super::health::{Health, Number};
use super::queue::{ClientId, Queue, Ticket};
use super::slots::{Link, Size, Slots};
use super::stream::{Calls, Load, Sent};
use crate::http2;
use crate::metrics::Metrics;
use crate::snapshot::backends::BackendPlan;

/// For this long after the first failure calls wait for the backend to come back: a restart goes unnoticed. Longer
/// outages are answered at once.
const GRACE: Duration = Duration::from_secs(2);
/// Pauses between attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// After the grace, a backend that is down is tried again at most this often, in the background: an attempt may hang, and
/// calls are answered at once.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// What is known of a backend that was down is not believed for longer than this: the next call waits for an attempt.
const STALE: Duration = Duration::from_secs(10);
/// A call is given up when it waits for a stream and no call of its client got one for so long. A client with more calls
/// than streams waits for itself as long as it likes.
const PATIENCE: Duration = Duration::from_secs(10);

/// The connections of one thread to one endpoint of a backend.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
}

/// What a pool, its connections and its calls share.
#[derive(Debug)]
pub(super) struct Shared {
    name: Arc<str>,
    endpoint: Number,
    health: Arc<Health>,
    dialer: Arc<Dialer>,
    state: Mutex<State>,
    /// Counts changes of the connections, for those who wait.
    changed: watch::Sender<u64>,
    gauges: Gauges,
}

#[derive(Debug)]
struct State {
    slots: Slots,
    queue: Queue,
}

#[derive(Debug)]
struct Gauges {
    connections: IntGauge,
    failures: IntCounter,
    waiting: IntGauge,
    timeouts: IntCounter,
}

/// A connection as a call borrows it.
pub(super) struct Channel {
    sender: SendRequest<Bytes>,
    load: Load,
}

/// A call in the queue, until dropped.
struct Waiting<'a> {
    shared: &'a Shared,
    client: ClientId,
    ticket: Ticket,
    granted: oneshot::Receiver<Load>,
}

impl Pool {
    pub(super) fn new(
        plan: &BackendPlan,
        endpoint: Number,
        dialer: Arc<Dialer>,
        health: Arc<Health>,
        metrics: &Metrics,
    ) -> Pool {
        let label = [&*plan.name];
        let gauges = Gauges {
            connections: metrics.backend_connections.with_label_values(&label),
            failures: metrics.backend_failures.with_label_values(&label),
            waiting: metrics.backend_waiting.with_label_values(&label),
            timeouts: metrics.backend_wait_timeouts.with_label_values(&label),
        };
        Pool {
            shared: Arc::new(Shared {
                name: Arc::clone(&plan.name),
                endpoint,
                health,
                dialer,
                state: Mutex::new(State {
                    slots: Slots::new(plan.connections, plan.max_connections),
                    queue: Queue::default(),
                }),
                changed: watch::Sender::new(0),
                gauges,
            }),
        }
    }

    /// Has the next call wait for a connection: the endpoint is known to be back.
    pub(super) fn forgive(&self) {
        self.shared.change(|slots| {
            slots.all(|slot| match slot.link {
                Link::Down { is_dialing: true, .. } => slot.link = Link::Dialing,
                Link::Down { .. } => slot.link = Link::Idle,
                Link::Idle | Link::Dialing | Link::Open(_) | Link::Closed => {}
            });
        });
    }

    /// An open connection with room for a call of this client, where nothing has to be waited for: the path of most calls.
    pub(super) fn channel_now(&self, client: ClientId, size: Size) -> Option<Channel> {
        let mut state = self.shared.state.lock();
        let (slot, calls, sender) = state.pass(client, |slots| slots.pick_open(size))?;
        let load = self.shared.load(slot, calls, client);
        Some(Channel { sender, load })
    }

    /// The same, with all that may have to be waited for.
    pub(super) async fn channel(&self, client: ClientId, size: Size) -> Result<Channel, Unreachable> {
        loop {
            let load = self.shared.place(client, size).await?;
            match self.shared.open(load).await {
                Ok(Some(channel)) => return Ok(channel),
                Ok(None) => {}
                // One connection more can't be had: those that are there will do.
                Err(_) if self.shared.state.lock().slots.any_open() => {}
                Err(unreachable) => return Err(unreachable),
            }
        }
    }
}

impl Drop for Pool {
    /// The driver of a connection knows the pool, and the pool the connection: without this they would keep each other
    /// alive. A connection that is being made is closed when it comes. Calls that are under way still end.
    fn drop(&mut self) {
        self.shared.change(|slots| slots.all(|slot| slot.renew(Link::Closed)));
    }
}

impl State {
    /// What is picked for a call that need not wait, which is counted to its client.
    fn pass<T>(&mut self, client: ClientId, pick: impl FnOnce(&Slots) -> Option<T>) -> Option<T> {
        if !self.queue.may_pass(client, self.slots.free()) {
            return None;
        }
        let picked = pick(&self.slots)?;
        self.queue.open(client);
        Some(picked)
    }
}

impl Shared {
    /// A place for one more call, which may have to wait for it.
    async fn place(self: &Arc<Self>, client: ClientId, size: Size) -> Result<Load, Unreachable> {
        let mut waiting = {
            let mut state = self.state.lock();
            if let Some((slot, calls)) = state.pass(client, |slots| slots.pick(size)) {
                return Ok(self.load(slot, calls, client));
            }
            let (ticket, granted) = state.queue.wait(client);
            self.gauges.waiting.inc();
            self.health.begin(self.endpoint);
            Waiting {
                shared: self,
                client,
                ticket,
                granted,
            }
        };
        let mut since = Instant::now();
        loop {
            match tokio::time::timeout_at((since + PATIENCE).into(), &mut waiting.granted).await {
                Ok(Ok(load)) => return Ok(load),
                Ok(Err(_)) => return Err(Unreachable("it is being closed".to_owned())),
                Err(_) => match self.state.lock().queue.granted(client) {
                    Some(granted) if granted > since => since = granted,
                    _ => {
                        self.gauges.timeouts.inc();
                        return Err(Unreachable("it has no stream free for 10 s".to_owned()));
                    }
                },
            }
        }
    }

    /// The connection at this place, once it is open; `None` when it has less room than it seemed to have.
    async fn open(self: &Arc<Self>, mut load: Load) -> Result<Option<Channel>, Unreachable> {
        let mut changes = self.changed.subscribe();
        loop {
            changes.mark_unchanged();
            {
                let mut state = self.state.lock();
                let Some(slot) = state.slots.get_mut(load.slot) else {
                    return Ok(None);
                };
                match &mut slot.link {
                    Link::Open(sender) => {
                        let sender = sender.clone();
                        // It may be another connection than the one that the call was counted to.
                        if !Arc::ptr_eq(&load.calls, &slot.calls) {
                            slot.calls.add();
                            load.calls.remove();
                            load.calls = Arc::clone(&slot.calls);
                        }
                        let has_room = state.slots.is_within_limit(load.slot);
                        drop(state);
                        return Ok(has_room.then_some(Channel { sender, load }));
                    }
                    Link::Dialing => {}
                    Link::Closed => return Err(Unreachable("it is being closed".to_owned())),
                    Link::Down {
                        since,
                        retry_at,
                        is_dialing,
                        error,
                    } if *is_dialing || retry_at.elapsed() < STALE => {
                        let error = error.clone();
                        if !*is_dialing && Instant::now() >= *retry_at {
                            *is_dialing = true;
                            tokio::spawn(Shared::dial(Arc::clone(self), load.slot, *since));
                        }
                        drop(state);
                        return Err(error);
                    }
                    Link::Idle | Link::Down { .. } => {
                        slot.link = Link::Dialing;
                        tokio::spawn(Shared::dial(Arc::clone(self), load.slot, Instant::now()));
                    }
                }
            }
            if changes.changed().await.is_err() {
                return Err(Unreachable("it is being closed".to_owned()));
            }
        }
    }

    /// Tries until it works or the grace since the first failure is over.
    async fn dial(self: Arc<Self>, slot: usize, since: Instant) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.dialer.dial().await {
                Ok(dialed) => return self.opened(slot, dialed),
                Err(error) => {
                    self.gauges.failures.inc();
                    // One that serves calls is not down because it takes no more connections.
                    if !self.state.lock().slots.any_open() {
                        self.health.unreachable(self.endpoint, plain(&error));
                    }
                    if since.elapsed() + pause > GRACE {
                        tracing::warn!(target: "casgate::backend", backend = &*self.name, endpoint = self.health.name(self.endpoint), %error, "backend can't be reached");
                        let down = Link::Down {
                            since,
                            retry_at: Instant::now() + RETRY_AFTER,
                            is_dialing: false,
                            error: Unreachable(format!("it can't be reached: {}", plain(&error))),
                        };
                        return self.change(|slots| slots.set(slot, down));
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn opened(self: Arc<Self>, slot: usize, dialed: Dialed) {
        let Dialed {
            sender,
            ping_pong,
            mut limit,
            driver,
        } = dialed;
        self.health.reached(self.endpoint);
        let now = *limit.borrow_and_update();
        let Some(calls) = self.change(|slots| slots.open(slot, sender, now)) else {
            return;
        };
        self.gauges.connections.inc();
        tokio::spawn(async move {
            let counted = Arc::clone(&calls);
            let silent = http2::until_peer_is_silent(ping_pong, move || counted.open() > 0);
            let limits = async {
                while limit.changed().await.is_ok() {
                    let now = *limit.borrow_and_update();
                    self.change(|slots| slots.limit(slot, &calls, now));
                }
                std::future::pending().await
            };
            tokio::select! {
                ended = driver => match ended {
                    Ok(()) => tracing::debug!(target: "casgate::backend", backend = &*self.name, endpoint = self.health.name(self.endpoint), "connection closed"),
                    Err(error) => tracing::info!(target: "casgate::backend", backend = &*self.name, endpoint = self.health.name(self.endpoint), %error, "connection ended"),
                },
                () = silent => {
                    tracing::warn!(target: "casgate::backend", backend = &*self.name, endpoint = self.health.name(self.endpoint), "no answer to PING: connection closed");
                }
                never = limits => never,
            }
            self.gauges.connections.dec();
            self.discard(slot, &calls);
        });
    }

    /// Forgets a connection, so that the next call makes another. Calls that are on it go on.
    fn discard(self: &Arc<Self>, slot: usize, calls: &Arc<Calls>) {
        self.change(|slots| slots.discard(slot, calls));
    }

    /// Changes the connections, and tells those who wait for one.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut Slots) -> T) -> T {
        let result = change(&mut self.state.lock().slots);
        self.changed.send_modify(|changes| *changes += 1);
        self.grant();
        result
    }

    /// Counts a call off.
    pub(super) fn release(self: &Arc<Self>, client: ClientId) {
        self.health.end(self.endpoint);
        let somebody_waits = {
            let mut state = self.state.lock();
            state.queue.close(client);
            !state.queue.is_empty()
        };
        if somebody_waits {
            self.grant();
        }
    }

    /// Gives the places that are free to the calls that wait.
    fn grant(self: &Arc<Self>) {
        loop {
            let (grant, load) = {
                let mut state = self.state.lock();
                let State { slots, queue } = &mut *state;
                if queue.is_empty() || !slots.has_room() {
                    return;
                }
                let Some((client, grant)) = queue.next(slots.free()) else {
                    return;
                };
                // What it is for is not known here; and all connections have many calls.
                let Some((slot, calls)) = slots.pick(Size::Bulk) else {
                    return;
                };
                (grant, self.load(slot, calls, client))
            };
            // One that went away meanwhile gives its place back here, where nothing is locked.
            drop(grant.send(load));
        }
    }

    fn load(self: &Arc<Self>, slot: usize, calls: Arc<Calls>, client: ClientId) -> Load {
        self.health.begin(self.endpoint);
        Load {
            pool: Arc::clone(self),
            slot,
            calls,
            client,
        }
    }
}

/// What a client is told: no path, no address. The log has the whole error.
pub(super) fn plain(error: &io::Error) -> &'static str {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match (error.kind(), inner) {
        (_, Some(rustls::Error::InvalidCertificate(_))) => "its certificate is not accepted",
        (io::ErrorKind::TimedOut, _) => "connecting took more than 5 s",
        (io::ErrorKind::ConnectionRefused, _) => "it refuses connections",
        (io::ErrorKind::NotFound, _) => "nothing is there",
        (io::ErrorKind::PermissionDenied, _) => "the gate may not connect to it",
        _ => "the connection failed",
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.gauges.waiting.dec();
        self.shared.health.end(self.shared.endpoint);
        self.shared.state.lock().queue.leave(self.client, self.ticket);
    }
}

impl Channel {
    /// Waits until a stream can be opened.
    pub(super) async fn ready(&mut self) -> Result<(), h2::Error> {
        std::future::poll_fn(|cx| self.sender.poll_ready(cx)).await
    }

    /// Says that the connection takes no more streams.
    pub(super) fn discard(self) {
        self.load.pool.discard(self.load.slot, &self.load.calls);
    }

    /// Opens a stream.
    pub(super) fn send(mut self, request: Request<()>, end_of_stream: bool) -> Result<Sent, h2::Error> {
        let (response, body) = self.sender.send_request(request, end_of_stream)?;
        Ok(Sent::new(response, body, self.load))
    }
}
