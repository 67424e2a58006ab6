//! Instances under other names that are not as well kept apart as they look.

use crate::policy::instance::InstanceName;
use crate::policy::method::{InstanceIn, Method};
use crate::policy::rights::Right;
use crate::policy::{Policy, Rule, Scope};

use super::warnings::includes;

/// Rights of a rule whose methods do not tell the instance: of `instances` they do not reach such a method, and under
/// `instance-rewrite` no rule does.
pub(super) fn unknown_instances(policy: &Policy, rule: &Rule) -> Option<String> {
    let key = match (&rule.rewrite, &rule.instances) {
        (Some(_), _) => "instance-rewrite",
        (None, Some(_)) => "instances",
        (None, None) => return None,
    };
    let is_whole = |right| {
        let mut rules = policy.rules().iter();
        rules.any(|other| {
            other.instances.is_none() && other.allow.contains(right) && includes(&other.pattern, &rule.pattern)
        })
    };
    let is_limited = |right: &Right| rule.rewrite.is_some() || !is_whole(*right);
    let limited: Vec<Right> = rule.allow.iter().filter(is_limited).collect();
    let is_lost = |method: &Method| {
        let mut rights = limited.iter();
        method.instance_in() == InstanceIn::Unknown && rights.any(|right| method.rights().contains(*right))
    };
    let lost: Vec<_> = Method::ALL
        .iter()
        .filter(|method| is_lost(method))
        .map(|method| method.name())
        .collect();
    (!lost.is_empty()).then(|| {
        format!(
            "has `{key}`, so it does not allow {}, which do not tell their instance",
            lost.join(", ")
        )
    })
}

/// A rule that lets other callers into an instance by the name that it has behind the gate.
pub(super) fn way_around(policy: &Policy, rule: &Rule) -> Option<String> {
    let rewrite = rule.rewrite.as_ref()?;
    let there = rewrite.apply(None, &InstanceName::default());
    let reaches = |other: &&Rule| {
        other.allows_on(&Scope::Instance(there.clone()))
            && other.rewritten(&there).is_none()
            && !other.allow.is_empty()
            && !includes(&rule.pattern, &other.pattern)
    };
    let other = policy.rules().iter().find(reaches)?;
    Some(format!(
        "keeps its callers in the instance `{there}`, and rule \"{}\" gives {} there to callers who ask for it by this name: limit its `instances`, where they should not",
        other.name, other.allow
    ))
}
