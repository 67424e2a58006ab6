//! Which backend serves a call, and what the instance is called there.

mod places;

use places::Places;

use crate::policy::instance::{InstanceName, InstancePattern};
use crate::policy::method::Service;
use crate::policy::rewrite::InstanceRewrite;

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

/// Which instances a route is for, and what they are called at its backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instances {
    /// By the names that the rules leave them; `None` for all that no other route is for.
    pub only: Option<Vec<InstancePattern>>,
    /// Their names at the backend, where they are others.
    pub rewrite: Option<InstanceRewrite>,
}

/// The routes of every service; a service without one is not served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes([ServiceRoutes; Service::ROUTED.len()]);

/// The routes of one service, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ServiceRoutes {
    all: Vec<(Instances, Route)>,
    /// Where those are that are for some instances only.
    places: Places,
    /// Where the one is that is for all others.
    for_all: Option<usize>,
}

/// Where a call goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The route.
    pub route: Route,
    /// What the route calls the instance, where that is another name than the rules leave it.
    pub rewritten: Option<InstanceName>,
}

impl Routes {
    /// Every service to one backend.
    pub fn all_to(backend: BackendId) -> Routes {
        let everything = || ServiceRoutes {
            all: vec![(Instances::default(), Route::to(backend))],
            for_all: Some(0),
            places: Places::default(),
        };
        Routes(std::array::from_fn(|_| everything()))
    }

    /// Adds a route of a service; whether it had one for the same instances.
    pub fn add(&mut self, service: Service, instances: Instances, route: Route) -> bool {
        let Some(routes) = self.0.get_mut(service as usize) else {
            return false;
        };
        let is_there = routes.all.iter().any(|(other, _)| other.only == instances.only);
        let place = routes.all.len();
        match &instances.only {
            Some(only) => routes.places.add(place, only),
            None => _ = routes.for_all.get_or_insert(place),
        }
        routes.all.push((instances, route));
        is_there
    }

    /// The routes of a service, in the order of the file. Capabilities without one has those of CAS.
    pub fn of(&self, service: Service) -> &[(Instances, Route)] {
        self.routes(service).map_or(&[], |routes| &routes.all)
    }

    /// The way of a call of a service on an instance, by the name that the rules leave it; `None` for a call that does not
    /// tell it. The first route that is for the instance, else the one that is for all.
    pub fn pick(&self, service: Service, instance: Option<&InstanceName>) -> Option<Way> {
        let ServiceRoutes { all, places, for_all } = self.routes(service)?;
        let for_it = instance.and_then(|name| {
            places.first(name, |place| {
                let (instances, route) = all.get(place)?;
                let pattern = instances.only.iter().flatten().find(|only| only.matches(name))?;
                Some((instances, route, Some(pattern)))
            })
        });
        let (instances, route, pattern) = for_it.or_else(|| {
            let (instances, route) = all.get((*for_all)?)?;
            Some((instances, route, None))
        })?;
        let rewritten = match (&instances.rewrite, instance) {
            (Some(rewrite), Some(name)) => Some(rewrite.apply(pattern, name)),
            _ => None,
        };
        Some(Way {
            route: *route,
            rewritten: rewritten.filter(|name| Some(name) != instance),
        })
    }

    fn routes(&self, service: Service) -> Option<&ServiceRoutes> {
        match service {
            Service::Capabilities if self.0.get(service as usize)?.all.is_empty() => self.routes(Service::Cas),
            _ => self.0.get(service as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn to(index: usize) -> Route {
        Route::to(BackendId::new(index))
    }

    fn only(pattern: &str, rewrite: Option<&str>) -> Instances {
        Instances {
            only: Some(vec![InstancePattern::parse(pattern).unwrap()]),
            rewrite: rewrite.map(|text| InstanceRewrite::parse(text).unwrap()),
        }
    }

    #[test]
    fn a_service_goes_where_it_was_sent_and_nowhere_else() {
        let mut routes = Routes::default();
        assert!(!routes.add(Service::Asset, Instances::default(), to(1)));
        assert!(routes.add(Service::Asset, Instances::default(), to(2)));
        assert_eq!(routes.pick(Service::Asset, None).map(|way| way.route), Some(to(1)));
        assert_eq!(routes.pick(Service::Cas, None), None);
        for service in [Service::Health, Service::ReferenceStorage] {
            assert_eq!(Routes::all_to(BackendId::new(0)).pick(service, None), None);
        }
        for service in Service::ROUTED {
            let way = Routes::all_to(BackendId::new(3)).pick(service, None);
            assert_eq!(way.map(|way| way.route), Some(to(3)));
        }
    }

    #[test]
    fn an_instance_goes_to_its_own_route_whatever_comes_first() {
        let mut routes = Routes::default();
        routes.add(Service::Cas, Instances::default(), to(0));
        assert!(!routes.add(Service::Cas, only("team-a/**", Some("**")), to(1)));
        assert!(!routes.add(Service::Cas, only("team-a/x", Some("")), to(2)));
        let name = |text| InstanceName::parse(text).unwrap();
        let pick = |service, text| {
            let way = routes.pick(service, Some(&name(text)))?;
            Some((way.route.backend.index(), way.rewritten.map(|name| name.to_string())))
        };
        // Capabilities go where the blobs are.
        for service in [Service::Cas, Service::Capabilities] {
            assert_eq!(pick(service, "team-a"), Some((1, Some(String::new()))));
            assert_eq!(pick(service, "team-a/x"), Some((1, Some("x".into()))));
            assert_eq!(pick(service, "team-ab"), Some((0, None)));
        }
        assert_eq!(pick(Service::Asset, "team-a"), None);
        assert_eq!(routes.pick(Service::Cas, None).map(|way| way.route), Some(to(0)));
    }
}
