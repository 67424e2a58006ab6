//! README.md tells what is there: every key, right, metric and field of a log line, with commands that run.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use casgate::policy::method::Method;
use casgate::policy::rights::{Right, Rights};

use crate::configs::{certificates, compile, examples};

const README: &str = include_str!("../../README.md");
const KEYS: &str = include_str!("../../src/config/file.rs");
const LIVE: &str = include_str!("../../src/live.rs");
const METRICS: &str = include_str!("../../src/metrics.rs");
const METRICS_OF_CALLS: &str = include_str!("../../src/metrics/calls.rs");
const RECORD: &str = include_str!("../../src/proxy/record.rs");
const STATUS: &str = include_str!("../../src/status.rs");

/// The tables of the configuration file, by the struct that reads them: what comes before the names of their keys.
const TABLES: [(&str, &str); 11] = [
    ("File", ""),
    ("Listen", "listen."),
    ("ClientCaTable", "listen.client-ca[]."),
    ("Admin", "admin."),
    ("Backend", "backends.NAME."),
    ("ForwardIdentity", "backends.NAME.forward-identity."),
    ("Route", "routes[]."),
    ("Rule", "rules[]."),
    ("Limits", "limits."),
    ("Log", "log."),
    ("Audit", "audit."),
];

/// The same for a table inside of a rule.
const PATTERN: (&str, &str) = ("CertificatePattern", "rules[].certificate.");

/// A section of the README, without its head.
fn section(head: &str) -> &'static str {
    let (_, rest) = README
        .split_once(&format!("\n## {head}\n"))
        .unwrap_or_else(|| panic!("no section `{head}`"));
    rest.split_once("\n## ").map_or(rest, |(section, _)| section)
}

/// Rows of the tables in a text: what the first cell has in backticks, and the whole row.
fn rows(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().filter(|line| line.starts_with("| `"));
    lines
        .filter_map(|line| Some((line.strip_prefix("| `")?.split_once('`')?.0, line)))
        .collect()
}

fn names(text: &str) -> BTreeSet<String> {
    rows(text).into_iter().map(|(name, _)| name.to_owned()).collect()
}

/// What stands between quotes in a piece of Rust.
fn literals(source: &str) -> impl Iterator<Item = &str> {
    source.split('"').skip(1).step_by(2)
}

/// The part of a source between two texts.
fn between<'a>(source: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = source
        .split_once(from)
        .unwrap_or_else(|| panic!("`{from}` is not there"));
    rest.split_once(to).unwrap_or_else(|| panic!("`{to}` is not there")).0
}

/// Every key of the configuration file, as the README writes them, from the source that reads them.
fn keys() -> BTreeSet<String> {
    let tables: Vec<_> = TABLES.into_iter().chain([PATTERN]).collect();
    let is_table = |key: &str| {
        let inside = |prefix: &str| prefix.starts_with(&format!("{key}.")) || prefix.starts_with(&format!("{key}[]"));
        TABLES.iter().any(|(_, prefix)| inside(prefix))
    };
    let mut keys = BTreeSet::new();
    let mut table = "";
    for line in KEYS.lines() {
        if let Some(rest) = ["pub struct ", "pub enum "]
            .iter()
            .find_map(|head| line.strip_prefix(head))
        {
            table = rest.split([' ', '<']).next().unwrap();
        }
        let field = line.trim_start();
        let field = field.strip_prefix("pub ").and_then(|field| field.split_once(": Key<"));
        let Some((field, _)) = field else { continue };
        let (_, prefix) = tables
            .iter()
            .find(|(name, _)| *name == table)
            .unwrap_or_else(|| panic!("which table is `{table}`?"));
        let key = field.replace('_', "-");
        // `listen` itself is told of by its keys.
        if table != "File" || !is_table(&key) {
            keys.insert(format!("{prefix}{key}"));
        }
    }
    keys
}

/// The blocks of one language.
fn blocks(language: &str) -> Vec<&'static str> {
    README
        .split("\n```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'))
        .collect()
}

#[test]
fn every_key_is_in_the_reference_and_no_other() {
    let keys = keys();
    assert!(
        keys.contains("listen.client-ca[].role") && keys.contains("threads"),
        "{keys:?}"
    );
    assert_eq!(names(section("Configuration")), keys);
}

#[test]
fn the_keys_that_take_a_restart_are_marked() {
    let marked: BTreeSet<_> = rows(section("Configuration"))
        .into_iter()
        .filter(|(_, row)| row.contains("*restart*"))
        .map(|(name, _)| name)
        .collect();
    let told: BTreeSet<_> = literals(between(LIVE, "let changed = [", "];")).collect();
    assert!(told.len() >= 5, "{told:?}");
    assert_eq!(marked, told);
}

#[test]
fn every_metric_is_told_of_and_no_other() {
    let source = METRICS.split("#[cfg(test)]").next().unwrap();
    let all: Vec<_> = literals(source)
        .chain(literals(METRICS_OF_CALLS))
        .filter(|text| text.starts_with("casgate_") || text.starts_with("grpc_server_"))
        .map(str::to_owned)
        .collect();
    let metrics: BTreeSet<_> = all.iter().cloned().collect();
    // Two of one name would be added up.
    assert_eq!(all.len(), metrics.len(), "{all:?}");
    assert!(metrics.len() >= 18, "{metrics:?}");
    assert_eq!(names(section("Metrics")), metrics);
}

#[test]
fn every_right_is_told_of_with_its_methods() {
    let rows = rows(section("Rights"));
    let mut rights: Vec<_> = Right::ALL.iter().map(|right| right.name()).collect();
    rights.push("push");
    rights.sort_unstable();
    let mut told: Vec<_> = rows.iter().map(|(name, _)| *name).collect();
    told.sort_unstable();
    assert_eq!(told, rights);
    for method in Method::ALL {
        // Any right will do, or none is needed: told of below the table.
        if method.rights() == Rights::ALL || method.rights().is_empty() {
            assert!(
                section("Rights").contains(&format!("`{}`", method.name())),
                "{method:?}"
            );
            continue;
        }
        for right in Right::ALL {
            let (_, row) = rows.iter().find(|(name, _)| *name == right.name()).unwrap();
            let is_told = row.contains(&format!("`{}`", method.name()));
            assert_eq!(is_told, method.rights().contains(right), "{method:?} in: {row}");
        }
    }
}

#[test]
fn every_field_and_reason_of_an_access_line_is_told_of() {
    let fields = between(RECORD, "target: \"casgate::access\",", "\"call\"");
    let fields = fields.lines().filter_map(|line| line.trim().split_once(" = "));
    let mut count = 0;
    for (field, _) in fields.chain([("peer", "")]) {
        assert!(section("Logs").contains(&format!("`{field}`")), "{field}");
        count += 1;
    }
    assert!(count >= 12, "{count} fields");
    let labels = between(STATUS, "pub fn label(&self)", "/// The text as a `grpc-message`");
    for reason in literals(labels).chain(["dropped", "not-a-grpc-request"]) {
        assert!(section("Logs").contains(&format!("`{reason}`")), "{reason}");
    }
}

#[test]
fn every_example_is_told_of_and_no_other() {
    let there: BTreeSet<_> = ["toml", "service", "socket"]
        .into_iter()
        .flat_map(examples)
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '.';
    let told: BTreeSet<_> = README
        .split("configs/")
        .skip(1)
        .map(|rest| {
            rest.split(|letter| !is_name(letter))
                .next()
                .unwrap()
                .trim_end_matches('.')
        })
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    assert_eq!(told, there);
}

#[test]
fn every_link_within_leads_to_a_head() {
    let anchor = |head: &str| -> String {
        let kept = head
            .chars()
            .filter(|letter| letter.is_ascii_alphanumeric() || " -".contains(*letter));
        kept.map(|letter| {
            if letter == ' ' {
                '-'
            } else {
                letter.to_ascii_lowercase()
            }
        })
        .collect()
    };
    let heads: BTreeSet<String> = README
        .lines()
        .filter_map(|line| Some(anchor(line.split_once("# ")?.1)))
        .collect();
    let links: Vec<_> = README
        .split("](#")
        .skip(1)
        .map(|rest| rest.split(')').next().unwrap())
        .collect();
    assert!(links.len() > 3, "{links:?}");
    for link in links {
        assert!(heads.contains(link), "#{link}");
    }
}

#[test]
fn the_first_two_commands_are_these() {
    let blocks = blocks("sh");
    assert_eq!(blocks[0], "cargo run --release -- quickstart");
    assert_eq!(blocks[1], "cargo test");
    // Where .ci/run takes the second one from.
    assert!(README.contains("\n<!-- ci: tests -->\n```sh\ncargo test\n```\n"));
}

#[test]
fn configurations_that_are_shown_are_good() {
    let folder = certificates();
    let head = r#"
        listen = { address = "127.0.0.1:0", certificate = "server.crt", key = "server.key", client-ca = ["ca.crt"] }
        backends.x.store = "memory:"
    "#;
    let shown = blocks("toml");
    assert!(!shown.is_empty());
    for block in shown {
        let text = if block.contains("[listen]") {
            block.to_owned()
        } else {
            format!("{head}\n{block}")
        };
        compile(folder.path(), &text);
    }
}

#[test]
fn commands_that_are_marked_as_tested_run() {
    let program = Path::new(env!("CARGO_BIN_EXE_casgate")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let tested: Vec<_> = blocks("sh")
        .into_iter()
        .filter_map(|block| block.strip_prefix("# tested\n"))
        .collect();
    assert!(tested.len() >= 2, "{tested:?}");
    for script in tested {
        if script.contains("openssl") && Command::new("openssl").arg("version").output().is_err() {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "openssl is not installed");
            eprintln!("NOT RUN: a command of the README: openssl is not installed");
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let configs = folder.path().join("configs");
        std::fs::create_dir(&configs).unwrap();
        for example in ["toml", "service", "socket"].into_iter().flat_map(examples) {
            std::fs::copy(&example, configs.join(example.file_name().unwrap())).unwrap();
        }
        let output = Command::new("sh")
            .args(["-euc", script])
            .current_dir(folder.path())
            .env("PATH", &path)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{script}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn the_tests_that_promises_name_are_there() {
    const SECURITY: &str = include_str!("../../SECURITY.md");
    const TESTS: &str = include_str!("main.rs");
    let mut count = 0;
    for text in [section("What casgate promises"), SECURITY] {
        for name in text.split('`').filter_map(|text| text.strip_suffix("::")) {
            assert!(TESTS.contains(&format!("\nmod {name};\n")), "there is no `{name}`");
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}
