//! `casgate check`: everything that is wrong with a configuration, or who may do what by it.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::PathBuf;

use super::Failure;
use crate::config;
use crate::policy::identity::Identity;
use crate::policy::method::Service;
use crate::policy::pattern::Pattern;
use crate::policy::rights::{Right, Rights};
use crate::policy::{Policy, Rule};
use crate::snapshot::Snapshot;
use crate::snapshot::backends::Target;
use crate::snapshot::listen::Security;

/// Arguments of `casgate check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Checks a configuration and prints what it means.
///
/// # Errors
/// Everything that is wrong with it.
pub fn run(args: &Args) -> Result<(), Failure> {
    let loaded = config::load(&args.config).map_err(Failure::of)?;
    let snapshot = Snapshot::compile(&loaded).map_err(Failure::of)?;
    print!("{}: good\n\n{}", args.config.display(), describe(&snapshot));
    for warning in warnings(&snapshot) {
        println!("warning: {warning}");
    }
    Ok(())
}

/// What a configuration means, as `check` prints it and `serve` logs it: a line for each listener, backend and rule.
pub fn describe(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for listener in &snapshot.listeners {
        let _ = writeln!(text, "listens on {}://{}", listener.scheme(), listener.id.address);
    }
    if let Some(admin) = snapshot.admin {
        let _ = writeln!(text, "admin on http://{admin}");
    }
    for (index, plan) in snapshot.backends.iter().enumerate() {
        let services: Vec<_> = Service::ROUTED
            .into_iter()
            .filter(|service| {
                snapshot
                    .routes
                    .of(*service)
                    .is_some_and(|route| route.backend.index() == index)
            })
            .map(Service::name)
            .collect();
        let target = match &plan.target {
            Target::Unix(path) => format!("unix:{}", path.display()),
            Target::Tcp(_) => format!("http://{}", plan.target.authority()),
            Target::Tls(..) => format!("https://{}", plan.target.authority()),
            Target::Store(url) => format!("embedded store {url}"),
        };
        let _ = writeln!(text, "backend {}: {target}, serves {}", plan.name, services.join(", "));
    }
    if snapshot.policy.rules().is_empty() {
        let _ = writeln!(text, "no rules: nobody may do anything");
    }
    for rule in snapshot.policy.rules() {
        let instances = match &rule.instances {
            None => "every instance".to_owned(),
            Some(patterns) => {
                let names: Vec<_> = patterns.iter().map(|pattern| format!("\"{pattern}\"")).collect();
                format!("instances {}", names.join(", "))
            }
        };
        let uris = match &rule.uris {
            None => String::new(),
            Some(prefixes) => {
                let prefixes: Vec<_> = prefixes
                    .iter()
                    .map(|prefix| format!("\"{}\"", prefix.as_str()))
                    .collect();
                format!(", of URIs only those that begin with {}", prefixes.join(" or "))
            }
        };
        let _ = writeln!(
            text,
            "rule \"{}\": {} {} on {instances}{uris}",
            rule.name,
            rule.pattern,
            match (rule.allow.is_empty(), rule.deny.is_empty()) {
                (true, true) => "may do nothing".to_owned(),
                (false, true) => format!("may {}", rule.allow),
                (true, false) => format!("may never {}", rule.deny),
                (false, false) => format!("may {}, and never {},", rule.allow, rule.deny),
            },
        );
    }
    text
}

/// What is allowed but looks like a mistake.
pub fn warnings(snapshot: &Snapshot) -> Vec<String> {
    let mut warnings = Vec::new();
    for rule in snapshot.policy.rules() {
        if rule.allow.contains(Right::AssetPush) && !elsewhere_has(&snapshot.policy, rule, Right::CasPush) {
            warnings.push(format!(
                "rule \"{}\" gives asset-push without cas-push: BuildStream would leave names that point into nothing",
                rule.name
            ));
        }
        if rule.allow.contains(Right::CasPush)
            && !rule.allow.contains(Right::AssetPush)
            && rule.allow.contains(Right::ActionPush)
        {
            warnings.push(format!(
                "rule \"{}\" gives cas-push and action-push without asset-push: BuildStream clients with `push: true` will be refused",
                rule.name
            ));
        }
    }
    let now = crate::live::now();
    for (certificate, end) in snapshot.listeners.iter().flat_map(|listener| &listener.expiries) {
        let days = end.saturating_sub(now) / 86_400;
        if *end < now {
            warnings.push(format!("certificate {certificate} has expired"));
        } else if days < 30 {
            warnings.push(format!("certificate {certificate} expires in {days} days"));
        }
    }
    for listener in &snapshot.listeners {
        if let Security::Tls { verifier, .. } = &listener.security {
            warnings.extend(verifier.warnings().iter().cloned());
        }
    }
    let issuers = snapshot.listeners.iter().map(|listener| match &listener.security {
        Security::Tls { verifier, .. } => verifier.issuers(),
        Security::Clear => 0,
    });
    let issuers = issuers.max().unwrap_or_default();
    for rule in snapshot.policy.rules() {
        if let Pattern::Certificate(pattern) = &rule.pattern
            && pattern.trusts_every_authority()
            && !rule.allow.is_empty()
            && issuers > 1
        {
            warnings.push(format!(
                "rule \"{}\" does not say which of {issuers} authorities it trusts: each could issue a certificate that it matches; name them in client-ca, and add `issued-by`",
                rule.name
            ));
        }
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

/// Whether the rule gives the right, or another one does to the same callers.
fn elsewhere_has(policy: &Policy, rule: &Rule, right: Right) -> bool {
    policy
        .rules()
        .iter()
        .any(|other| other.pattern == rule.pattern && other.allow.contains(right))
}
