//! What a configuration allows that looks like a mistake.

use std::collections::HashSet;
use std::sync::Arc;

use super::{index, neighbours};
use crate::policy::identity::Identity;
use crate::policy::kindness::{DeniedPush, PushProbe};
use crate::policy::pattern::{Fit, Issuer, Part, Pattern};
use crate::policy::rights::{Right, Rights};
use crate::policy::{Policy, Rule};
use crate::snapshot::Snapshot;
use crate::snapshot::listen::Security;
use crate::tls::identity;
use crate::tls::verifier::ClientVerifier;

use super::tenants;

/// The rights that only Remote Asset's methods use URIs with.
const WITH_URIS: Rights = Rights::of(Right::Pull).with(Right::AssetPush).with(Right::FetchRemote);

/// As many rules are compared with each other; more would take minutes.
const COMPARED: usize = 2000;

/// Every warning, each once.
pub fn warnings(snapshot: &Snapshot) -> Vec<String> {
    let mut warnings = snapshot.warnings.clone();
    let (policy, rules) = (&snapshot.policy, snapshot.policy.rules());
    if rules.len() > COMPARED {
        warnings.push(format!(
            "there are {} rules: of more than {COMPARED}, each is looked at for itself, and not compared with the others",
            rules.len()
        ));
    }
    for (index, rule) in rules.iter().enumerate() {
        let mut texts = vec![
            push_for_any(snapshot, rule),
            any_authority(snapshot, rule),
            matches_nobody(snapshot, rule),
            useless_uris(rule),
        ];
        if rules.len() <= COMPARED {
            texts.extend([
                half_a_push(policy, rule),
                is_denied(policy, rule),
                tenants::unknown_instances(policy, rule),
                tenants::way_around(policy, rule),
                useless_discard(policy, rule),
                useless_probe(policy, rule),
                not_the_first(rules.get(..index).unwrap_or_default(), rule),
            ]);
        }
        let texts = texts.into_iter().flatten();
        warnings.extend(texts.map(|text| format!("rule \"{}\" {text}", rule.name)));
    }
    warnings.extend(neighbours::warnings(snapshot));
    warnings.extend(index::warnings(snapshot));
    warnings.extend(expiries(snapshot));
    for verifier in verifiers(snapshot) {
        warnings.extend(verifier.warnings().iter().cloned());
    }
    if snapshot.listeners.iter().any(|listener| listener.scheme() == "http") {
        let anonymous = snapshot.policy.standing(&Identity::Anonymous, &[]).ever();
        if anonymous != Rights::NONE && anonymous != Rights::of(Right::Pull) {
            warnings.push(format!(
                "a listener has `tls = false`, and callers without a certificate may {anonymous}: everybody on its network may"
            ));
        }
    }
    // Two listeners may name the same certificates.
    let mut said = HashSet::new();
    warnings.retain(|warning| said.insert(warning.clone()));
    warnings
}

fn verifiers(snapshot: &Snapshot) -> impl Iterator<Item = &ClientVerifier> {
    snapshot
        .listeners
        .iter()
        .filter_map(|listener| match &listener.security {
            Security::Tls { verifier, .. } => Some(&**verifier),
            Security::Clear => None,
        })
}

fn expiries(snapshot: &Snapshot) -> Vec<String> {
    let now = crate::live::now();
    let all = snapshot.listeners.iter().flat_map(|listener| &listener.expiries);
    all.filter_map(|(certificate, end)| {
        let days = end.saturating_sub(now) / 86_400;
        if *end < now {
            Some(format!("certificate {certificate} has expired"))
        } else if days < 30 {
            Some(format!("certificate {certificate} expires in {days} days"))
        } else {
            None
        }
    })
    .collect()
}

/// BuildStream pushes blobs and the names that point to them.
fn half_a_push(policy: &Policy, rule: &Rule) -> Option<String> {
    let has = |right| rule.allow.contains(right);
    if has(Right::AssetPush) && !elsewhere_has(policy, rule, Right::CasPush) {
        return Some(
            "gives asset-push without cas-push: BuildStream would leave names that point into nothing".to_owned(),
        );
    }
    (has(Right::CasPush) && has(Right::ActionPush) && !has(Right::AssetPush)).then(|| {
        "gives cas-push and action-push without asset-push: BuildStream clients with `push: true` will be refused"
            .to_owned()
    })
}

/// Whether a rule gives the right to the same callers.
fn elsewhere_has(policy: &Policy, rule: &Rule, right: Right) -> bool {
    let mut rules = policy.rules().iter();
    rules.any(|other| other.pattern == rule.pattern && other.allow.contains(right))
}

/// Certificates that stand in client-ca themselves are a list of callers; those of an authority are not.
fn push_for_any(snapshot: &Snapshot, rule: &Rule) -> Option<String> {
    let pushes = rule.allow.intersection(Rights::PUSH);
    let is_open = rule.pattern == Pattern::Any && verifiers(snapshot).any(|verifier| verifier.issuers() > 0);
    (is_open && !pushes.is_empty()).then(|| {
        format!("gives {pushes} to every certificate, whatever its authority issued it for: name those that may push")
    })
}

fn any_authority(snapshot: &Snapshot, rule: &Rule) -> Option<String> {
    let issuers = verifiers(snapshot)
        .map(ClientVerifier::issuers)
        .max()
        .unwrap_or_default();
    match &rule.pattern {
        Pattern::Certificate(pattern) if pattern.trusts_every_authority() && !rule.allow.is_empty() && issuers > 1 => {
            Some(format!(
                "does not say which of {issuers} authorities it trusts: each could issue a certificate that it matches; name them in client-ca, and add `issued-by`"
            ))
        }
        _ => None,
    }
}

/// Only where it is certain: nobody knows what an authority has issued.
fn matches_nobody(snapshot: &Snapshot, rule: &Rule) -> Option<String> {
    let issued_by = match &rule.pattern {
        Pattern::Anonymous => {
            let accepts = |security: &Security| match security {
                Security::Tls { verifier, .. } => !verifier.is_mandatory(),
                Security::Clear => true,
            };
            let takes_anonymous = snapshot.listeners.iter().any(|listener| accepts(&listener.security));
            return (!takes_anonymous).then(|| {
                "matches nobody: every listener requires a certificate (`client-certificate = \"optional\"` does not)"
                    .to_owned()
            });
        }
        Pattern::Any => None,
        Pattern::Certificate(pattern) => pattern.issued_by.as_ref(),
    };
    let may_match = |verifier: &ClientVerifier| {
        verifier.issues_for(issued_by) || verifier.pinned().any(|(der, names)| is_about(rule, der, names))
    };
    (!verifiers(snapshot).any(may_match))
        .then(|| "matches nobody: client-ca has no such certificate, and no authority that could issue one".to_owned())
}

fn is_about(rule: &Rule, der: &[u8], names: &[Arc<str>]) -> bool {
    identity::read(der).is_ok_and(|certificate| {
        let issuers: Vec<Issuer> = names.iter().map(|name| Issuer::from(&**name)).collect();
        let fit = rule
            .pattern
            .fit(&Identity::Certificate(Box::new(certificate)), &issuers);
        fit == Fit::Equal || fit == Fit::Ambiguous && !rule.deny.is_empty()
    })
}

/// Rights that another rule takes from all callers, and on all instances, of this one.
fn is_denied(policy: &Policy, rule: &Rule) -> Option<String> {
    let mut denies = policy.rules().iter().filter(|other| {
        let everywhere = other.instances.is_none() || other.instances == rule.instances;
        everywhere && includes(&other.pattern, &rule.pattern)
    });
    denies.find_map(|other| {
        let lost = rule.allow.intersection(other.deny);
        (!lost.is_empty()).then(|| {
            format!(
                "gives {lost} in vain: rule \"{}\" denies it to the same callers",
                other.name
            )
        })
    })
}

/// Whether the callers of one pattern are surely among those of another.
pub(super) fn includes(wide: &Pattern, narrow: &Pattern) -> bool {
    match (wide, narrow) {
        (Pattern::Any, Pattern::Any | Pattern::Certificate(_)) | (Pattern::Anonymous, Pattern::Anonymous) => true,
        (Pattern::Certificate(wide), Pattern::Certificate(narrow)) => Part::ALL.into_iter().all(|part| {
            wide.wanted(part)
                .is_none_or(|wanted| narrow.wanted(part) == Some(wanted))
        }),
        _ => false,
    }
}

fn useless_uris(rule: &Rule) -> Option<String> {
    let is_useless = rule.uris.is_some() && rule.allow.intersection(WITH_URIS).is_empty();
    is_useless.then(|| "has `uris`, which limit only pull, asset-push and fetch-remote".to_owned())
}

/// What BuildStream needs to push.
const BUILD_STREAM: Rights = Rights::of(Right::CasPush).with(Right::AssetPush);
/// What is needed for all that can be discarded.
const DISCARDED: Rights = Rights::of(Right::CasPush).with(Right::ActionPush);

fn useless_discard(policy: &Policy, rule: &Rule) -> Option<String> {
    let is_useless = rule.kindness.denied_push == Some(DeniedPush::Discard) && surely_have(policy, rule, DISCARDED);
    is_useless.then(|| "discards denied pushes, and denies none to its callers".to_owned())
}

fn useless_probe(policy: &Policy, rule: &Rule) -> Option<String> {
    let is_useless = rule.kindness.push_probe == Some(PushProbe::Accept) && surely_have(policy, rule, BUILD_STREAM);
    is_useless.then(|| "accepts probes for pushes from callers who may push".to_owned())
}

/// Whether all callers of a rule surely have the rights, wherever it holds.
fn surely_have(policy: &Policy, rule: &Rule, rights: Rights) -> bool {
    let is_given = |right| {
        let mut rules = policy.rules().iter();
        rules.any(|other| {
            let everywhere = other.instances.is_none() || other.instances == rule.instances;
            let all = everywhere && other.uris.is_none();
            all && other.allow.contains(right) && includes(&other.pattern, &rule.pattern)
        })
    };
    let mut rules = policy.rules().iter();
    rights.iter().all(is_given) && rules.all(|other| other.deny.intersection(rights).is_empty())
}

/// Keys of which the first rule decides that has them, in one that is never the first.
fn not_the_first(before: &[Rule], rule: &Rule) -> Option<String> {
    let hides = |other: &&Rule| {
        let everywhere = other.instances.is_none() || other.instances == rule.instances;
        everywhere && includes(&other.pattern, &rule.pattern)
    };
    let hidden = before.iter().filter(hides).find_map(|other| {
        let (this, first) = (rule.kindness, other.kindness);
        let keys = [
            (
                "on-denied-push",
                this.denied_push.is_some() && first.denied_push.is_some(),
            ),
            ("push-probe", this.push_probe.is_some() && first.push_probe.is_some()),
        ];
        let (key, _) = keys.into_iter().find(|(_, is_hidden)| *is_hidden)?;
        Some((key, &other.name))
    });
    hidden.map(|(key, name)| format!("has `{key}` in vain: rule \"{name}\" comes first, for the same callers"))
}
