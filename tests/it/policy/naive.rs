//! The policy again, as its documentation tells it and as simply as it can be: strings, loops, no types of the gate.

use casgate::policy::identity::{Certificate, Identity};
use casgate::policy::instance::{InstanceName, InstancePattern};
use casgate::policy::method::{InstanceIn, Method};
use casgate::policy::pattern::{CertificatePattern, Pattern};
use casgate::policy::rights::{Right, Rights};
use casgate::policy::spiffe::UriPattern;
use casgate::policy::{Policy, Rule, Scope, Uris};
use casgate::status::Rejection;
use proptest::collection::vec;
use proptest::prelude::*;

use super::Outcome;
use super::random::{any_call, any_caller, any_rule};

/// How many calls are asked of each random policy.
const CALLS: usize = 64;
/// 64 calls of 2000 policies.
const POLICIES: u32 = 2000;

#[derive(Clone, Debug)]
pub(super) struct PlainRule {
    /// `None` for anonymous callers.
    pub(super) certificate: Option<PlainPattern>,
    pub(super) allow: Vec<&'static str>,
    pub(super) instances: Option<Vec<&'static str>>,
}

/// Nothing at all stands for any certificate.
#[derive(Clone, Debug)]
pub(super) struct PlainPattern {
    pub(super) name: Option<&'static str>,
    pub(super) organization: Option<&'static str>,
    pub(super) uri: Option<&'static str>,
    pub(super) dns: Option<&'static str>,
}

/// `None` for an anonymous caller.
pub(super) type PlainCaller = Option<PlainCertificate>;

#[derive(Clone, Debug)]
pub(super) struct PlainCertificate {
    pub(super) names: Vec<&'static str>,
    pub(super) organizations: Vec<&'static str>,
    pub(super) uris: Vec<&'static str>,
    pub(super) dns: Vec<&'static str>,
}

#[derive(Clone, Debug)]
pub(super) struct PlainCall {
    pub(super) method: Method,
    pub(super) instance: String,
    pub(super) uris: Uris,
}

/// The right that a naive reading of the method table asks for: any one of them.
fn needed(method: Method) -> Vec<&'static str> {
    Right::ALL
        .into_iter()
        .filter(|right| method.rights().contains(*right))
        .map(Right::name)
        .collect()
}

fn reaches(pattern: &[&str], name: &[&str]) -> bool {
    match (pattern, name) {
        ([], []) | (["**"], _) => true,
        (["*", pattern @ ..], [_, name @ ..]) => reaches(pattern, name),
        ([one, pattern @ ..], [other, name @ ..]) => one == other && reaches(pattern, name),
        _ => false,
    }
}

fn components(text: &str) -> Vec<&str> {
    if text.is_empty() {
        Vec::new()
    } else {
        text.split('/').collect()
    }
}

fn is_about(rule: &PlainRule, caller: &PlainCaller) -> bool {
    let (pattern, caller) = match (&rule.certificate, caller) {
        (None, None) => return true,
        (Some(pattern), Some(caller)) => (pattern, caller),
        _ => return false,
    };
    // Two values where one is asked for are an ambiguity, also when they are equal.
    if pattern.name.is_some_and(|name| caller.names != [name]) {
        return false;
    }
    if pattern
        .organization
        .is_some_and(|organization| caller.organizations != [organization])
    {
        return false;
    }
    if let Some(uri) = pattern.uri {
        let others = caller
            .uris
            .iter()
            .filter(|other| other.starts_with("spiffe://") && **other != uri)
            .count();
        if !caller.uris.contains(&uri) || uri.starts_with("spiffe://") && others > 0 {
            return false;
        }
    }
    pattern.dns.is_none_or(|dns| {
        caller
            .dns
            .iter()
            .any(|other| other.to_lowercase() == dns.to_lowercase())
    })
}

fn gives(rule: &PlainRule, right: &str) -> bool {
    let is_push = ["cas-push", "action-push", "asset-push"].contains(&right);
    rule.allow.contains(&right) || is_push && rule.allow.contains(&"push")
}

/// One of these rights on the place of the call.
fn grant(rules: &[PlainRule], caller: &PlainCaller, needed: &[&str], call: &PlainCall) -> Outcome {
    let is_unknown = call.method.instance_in() == InstanceIn::Unknown;
    let mine: Vec<(usize, &PlainRule)> = rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| is_about(rule, caller))
        .collect();
    let deny = |reason: &str, right: &str| Outcome::Deny {
        reason: reason.to_owned(),
        right: right.to_owned(),
    };
    if mine.is_empty() {
        return deny("no-rule", needed[0]);
    }
    for (number, rule) in &mine {
        let here = match &rule.instances {
            None => true,
            Some(patterns) => {
                let name = components(&call.instance);
                !is_unknown && patterns.iter().any(|pattern| reaches(&components(pattern), &name))
            }
        };
        if let Some(right) = needed.iter().find(|right| gives(rule, right))
            && here
        {
            return Outcome::Allow {
                rule: number.to_string(),
                right: (*right).to_owned(),
            };
        }
    }
    let elsewhere = needed
        .iter()
        .find(|right| mine.iter().any(|(_, rule)| gives(rule, right)));
    match elsewhere {
        None => deny("no-right", needed[0]),
        Some(right) if is_unknown => deny("instance-unknown", right),
        Some(right) => deny("not-on-instance", right),
    }
}

fn expected(rules: &[PlainRule], caller: &PlainCaller, call: &PlainCall) -> Outcome {
    if call.method.uris_in().is_none() {
        return grant(rules, caller, &needed(call.method), call);
    }
    let local = grant(rules, caller, &["pull"], call);
    if !call.uris.remote {
        return local;
    }
    match local {
        Outcome::Deny { .. } if call.uris.local => local,
        _ => grant(rules, caller, &["fetch-remote"], call),
    }
}

fn decided(policy: &Policy, caller: &Identity, call: &PlainCall) -> Outcome {
    let scope = match call.method.instance_in() {
        InstanceIn::Unknown => Scope::Unknown,
        InstanceIn::Field(_) | InstanceIn::ResourceName(_) => {
            Scope::Instance(InstanceName::parse(&call.instance).unwrap())
        }
    };
    match policy.decide(&policy.standing(caller, &[]), call.method, scope, call.uris) {
        Ok(permit) => Outcome::Allow {
            rule: permit.rule().index().to_string(),
            right: permit.right().name().to_owned(),
        },
        Err(denial) => Outcome::Deny {
            right: denial.right.name().to_owned(),
            reason: Rejection::denied(caller, denial).label().to_owned(),
        },
    }
}

fn rule(number: usize, plain: &PlainRule) -> Rule {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let pattern = plain.certificate.as_ref().map_or(Pattern::Anonymous, |pattern| {
        let pattern = CertificatePattern {
            common_name: owned(pattern.name),
            organization: owned(pattern.organization),
            uri: pattern.uri.map(|uri| UriPattern::parse(uri).unwrap()),
            dns: owned(pattern.dns),
            ..CertificatePattern::default()
        };
        if pattern.is_empty() {
            Pattern::Any
        } else {
            Pattern::Certificate(Box::new(pattern))
        }
    });
    let allow = plain
        .allow
        .iter()
        .fold(Rights::NONE, |all, name| all.union(Rights::from_name(name).unwrap()));
    let parse = |texts: &Vec<&str>| texts.iter().map(|text| InstancePattern::parse(text).unwrap()).collect();
    Rule {
        name: number.to_string().into(),
        pattern,
        allow,
        instances: plain.instances.as_ref().map(parse),
    }
}

fn caller(plain: &PlainCaller) -> Identity {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    match plain {
        None => Identity::Anonymous,
        Some(plain) => Identity::Certificate(Box::new(Certificate {
            common_names: owned(&plain.names),
            organizations: owned(&plain.organizations),
            uris: owned(&plain.uris),
            dns: owned(&plain.dns),
            ..Certificate::default()
        })),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: POLICIES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_policy_decides_as_its_documentation_says(
        rules in vec(any_rule(), 0..6),
        calls in vec((any_caller(), any_call()), CALLS),
    ) {
        let policy = Policy::new(rules.iter().enumerate().map(|(number, plain)| rule(number, plain)).collect());
        for (who, call) in &calls {
            prop_assert_eq!(decided(&policy, &caller(who), call), expected(&rules, who, call), "{:?} {:?}", who, call);
        }
    }
}
