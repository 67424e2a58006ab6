//! The policy again, as its documentation tells it and as simply as it can be: strings, loops, no types of the gate.

use std::collections::HashSet;

use casgate::policy::identity::{Certificate, Identity};
use casgate::policy::instance::{InstanceName, InstancePattern};
use casgate::policy::kindness::{DeniedPush, Kindness, PushProbe};
use casgate::policy::method::{InstanceIn, Method};
use casgate::policy::pattern::{CertificatePattern, Pattern, Serial};
use casgate::policy::rewrite::InstanceRewrite;
use casgate::policy::rights::{Right, Rights};
use casgate::policy::spiffe::UriPattern;
use casgate::policy::uris::UriPrefix;
use casgate::policy::{Policy, Rule, Scope, Uris};
use casgate::status::Rejection;
use proptest::collection::vec;
use proptest::prelude::*;

use super::Outcome;
use super::random::{any_call, any_caller, any_rule};

/// How many calls are asked of each random policy.
const CALLS: usize = 64;
/// 64 calls of 3000 policies.
const POLICIES: u32 = 3000;

#[derive(Clone, Debug)]
pub(super) struct PlainRule {
    /// `None` for anonymous callers.
    pub(super) certificate: Option<PlainPattern>,
    pub(super) allow: Vec<&'static str>,
    pub(super) deny: Vec<&'static str>,
    pub(super) instances: Option<Vec<&'static str>>,
    pub(super) uris: Option<Vec<&'static str>>,
    pub(super) rewrite: Option<&'static str>,
}

/// Nothing at all stands for any certificate.
#[derive(Clone, Debug)]
pub(super) struct PlainPattern {
    pub(super) name: Option<&'static str>,
    pub(super) organization: Option<&'static str>,
    pub(super) uri: Option<&'static str>,
    pub(super) dns: Option<&'static str>,
    pub(super) unit: Option<&'static str>,
    pub(super) email: Option<&'static str>,
    pub(super) serial: Option<&'static str>,
    /// Every byte of it.
    pub(super) sha256: Option<u8>,
    pub(super) key: Option<u8>,
    pub(super) issuer: Option<&'static str>,
}

/// `None` for an anonymous caller.
pub(super) type PlainCaller = Option<PlainCertificate>;

#[derive(Clone, Debug)]
pub(super) struct PlainCertificate {
    pub(super) names: Vec<&'static str>,
    pub(super) organizations: Vec<&'static str>,
    pub(super) uris: Vec<&'static str>,
    pub(super) dns: Vec<&'static str>,
    pub(super) units: Vec<&'static str>,
    pub(super) emails: Vec<&'static str>,
    pub(super) serial: &'static str,
    pub(super) sha256: u8,
    pub(super) key: u8,
    /// Who vouches for it.
    pub(super) issuers: Vec<&'static str>,
}

#[derive(Clone, Debug)]
pub(super) struct PlainCall {
    pub(super) method: Method,
    pub(super) instance: String,
    pub(super) uris: Vec<&'static str>,
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

/// What a rule calls an instance that it is about.
fn renamed(rule: &PlainRule, name: &str) -> Option<String> {
    let rewrite = rule.rewrite?;
    let everything = vec!["**"];
    let patterns = rule.instances.as_ref().unwrap_or(&everything);
    let mut patterns = patterns.iter().map(|pattern| components(pattern));
    let pattern = patterns.find(|pattern| reaches(pattern, &components(name)))?;
    let Some(fixed) = rewrite.strip_suffix("**") else {
        return Some(rewrite.to_owned());
    };
    let rest = components(name).split_off(pattern.len() - 1);
    let all = [components(fixed.trim_end_matches('/')), rest].concat();
    Some(all.join("/"))
}

fn components(text: &str) -> Vec<&str> {
    if text.is_empty() {
        Vec::new()
    } else {
        text.split('/').collect()
    }
}

/// Whether a rule is about the caller: surely, perhaps, or not.
#[derive(Clone, Copy, PartialEq)]
enum About {
    Surely,
    Perhaps,
    Not,
}

fn about(rule: &PlainRule, caller: &PlainCaller) -> About {
    let (pattern, caller) = match (&rule.certificate, caller) {
        (None, None) => return About::Surely,
        (Some(pattern), Some(caller)) => (pattern, caller),
        _ => return About::Not,
    };
    // Two values where one is asked for are an ambiguity, also when they are equal.
    let attribute = |wanted: Option<&'static str>, given: &[&'static str]| match wanted {
        None => About::Surely,
        Some(wanted) if given == [wanted] => About::Surely,
        Some(wanted) if given.contains(&wanted) => About::Perhaps,
        Some(_) => About::Not,
    };
    let is_spiffe = |uri: &str| uri.starts_with("spiffe://");
    let ids: HashSet<_> = caller.uris.iter().filter(|uri| is_spiffe(uri)).collect();
    let uri = match pattern.uri {
        None => About::Surely,
        Some(wanted) if !caller.uris.iter().any(|uri| is_uri(wanted, uri)) => About::Not,
        Some(wanted) if is_spiffe(wanted) && ids.len() > 1 => About::Perhaps,
        Some(_) => About::Surely,
    };
    let surely = |is_so: bool| if is_so { About::Surely } else { About::Not };
    let is_dns = |wanted: &str| caller.dns.iter().any(|dns| dns.to_lowercase() == wanted.to_lowercase());
    let mailbox = |text: &str| {
        let (name, host) = text.split_once('@').unwrap();
        (name.to_owned(), host.to_lowercase())
    };
    let is_email = |wanted: &str| caller.emails.iter().any(|email| mailbox(email) == mailbox(wanted));
    let number = |digits: &str| u64::from_str_radix(&digits.replace(':', ""), 16).unwrap();
    let parts = [
        attribute(pattern.name, &caller.names),
        attribute(pattern.organization, &caller.organizations),
        attribute(pattern.unit, &caller.units),
        uri,
        surely(pattern.dns.is_none_or(is_dns)),
        surely(pattern.email.is_none_or(is_email)),
        surely(
            pattern
                .serial
                .is_none_or(|wanted| number(wanted) == number(caller.serial)),
        ),
        surely(pattern.sha256.is_none_or(|wanted| wanted == caller.sha256)),
        surely(pattern.key.is_none_or(|wanted| wanted == caller.key)),
        surely(pattern.issuer.is_none_or(|wanted| caller.issuers.contains(&wanted))),
    ];
    if parts.contains(&About::Not) {
        About::Not
    } else if parts.contains(&About::Perhaps) {
        About::Perhaps
    } else {
        About::Surely
    }
}

fn is_uri(wanted: &str, given: &str) -> bool {
    match (wanted.strip_prefix("spiffe://"), given.strip_prefix("spiffe://")) {
        (Some(wanted), Some(given)) => reaches(&components(wanted), &components(given)),
        _ => wanted == given,
    }
}

fn has(list: &[&str], right: &str) -> bool {
    let is_push = ["cas-push", "action-push", "asset-push"].contains(&right);
    list.contains(&right) || is_push && list.contains(&"push")
}

/// Whether one of the patterns of a rule matches the instance of a call, which some calls do not tell.
fn is_here(rule: &PlainRule, call: &PlainCall, if_unknown: bool) -> bool {
    let Some(patterns) = &rule.instances else { return true };
    if call.method.instance_in() == InstanceIn::Unknown {
        return if_unknown && !patterns.is_empty();
    }
    let name = components(&call.instance);
    patterns.iter().any(|pattern| reaches(&components(pattern), &name))
}

/// One of these rights on the place of the call.
fn grant(rules: &[PlainRule], caller: &PlainCaller, needed: &[&str], call: &PlainCall, uri: Option<&str>) -> Outcome {
    let is_unknown = call.method.instance_in() == InstanceIn::Unknown;
    let mine: Vec<(usize, &PlainRule)> = rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| about(rule, caller) == About::Surely)
        .collect();
    let against: Vec<&PlainRule> = rules.iter().filter(|rule| about(rule, caller) != About::Not).collect();
    let denied_here = |right: &str| {
        let mut rules = against.iter();
        rules.any(|rule| has(&rule.deny, right) && is_here(rule, call, true))
    };
    let denied_everywhere = |right: &str| {
        let mut rules = against.iter();
        rules.any(|rule| has(&rule.deny, right) && rule.instances.is_none())
    };
    let allowed_somewhere = |right: &str| mine.iter().any(|(_, rule)| has(&rule.allow, right));
    let of_any_uri = mine.iter().flat_map(|(number, rule)| {
        let rights = needed.iter().filter(|right| has(&rule.allow, right));
        rights
            .filter(|_| is_here(rule, call, false))
            .map(|right| (*number, *right))
    });
    let mut allowed_here = of_any_uri.clone().filter(|(number, _)| covers(&rules[*number], uri));
    let deny = |reason: &str, right: &str| Outcome::Deny {
        reason: reason.to_owned(),
        right: right.to_owned(),
    };
    let somewhere: Vec<_> = needed.iter().filter(|right| allowed_somewhere(right)).collect();
    let left = somewhere.iter().find(|right| !denied_everywhere(right));
    let mut renaming = against.iter().filter(|rule| rule.rewrite.is_some());
    let mut instance = (!is_unknown).then(|| call.instance.clone());
    if let Some(left) = left {
        if is_unknown && renaming.clone().next().is_some() {
            return deny("instance-unknown", left);
        }
        if let Some(rule) = renaming.find(|rule| !is_unknown && is_here(rule, call, false)) {
            if about(rule, caller) == About::Perhaps {
                return deny("ambiguous", left);
            }
            instance = renamed(rule, &call.instance);
        }
    }
    if let Some((rule, right)) = allowed_here.clone().find(|(_, right)| !denied_here(right)) {
        return Outcome::Allow {
            rule: rule.to_string(),
            right: right.to_owned(),
            instance,
        };
    }
    match (left, somewhere.first()) {
        (None, Some(right)) => deny("forbidden", right),
        (None, None) if mine.is_empty() => deny("no-rule", needed[0]),
        (None, None) => deny("no-right", needed[0]),
        (Some(left), _) => match allowed_here.next() {
            Some((_, right)) => deny("forbidden", right),
            None if of_any_uri.clone().any(|(_, right)| !denied_here(right)) => deny("not-for-uri", left),
            None if is_unknown => deny("instance-unknown", left),
            None => deny("not-on-instance", left),
        },
    }
}

/// Whether a rule allows a URI: one that begins as it says, and has no way out of there.
fn covers(rule: &PlainRule, uri: Option<&str>) -> bool {
    match (&rule.uris, uri) {
        (None, _) | (_, None) => true,
        (Some(prefixes), Some(uri)) => {
            let is_urn = uri.to_lowercase().starts_with("urn:");
            let climbs = uri.contains("/../") || uri.contains("/%2e%2e/");
            prefixes.iter().any(|prefix| uri.starts_with(prefix)) && (is_urn || !climbs)
        }
    }
}

/// Every URI on its own: `urn:` names first, as they are asked for first.
fn expected(rules: &[PlainRule], caller: &PlainCaller, call: &PlainCall) -> Outcome {
    let is_fetch = call.method.path().contains("asset.v1.Fetch/");
    let is_push = call.method.path().contains("asset.v1.Push/");
    if !is_fetch && !is_push {
        return grant(rules, caller, &needed(call.method), call, None);
    }
    let plain = if is_fetch { "pull" } else { "asset-push" };
    if call.uris.is_empty() {
        return grant(rules, caller, &[plain], call, None);
    }
    let needs = |uri: &str| {
        let leads_out = is_fetch && !uri.to_lowercase().starts_with("urn:");
        if leads_out { "fetch-remote" } else { plain }
    };
    let (out, at_home): (Vec<&str>, Vec<&str>) = call.uris.iter().partition(|uri| needs(uri) == "fetch-remote");
    let all: Vec<_> = [at_home, out.clone()].concat();
    let outcomes = all
        .iter()
        .map(|uri| grant(rules, caller, &[needs(uri)], call, Some(uri)));
    let (allowed, denied): (Vec<_>, Vec<_>) = outcomes.partition(|outcome| matches!(outcome, Outcome::Allow { .. }));
    let told = allowed.len() - out.len().min(allowed.len());
    match denied.into_iter().next() {
        Some(denied) => denied,
        // The rule for the first that leads out, else for the first.
        None => allowed.into_iter().nth(if out.is_empty() { 0 } else { told }).unwrap(),
    }
}

fn decided(policy: &Policy, who: &PlainCaller, call: &PlainCall) -> Outcome {
    let caller = &caller(who);
    let issuers: Vec<_> = who
        .iter()
        .flat_map(|plain| &plain.issuers)
        .map(|name| (*name).into())
        .collect();
    let scope = match call.method.instance_in() {
        InstanceIn::Unknown => Scope::Unknown,
        InstanceIn::Field(_) | InstanceIn::ResourceName(_) => {
            Scope::Instance(InstanceName::parse(&call.instance).unwrap())
        }
    };
    match policy.decide(
        &policy.standing(caller, &issuers),
        call.method,
        scope,
        Uris::of(call.uris.iter().copied()),
    ) {
        Ok(permit) => Outcome::Allow {
            rule: permit.rule().index().to_string(),
            right: permit.right().name().to_owned(),
            instance: permit.instance().map(ToString::to_string),
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
            organizational_unit: owned(pattern.unit),
            email: owned(pattern.email),
            serial: pattern.serial.map(|digits| Serial::parse(digits).unwrap()),
            sha256: pattern.sha256.map(|byte| [byte; 32]),
            spki_sha256: pattern.key.map(|byte| [byte; 32]),
            issued_by: pattern.issuer.map(Into::into),
        };
        if pattern.is_empty() {
            Pattern::Any
        } else {
            Pattern::Certificate(Box::new(pattern))
        }
    });
    let rights = |names: &[&str]| {
        let one = |name: &&str| Rights::from_name(name).unwrap();
        names.iter().map(one).fold(Rights::NONE, Rights::union)
    };
    let parse = |texts: &Vec<&str>| texts.iter().map(|text| InstancePattern::parse(text).unwrap()).collect();
    Rule {
        name: number.to_string().into(),
        pattern,
        allow: rights(&plain.allow),
        deny: rights(&plain.deny),
        instances: plain.instances.as_ref().map(parse),
        rewrite: plain.rewrite.map(|text| InstanceRewrite::parse(text).unwrap()),
        uris: plain.uris.as_ref().map(|prefixes| {
            let parse = |text: &&str| UriPrefix::parse(text).unwrap();
            prefixes.iter().map(parse).collect()
        }),
        // It decides nothing, so the plain reading knows nothing of it.
        quota: casgate::policy::quota::Quota::default(),
        kindness: Kindness {
            denied_push: number.is_multiple_of(2).then_some(DeniedPush::Discard),
            push_probe: number.is_multiple_of(3).then_some(PushProbe::Accept),
        },
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
            organizational_units: owned(&plain.units),
            emails: owned(&plain.emails),
            serial: plain.serial.to_owned(),
            sha256: [plain.sha256; 32],
            spki_sha256: [plain.key; 32],
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
            prop_assert_eq!(decided(&policy, who, call), expected(&rules, who, call), "{:?} {:?}", who, call);
        }
    }
}
