//! Which backend serves a call.

use crate::policy::Permit;
use crate::policy::method::Service;

/// The number of a backend in its snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackendId(u32);

impl BackendId {
    /// The id of the backend at an index.
    pub fn new(index: usize) -> BackendId {
        BackendId(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// The index of the backend.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a service goes, and how its answers are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The backend.
    pub backend: BackendId,
    /// For `asset`: whether BuildStream 1 is told of artifacts without a look at whether they are complete.
    pub completeness: Completeness,
    /// For `capabilities`: what clients are told of `max_batch_total_size_bytes` where the backend announces 0, in
    /// bytes.
    pub max_batch_total_size: u64,
}

/// What is done before BuildStream 1 hears that an artifact is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Completeness {
    /// Every blob of it is asked for.
    #[default]
    Check,
    /// The backend is believed.
    Trust,
}

/// What fits into one message of 4 MiB, the most that gRPC servers take by default, as long as the blobs of a batch have
/// 256 bytes or more on average: each comes with a digest of about 80 bytes.
pub const MAX_BATCH_TOTAL_SIZE: u64 = 3 << 20;

impl Route {
    /// A route with the usual settings.
    pub fn to(backend: BackendId) -> Route {
        Route {
            backend,
            completeness: Completeness::default(),
            max_batch_total_size: MAX_BATCH_TOTAL_SIZE,
        }
    }
}

/// The route of every service; a service without one is not served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routes([Option<Route>; Service::ROUTED.len()]);

impl Routes {
    /// Every service to one backend.
    pub fn all_to(backend: BackendId) -> Routes {
        Routes([Some(Route::to(backend)); Service::ROUTED.len()])
    }

    /// Gives a service a route, and gives back the one that it had.
    pub fn set(&mut self, service: Service, route: Route) -> Option<Route> {
        self.0.get_mut(service as usize).and_then(|place| place.replace(route))
    }

    /// The route of a service.
    pub fn of(&self, service: Service) -> Option<Route> {
        self.0.get(service as usize).copied().flatten()
    }

    /// The backend for an authorized call; `None` where no route leads to one.
    pub fn pick(&self, permit: &Permit) -> Option<BackendId> {
        self.of(permit.method().service()).map(|route| route.backend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_goes_where_it_was_sent_and_nowhere_else() {
        let mut routes = Routes::default();
        let route = |index| Route::to(BackendId::new(index));
        assert_eq!(routes.set(Service::Asset, route(1)), None);
        assert_eq!(routes.set(Service::Asset, route(2)), Some(route(1)));
        assert_eq!(routes.of(Service::Asset), Some(route(2)));
        assert_eq!(routes.of(Service::Cas), None);
        for service in [Service::Health, Service::ReferenceStorage] {
            assert_eq!(Routes::all_to(BackendId::new(0)).of(service), None);
        }
        for service in Service::ROUTED {
            assert_eq!(Routes::all_to(BackendId::new(3)).of(service), Some(route(3)));
        }
    }
}
