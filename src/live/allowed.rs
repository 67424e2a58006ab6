//! How often each rule allowed a call.

use std::sync::OnceLock;

use prometheus::IntCounter;

use crate::metrics::Metrics;
use crate::policy::rights::Right;
use crate::policy::{Permit, Rule};

/// With more rules than these, all threads count in the same place: such rules are mostly for one caller each, and a counter
/// takes 1 KB.
const MOST_APART: usize = 100;

/// A counter for each rule and right, by each thread for itself. It is made, and is in `/metrics`, from the first call on
/// that needs it: of a hundred thousand rules, those that nobody uses would cost 10 KB and nine lines each.
#[derive(Debug)]
pub(super) struct Allowed {
    /// Of each thread, or the one that all of them share.
    threads: Box<[OfThread]>,
}

/// By the number of the rule.
type OfThread = Box<[OnceLock<Box<OfRule>>]>;
/// By the number of the right.
type OfRule = [OnceLock<IntCounter>; Right::ALL.len()];

impl Allowed {
    /// Counters for so many rules and threads. A rule that had the same name before a reload goes on counting.
    pub(super) fn new(rules: usize, threads: usize) -> Allowed {
        let apart = if rules > MOST_APART { 1 } else { threads };
        let of_thread = |_| (0..rules).map(|_| OnceLock::new()).collect();
        Allowed {
            threads: (0..apart).map(of_thread).collect(),
        }
    }

    /// Counts a call that a thread serves. Labels are looked up for the first one only.
    pub(super) fn count(&self, metrics: &Metrics, thread: usize, permit: &Permit, rules: &[Rule]) {
        let thread = if self.threads.len() == 1 { 0 } else { thread };
        let (id, right) = (permit.rule().index(), permit.right());
        let of_rule = self.threads.get(thread).and_then(|of_thread| of_thread.get(id));
        let (Some(of_rule), Some(rule)) = (of_rule, rules.get(id)) else {
            return;
        };
        if let Some(cell) = of_rule.get_or_init(Box::default).get(right as usize) {
            let make = || metrics.calls(thread).allowed(&rule.name, right);
            cell.get_or_init(make).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::policy::identity::Identity;
    use crate::policy::instance::InstanceName;
    use crate::policy::kindness::Kindness;
    use crate::policy::method::Method;
    use crate::policy::pattern::Pattern;
    use crate::policy::quota::Quota;
    use crate::policy::rights::Rights;
    use crate::policy::{Policy, Scope, Uris};

    /// As many rules, all of which are for everybody.
    fn policy(rules: usize) -> Policy {
        let rule = |number: usize| Rule {
            name: format!("rule-{number}").into(),
            pattern: Pattern::Anonymous,
            allow: Rights::of(Right::Pull),
            deny: Rights::NONE,
            instances: None,
            uris: None,
            rewrite: None,
            kindness: Kindness::default(),
            quota: Quota::default(),
        };
        Policy::new((0..rules).map(rule).collect())
    }

    /// What is shown after calls of these threads before a reload, and of these after it; and whether any of it was counted
    /// by another thread than the first.
    fn counted(rules: usize, before: &[usize], after: &[usize]) -> (Vec<String>, bool) {
        let (metrics, policy) = (Metrics::new(3).unwrap(), policy(rules));
        let standing = policy.standing(&Identity::Anonymous, &[]);
        let scope = Scope::Instance(InstanceName::default());
        let permit = policy.decide(&standing, Method::Read, scope, Uris::default()).unwrap();
        for threads in [before, after] {
            let allowed = Allowed::new(rules, 3);
            for thread in threads {
                allowed.count(&metrics, *thread, &permit, policy.rules());
            }
        }
        let text = metrics.text().unwrap();
        let lines = text.lines().filter(|line| line.starts_with("casgate_decisions_total"));
        let of_rule = |thread| metrics.calls(thread).allowed("rule-0", Right::Pull).get();
        (lines.map(str::to_owned).collect(), of_rule(1) + of_rule(2) > 0)
    }

    #[test]
    fn a_rule_has_one_line_whatever_thread_counts_and_a_reload_loses_nothing() {
        let line = r#"casgate_decisions_total{decision="allow",reason="",right="pull",rule="rule-0"} 5"#;
        let five = vec![line.to_owned()];
        let (few, many) = (MOST_APART, MOST_APART + 1);
        assert_eq!(counted(few, &[0, 2], &[2, 1, 0]), (five.clone(), true));
        assert_eq!(counted(many, &[0, 2], &[2, 1, 0]), (five, false));
    }
}
