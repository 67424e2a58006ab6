//! Decisions, without a wire: tables of `tests/cases/policy`, and a second evaluator that knows nothing of the first.

mod naive;
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use casgate::config::Loaded;
use casgate::policy::identity::{Certificate, Identity};
use casgate::policy::instance::InstanceName;
use casgate::policy::method::{InstanceIn, Method};
use casgate::policy::{Policy, Scope, Uris};
use casgate::snapshot::Snapshot;
use casgate::status::Rejection;
use serde::Deserialize;

use crate::harness::pki::Authority;

/// A table: rules as the configuration has them, callers, and what comes of their calls.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    rules: Vec<toml::Value>,
    callers: BTreeMap<String, Caller>,
    rows: Vec<Row>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Caller {
    common_name: Vec<String>,
    organization: Vec<String>,
    uri: Vec<String>,
    dns: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    who: String,
    path: String,
    #[serde(default)]
    instance: String,
    #[serde(default)]
    uris: Vec<String>,
    /// The rule that allows it.
    rule: Option<String>,
    /// The reason why it is denied.
    denied: Option<String>,
    /// The right that was used, or is missing.
    right: Option<String>,
    /// What the instance is called behind the gate, where that is another name.
    renamed: Option<String>,
    /// There is no such method.
    #[serde(default)]
    unknown: bool,
}

/// What came of a call: the rule or the reason, and the right.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Allow {
        rule: String,
        right: String,
        /// The name of the instance behind the gate.
        instance: Option<String>,
    },
    Deny {
        reason: String,
        right: String,
    },
    Unknown,
}

/// Compiles rules as a whole configuration does, without a disk.
fn compile(rules: Vec<toml::Value>, authority: &Authority) -> Policy {
    let rules = toml::Table::from_iter([("rules".to_owned(), toml::Value::Array(rules))]);
    let text = format!(
        "{rules}\n[backends.store]\nstore = \"memory:\"\n[listen]\naddress = \"127.0.0.1:0\"\n\
         certificate = \"server.crt\"\nkey = \"server.key\"\nclient-ca = [\"ca.crt\"]\n"
    );
    let server = authority.server();
    let contents = [
        ("server.crt", server.pem()),
        ("server.key", server.key_pem()),
        ("ca.crt", authority.pem()),
    ];
    let loaded = Loaded {
        audit_problem: None,
        source: casgate::config::Source::default(),
        path: "casgate.toml".into(),
        file: toml::from_str(&text).unwrap(),
        contents: contents
            .into_iter()
            .map(|(name, text)| (name.into(), Ok::<_, Arc<_>>(text.into_bytes().into())))
            .collect(),
        open_to_all: BTreeSet::new(),
    };
    Snapshot::compile(&loaded)
        .unwrap_or_else(|problems| panic!("{problems}"))
        .policy
}

/// What the policy makes of a call.
fn decide(policy: &Policy, identity: &Identity, row: &Row) -> Outcome {
    let Some(method) = Method::from_path(&row.path) else {
        return Outcome::Unknown;
    };
    let scope = match method.instance_in() {
        InstanceIn::Unknown => Scope::Unknown,
        InstanceIn::Field(_) | InstanceIn::ResourceName(_) => {
            Scope::Instance(InstanceName::parse(&row.instance).unwrap())
        }
    };
    let uris = Uris::of(row.uris.iter().map(String::as_str));
    match policy.decide(&policy.standing(identity, &[]), method, scope, uris) {
        Ok(permit) => Outcome::Allow {
            rule: policy.rules()[permit.rule().index()].name.to_string(),
            right: permit.right().name().to_owned(),
            instance: permit.instance().map(ToString::to_string),
        },
        Err(denial) => Outcome::Deny {
            right: denial.right.name().to_owned(),
            reason: Rejection::denied(identity, denial).label().to_owned(),
        },
    }
}

fn check(file: &Path, authority: &Authority) {
    let table: Table = toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert!(!table.rows.is_empty(), "{} has no rows", file.display());
    let policy = compile(table.rules, authority);
    for (number, row) in table.rows.iter().enumerate() {
        let identity = match row.who.as_str() {
            "anonymous" => Identity::Anonymous,
            name => identity(&table.callers[name]),
        };
        let outcome = decide(&policy, &identity, row);
        let place = format!(
            "{} rows[{number}]: {} {} {:?}",
            file.display(),
            row.who,
            row.path,
            row.instance
        );
        let right = match (&outcome, &row.rule, &row.denied, row.unknown) {
            (Outcome::Allow { rule, right, instance }, Some(expected), None, false) => {
                assert_eq!(rule, expected, "{place}");
                if let Some(instance) = instance {
                    assert_eq!(instance, row.renamed.as_ref().unwrap_or(&row.instance), "{place}");
                }
                right
            }
            (Outcome::Deny { reason, right }, None, Some(expected), false) => {
                assert_eq!(reason, expected, "{place}");
                right
            }
            (Outcome::Unknown, None, None, true) => continue,
            (other, ..) => panic!("{place}: {other:?}"),
        };
        assert_eq!(right, row.right.as_ref().unwrap_or(right), "{place}");
    }
}

fn identity(caller: &Caller) -> Identity {
    Identity::Certificate(Box::new(Certificate {
        common_names: caller.common_name.clone(),
        organizations: caller.organization.clone(),
        uris: caller.uri.clone(),
        dns: caller.dns.clone(),
        not_after: i64::MAX,
        ..Certificate::default()
    }))
}

#[test]
fn every_row_of_every_table_comes_out_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/policy");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    assert!(!files.is_empty(), "there is no table");
    let authority = Authority::new("tables");
    for file in files {
        check(&file, &authority);
    }
}
