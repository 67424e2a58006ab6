//! `casgate check`: everything that is wrong with a configuration, or who may do what by it.

mod index;
mod matrix;
mod neighbours;
mod tenants;
mod warnings;

use std::fmt::Write;
use std::path::PathBuf;

use super::Failure;
use crate::config;
use crate::config::size::Size;
use crate::policy::instance::InstancePattern;
use crate::policy::kindness::Kindness;
use crate::policy::method::Service;
use crate::route::Instances;
use crate::snapshot::Snapshot;
use crate::snapshot::backends::{HealthPlan, Question, Target};

pub use warnings::warnings;

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
    print!("{}", matrix::of(&snapshot.policy));
    for warning in warnings(&snapshot) {
        println!("warning: {warning}");
    }
    for note in neighbours::notes(&snapshot) {
        println!("note: {note}");
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
            .flat_map(|service| {
                let routes = snapshot.routes.of(service).iter();
                let here = routes.filter(|(_, route)| route.backend.index() == index);
                here.map(move |(instances, _)| served(service, instances))
            })
            .collect();
        let place = match &*plan.endpoints {
            [Target::Store(url)] => match plan.quota {
                Some(quota) => format!("embedded store {url} with a quota of {}", Size::text(quota)),
                None => format!("embedded store {url} without a quota"),
            },
            targets => targets.iter().map(Target::name).collect::<Vec<_>>().join(" or "),
        };
        let health = plan.health.as_ref().map(checked).unwrap_or_default();
        let _ = writeln!(
            text,
            "backend {}: {place}{health}, serves {}",
            plan.name,
            services.join(", ")
        );
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
        let kindness = kindness(rule.kindness);
        let quota = rule.quota;
        let _ = writeln!(
            text,
            "rule \"{}\": {} {} on {instances}{uris}{quota}{kindness}",
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

/// How the endpoints of a backend are checked.
fn checked(health: &HealthPlan) -> String {
    let question = match &health.question {
        Question::Health => "grpc.health.v1".to_owned(),
        Question::Capabilities(name) if name.as_str().is_empty() => "its capabilities".to_owned(),
        Question::Capabilities(name) => format!("its capabilities of \"{name}\""),
    };
    format!(", asked for {question} every {} s", health.interval.as_secs())
}

/// A service, with the instances where it is limited to some.
fn served(service: Service, instances: &Instances) -> String {
    let name = service.name();
    let text = |patterns: &Vec<InstancePattern>| {
        let patterns: Vec<_> = patterns.iter().map(|pattern| format!("\"{pattern}\"")).collect();
        format!(" of {}", patterns.join(", "))
    };
    let only = instances.only.as_ref().map(text).unwrap_or_default();
    match &instances.rewrite {
        Some(rewrite) => format!("{name}{only} as \"{rewrite}\""),
        None => format!("{name}{only}"),
    }
}

fn kindness(kindness: Kindness) -> String {
    let Kindness {
        denied_push,
        push_probe,
    } = kindness;
    let denied = denied_push.map(|denied_push| format!("; denied pushes are {}", denied_push.verb()));
    let probes = push_probe.map(|push_probe| format!("; probes for pushes are {}", push_probe.verb()));
    [denied, probes].into_iter().flatten().collect()
}
