//! The backends, and the only door to them: [`Backend::send`], which asks for a [`Permit`].

mod address;
mod callers;
mod check;
mod dial;
mod endpoint;
mod health;
mod pool;
mod queue;
mod slots;
mod stream;

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Method as HttpMethod, Request, Version};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::clients::{Ledger, Purse};
use crate::connection::Caller;
use crate::metrics::Metrics;
use crate::policy::Permit;
use crate::policy::identity::Identity;
use crate::policy::method::Method;
use crate::route::{Completeness, Route};
use crate::snapshot::backends::{BackendPlan, MEMORY, Target};
use crate::store::{Behalf, Meters, READ_BYTES, Store};

use callers::Callers;
use dial::Dialer;
use endpoint::Endpoint;
pub use health::Condition;
use health::{Health, Number, Tried};
use pool::Channel;
use slots::Size;
pub(crate) use stream::Body;
pub use stream::{Head, Sent};

/// The window of an answer, in bytes: enough for 1 Gbit/s over 8 ms.
const WINDOW: u32 = 1024 * 1024;
/// The same of the embedded store, which is near, and the least of others.
const STORE_WINDOW: u32 = 256 * 1024;

/// One backend, with the connections of every thread to it.
#[derive(Debug)]
pub struct Backend {
    plan: BackendPlan,
    store: Option<Store>,
    /// Whose the calls to it are.
    callers: Option<Arc<Callers>>,
    /// Bytes of one answer that may arrive before the client takes them.
    window: u32,
    /// At least one.
    endpoints: Vec<Arc<Endpoint>>,
    health: Arc<Health>,
    /// The tasks that find out which endpoints are up.
    checks: Vec<AbortHandle>,
    metrics: Arc<Metrics>,
}

/// A backend that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The embedded store can't be opened.
    #[error("backends.{name}.store: {error}")]
    Store {
        /// Name of the backend.
        name: String,
        /// What the store says.
        error: crate::store::OpenError,
    },
    /// Its endpoint does not make a valid `:authority`.
    #[error("backends.{name}: `{authority}` is no host")]
    Authority {
        /// Name of the backend.
        name: String,
        /// What was given.
        authority: String,
    },
}

/// For whom a stream is opened: streams are shared out fairly among those who call, however many connections they have.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    worker: usize,
    party: u64,
    purse: &'a Arc<Purse>,
    /// What an embedded store is told of it.
    behalf: Behalf,
}

/// Why a call did not reach a backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// A call that is on its way: the permit that it travels with, and both halves of its stream.
#[derive(Debug)]
pub struct Outbound {
    /// What was decided.
    pub permit: Permit,
    /// Both halves of it.
    pub stream: Sent,
    /// Where it goes.
    pub place: Place,
}

/// The endpoint that a call went to. One that did not take it is asked again only where there is no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(Number);

impl<'a> Client<'a> {
    /// What is kept for it is of this memory.
    pub fn purse(self) -> &'a Arc<Purse> {
        self.purse
    }

    /// The client at the other end of this connection.
    pub fn of(caller: &'a Arc<Caller>) -> Client<'a> {
        Client {
            worker: caller.worker,
            party: caller.member.party().number(),
            purse: &caller.purse,
            behalf: Behalf {
                caller: lasting_number(caller),
                trusts_assets: false,
            },
        }
    }

    /// The same for a call that takes this route.
    #[must_use]
    pub fn by(mut self, route: &Route) -> Self {
        self.behalf.trusts_assets = route.completeness == Completeness::Trust;
        self
    }
}

impl Backend {
    /// Prepares a backend for so many threads. Connections are made when calls need them; the embedded store is opened
    /// here, unless one of `others` has it open, and served on the first of the runtimes. Checks of endpoints run on the
    /// second.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(
        plan: BackendPlan,
        threads: usize,
        (metrics, ledger): (Arc<Metrics>, &Arc<Ledger>),
        (serve_on, check_on): (Handle, &Handle),
        others: impl Iterator<Item = &Arc<Backend>>,
    ) -> Result<Backend, OpenError> {
        let health = Arc::new(Health::new(&plan, Arc::clone(&metrics)));
        let opened = others.filter_map(|other| other.shared_store(&plan)).next();
        let store = match (&*plan.endpoints, opened) {
            ([Target::Store(_)], Some(store)) => Some(store),
            ([Target::Store(url)], None) => match Store::open(url).await {
                Ok(store) => Some(store),
                Err(error) => {
                    let name = plan.name.to_string();
                    return Err(OpenError::Store { name, error });
                }
            },
            _ => None,
        };
        let callers = store.as_ref().map(|_| Callers::new(threads, ledger.account().purse()));
        let window = match store {
            Some(_) => STORE_WINDOW,
            // Who takes its answers slowly has hundreds of them in its share, also of a small one.
            None => u32::try_from(ledger.limit() / 256)
                .unwrap_or(WINDOW)
                .clamp(STORE_WINDOW, WINDOW),
        };
        let mut endpoints = Vec::new();
        for (number, target) in plan.endpoints.iter().enumerate() {
            if store.is_some() {
                health.reached(number);
            }
            let dialer = Arc::new(Dialer::new(
                target.clone(),
                store.clone().zip(callers.clone()),
                serve_on.clone(),
                window,
            ));
            let endpoint = Endpoint::new(&plan, (number, target), dialer, threads, &health, &metrics)?;
            endpoints.push(Arc::new(endpoint));
        }
        let mut backend = Backend {
            plan,
            store,
            callers,
            window,
            endpoints,
            health,
            checks: Vec::new(),
            metrics,
        };
        backend.watch(check_on);
        Ok(backend)
    }

    /// Has the endpoints checked. A single one that is not is found to be back by the calls that need it.
    fn watch(&mut self, on: &Handle) {
        if self.plan.health.is_none() && self.endpoints.len() == 1 {
            return;
        }
        let watch = |endpoint: &Arc<Endpoint>| {
            let watch = check::watch(
                Arc::clone(endpoint),
                Arc::clone(&self.health),
                self.plan.health.clone(),
                Arc::clone(&self.plan.name),
                Arc::clone(&self.metrics),
            );
            on.spawn(watch).abort_handle()
        };
        self.checks = self.endpoints.iter().map(watch).collect();
    }

    /// The open store, if it is that of a plan. One quota can be kept only where there is one account.
    fn shared_store(&self, plan: &BackendPlan) -> Option<Store> {
        let is_memory = match (&*self.plan.endpoints, &*plan.endpoints) {
            ([Target::Store(mine)], [Target::Store(other)]) if mine == other => mine == MEMORY,
            _ => return None,
        };
        let store = self
            .store
            .as_ref()
            .filter(|_| !is_memory || self.plan.name == plan.name);
        store.cloned()
    }

    /// From now on an embedded store keeps so many bytes, and checks what it reads or not.
    pub fn set_up_store(&self, quota: Option<u64>, verify_reads: bool) {
        if let Some(store) = &self.store {
            store.set_verify_reads(verify_reads);
            let backend = [self.name()];
            store.set_quota(
                quota,
                Meters {
                    bytes: self.metrics.store_bytes.with_label_values(&backend),
                    quota: self.metrics.store_quota.with_label_values(&backend),
                    evicted: self.metrics.store_evicted.with_label_values(&backend),
                    evicted_bytes: self.metrics.store_evicted_bytes.with_label_values(&backend),
                    damaged: self.metrics.store_damaged.with_label_values(&backend),
                },
            );
        }
    }

    /// Bytes of one answer that are kept here before the client takes them, also by the embedded store.
    pub fn window(&self) -> u64 {
        let within = if self.store.is_some() { READ_BYTES } else { 0 };
        u64::from(self.window) + u64::from(within)
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Equal for equal configurations.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.plan.fingerprint
    }

    /// Whether somebody finds out, without a call, whether its endpoints are up.
    pub fn is_checked(&self) -> bool {
        self.plan.health.is_some()
    }

    /// Its endpoints, as the configuration names them, with what is known of them.
    pub fn conditions(&self) -> impl Iterator<Item = (&str, Condition)> {
        self.health.conditions()
    }

    /// Shows the state of its endpoints in the metrics, from now on.
    pub fn publish(&self) {
        self.health.publish();
    }

    /// Ends what it does without calls, when another has taken its place. Calls that are under way go on.
    pub fn retire(&self) {
        self.checks.iter().for_each(AbortHandle::abort);
        self.health.retire();
    }

    /// Opens a stream for an authorized call of this client. `end_of_stream` when there will be no body. Where the backend
    /// allows no more streams, the call waits for its turn. It goes to another endpoint than `refused`, where there is one.
    ///
    /// # Errors
    /// The permit back, and why no stream could be had.
    pub async fn send(
        &self,
        permit: Permit,
        client: Client<'_>,
        headers: HeaderMap,
        end_of_stream: bool,
        refused: Option<Place>,
    ) -> Result<Outbound, (Permit, Unreachable)> {
        let mut request = Request::new(());
        *request.method_mut() = HttpMethod::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = headers;
        if self.store.is_some() {
            client.behalf.write(request.headers_mut());
        }
        let size = match permit.method() {
            Method::Write => Size::Bulk,
            _ => Size::Short,
        };
        let callers = self.callers.as_ref();
        let ticket = callers.and_then(|callers| callers.note(client.worker, client.purse, request.headers_mut()));
        // A connection may turn out to be closed only when it is used: one more try for each that there can be.
        for _ in 0..=self.plan.max_connections * self.endpoints.len() {
            let (endpoint, mut channel) = match self.channel(client, size, refused).await {
                Ok(found) => found,
                Err(unreachable) => return Err((permit, unreachable)),
            };
            match channel.ready().await {
                Ok(()) => {}
                Err(_) => {
                    channel.discard();
                    continue;
                }
            }
            *request.uri_mut() = endpoint.uri(client.worker, permit.method());
            let place = Place(endpoint.number);
            return match channel.send(request, end_of_stream) {
                Ok(mut stream) => {
                    stream.keep(ticket);
                    Ok(Outbound { permit, stream, place })
                }
                Err(error) => Err((permit, Unreachable(crate::http2::plain(&error)))),
            };
        }
        Err((permit, Unreachable("its connections keep closing".to_owned())))
    }

    /// A connection to the endpoint that is best for the next call.
    async fn channel(
        &self,
        client: Client<'_>,
        size: Size,
        refused: Option<Place>,
    ) -> Result<(&Endpoint, Channel), Unreachable> {
        if let [only] = &*self.endpoints {
            return Ok((only, connection(only, client, size).await?));
        }
        let mut tried = Tried::default();
        let mut last = Unreachable("it has no endpoint".to_owned());
        while let Some(number) = self.health.choose(tried, refused.map(|place| place.0)) {
            let Some(endpoint) = self.endpoints.get(number) else {
                break;
            };
            tried = tried.and(number);
            tokio::select! {
                biased;
                channel = connection(endpoint, client, size) => match channel {
                    Ok(channel) => return Ok((endpoint, channel)),
                    Err(unreachable) => last = unreachable,
                },
                // Nobody waits for one that is down while another is up.
                () = self.health.until_better(number, tried) => {}
            }
            if !self.health.has_better(tried) {
                break;
            }
        }
        Err(last)
    }

    /// Counts a call that is sent again.
    pub fn count_resent(&self) {
        self.metrics.backend_resent.with_label_values(&[self.name()]).inc();
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.checks.iter().for_each(AbortHandle::abort);
    }
}

/// A number that a caller keeps when it connects anew: of the key of its certificate, or of its address, of which an IPv6 host
/// has 2^64.
fn lasting_number(caller: &Caller) -> u128 {
    match &caller.peer.identity {
        Identity::Certificate(certificate) => {
            let hash = certificate.spki_sha256;
            u128::from_be_bytes(std::array::from_fn(|index| hash[index]))
        }
        Identity::Anonymous => match caller.peer.address.ip().to_canonical() {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits() >> 64 << 64,
        },
    }
}

/// A connection to this endpoint. Only who has to wait for it needs the room that waiting takes.
async fn connection(endpoint: &Endpoint, client: Client<'_>, size: Size) -> Result<Channel, Unreachable> {
    let pool = endpoint.pool(client.worker);
    let pool = pool.ok_or_else(|| Unreachable("no such thread".to_owned()))?;
    match pool.channel_now(client.party, size) {
        Some(channel) => Ok(channel),
        None => Box::pin(pool.channel(client.party, size)).await,
    }
}
