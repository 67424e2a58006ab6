//! What comes of a call, step by step, with the reasons.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};

use crate::cli::Failure;
use crate::policy::identity::{Identity, printable};
use crate::policy::instance::InstanceName;
use crate::policy::kindness::Kindly;
use crate::policy::method::{InstanceIn, Method, Service};
use crate::policy::pattern::{Fit, Issuers, Part, Pattern};
use crate::policy::rights::{Right, Rights};
use crate::policy::{Because, Rule, Scope, Standing, Uris};
use crate::proxy::verdict;
use crate::snapshot::Snapshot;
use crate::snapshot::listen::Listen;
use crate::status::{Code, Rejection};
use crate::tls::identity;
use crate::tls::verifier::Accepted;

/// A call as it is asked about.
pub(super) struct Call<'a> {
    /// The index of the listener.
    pub(super) listener: usize,
    /// The certificates that the client shows, leaf first; none for an anonymous caller.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) method: Method,
    pub(super) instance: &'a str,
    pub(super) uris: &'a [String],
}

/// What comes of a call.
pub(super) struct Account<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) listen: &'a Listen,
    pub(super) identity: Identity,
    /// The names of the authorities that vouch for it; or why the handshake fails.
    pub(super) accepted: Result<Accepted, String>,
    /// Each rule, and how it bears on the call.
    pub(super) rules: Vec<(&'a Rule, Bearing)>,
    pub(super) outcome: Result<Allowed, Refused>,
}

/// How a rule bears on a call.
pub(super) struct Bearing {
    pub(super) fit: Fit,
    /// Why it is so, and what follows for the call.
    pub(super) reasons: Vec<String>,
}

/// A call that is allowed.
pub(super) struct Allowed {
    /// The rule; none where no right is needed.
    pub(super) rule: Option<(Arc<str>, Right)>,
    /// The backend; none where casgate answers.
    pub(super) backend: Option<Arc<str>>,
    /// What the instance is called there, where it is another name.
    pub(super) renamed: Option<InstanceName>,
}

/// A call that is not.
pub(super) enum Refused {
    /// There is no connection to make it on.
    Handshake,
    /// It gets this answer, because of this rule where one denied it; unless it is answered kindly.
    Answer(Rejection, Option<Arc<str>>, Option<Kind>),
}

/// What a denied call is answered instead of its denial.
pub(super) struct Kind {
    /// The rule that says so.
    pub(super) rule: Arc<str>,
    /// How.
    pub(super) kindly: Kindly,
    /// Whether that is only for a request that brings nothing.
    pub(super) only_empty: bool,
    pub(super) code: Code,
    pub(super) message: &'static str,
}

impl<'a> Account<'a> {
    /// Decides the call at a time in seconds since 1970.
    ///
    /// # Errors
    /// When the certificate can't be read.
    pub(super) fn of(snapshot: &'a Snapshot, call: &'a Call<'a>, now: i64) -> Result<Account<'a>, Failure> {
        let identity = match call.chain.first() {
            Some(leaf) => Identity::Certificate(Box::new(
                identity::read(leaf).map_err(|error| Failure(format!("the certificate {error}")))?,
            )),
            None => Identity::Anonymous,
        };
        let listen = snapshot
            .listeners
            .get(call.listener)
            .ok_or_else(|| Failure("there is no listener".to_owned()))?;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now.try_into().unwrap_or_default()));
        let accepted = listen.security.accept(&call.chain, time);
        let issuers = accepted
            .as_ref()
            .map(|accepted| accepted.issuers.clone())
            .unwrap_or_default();
        let standing = snapshot.policy.standing(&identity, &issuers);
        let rules = snapshot.policy.rules().iter();
        let rules = rules
            .map(|rule| (rule, bearing(rule, &identity, &issuers, call)))
            .collect();
        let outcome = match &accepted {
            Ok(_) => decide(snapshot, &identity, &standing, call, now)
                .map_err(|rejection| refused(snapshot, &standing, call, rejection)),
            Err(_) => Err(Refused::Handshake),
        };
        Ok(Account {
            call,
            listen,
            identity,
            accepted,
            rules,
            outcome,
        })
    }
}

/// The steps of `proxy::handle`.
fn decide(
    snapshot: &Snapshot,
    identity: &Identity,
    standing: &Standing,
    call: &Call<'_>,
    now: i64,
) -> Result<Allowed, Rejection> {
    let method = call.method;
    if method.service() == Service::Health {
        return Ok(Allowed {
            rule: None,
            backend: None,
            renamed: None,
        });
    }
    verdict::check_served(snapshot, method)?;
    verdict::check_good(identity, None, now)?;
    verdict::check_ever(&snapshot.policy, identity, standing, method)?;
    let scope = verdict::scope(method, call.instance)?;
    let uris = Uris::of(call.uris.iter().map(String::as_str));
    let permit = verdict::decide(snapshot, identity, standing, method, scope, uris)?;
    let rule = snapshot.policy.rules().get(permit.rule().index());
    let rule = rule.map(|rule| (Arc::clone(&rule.name), permit.right()));
    let way = match method.service() {
        // It becomes calls of Remote Asset.
        Service::ReferenceStorage => verdict::way_to(snapshot, Service::Asset, permit.instance()),
        _ => verdict::way(snapshot, &permit),
    }?;
    let plan = snapshot.backends.get(way.route.backend.index());
    let name = way.rewritten.as_ref().or(permit.instance());
    Ok(Allowed {
        rule,
        backend: plan.map(|plan| Arc::clone(&plan.name)),
        renamed: name
            .filter(|name| *permit.scope() != Scope::Instance((*name).clone()))
            .cloned(),
    })
}

fn refused(snapshot: &Snapshot, standing: &Standing, call: &Call<'_>, rejection: Rejection) -> Refused {
    let kind = match rejection {
        Rejection::Denied(..) => kind(snapshot, standing, call),
        _ => None,
    };
    let by = denier(snapshot, &rejection);
    Refused::Answer(rejection, by, kind)
}

fn kind(snapshot: &Snapshot, standing: &Standing, call: &Call<'_>) -> Option<Kind> {
    let (method, policy) = (call.method, &snapshot.policy);
    let scope = verdict::scope(method, call.instance).ok()?;
    let uris = Uris::of(call.uris.iter().map(String::as_str));
    let (rule, kindly) = policy.kindly(standing, method, &scope, &uris)?;
    let (code, message) = verdict::kind_status(method, kindly);
    Some(Kind {
        rule: Arc::clone(&policy.rules().get(rule.index())?.name),
        kindly,
        only_empty: kindly == Kindly::Probe && method == Method::BatchUpdateBlobs,
        code,
        message,
    })
}

/// The rule that denied a call.
fn denier(snapshot: &Snapshot, rejection: &Rejection) -> Option<Arc<str>> {
    match rejection {
        Rejection::Denied(_, denial) => match denial.because {
            Because::Forbidden(rule) | Because::Ambiguous(rule) => {
                let rule = snapshot.policy.rules().get(rule.index())?;
                Some(Arc::clone(&rule.name))
            }
            _ => None,
        },
        _ => None,
    }
}

fn bearing(rule: &Rule, identity: &Identity, issuers: &Issuers, call: &Call<'_>) -> Bearing {
    let fit = rule.pattern.fit(identity, issuers);
    let mut reasons = differences(&rule.pattern, identity, issuers);
    if fit == Fit::Ambiguous {
        let refuses = if rule.rewrite.is_some() {
            ", and calls on its instances are refused"
        } else {
            ""
        };
        reasons.push(format!("so it gives nothing, and takes what it denies{refuses}"));
    }
    let scope = verdict::scope(call.method, call.instance).unwrap_or(Scope::Unknown);
    if fit == Fit::Equal && !rule.allow.is_empty() {
        reasons.push(match useful(rule.allow, call.method) {
            None => format!("it allows {}, and the call needs {}", rule.allow, needs(call.method)),
            Some(rights) if rule.allows_on(&scope) => match uncovered(rule, call) {
                Some(uri) => format!("it allows {rights}, but not of the URI `{}`", printable(uri)),
                None => format!("it allows {rights}"),
            },
            Some(rights) => format!("it allows {rights}, but {}", elsewhere(&scope)),
        });
    }
    if fit != Fit::Different && !rule.deny.is_empty() {
        reasons.push(match useful(rule.deny, call.method) {
            None => format!("it denies {}, which the call does not need", rule.deny),
            Some(rights) if rule.denies_on(&scope) => format!("it denies {rights}"),
            Some(rights) => format!("it denies {rights}, but {}", elsewhere(&scope)),
        });
    }
    if let (Fit::Equal, Scope::Instance(name)) = (fit, &scope)
        && let Some(renamed) = rule.rewritten(name)
    {
        reasons.push(format!(
            "it calls the instance `{}` behind the gate",
            printable(renamed.as_str())
        ));
    }
    if fit != Fit::Different && rule.rewrite.is_some() && scope == Scope::Unknown {
        reasons.push("it rewrites instances, and this method does not tell its instance".to_owned());
    }
    if fit == Fit::Equal {
        reasons.extend(kindness(rule, call.method, &scope));
    }
    Bearing { fit, reasons }
}

/// What a rule says of denied pushes, where the call is one.
fn kindness(rule: &Rule, method: Method, scope: &Scope) -> Vec<String> {
    let place = if rule.allows_on(scope) {
        String::new()
    } else {
        format!(", but {}", elsewhere(scope))
    };
    let mut reasons = Vec::new();
    let is_push = !method.rights().intersection(Rights::PUSH).is_empty() && method != Method::FindMissingBlobs;
    if is_push && let Some(denied_push) = rule.kindness.denied_push {
        reasons.push(format!("it has denied pushes {}{place}", denied_push.verb()));
    }
    if is_push && let Some(push_probe) = rule.kindness.push_probe {
        reasons.push(format!("it has probes for pushes {}{place}", push_probe.verb()));
    }
    reasons
}

fn useful(rights: Rights, method: Method) -> Option<Rights> {
    Some(rights.intersection(method.rights())).filter(|rights| !rights.is_empty())
}

/// The first URI that a rule does not allow.
fn uncovered<'a>(rule: &Rule, call: &'a Call<'_>) -> Option<&'a String> {
    let mut uris = call.uris.iter();
    uris.find(|uri| call.method.uris_in().is_some() && !rule.allows_uri(uri.as_bytes()))
}

/// What a call needs, any one of it.
pub(super) fn needs(method: Method) -> String {
    match method.rights() {
        Rights::ALL => "any right".to_owned(),
        Rights::NONE => "no right".to_owned(),
        rights => rights.iter().map(Right::name).collect::<Vec<_>>().join(" or "),
    }
}

fn elsewhere(scope: &Scope) -> String {
    match scope {
        Scope::Instance(name) => format!("not on the instance `{}`", printable(name.as_str())),
        Scope::Unknown => "only on its `instances`, and this method does not tell its instance".to_owned(),
    }
}

/// Why a caller is not, or not surely, the one that a pattern means.
fn differences(pattern: &Pattern, identity: &Identity, issuers: &Issuers) -> Vec<String> {
    match (pattern, identity) {
        (Pattern::Certificate(pattern), Identity::Certificate(certificate)) => {
            let mut reasons = Vec::new();
            for part in Part::ALL {
                let fit = pattern.fit_of(part, certificate, issuers);
                let given = part.given(certificate, issuers);
                let given: Vec<_> = given.iter().map(|text| format!("`{}`", printable(text))).collect();
                let wanted = pattern.wanted(part).unwrap_or_default();
                let (name, given) = (part.name(), given.join(", "));
                match fit {
                    Some(Fit::Different) if given.is_empty() => {
                        reasons.push(format!("it wants {name} `{wanted}`, and there is none"));
                    }
                    Some(Fit::Different) => reasons.push(format!("it wants {name} `{wanted}`, which is {given}")),
                    Some(Fit::Ambiguous) if part == Part::IssuedBy => {
                        reasons.push(format!(
                            "it wants {name} `{wanted}`, from which it comes by another way as well"
                        ));
                    }
                    Some(Fit::Ambiguous) => {
                        reasons.push(format!("it wants the one {name} `{wanted}`, and there are {given}"));
                    }
                    Some(Fit::Equal) | None => {}
                }
            }
            reasons
        }
        (Pattern::Any | Pattern::Certificate(_), Identity::Anonymous) => {
            vec!["it is about callers with a certificate".to_owned()]
        }
        (Pattern::Anonymous, Identity::Certificate(_)) => vec!["it is about callers without a certificate".to_owned()],
        (Pattern::Any, Identity::Certificate(_)) | (Pattern::Anonymous, Identity::Anonymous) => Vec::new(),
    }
}

impl Call<'_> {
    /// The instance, where the call tells one.
    pub(super) fn told_instance(&self) -> Option<&str> {
        (self.method.instance_in() != InstanceIn::Unknown).then_some(self.instance)
    }
}
