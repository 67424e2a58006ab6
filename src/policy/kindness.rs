//! What a denied push is answered where a refusal would only hurt: `on-denied-push` and `push-probe` of rules.
//!
//! Both only choose the words of a denial. They give no right and make no [`super::Permit`], so that nothing of a call
//! that is answered kindly can reach a backend.

use serde::Deserialize;

use super::method::Method;
use super::{Policy, RuleId, Scope, Standing, Uris};

/// What becomes of denied writes of blobs and action results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeniedPush {
    /// They are refused.
    #[default]
    Refuse,
    /// They are answered as if they had been stored: Bazel uploads profiles and test logs whatever it is told.
    Discard,
}

/// What becomes of requests that only ask whether the caller may push.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PushProbe {
    /// They are refused.
    #[default]
    Refuse,
    /// They are answered as to a caller who may: a BuildStream that is told that it may not push does not pull either.
    Accept,
}

impl DeniedPush {
    /// What is done to them.
    pub fn verb(self) -> &'static str {
        match self {
            DeniedPush::Refuse => "refused",
            DeniedPush::Discard => "discarded",
        }
    }
}

impl PushProbe {
    /// What is done to them.
    pub fn verb(self) -> &'static str {
        match self {
            PushProbe::Refuse => "refused",
            PushProbe::Accept => "accepted",
        }
    }
}

/// What a rule says of both; `None` where it leaves it to a later rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kindness {
    /// `on-denied-push`
    pub denied_push: Option<DeniedPush>,
    /// `push-probe`
    pub push_probe: Option<PushProbe>,
}

impl Kindness {
    /// Whether it says nothing.
    pub fn is_empty(self) -> bool {
        self == Kindness::default()
    }
}

/// How a denied call is answered instead of by its denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kindly {
    /// As if all that it brings had been stored.
    Discard,
    /// As if the caller might push, as long as it pushes nothing.
    Probe,
}

impl Kindly {
    /// Its name in metrics and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Kindly::Discard => "discarded",
            Kindly::Probe => "probe",
        }
    }
}

impl Policy {
    /// How a call is answered in case that it is denied, and the rule that says so; `None` for the denial. That a batch of
    /// blobs is empty must still be seen.
    pub fn kindly(&self, standing: &Standing, method: Method, scope: &Scope, uris: &Uris) -> Option<(RuleId, Kindly)> {
        if is_discardable(method)
            && let Some((rule, DeniedPush::Discard)) = self.first(standing, scope, |kindness| kindness.denied_push)
        {
            return Some((rule, Kindly::Discard));
        }
        if is_probe(method) && uris.is_empty() {
            return self.accepts_probes(standing, scope).map(|rule| (rule, Kindly::Probe));
        }
        None
    }

    /// The rule that has probes for the right to push accepted, where one does.
    pub fn accepts_probes(&self, standing: &Standing, scope: &Scope) -> Option<RuleId> {
        match self.first(standing, scope, |kindness| kindness.push_probe)? {
            (rule, PushProbe::Accept) => Some(rule),
            (_, PushProbe::Refuse) => None,
        }
    }

    /// Whether a denied call of the method may be answered kindly on some instance: only then is its body read.
    pub fn may_be_kind(&self, standing: &Standing, method: Method) -> bool {
        let mut kind = standing.kind.iter().filter_map(|id| self.rules.get(id.index()));
        kind.any(|rule| {
            is_discardable(method) && rule.kindness.denied_push == Some(DeniedPush::Discard)
                || is_probe(method) && rule.kindness.push_probe == Some(PushProbe::Accept)
        })
    }

    /// What the first rule says that says anything and holds on the instance.
    fn first<T>(&self, standing: &Standing, scope: &Scope, key: impl Fn(Kindness) -> Option<T>) -> Option<(RuleId, T)> {
        standing.kind.iter().find_map(|id| {
            let rule = self.rules.get(id.index()).filter(|rule| rule.allows_on(scope))?;
            Some((*id, key(rule.kindness)?))
        })
    }
}

/// Writes whose loss leaves only the cache without them. Those of Remote Asset give names to blobs: a client that believes
/// that a name is there tells others of it. SpliceBlob answers with a digest that the server has computed.
fn is_discardable(method: Method) -> bool {
    matches!(
        method,
        Method::BatchUpdateBlobs | Method::Write | Method::QueryWriteStatus | Method::UpdateActionResult
    )
}

/// What BuildStream asks to learn whether it may push, but for `ReferenceStorage.Status`, which is no push.
fn is_probe(method: Method) -> bool {
    matches!(
        method,
        Method::BatchUpdateBlobs | Method::PushBlob | Method::PushDirectory
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::policy::Rule;
    use crate::policy::identity::{Certificate, Identity};
    use crate::policy::instance::{InstanceName, InstancePattern};
    use crate::policy::pattern::{CertificatePattern, Pattern};
    use crate::policy::rights::Rights;

    fn rule(name: Option<&str>, instance: Option<&str>, kindness: Kindness) -> Rule {
        Rule {
            name: "".into(),
            pattern: match name {
                Some(name) => Pattern::Certificate(Box::new(CertificatePattern {
                    common_name: Some(name.to_owned()),
                    ..CertificatePattern::default()
                })),
                None => Pattern::Any,
            },
            allow: Rights::NONE,
            deny: Rights::NONE,
            instances: instance.map(|text| vec![InstancePattern::parse(text).unwrap()]),
            uris: None,
            rewrite: None,
            kindness,
            quota: crate::policy::quota::Quota::default(),
        }
    }

    fn caller(names: &[&str]) -> Identity {
        Identity::Certificate(Box::new(Certificate {
            common_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Certificate::default()
        }))
    }

    const DISCARD: Kindness = Kindness {
        denied_push: Some(DeniedPush::Discard),
        push_probe: None,
    };
    const REFUSE: Kindness = Kindness {
        denied_push: Some(DeniedPush::Refuse),
        push_probe: None,
    };
    const ACCEPT: Kindness = Kindness {
        denied_push: None,
        push_probe: Some(PushProbe::Accept),
    };

    /// Which rule decides, and how.
    fn asked(rules: &[Rule], names: &[&str], method: Method, instance: &str) -> Option<(usize, Kindly)> {
        let policy = Policy::new(rules.to_vec());
        let standing = policy.standing(&caller(names), &[]);
        let scope = Scope::Instance(InstanceName::parse(instance).unwrap());
        let found = policy.kindly(&standing, method, &scope, &Uris::default());
        assert!(found.is_none() || policy.may_be_kind(&standing, method));
        found.map(|(rule, kindly)| (rule.index(), kindly))
    }

    #[test]
    fn the_first_rule_that_matches_holds_there_and_says_anything_decides() {
        let rules = [
            rule(Some("ci"), None, REFUSE),
            rule(None, Some("a"), DISCARD),
            rule(None, None, ACCEPT),
            rule(None, None, REFUSE),
        ];
        let write = Method::Write;
        assert_eq!(asked(&rules, &["ci"], write, "a"), None);
        assert_eq!(asked(&rules, &["dev"], write, "a"), Some((1, Kindly::Discard)));
        assert_eq!(asked(&rules, &["dev"], write, "b"), None);
        // What it does not say it leaves to others.
        assert_eq!(asked(&rules, &["ci"], Method::PushBlob, "a"), Some((2, Kindly::Probe)));
        assert_eq!(
            asked(&rules, &["dev"], Method::BatchUpdateBlobs, "a"),
            Some((1, Kindly::Discard))
        );
        assert_eq!(
            asked(&rules, &["dev"], Method::BatchUpdateBlobs, "b"),
            Some((2, Kindly::Probe))
        );
    }

    #[test]
    fn who_is_ambiguous_or_matched_by_none_is_refused() {
        let rules = [rule(Some("ci"), None, DISCARD)];
        for names in [&["ci", "dev"][..], &["dev"], &[]] {
            assert_eq!(asked(&rules, names, Method::Write, ""), None, "{names:?}");
        }
    }

    #[test]
    fn only_these_methods_are_answered_kindly() {
        let both = Kindness {
            push_probe: ACCEPT.push_probe,
            ..DISCARD
        };
        let kind = |kindness| {
            let asked = |method: &&Method| asked(&[rule(None, None, kindness)], &["x"], **method, "").is_some();
            Method::ALL.iter().filter(asked).copied().collect::<Vec<_>>()
        };
        let discarded = [
            Method::BatchUpdateBlobs,
            Method::Write,
            Method::QueryWriteStatus,
            Method::UpdateActionResult,
        ];
        assert_eq!(kind(DISCARD), discarded);
        let probes = [Method::BatchUpdateBlobs, Method::PushBlob, Method::PushDirectory];
        assert_eq!(kind(ACCEPT), probes);
        assert_eq!(kind(both).len(), 6);
    }

    #[test]
    fn a_push_with_a_name_is_no_probe() {
        let policy = Policy::new(vec![rule(None, None, ACCEPT)]);
        let standing = policy.standing(&caller(&["x"]), &[]);
        let scope = Scope::Instance(InstanceName::parse("").unwrap());
        let kindly = |uris| policy.kindly(&standing, Method::PushBlob, &scope, &uris);
        assert!(kindly(Uris::default()).is_some());
        assert!(kindly(Uris::of([""])).is_none());
        assert!(kindly(Uris::of(["urn:x"])).is_none());
    }
}
