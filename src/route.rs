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

/// The backend of every service; a service without one is not served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routes([Option<BackendId>; Service::ROUTED.len()]);

impl Routes {
    /// Every service to one backend.
    pub fn all_to(backend: BackendId) -> Routes {
        Routes([Some(backend); Service::ROUTED.len()])
    }

    /// Sends a service to a backend, and gives the one that had it.
    pub fn set(&mut self, service: Service, backend: BackendId) -> Option<BackendId> {
        self.0
            .get_mut(service as usize)
            .and_then(|place| place.replace(backend))
    }

    /// The backend of a service.
    pub fn of(&self, service: Service) -> Option<BackendId> {
        self.0.get(service as usize).copied().flatten()
    }

    /// The backend for an authorized call; `None` where no route leads to one.
    pub fn pick(&self, permit: &Permit) -> Option<BackendId> {
        self.of(permit.method().service())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_goes_where_it_was_sent_and_nowhere_else() {
        let mut routes = Routes::default();
        assert_eq!(routes.set(Service::Asset, BackendId::new(1)), None);
        assert_eq!(routes.set(Service::Asset, BackendId::new(2)), Some(BackendId::new(1)));
        assert_eq!(routes.of(Service::Asset), Some(BackendId::new(2)));
        assert_eq!(routes.of(Service::Cas), None);
        assert_eq!(Routes::all_to(BackendId::new(0)).of(Service::Health), None);
        for service in Service::ROUTED {
            assert_eq!(Routes::all_to(BackendId::new(3)).of(service), Some(BackendId::new(3)));
        }
    }
}
