//! What all threads know of the endpoints of one backend: which are up, and which is the best for the next call.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::metrics::Metrics;
use crate::snapshot::backends::BackendPlan;

/// Number of an endpoint within its backend.
pub(super) type Number = usize;

/// What is known of the endpoints of one backend.
#[derive(Debug)]
pub(super) struct Health {
    backend: Arc<str>,
    /// Calls are counted, and shared out by their number.
    has_several: bool,
    endpoints: Vec<Endpoint>,
    /// Where the search among equals begins.
    turn: AtomicUsize,
    /// Tells those who wait that an endpoint went down or came back.
    changed: Notify,
    /// False once another backend has taken the place of this one: its metrics are not its own any more.
    publishes: Mutex<bool>,
    metrics: Arc<Metrics>,
}

/// What is known of one endpoint.
#[derive(Debug)]
struct Endpoint {
    name: String,
    /// Calls of all threads, those that wait for a stream as well.
    calls: AtomicUsize,
    /// What [`Known::condition`] says, for the path of a call.
    is_down: AtomicBool,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// How the last attempt to connect ended.
    connects: Option<Result<(), String>>,
    /// How the last check ended, beyond the connection.
    answers: Option<Result<(), String>>,
}

/// Whether an endpoint can serve calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nobody has tried yet.
    Unknown,
    /// It was reached, and the last check found nothing wrong.
    Up,
    /// What is wrong with it.
    Down(String),
}

/// Endpoints that a call was sent to in vain, as bits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tried(u64);

impl Health {
    pub(super) fn new(plan: &BackendPlan, metrics: Arc<Metrics>) -> Health {
        let endpoint = |name: String| Endpoint {
            name,
            calls: AtomicUsize::new(0),
            is_down: AtomicBool::new(false),
            known: Mutex::default(),
        };
        Health {
            backend: Arc::clone(&plan.name),
            has_several: plan.endpoints.len() > 1,
            endpoints: plan.endpoints.iter().map(|target| endpoint(target.name())).collect(),
            turn: AtomicUsize::new(0),
            changed: Notify::new(),
            publishes: Mutex::new(false),
            metrics,
        }
    }

    /// Each endpoint, as the configuration names it, with what is known of it.
    pub(super) fn conditions(&self) -> impl Iterator<Item = (&str, Condition)> {
        let endpoints = self.endpoints.iter();
        endpoints.map(|endpoint| (&*endpoint.name, endpoint.known.lock().condition()))
    }

    /// The name of an endpoint in the configuration.
    pub(super) fn name(&self, number: Number) -> &str {
        self.endpoints.get(number).map_or("", |endpoint| &endpoint.name)
    }

    /// Counts a call to an endpoint.
    pub(super) fn begin(&self, number: Number) {
        if self.has_several
            && let Some(endpoint) = self.endpoints.get(number)
        {
            endpoint.calls.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts it off.
    pub(super) fn end(&self, number: Number) {
        if self.has_several
            && let Some(endpoint) = self.endpoints.get(number)
        {
            endpoint.calls.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The best endpoint that was not tried: one that is up before one that is down, then another than the one that refused
    /// the call, then the one with the fewest calls; equals take turns. `None` when all were tried.
    pub(super) fn choose(&self, tried: Tried, refused: Option<Number>) -> Option<Number> {
        let count = self.endpoints.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        (0..count)
            .map(|step| first.wrapping_add(step) % count)
            .filter(|number| !tried.has(*number))
            .min_by_key(|number| {
                let calls = |endpoint: &Endpoint| endpoint.calls.load(Ordering::Relaxed);
                let calls = self.endpoints.get(*number).map_or(usize::MAX, calls);
                (self.is_down(*number), Some(*number) == refused, calls)
            })
    }

    /// Whether calls should go elsewhere, where there is an elsewhere.
    pub(super) fn is_down(&self, number: Number) -> bool {
        let endpoint = self.endpoints.get(number);
        endpoint.is_some_and(|endpoint| endpoint.is_down.load(Ordering::Acquire))
    }

    /// Whether nobody has tried to reach it.
    pub(super) fn is_unknown(&self, number: Number) -> bool {
        let endpoint = self.endpoints.get(number);
        endpoint.is_some_and(|endpoint| endpoint.known.lock().condition() == Condition::Unknown)
    }

    /// Whether one is up that was not tried.
    pub(super) fn has_better(&self, tried: Tried) -> bool {
        (0..self.endpoints.len()).any(|number| !tried.has(number) && !self.is_down(number))
    }

    /// Ends when an endpoint is down and one is up that was not tried.
    pub(super) async fn until_better(&self, number: Number, tried: Tried) {
        self.until(|| self.is_down(number) && self.has_better(tried)).await;
    }

    /// Ends when an endpoint is down.
    pub(super) async fn until_down(&self, number: Number) {
        self.until(|| self.is_down(number)).await;
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        loop {
            // Before it is looked at, so that no change is missed.
            let changed = self.changed.notified();
            if holds() {
                return;
            }
            changed.await;
        }
    }

    /// Notes that a connection was made.
    pub(super) fn reached(&self, number: Number) {
        self.note(number, |known| known.connects = Some(Ok(())));
    }

    /// Notes that none could be made, and why.
    pub(super) fn unreachable(&self, number: Number, reason: &str) {
        self.note(number, |known| known.connects = Some(Err(reason.to_owned())));
    }

    /// Notes that a check was answered well.
    pub(super) fn answered(&self, number: Number) {
        self.note(number, |known| {
            known.connects = Some(Ok(()));
            known.answers = Some(Ok(()));
        });
    }

    /// Notes that it was reached, but did not answer a check as it should.
    pub(super) fn failed(&self, number: Number, reason: &str) {
        self.note(number, |known| known.answers = Some(Err(reason.to_owned())));
    }

    fn note(&self, number: Number, change: impl FnOnce(&mut Known)) {
        let Some(endpoint) = self.endpoints.get(number) else {
            return;
        };
        {
            let mut known = endpoint.known.lock();
            let before = known.condition();
            change(&mut known);
            let after = known.condition();
            if before.is_down() == after.is_down() && before != Condition::Unknown {
                return;
            }
            endpoint.is_down.store(after.is_down(), Ordering::Release);
            self.tell(endpoint, &before, &after);
        }
        self.publish_if(|_| {});
        self.changed.notify_waiters();
    }

    fn tell(&self, endpoint: &Endpoint, before: &Condition, after: &Condition) {
        let (backend, name) = (&*self.backend, &*endpoint.name);
        match (before, after) {
            (_, Condition::Down(reason)) => {
                let ejections = &self.metrics.endpoint_ejections;
                ejections.with_label_values(&[backend, name]).inc();
                tracing::warn!(target: "casgate::backend", backend, endpoint = name, %reason, "endpoint is down");
            }
            (Condition::Down(_), Condition::Up) => {
                tracing::info!(target: "casgate::backend", backend, endpoint = name, "endpoint is up again");
            }
            _ => {}
        }
    }

    /// Shows what is known in the metrics, from now on.
    pub(super) fn publish(&self) {
        self.publish_if(|publishes| *publishes = true);
    }

    /// Leaves the metrics to the backend that takes its place.
    pub(super) fn retire(&self) {
        self.publish_if(|publishes| *publishes = false);
    }

    /// Shows what is known, if after the change it may.
    fn publish_if(&self, change: impl FnOnce(&mut bool)) {
        // Held to the end, so that what is seen last is also written last.
        let mut publishes = self.publishes.lock();
        change(&mut publishes);
        if !*publishes {
            return;
        }
        let mut up = None;
        for (name, condition) in self.conditions() {
            let is_up = match condition {
                Condition::Unknown => continue,
                Condition::Up => true,
                Condition::Down(_) => false,
            };
            up = Some(up.unwrap_or(false) || is_up);
            let gauge = self.metrics.endpoint_up.with_label_values(&[&*self.backend, name]);
            gauge.set(is_up.into());
        }
        if let Some(up) = up {
            self.metrics
                .backend_up
                .with_label_values(&[&*self.backend])
                .set(up.into());
        }
    }
}

impl Known {
    fn condition(&self) -> Condition {
        match (&self.connects, &self.answers) {
            (Some(Err(reason)), _) | (_, Some(Err(reason))) => Condition::Down(reason.clone()),
            (None, None) => Condition::Unknown,
            _ => Condition::Up,
        }
    }
}

impl Condition {
    /// Whether something is wrong.
    pub fn is_down(&self) -> bool {
        matches!(self, Condition::Down(_))
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Unknown => f.write_str("not tried yet"),
            Condition::Up => f.write_str("up"),
            Condition::Down(reason) => write!(f, "down: {reason}"),
        }
    }
}

impl Tried {
    /// These and one more. Configurations have no more than there are bits.
    pub(super) fn and(self, number: Number) -> Tried {
        Tried(self.0 | Tried::bit(number))
    }

    fn has(self, number: Number) -> bool {
        self.0 & Tried::bit(number) != 0
    }

    fn bit(number: Number) -> u64 {
        u32::try_from(number)
            .ok()
            .and_then(|number| 1u64.checked_shl(number))
            .unwrap_or(0)
    }
}
