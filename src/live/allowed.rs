//! How often each rule allowed a call.

use std::sync::OnceLock;

use prometheus::IntCounter;

use crate::metrics::Calls;
use crate::policy::rights::Right;
use crate::policy::{Permit, Rule};

/// A counter for each rule and right, in each thread. It is made, and is in `/metrics`, from the first call on that needs it:
/// of a hundred thousand rules, those that nobody uses would cost 10 KB and nine lines each.
#[derive(Debug)]
pub(super) struct Allowed {
    threads: Box<[OnceLock<OfThread>]>,
}

/// By the number of the rule.
type OfThread = Box<[OnceLock<Box<OfRule>>]>;
/// By the number of the right.
type OfRule = [OnceLock<IntCounter>; Right::ALL.len()];

impl Allowed {
    /// Counters for so many threads.
    pub(super) fn new(threads: usize) -> Allowed {
        Allowed {
            threads: (0..threads).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Counts a call of a thread among its `calls`. Labels are looked up for the first one only.
    pub(super) fn count(&self, (thread, calls): (usize, &Calls), permit: &Permit, rules: &[Rule]) {
        let (id, right) = (permit.rule().index(), permit.right());
        let (Some(of_thread), Some(rule)) = (self.threads.get(thread), rules.get(id)) else {
            return;
        };
        let of_thread = of_thread.get_or_init(|| rules.iter().map(|_| OnceLock::new()).collect());
        let of_rule = of_thread.get(id).map(|of_rule| of_rule.get_or_init(Box::default));
        if let Some(cell) = of_rule.and_then(|of_rule| of_rule.get(right as usize)) {
            cell.get_or_init(|| calls.allowed(&rule.name, right)).inc();
        }
    }
}
