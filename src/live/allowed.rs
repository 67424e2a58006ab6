//! How often each rule allowed a call.

use std::sync::OnceLock;

use prometheus::{IntCounter, IntCounterVec};

use crate::policy::rights::Right;
use crate::policy::{Permit, Rule};

/// A counter for each rule and right. It is made, and is in `/metrics`, from the first call on that needs it: of a
/// hundred thousand rules, those that nobody uses would cost 10 KB and nine lines each.
#[derive(Debug)]
pub(super) struct Allowed {
    rules: Box<[[OnceLock<IntCounter>; Right::ALL.len()]]>,
    decisions: IntCounterVec,
}

impl Allowed {
    /// Counters in `decisions` (with the labels `decision`, `rule`, `right` and `reason`) for as many rules.
    pub(super) fn new(rules: usize, decisions: IntCounterVec) -> Allowed {
        Allowed {
            rules: (0..rules).map(|_| Default::default()).collect(),
            decisions,
        }
    }

    /// Counts a call. Labels are looked up for the first one only.
    pub(super) fn count(&self, permit: &Permit, rules: &[Rule]) {
        let (id, right) = (permit.rule().index(), permit.right());
        let cell = self.rules.get(id).and_then(|rights| rights.get(right as usize));
        let (Some(cell), Some(rule)) = (cell, rules.get(id)) else {
            return;
        };
        let make = || {
            self.decisions
                .with_label_values(&["allow", &rule.name, right.name(), ""])
        };
        cell.get_or_init(make).inc();
    }
}
