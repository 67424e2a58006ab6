//! One endpoint of a backend, with the connections of every thread to it.

use std::sync::Arc;

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

use super::OpenError;
use super::dial::Dialer;
use super::health::{Health, Number};
use super::pool::Pool;
use crate::metrics::Metrics;
use crate::policy::method::Method;
use crate::snapshot::backends::{BackendPlan, Target};

/// One endpoint of a backend.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) number: Number,
    pub(super) dialer: Arc<Dialer>,
    /// What a request for a method asks for, by its number.
    uris: Vec<Uri>,
    pools: Vec<Pool>,
}

impl Endpoint {
    /// Prepares it for so many threads.
    pub(super) fn new(
        plan: &BackendPlan,
        (number, target): (Number, &Target),
        dialer: Dialer,
        threads: usize,
        health: &Arc<Health>,
        metrics: &Metrics,
    ) -> Result<Endpoint, OpenError> {
        let authority = target.authority();
        let authority = Authority::try_from(authority.as_str()).map_err(|_| OpenError::Authority {
            name: plan.name.to_string(),
            authority,
        })?;
        let scheme = match target {
            Target::Tls(..) => Scheme::HTTPS,
            Target::Unix(_) | Target::Tcp(_) | Target::Store(_) => Scheme::HTTP,
        };
        let uri = |method: &Method| uri(scheme.clone(), authority.clone(), method.path());
        let dialer = Arc::new(dialer);
        let pool = |_| Pool::new(plan, number, Arc::clone(&dialer), Arc::clone(health), metrics);
        Ok(Endpoint {
            number,
            uris: Method::ALL.iter().map(uri).collect(),
            pools: (0..threads).map(pool).collect(),
            dialer,
        })
    }

    /// The connections of one thread.
    pub(super) fn pool(&self, worker: usize) -> Option<&Pool> {
        self.pools.get(worker)
    }

    /// Has calls of every thread wait for a connection, where the last attempt to make one failed.
    pub(super) fn forgive(&self) {
        self.pools.iter().for_each(Pool::forgive);
    }

    /// What a request for this method asks for.
    pub(super) fn uri(&self, method: Method) -> Uri {
        self.uris.get(method as usize).cloned().unwrap_or_default()
    }
}

fn uri(scheme: Scheme, authority: Authority, path: &'static str) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = Some(authority);
    parts.path_and_query = Some(PathAndQuery::from_static(path));
    Uri::from_parts(parts).unwrap_or_default()
}
