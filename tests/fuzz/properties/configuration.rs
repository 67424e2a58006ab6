//! Configuration files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use casgate::config::file::{File, Key};
use casgate::config::{Loaded, Source};
use casgate::policy::identity::{Certificate, Identity};
use casgate::policy::method::Method;
use casgate::snapshot::Snapshot;

/// A configuration file: either every problem of it is told, with its key, or it is one that denies what it does not
/// allow.
pub fn configuration(bytes: &[u8]) -> String {
    let Ok(text) = str::from_utf8(bytes) else {
        return "not UTF-8".to_owned();
    };
    let (Ok(file), Ok(table)) = (toml::from_str::<File>(text), text.parse::<toml::Table>()) else {
        return "no TOML".to_owned();
    };
    let loaded = loaded(file, &table);
    let compiled = Snapshot::compile(&loaded);
    match compiled {
        Err(problems) => {
            let told: Vec<_> = problems.iter().collect();
            assert!(!told.is_empty());
            for problem in &told {
                assert!(!problem.key.is_empty() && !problem.text.is_empty(), "{problem:?}");
            }
            let again = Snapshot::compile(&loaded).unwrap_err();
            assert_eq!(again, problems, "the same file has other problems");
            let told: BTreeSet<_> = told
                .iter()
                .map(|problem| &problem.text[..problem.text.floor_char_boundary(16)])
                .collect();
            format!("{told:?}")
        }
        Ok(snapshot) => {
            assert!(!snapshot.listeners.is_empty() && !snapshot.backends.is_empty());
            check_default(&loaded, &snapshot);
            format!("good, {} rules", snapshot.policy.rules().len().min(8))
        }
    }
}

/// Callers that no rule is about may nothing, as the file itself says which those are.
fn check_default(loaded: &Loaded, snapshot: &Snapshot) {
    let is_about = |who: &str| match &loaded.file.rules {
        Key::Good(rules) => rules.iter().any(|rule| match rule {
            Key::Good(rule) => matches!(&rule.certificate, Key::Good(toml::Value::String(text)) if text == who),
            Key::Absent | Key::Bad(_) => panic!("a rule that can't be read was compiled"),
        }),
        Key::Absent => false,
        Key::Bad(_) => panic!("rules that can't be read were compiled"),
    };
    // Nothing that a rule could ask for: no name, no issuer, and digests that nobody has found an input for.
    let stranger = Identity::Certificate(Box::new(Certificate {
        sha256: [7; 32],
        spki_sha256: [7; 32],
        not_after: i64::MAX,
        ..Certificate::default()
    }));
    for (identity, who) in [(stranger, "any"), (Identity::Anonymous, "anonymous")] {
        if is_about(who) {
            continue;
        }
        let standing = snapshot.policy.standing(&identity, &[]);
        for method in Method::ALL {
            if !method.rights().is_empty() {
                assert!(standing.may_ever(method.rights()).is_err(), "{who} may {method:?}");
            }
        }
    }
}

/// The file with what it names: every text in it is the name of a good file, of a kind that its ending tells.
fn loaded(file: File, table: &toml::Table) -> Loaded {
    let mut names = Vec::new();
    texts(&toml::Value::Table(table.clone()), &mut names);
    let files = files();
    let content = |name: &str| match name.rsplit('.').next() {
        Some("key") => files.key.clone(),
        Some("pem" | "crl") => Vec::new(),
        _ if name.contains("server") => files.server.clone(),
        _ => files.authority.clone(),
    };
    let named = names
        .into_iter()
        .map(|name| (PathBuf::from(&name), Ok::<_, Arc<_>>(content(&name).into())));
    Loaded {
        path: "casgate.toml".into(),
        file,
        contents: named.collect::<BTreeMap<_, _>>(),
        open_to_all: BTreeSet::new(),
        audit_problem: None,
        source: Source::default(),
    }
}

fn texts(value: &toml::Value, found: &mut Vec<String>) {
    match value {
        toml::Value::String(text) => found.push(text.clone()),
        toml::Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
        toml::Value::Table(table) => table.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

/// PEM files of a gate, made anew.
struct Files {
    authority: Vec<u8>,
    server: Vec<u8>,
    key: Vec<u8>,
}

fn files() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let made = casgate::certs::Folder::new(folder.path());
        made.authority("test", 365).unwrap();
        made.server(&["localhost".to_owned()], 365).unwrap();
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        Files {
            authority: read("ca.crt"),
            server: read("server.crt"),
            key: read("server.key"),
        }
    })
}
