//! Which routes of a service may be for an instance, without a look at all of them.

use std::collections::HashMap;

use crate::policy::instance::{InstanceName, InstancePattern};

/// Places of routes in their list, in order, by what the instance names that they are for begin with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    by_component: HashMap<Box<str>, Vec<usize>>,
    /// Those with a pattern that begins with a wildcard, or is the empty name.
    open: Vec<usize>,
}

impl Places {
    /// Adds a route that is for these instances.
    pub(super) fn add(&mut self, place: usize, only: &[InstancePattern]) {
        for pattern in only {
            let places = match pattern.first() {
                Some(component) => self.by_component.entry(component.into()).or_default(),
                None => &mut self.open,
            };
            if places.last() != Some(&place) {
                places.push(place);
            }
        }
    }

    /// The first place for which `check` finds something, of those that may be for an instance.
    pub(super) fn first<T>(&self, instance: &InstanceName, check: impl Fn(usize) -> Option<T>) -> Option<T> {
        let first = |places: &Vec<usize>| places.iter().find_map(|place| Some((*place, check(*place)?)));
        let named = instance.first().and_then(|component| self.by_component.get(component));
        let found = [named, Some(&self.open)].into_iter().flatten().filter_map(first);
        found.min_by_key(|(place, _)| *place).map(|(_, what)| what)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn the_first_route_that_matches_is_found_as_if_all_were_looked_at() {
        let texts = ["", "a", "b", "a/b", "a/**", "b/*", "*", "*/b", "**"];
        let patterns = texts.map(|text| InstancePattern::parse(text).unwrap());
        let pairs = || {
            patterns
                .iter()
                .flat_map(|one| patterns.iter().map(move |other| (one, other)))
        };
        for ((a, b), (c, d)) in pairs().flat_map(|pair| pairs().map(move |other| (pair, other))) {
            let routes = [[a.clone(), b.clone()], [c.clone(), d.clone()]];
            let mut places = Places::default();
            (0..).zip(&routes).for_each(|(place, only)| places.add(place, only));
            for name in ["", "a", "b", "c", "a/b", "b/b", "c/b", "a/b/c"] {
                let name = InstanceName::parse(name).unwrap();
                let is_for_it = |only: &[InstancePattern; 2]| only.iter().any(|only| only.matches(&name));
                let found = places.first(&name, |place| is_for_it(&routes[place]).then_some(place));
                assert_eq!(found, routes.iter().position(is_for_it), "{name} in {routes:?}");
            }
        }
    }
}
