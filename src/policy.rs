//! Who may do what: rules of the configuration, compiled, and the one place where a [`Permit`] is made.
//!
//! Deny is the default. A caller has the union of the rights of all rules that match it, but for those that one of them
//! denies; each right holds, and is denied, only for the instances of its rule. Whatever is not certain counts against
//! the caller: one that is ambiguous for a rule gets nothing from it and loses what it denies, and so do calls whose
//! instance only the server knows. Nothing here reads a file, a socket or a clock.

pub mod identity;
pub mod instance;
pub mod method;
pub mod pattern;
pub mod resource;
pub mod rights;
pub mod spiffe;

use std::sync::Arc;

use identity::Identity;
use instance::{InstanceName, InstancePattern};
use method::Method;
use pattern::{Fit, Issuers, Pattern};
use rights::{Right, Rights};

/// One rule of the configuration.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The administrator's name for it: in logs and metrics, never in an answer.
    pub name: Arc<str>,
    /// Which callers it is about.
    pub pattern: Pattern,
    /// What they may do.
    pub allow: Rights,
    /// What they may not do, whatever other rules allow.
    pub deny: Rights,
    /// Where they may or may not do it; `None` for every instance.
    pub instances: Option<Vec<InstancePattern>>,
}

/// The number of a rule in its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuleId(u32);

impl RuleId {
    /// The index of the rule in [`Policy::rules`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// All rules.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
}

/// What the rules give to one identity, found once for a connection and a snapshot.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The rules that match and allow something.
    rules: Vec<RuleId>,
    denies: Vec<Deny>,
    is_known: bool,
    /// What some rule allows somewhere.
    given: Rights,
    /// The same without what is denied everywhere.
    ever: Rights,
}

/// What a rule denies to a caller.
#[derive(Clone, Copy, Debug)]
struct Deny {
    rule: RuleId,
    rights: Rights,
    everywhere: bool,
}

/// Which instance a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The instance that the request names.
    Instance(InstanceName),
    /// Nobody but the server can tell; only rights for every instance reach it.
    Unknown,
}

/// Which kinds of URIs a Remote Asset fetch asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uris {
    /// One or more that lead the server out: anything but `urn:`.
    pub remote: bool,
    /// One or more `urn:` names, which only the server's own index can answer.
    pub local: bool,
    /// One or more of the names that BuildStream 1 gives to its artifacts, see
    /// [`crate::reference_storage::URN_PREFIX`].
    pub build_stream_1: bool,
}

impl Uris {
    /// The kinds of these URIs.
    pub fn of<'a>(uris: impl IntoIterator<Item = &'a str>) -> Uris {
        let mut kinds = Uris::default();
        for uri in uris {
            let is_local = uri.get(..4).is_some_and(|scheme| scheme.eq_ignore_ascii_case("urn:"));
            kinds.local |= is_local;
            kinds.remote |= !is_local;
            kinds.build_stream_1 |= uri.starts_with(crate::reference_storage::URN_PREFIX);
        }
        kinds
    }
}

/// The proof that a call was authorized. It can only be made by [`Policy::decide`], can't be copied, and is what the
/// way to a backend asks for.
///
/// ```compile_fail
/// // private fields: a permit can't be made elsewhere
/// let permit = casgate::policy::Permit { method: casgate::policy::method::Method::Write };
/// ```
/// ```compile_fail
/// // not Clone: one decision, one call
/// fn twice(permit: casgate::policy::Permit) { let again = permit.clone(); }
/// ```
#[derive(Debug)]
#[must_use = "a permit that is dropped was a decision for nothing"]
pub struct Permit {
    method: Method,
    scope: Scope,
    rule: RuleId,
    right: Right,
    uris: Uris,
}

impl Permit {
    /// The method it is for.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The instance it is for.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The rule that gave it.
    pub fn rule(&self) -> RuleId {
        self.rule
    }

    /// The right that it used.
    pub fn right(&self) -> Right {
        self.right
    }

    /// Asks again for the same call: what a reload does to calls that are under way.
    ///
    /// # Errors
    /// The denial, when the right is gone.
    pub fn renew(&self, policy: &Policy, standing: &Standing) -> Result<Permit, Denial> {
        policy.decide(standing, self.method, self.scope.clone(), self.uris)
    }
}

/// Why a call was not authorized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The right that was missing; where several would do, the first of them.
    pub right: Right,
    /// What kept the caller from having it.
    pub because: Because,
}

/// What kept a caller from having a right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// No rule matches the caller.
    NoRule,
    /// Rules match the caller, but none gives the right anywhere.
    NoRight,
    /// A rule gives the right, and this one denies it.
    Forbidden(RuleId),
    /// The caller has the right, but not on this instance.
    NotOnInstance(InstanceName),
    /// The caller has the right on some instances, and the request does not say which one it is about.
    InstanceUnknown,
}

impl Policy {
    /// The policy of these rules, in this order.
    pub fn new(rules: Vec<Rule>) -> Policy {
        Policy { rules }
    }

    /// The rules, by the index of their [`RuleId`].
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Which rules match a caller for whom these entries of `client-ca` vouch.
    pub fn standing(&self, identity: &Identity, issuers: &Issuers) -> Standing {
        let mut standing = Standing {
            rules: Vec::new(),
            denies: Vec::new(),
            is_known: false,
            given: Rights::NONE,
            ever: Rights::NONE,
        };
        let mut never = Rights::NONE;
        for (index, rule) in (0u32..).zip(&self.rules) {
            let fit = rule.pattern.fit(identity, issuers);
            if fit == Fit::Different {
                continue;
            }
            let id = RuleId(index);
            standing.is_known |= fit == Fit::Equal;
            if fit == Fit::Equal && !rule.allow.is_empty() {
                standing.rules.push(id);
                standing.given = standing.given.union(rule.allow);
            }
            if !rule.deny.is_empty() {
                let everywhere = rule.instances.is_none();
                standing.denies.push(Deny {
                    rule: id,
                    rights: rule.deny,
                    everywhere,
                });
                if everywhere {
                    never = never.union(rule.deny);
                }
            }
        }
        standing.ever = standing.given.without(never);
        standing
    }

    /// Decides a call.
    ///
    /// # Errors
    /// The denial: the right that is missing, and why.
    pub fn decide(&self, standing: &Standing, method: Method, scope: Scope, uris: Uris) -> Result<Permit, Denial> {
        let needed = method.rights();
        let (rule, right) = if method.uris_in().is_some() {
            // Each kind of URI needs its own right; a request without any is a probe, and needs what a local one does.
            let mut found = None;
            if uris.local || !uris.remote {
                found = Some(self.grant(standing, Rights::of(Right::Pull), &scope)?);
            }
            if uris.remote {
                found = Some(self.grant(standing, Rights::of(Right::FetchRemote), &scope)?);
            }
            found.ok_or(Denial {
                right: Right::Pull,
                because: Because::NoRight,
            })?
        } else {
            self.grant(standing, needed, &scope)?
        };
        Ok(Permit {
            method,
            scope,
            rule,
            right,
            uris,
        })
    }

    /// The first rule that gives one of the rights on the instance, and that no rule denies there.
    fn grant(&self, standing: &Standing, needed: Rights, scope: &Scope) -> Result<(RuleId, Right), Denial> {
        standing.may_ever(needed)?;
        let mut left = needed;
        for deny in &standing.denies {
            if !deny.rights.intersection(left).is_empty() && self.denies(deny, scope) {
                left = left.without(deny.rights);
            }
        }
        if let Some(found) = self.allow(standing, left, scope) {
            return Ok(found);
        }
        if let Some((_, right)) = self.allow(standing, needed, scope)
            && let Some(deny) = standing
                .denies
                .iter()
                .find(|deny| deny.rights.contains(right) && self.denies(deny, scope))
        {
            return Err(Denial {
                right,
                because: Because::Forbidden(deny.rule),
            });
        }
        Err(Denial {
            right: first(standing.ever.intersection(needed)),
            because: match scope {
                Scope::Instance(name) => Because::NotOnInstance(name.clone()),
                Scope::Unknown => Because::InstanceUnknown,
            },
        })
    }

    /// The first rule that allows one of the rights on the instance.
    fn allow(&self, standing: &Standing, rights: Rights, scope: &Scope) -> Option<(RuleId, Right)> {
        standing.rules.iter().find_map(|id| {
            let rule = self.rules.get(id.index())?;
            let right = rule.allow.intersection(rights).iter().next()?;
            rule.allows_on(scope).then_some((*id, right))
        })
    }

    fn denies(&self, deny: &Deny, scope: &Scope) -> bool {
        deny.everywhere
            || self
                .rules
                .get(deny.rule.index())
                .is_none_or(|rule| rule.denies_on(scope))
    }
}

impl Standing {
    /// Whether the caller has one of the rights on any instance at all: a call that fails here is denied before a byte
    /// of its body is read.
    ///
    /// # Errors
    /// The denial.
    pub fn may_ever(&self, needed: Rights) -> Result<(), Denial> {
        if !self.ever.intersection(needed).is_empty() {
            return Ok(());
        }
        let denied = self.given.intersection(needed).iter().next().and_then(|right| {
            let mut denies = self.denies.iter();
            let deny = denies.find(|deny| deny.everywhere && deny.rights.contains(right))?;
            Some((right, Because::Forbidden(deny.rule)))
        });
        let (right, because) = match denied {
            Some(denied) => denied,
            None if self.is_known => (first(needed), Because::NoRight),
            None => (first(needed), Because::NoRule),
        };
        Err(Denial { right, because })
    }

    /// Whether the caller has the right on this instance.
    pub fn has(&self, policy: &Policy, right: Right, scope: &Scope) -> bool {
        policy.grant(self, Rights::of(right), scope).is_ok()
    }

    /// Every right that some rule gives on some instance, and that none denies everywhere.
    pub fn ever(&self) -> Rights {
        self.ever
    }
}

impl Rule {
    /// Whether what it allows holds for a call.
    pub fn allows_on(&self, scope: &Scope) -> bool {
        match (&self.instances, scope) {
            (None, _) => true,
            (Some(patterns), Scope::Instance(name)) => patterns.iter().any(|pattern| pattern.matches(name)),
            (Some(_), Scope::Unknown) => false,
        }
    }

    /// Whether what it denies holds for a call: also where only the server knows the instance, as it may be one of them.
    pub fn denies_on(&self, scope: &Scope) -> bool {
        match (&self.instances, scope) {
            (Some(patterns), Scope::Unknown) => !patterns.is_empty(),
            (_, Scope::Instance(_)) | (None, Scope::Unknown) => self.allows_on(scope),
        }
    }
}

fn first(rights: Rights) -> Right {
    rights.iter().next().unwrap_or(Right::Pull)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(pattern: Pattern, allow: Rights, instances: Option<&[&str]>) -> Rule {
        Rule {
            name: "rule".into(),
            pattern,
            allow,
            deny: Rights::NONE,
            instances: instances.map(|texts| {
                texts
                    .iter()
                    .filter_map(|text| InstancePattern::parse(text).ok())
                    .collect()
            }),
        }
    }

    fn at(name: &str) -> Scope {
        InstanceName::parse(name).map_or(Scope::Unknown, Scope::Instance)
    }

    #[test]
    fn an_empty_policy_denies_every_method() {
        let policy = Policy::default();
        let standing = policy.standing(&Identity::Anonymous, &[]);
        for method in Method::ALL {
            assert!(
                policy.decide(&standing, *method, at(""), Uris::default()).is_err(),
                "{method:?}"
            );
        }
    }

    #[test]
    fn rights_add_up_but_each_only_where_its_rule_reaches() {
        let policy = Policy::new(vec![
            rule(Pattern::Anonymous, Rights::PUSH, Some(&["team-a"])),
            rule(Pattern::Anonymous, Rights::of(Right::Pull), None),
        ]);
        let standing = policy.standing(&Identity::Anonymous, &[]);
        let decide = |method, scope| policy.decide(&standing, method, scope, Uris::default());
        assert!(decide(Method::Write, at("team-a")).is_ok());
        assert!(decide(Method::Read, at("team-b")).is_ok());
        assert_eq!(
            decide(Method::Write, at("team-b")).map(|_| ()).map_err(|d| d.because),
            Err(Because::NotOnInstance(
                InstanceName::parse("team-b").unwrap_or_default()
            ))
        );
        assert_eq!(
            decide(Method::Execute, at("team-a")).map(|_| ()).map_err(|d| d.because),
            Err(Because::NoRight)
        );
    }

    #[test]
    fn a_right_for_some_instances_does_not_reach_names_that_only_the_server_reads() {
        let limited = Policy::new(vec![rule(Pattern::Anonymous, Rights::ALL, Some(&["a"]))]);
        let standing = limited.standing(&Identity::Anonymous, &[]);
        assert_eq!(
            limited
                .decide(&standing, Method::WaitExecution, Scope::Unknown, Uris::default())
                .map(|_| ())
                .map_err(|denial| denial.because),
            Err(Because::InstanceUnknown)
        );
    }

    fn denying(pattern: Pattern, deny: Rights, instances: Option<&[&str]>) -> Rule {
        Rule {
            deny,
            ..rule(pattern, Rights::NONE, instances)
        }
    }

    #[test]
    fn a_deny_wins_wherever_its_rule_stands() {
        let push = Rights::of(Right::CasPush);
        let mut rules = vec![
            rule(Pattern::Anonymous, Rights::ALL, None),
            denying(Pattern::Anonymous, push, None),
        ];
        for _ in 0..2 {
            let policy = Policy::new(rules.clone());
            let standing = policy.standing(&Identity::Anonymous, &[]);
            let denial = standing.may_ever(push).map_err(|denial| denial.because);
            assert!(matches!(denial, Err(Because::Forbidden(_))), "{denial:?}");
            // Either right will do for this one.
            let permit = policy.decide(&standing, Method::FindMissingBlobs, at(""), Uris::default());
            assert_eq!(permit.map(|permit| permit.right()), Ok(Right::Pull));
            rules.reverse();
        }
    }

    #[test]
    fn a_deny_for_some_instances_hits_these_and_calls_that_do_not_tell() {
        let policy = Policy::new(vec![
            rule(Pattern::Anonymous, Rights::ALL, None),
            denying(Pattern::Anonymous, Rights::of(Right::Execute), Some(&["a/**"])),
        ]);
        let standing = policy.standing(&Identity::Anonymous, &[]);
        let decide = |method, scope| {
            let decided = policy.decide(&standing, method, scope, Uris::default());
            decided.map(|_| ()).map_err(|denial| denial.because)
        };
        let forbidden = Err(Because::Forbidden(RuleId(1)));
        assert_eq!(decide(Method::Execute, at("b")), Ok(()));
        assert_eq!(decide(Method::Execute, at("a/x")), forbidden);
        assert_eq!(decide(Method::WaitExecution, Scope::Unknown), forbidden);
        assert_eq!(decide(Method::Read, at("a/x")), Ok(()));
    }

    #[test]
    fn who_is_ambiguous_for_a_rule_loses_what_it_denies_and_gets_nothing() {
        let ci = || {
            Pattern::Certificate(Box::new(pattern::CertificatePattern {
                common_name: Some("ci".into()),
                ..pattern::CertificatePattern::default()
            }))
        };
        let policy = Policy::new(vec![
            rule(Pattern::Any, Rights::PUSH, None),
            rule(ci(), Rights::of(Right::Pull), None),
            denying(ci(), Rights::of(Right::AssetPush), None),
        ]);
        let caller = |names: &[&str]| {
            Identity::Certificate(Box::new(identity::Certificate {
                common_names: names.iter().map(|name| (*name).to_owned()).collect(),
                ..identity::Certificate::default()
            }))
        };
        let ever = |names: &[&str]| policy.standing(&caller(names), &[]).ever();
        let blobs_and_actions = Rights::PUSH.without(Rights::of(Right::AssetPush));
        assert_eq!(ever(&["ci"]), blobs_and_actions.with(Right::Pull));
        assert_eq!(ever(&["ci", "x"]), blobs_and_actions);
        assert_eq!(ever(&["x"]), Rights::PUSH);
    }

    #[test]
    fn uris_that_lead_out_need_a_right_of_their_own() {
        let reader = Policy::new(vec![rule(Pattern::Anonymous, Rights::of(Right::Pull), None)]);
        let standing = reader.standing(&Identity::Anonymous, &[]);
        let ask = |remote, local| {
            reader
                .decide(
                    &standing,
                    Method::FetchBlob,
                    at(""),
                    Uris {
                        remote,
                        local,
                        ..Uris::default()
                    },
                )
                .map(|permit| permit.right())
                .map_err(|denial| denial.right)
        };
        assert_eq!(ask(false, true), Ok(Right::Pull));
        assert_eq!(ask(false, false), Ok(Right::Pull));
        assert_eq!(ask(true, false), Err(Right::FetchRemote));
        assert_eq!(ask(true, true), Err(Right::FetchRemote));
    }

    #[test]
    fn any_means_a_certificate_and_not_its_absence() {
        let policy = Policy::new(vec![rule(Pattern::Any, Rights::ALL, None)]);
        let standing = policy.standing(&Identity::Anonymous, &[]);
        assert_eq!(
            standing.may_ever(Rights::ALL).map_err(|denial| denial.because),
            Err(Because::NoRule)
        );
    }
}
