//! One endpoint of a backend, with the connections of every thread to it.

use std::sync::{Arc, LazyLock};

use http::Uri;
use http::uri::{Authority, Parts, PathAndQuery, Scheme};

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
    scheme: Scheme,
    threads: Vec<OfThread>,
}

/// What one thread has of an endpoint.
#[derive(Debug)]
struct OfThread {
    pool: Pool,
    /// Its own copy: each call counts that it uses it, and threads would wait for each other.
    authority: Authority,
}

/// By the number of a method.
static PATHS: LazyLock<Vec<PathAndQuery>> = LazyLock::new(|| {
    let paths = Method::ALL.iter().map(|method| method.path());
    paths.map(PathAndQuery::from_static).collect()
});

impl Endpoint {
    /// Prepares it for so many threads.
    pub(super) fn new(
        plan: &BackendPlan,
        (number, target): (Number, &Target),
        dialer: Arc<Dialer>,
        threads: usize,
        health: &Arc<Health>,
        metrics: &Metrics,
    ) -> Result<Endpoint, OpenError> {
        let of_thread = |_| {
            let authority = target.authority();
            let authority = Authority::try_from(authority.as_str()).map_err(|_| OpenError::Authority {
                name: plan.name.to_string(),
                authority,
            })?;
            let pool = Pool::new(plan, number, Arc::clone(&dialer), Arc::clone(health), metrics);
            Ok::<_, OpenError>(OfThread { pool, authority })
        };
        Ok(Endpoint {
            number,
            scheme: match target {
                Target::Tls(..) => Scheme::HTTPS,
                Target::Unix(_) | Target::Tcp(_) | Target::Store(_) => Scheme::HTTP,
            },
            threads: (0..threads).map(of_thread).collect::<Result<_, _>>()?,
            dialer,
        })
    }

    /// The connections of one thread.
    pub(super) fn pool(&self, worker: usize) -> Option<&Pool> {
        self.threads.get(worker).map(|of_thread| &of_thread.pool)
    }

    /// Has calls of every thread wait for a connection, where the last attempt to make one failed.
    pub(super) fn forgive(&self) {
        self.threads.iter().for_each(|of_thread| of_thread.pool.forgive());
    }

    /// What a request of a thread for this method asks for.
    pub(super) fn uri(&self, worker: usize, method: Method) -> Uri {
        let mut parts = Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = self.threads.get(worker).map(|of_thread| of_thread.authority.clone());
        parts.path_and_query = PATHS.get(method as usize).cloned();
        Uri::from_parts(parts).unwrap_or_default()
    }
}
