//! Who may do what: rules of the configuration, compiled, and the one place where a [`Permit`] is made.
//!
//! Deny is the default. A caller has the union of the rights of all rules that match it, but for those that one of them
//! denies; each right holds, and is denied, only for the instances of its rule. Whatever is not certain counts against
//! the caller: one that is ambiguous for a rule gets nothing from it and loses what it denies, and so do calls whose
//! instance only the server knows. An instance may have another name behind the gate: the first rule that matches the
//! caller, is about the instance and rewrites it decides for all calls of the caller on it, whichever rule gives the
//! right, so that what a caller writes is what it reads. Nothing here reads a file, a socket or a clock.

pub mod identity;
mod index;
pub mod instance;
pub mod kindness;
pub mod method;
pub mod pattern;
pub mod quota;
pub mod resource;
pub mod rewrite;
pub mod rights;
pub mod spiffe;
pub mod uris;

use std::sync::Arc;

use identity::{Identity, printable};
use index::Index;
use instance::{InstanceName, InstancePattern};
use kindness::Kindness;
use method::Method;
use pattern::{Fit, Issuers, Pattern};
use quota::Quota;
use rewrite::InstanceRewrite;
use rights::{Right, Rights};
pub use uris::Uris;
use uris::{UriPrefix, leads_out};

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
    /// Which URIs of Remote Asset it allows; `None` for all. Calls without URIs are not limited by it.
    pub uris: Option<Vec<UriPrefix>>,
    /// What its instances are called behind the gate, for these callers; `None` where the rule does not say.
    pub rewrite: Option<InstanceRewrite>,
    /// How denied pushes of its callers are answered.
    pub kindness: Kindness,
    /// What each of its callers may take of what it allows.
    pub quota: Quota,
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
    index: Index,
}

/// What the rules give to one identity, found once for a connection and a snapshot.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The rules that match and allow something.
    rules: Vec<RuleId>,
    denies: Vec<Deny>,
    /// The rules that rewrite instances, and whether they match for certain.
    rewrites: Vec<(RuleId, Fit)>,
    /// The rules that surely match and say how denied pushes are answered.
    kind: Vec<RuleId>,
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
    rewritten: Option<InstanceName>,
}

impl Permit {
    /// The method it is for.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The instance it is for, as the caller names it.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The instance as it is called behind the gate; `None` where only the server can tell.
    pub fn instance(&self) -> Option<&InstanceName> {
        match (&self.rewritten, &self.scope) {
            (Some(name), _) | (None, Scope::Instance(name)) => Some(name),
            (None, Scope::Unknown) => None,
        }
    }

    /// The rule that gave it.
    pub fn rule(&self) -> RuleId {
        self.rule
    }

    /// The right that it used.
    pub fn right(&self) -> Right {
        self.right
    }

    /// The URIs that it is for.
    pub fn uris(&self) -> &Uris {
        &self.uris
    }

    /// Asks again for the same call: what a reload does to calls that are under way.
    ///
    /// # Errors
    /// The denial, when the right is gone, or the instance is another one now.
    pub fn renew(&self, policy: &Policy, standing: &Standing) -> Result<(), Denial> {
        policy.judge(standing, self.method, &self.scope, &self.uris)?;
        if policy.rewritten(standing, &self.scope) == self.rewritten {
            return Ok(());
        }
        Err(Denial {
            right: self.right,
            because: Because::Moved,
        })
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
    /// The caller has the right, but not for this URI.
    NotForUri(String),
    /// The caller has the right on some instances, and the request does not say which one it is about.
    InstanceUnknown,
    /// The caller is perhaps one of those whose instance this rule rewrites.
    Ambiguous(RuleId),
    /// The instance has another name behind the gate since the call began.
    Moved,
}

impl Policy {
    /// The policy of these rules, in this order.
    pub fn new(rules: Vec<Rule>) -> Policy {
        let index = Index::new(rules.iter().map(|rule| &rule.pattern));
        Policy { rules, index }
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
            rewrites: Vec::new(),
            kind: Vec::new(),
            is_known: false,
            given: Rights::NONE,
            ever: Rights::NONE,
        };
        let mut never = Rights::NONE;
        for id in self.index.candidates(identity, issuers).into_iter().map(RuleId) {
            let Some(rule) = self.rules.get(id.index()) else {
                continue;
            };
            let fit = rule.pattern.fit(identity, issuers);
            if fit == Fit::Different {
                continue;
            }
            standing.is_known |= fit == Fit::Equal;
            if fit == Fit::Equal && !rule.allow.is_empty() {
                standing.rules.push(id);
                standing.given = standing.given.union(rule.allow);
            }
            if rule.rewrite.is_some() {
                standing.rewrites.push((id, fit));
            }
            if fit == Fit::Equal && !rule.kindness.is_empty() {
                standing.kind.push(id);
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
        let (rule, right) = self.judge(standing, method, &scope, &uris)?;
        Ok(Permit {
            method,
            rewritten: self.rewritten(standing, &scope),
            scope,
            rule,
            right,
            uris,
        })
    }

    /// The rule and the right that a call uses; of a call with URIs, those for the first one that leads out, else for
    /// the first.
    fn judge(
        &self,
        standing: &Standing,
        method: Method,
        scope: &Scope,
        uris: &Uris,
    ) -> Result<(RuleId, Right), Denial> {
        let needed = method.rights();
        if method.uris_in().is_none() {
            return self.grant(standing, needed, scope, None);
        }
        let remote = needed.intersection(Rights::of(Right::FetchRemote));
        let local = needed.without(remote);
        if uris.is_empty() {
            // A probe needs what a local request does.
            return self.grant(standing, local, scope, None);
        }
        let leads_out = |uri: &&[u8]| !remote.is_empty() && leads_out(uri);
        let mut found = None;
        for uri in uris.iter().filter(|uri| !leads_out(uri)) {
            let grant = self.grant(standing, local, scope, Some(uri))?;
            found.get_or_insert(grant);
        }
        let mut found_outside = None;
        for uri in uris.iter().filter(leads_out) {
            let grant = self.grant(standing, remote, scope, Some(uri))?;
            found_outside.get_or_insert(grant);
        }
        found_outside.or(found).ok_or(Denial {
            right: first(needed),
            because: Because::NoRight,
        })
    }

    /// The first rule that gives one of the rights on the instance, for the URI where there is one, and that no rule
    /// denies there.
    fn grant(
        &self,
        standing: &Standing,
        needed: Rights,
        scope: &Scope,
        uri: Option<&[u8]>,
    ) -> Result<(RuleId, Right), Denial> {
        standing.may_ever(needed)?;
        self.check_rewrite(standing, scope).map_err(|because| Denial {
            right: first(standing.ever.intersection(needed)),
            because,
        })?;
        let mut left = needed;
        for deny in &standing.denies {
            if !deny.rights.intersection(left).is_empty() && self.denies(deny, scope) {
                left = left.without(deny.rights);
            }
        }
        self.allow(standing, left, scope, uri)
            .ok_or_else(|| self.denial(standing, needed, left, scope, uri))
    }

    /// The rule that decides what an instance is called behind the gate.
    fn rewriting(&self, standing: &Standing, scope: &Scope) -> Option<(RuleId, Fit, &Rule)> {
        standing.rewrites.iter().find_map(|(id, fit)| {
            let rule = self.rules.get(id.index())?;
            rule.allows_on(scope).then_some((*id, *fit, rule))
        })
    }

    /// Whether it is certain which instance behind the gate a call would reach.
    fn check_rewrite(&self, standing: &Standing, scope: &Scope) -> Result<(), Because> {
        match scope {
            // Only the server can read the name, and it may be one of an instance that the caller must not see.
            Scope::Unknown if !standing.rewrites.is_empty() => Err(Because::InstanceUnknown),
            Scope::Unknown => Ok(()),
            Scope::Instance(_) => match self.rewriting(standing, scope) {
                Some((id, Fit::Ambiguous, _)) => Err(Because::Ambiguous(id)),
                _ => Ok(()),
            },
        }
    }

    /// What the instance is called behind the gate, where a rule gives it another name.
    fn rewritten(&self, standing: &Standing, scope: &Scope) -> Option<InstanceName> {
        let (_, _, rule) = self.rewriting(standing, scope)?;
        match scope {
            Scope::Instance(name) => rule.rewritten(name),
            Scope::Unknown => None,
        }
    }

    /// Why a call is denied for which no rule gives one of the rights; `left` are those that no rule denies.
    fn denial(&self, standing: &Standing, needed: Rights, left: Rights, scope: &Scope, uri: Option<&[u8]>) -> Denial {
        if let Some((_, right)) = self.allow(standing, needed, scope, uri)
            && let Some(deny) = standing
                .denies
                .iter()
                .find(|deny| deny.rights.contains(right) && self.denies(deny, scope))
        {
            return Denial {
                right,
                because: Because::Forbidden(deny.rule),
            };
        }
        if let Some(uri) = uri
            && let Some((_, right)) = self.allow(standing, left, scope, None)
        {
            return Denial {
                right,
                because: Because::NotForUri(printable(&String::from_utf8_lossy(uri))),
            };
        }
        Denial {
            right: first(standing.ever.intersection(needed)),
            because: match scope {
                Scope::Instance(name) => Because::NotOnInstance(name.clone()),
                Scope::Unknown => Because::InstanceUnknown,
            },
        }
    }

    /// The first rule that allows one of the rights on the instance, for the URI where there is one.
    fn allow(&self, standing: &Standing, rights: Rights, scope: &Scope, uri: Option<&[u8]>) -> Option<(RuleId, Right)> {
        standing.rules.iter().find_map(|id| {
            let rule = self.rules.get(id.index())?;
            let right = rule.allow.intersection(rights).iter().next()?;
            let covers = rule.allows_on(scope) && uri.is_none_or(|uri| rule.allows_uri(uri));
            covers.then_some((*id, right))
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

    /// Whether the caller has the right on this instance, for some URI at least.
    pub fn has(&self, policy: &Policy, right: Right, scope: &Scope) -> bool {
        policy.grant(self, Rights::of(right), scope, None).is_ok()
    }

    /// The rules that may allow a call and say how much of that the caller may take.
    pub fn limited<'a>(&self, policy: &'a Policy) -> impl Iterator<Item = (RuleId, &'a Rule)> {
        let rules = self
            .rules
            .iter()
            .filter_map(|id| Some((*id, policy.rules.get(id.index())?)));
        rules.filter(|(_, rule)| !rule.quota.is_empty())
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

    /// What it calls an instance behind the gate; `None` where it does not say, or is not about the instance.
    pub fn rewritten(&self, name: &InstanceName) -> Option<InstanceName> {
        let rewrite = self.rewrite.as_ref()?;
        match &self.instances {
            None => Some(rewrite.apply(None, name)),
            Some(patterns) => {
                let pattern = patterns.iter().find(|pattern| pattern.matches(name))?;
                Some(rewrite.apply(Some(pattern), name))
            }
        }
    }

    /// Whether what it allows holds for a URI.
    pub fn allows_uri(&self, uri: &[u8]) -> bool {
        let covers = |prefixes: &Vec<UriPrefix>| prefixes.iter().any(|prefix| prefix.covers(uri));
        self.uris.as_ref().is_none_or(covers)
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
mod tests;
