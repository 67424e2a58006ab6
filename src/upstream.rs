//! The backends, and the only door to them: [`Backend::send`], which asks for a [`Permit`].

mod dial;
mod pool;
mod queue;
mod slots;
mod stream;

use std::sync::Arc;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method as HttpMethod, Request, Uri, Version};
use tokio::runtime::Handle;

use crate::connection::Caller;
use crate::metrics::Metrics;
use crate::policy::Permit;
use crate::snapshot::backends::{BackendPlan, MEMORY, Target};
use crate::store::{Meters, Store};

use dial::Dialer;
use pool::Pool;
pub use stream::{Head, Sent};

/// One backend, with the connections of every thread to it.
#[derive(Debug)]
pub struct Backend {
    plan: BackendPlan,
    authority: Authority,
    store: Option<Store>,
    pools: Vec<Pool>,
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
    #[error("backends.{name}.endpoint: `{authority}` is no host")]
    Authority {
        /// Name of the backend.
        name: String,
        /// What was given.
        authority: String,
    },
}

/// For whom a stream is opened: streams are shared out fairly among those who call, however many connections they have.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    worker: usize,
    party: u64,
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
}

impl Client {
    /// The client at the other end of this connection.
    pub fn of(caller: &Arc<Caller>) -> Client {
        Client {
            worker: caller.worker,
            party: caller.member.party().number(),
        }
    }
}

impl Backend {
    /// Prepares a backend for so many threads. Connections are made when calls need them; the embedded store is opened
    /// here, unless one of `others` has it open, and served on the runtime of `serve_on`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(
        plan: BackendPlan,
        threads: usize,
        metrics: Arc<Metrics>,
        serve_on: Handle,
        others: impl Iterator<Item = &Arc<Backend>>,
    ) -> Result<Backend, OpenError> {
        let name = plan.name.to_string();
        let opened = others.filter_map(|other| other.shared_store(&plan)).next();
        let store = match (&plan.target, opened) {
            (Target::Store(_), Some(store)) => Some(store),
            (Target::Store(url), None) => match Store::open(url).await {
                Ok(store) => Some(store),
                Err(error) => return Err(OpenError::Store { name, error }),
            },
            (Target::Unix(_) | Target::Tcp(_) | Target::Tls(..), _) => None,
        };
        let authority = plan.target.authority();
        let authority =
            Authority::try_from(authority.as_str()).map_err(|_| OpenError::Authority { name, authority })?;
        let dialer = Arc::new(Dialer::new(plan.target.clone(), store.clone(), serve_on));
        let pools = (0..threads)
            .map(|_| Pool::new(&plan, Arc::clone(&dialer), &metrics))
            .collect();
        Ok(Backend {
            plan,
            authority,
            store,
            pools,
            metrics,
        })
    }

    /// The open store, if it is that of a plan. One quota can be kept only where there is one account.
    fn shared_store(&self, plan: &BackendPlan) -> Option<Store> {
        match (&self.plan.target, &plan.target) {
            (Target::Store(mine), Target::Store(other)) if mine == other => {}
            _ => return None,
        }
        let is_memory = matches!(&plan.target, Target::Store(url) if url == MEMORY);
        let store = self
            .store
            .as_ref()
            .filter(|_| !is_memory || self.plan.name == plan.name);
        store.cloned()
    }

    /// From now on an embedded store keeps so many bytes.
    pub fn set_quota(&self, quota: Option<u64>) {
        if let Some(store) = &self.store {
            let backend = [self.name()];
            store.set_quota(
                quota,
                Meters {
                    bytes: self.metrics.store_bytes.with_label_values(&backend),
                    quota: self.metrics.store_quota.with_label_values(&backend),
                    evicted: self.metrics.store_evicted.with_label_values(&backend),
                    evicted_bytes: self.metrics.store_evicted_bytes.with_label_values(&backend),
                },
            );
        }
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Equal for equal configurations.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.plan.fingerprint
    }

    /// Opens a stream for an authorized call of this client. `end_of_stream` when there will be no body. Where the backend
    /// allows no more streams, the call waits for its turn.
    ///
    /// # Errors
    /// The permit back, and why no stream could be had.
    pub async fn send(
        &self,
        permit: Permit,
        client: Client,
        headers: HeaderMap,
        end_of_stream: bool,
    ) -> Result<Outbound, (Permit, Unreachable)> {
        // A connection may turn out to be closed only when it is used: one more try for each that there can be.
        let Some(pool) = self.pools.get(client.worker) else {
            return Err((permit, Unreachable("no such thread".to_owned())));
        };
        let mut request = Request::new(());
        *request.method_mut() = HttpMethod::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = self.uri(&permit);
        *request.headers_mut() = headers;
        for _ in 0..=self.plan.max_connections {
            let mut channel = match pool.channel(client.party).await {
                Ok(channel) => channel,
                Err(unreachable) => return Err((permit, unreachable)),
            };
            match channel.ready().await {
                Ok(()) => {}
                Err(_) => {
                    channel.discard();
                    continue;
                }
            }
            return match channel.send(request, end_of_stream) {
                Ok(stream) => Ok(Outbound { permit, stream }),
                Err(error) => Err((permit, Unreachable(crate::http2::plain(&error)))),
            };
        }
        Err((permit, Unreachable("its connections keep closing".to_owned())))
    }

    /// Counts a call that is sent again.
    pub fn count_resent(&self) {
        self.metrics.backend_resent.with_label_values(&[self.name()]).inc();
    }

    fn uri(&self, permit: &Permit) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(match self.plan.target {
            Target::Tls(..) => Scheme::HTTPS,
            Target::Unix(_) | Target::Tcp(_) | Target::Store(_) => Scheme::HTTP,
        });
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(PathAndQuery::from_static(permit.method().path()));
        Uri::from_parts(parts).unwrap_or_default()
    }
}
