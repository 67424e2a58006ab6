//! What `casgate check` warns of, and what it prints.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use casgate::certs::Folder;
use casgate::cli::check;
use casgate::policy::rights::Right;

use crate::configs::{certificates, compile};
use crate::harness::pki::build_stream;

const HEAD: &str = "address = \"127.0.0.1:0\"\ncertificate = \"server.crt\"\nkey = \"server.key\"\n";

const CLEAR: &str = "tls = false";

/// The warnings of rules, behind an authority of `listen`.
fn warnings(folder: &Path, listen: &str, rules: &str) -> Vec<String> {
    let listen = match listen {
        CLEAR => format!("address = \"127.0.0.1:0\"\n{CLEAR}"),
        _ => format!("{HEAD}{listen}"),
    };
    let text = format!("[listen]\n{listen}\n[backends.x]\nstore = \"memory:\"\n{rules}");
    check::warnings(&compile(folder, &text))
}

fn rule(certificate: &str, rest: &str) -> String {
    format!("[[rules]]\ncertificate = {certificate}\n{rest}\n")
}

#[test]
fn each_mistake_has_its_warning_and_the_right_way_has_none() {
    let folder = certificates();
    std::fs::write(folder.path().join("own.crt"), build_stream("own").pem()).unwrap();
    let ca = "client-ca = [\"ca.crt\"]";
    let named =
        "client-ca = [{ name = \"ci\", file = \"ca.crt\" }, { name = \"own\", file = \"own.crt\", role = \"client\" }]";
    let pinned = "client-ca = [{ file = \"own.crt\", role = \"client\" }]";
    let optional = "client-ca = [\"ca.crt\"]\nclient-certificate = \"optional\"";
    let ab = "ab".repeat(32);
    let (unknown, own) = (format!("{{ sha256 = \"{ab}\" }}"), "{ common-name = \"own\" }");
    let ci = "{ common-name = \"ci\" }";
    let ci_of_team = "{ common-name = \"ci\", organization = \"Team\" }";
    let pull = "allow = [\"pull\"]";
    let everywhere = |right: &str| rule(ci, &format!("allow = [\"pull\", \"{right}\"]"));
    for (listen, rules, warning) in [
        (
            ca,
            rule("\"any\"", "allow = [\"push\"]"),
            Some("gives cas-push, action-push, asset-push to every certificate"),
        ),
        (pinned, rule("\"any\"", "allow = [\"push\"]"), None),
        (ca, rule("\"any\"", pull), None),
        (
            ca,
            rule("\"anonymous\"", pull),
            Some("every listener requires a certificate"),
        ),
        (optional, rule("\"anonymous\"", pull), None),
        (CLEAR, rule(ci, pull), Some("matches nobody")),
        (pinned, rule(&unknown, pull), Some("matches nobody")),
        (ca, rule(&unknown, pull), None),
        (pinned, rule(ci, pull), Some("matches nobody")),
        (pinned, rule(own, pull), None),
        (
            named,
            rule("{ common-name = \"ci\", issued-by = \"own\" }", pull),
            Some("matches nobody"),
        ),
        (named, rule("{ common-name = \"ci\", issued-by = \"ci\" }", pull), None),
        (
            ca,
            rule(ci, "allow = [\"asset-push\"]"),
            Some("asset-push without cas-push"),
        ),
        (
            ca,
            rule(ci, "allow = [\"execute\"]\ninstances = [\"a\"]"),
            Some("WaitExecution"),
        ),
        (
            ca,
            rule(ci, "allow = [\"worker\"]\ninstances = [\"a\"]"),
            Some("CreateLogStream, UpdateBotSession"),
        ),
        (ca, rule(ci, "allow = [\"push\"]\ninstances = [\"a\"]"), None),
        (
            ca,
            rule(ci, "allow = [\"execute\"]\ninstances = [\"a\"]") + &everywhere("execute"),
            None,
        ),
        (
            ca,
            rule(ci, pull) + &rule("\"any\"", "deny = [\"pull\"]"),
            Some("gives pull in vain"),
        ),
        (
            ca,
            rule(ci_of_team, pull) + &rule(ci, "deny = [\"pull\"]"),
            Some("gives pull in vain"),
        ),
        (ca, rule(ci, pull) + &rule(ci_of_team, "deny = [\"pull\"]"), None),
        (
            ca,
            rule(ci, pull) + &rule(ci, "deny = [\"pull\"]\ninstances = [\"a\"]"),
            None,
        ),
        (
            ca,
            rule(ci, "allow = [\"cas-push\"]\nuris = [\"urn:\"]"),
            Some("has `uris`"),
        ),
        (ca, rule(ci, "allow = [\"pull\"]\nuris = [\"urn:\"]"), None),
        (
            ca,
            rule(ci, "allow = [\"execute\"]\ninstance-rewrite = \"own/**\"") + &everywhere("execute"),
            Some("has `instance-rewrite`, so it does not allow WaitExecution"),
        ),
        (
            ca,
            rule(ci, "allow = [\"push\"]\ninstance-rewrite = \"own/**\"") + &rule("\"any\"", pull),
            Some("keeps its callers in the instance `own`, and rule \"rules[1]\" gives pull there"),
        ),
        (
            ca,
            rule(ci, "allow = [\"push\"]\ninstance-rewrite = \"own/**\"")
                + &rule("\"any\"", "allow = [\"pull\"]\ninstances = [\"main\"]"),
            None,
        ),
        (
            ca,
            rule(ci, "allow = [\"push\"]\non-denied-push = \"discard\""),
            Some("discards denied pushes, and denies none"),
        ),
        (ca, rule("\"any\"", "on-denied-push = \"discard\""), None),
        (
            ca,
            rule(ci, "allow = [\"push\"]\ninstances = [\"a\"]") + &rule(ci, "on-denied-push = \"discard\""),
            None,
        ),
        (
            ca,
            rule(ci, "allow = [\"push\"]\npush-probe = \"accept\""),
            Some("accepts probes for pushes from callers who may push"),
        ),
        (
            ca,
            rule(ci, "allow = [\"push\"]\npush-probe = \"accept\"")
                + &rule(ci, "deny = [\"push\"]\ninstances = [\"a\"]"),
            None,
        ),
        (
            ca,
            rule("\"any\"", "on-denied-push = \"refuse\"") + &rule(ci, "on-denied-push = \"discard\""),
            Some("has `on-denied-push` in vain"),
        ),
        (
            ca,
            rule(ci, "push-probe = \"accept\"") + &rule("\"any\"", "push-probe = \"refuse\""),
            None,
        ),
    ] {
        let found = warnings(folder.path(), listen, &rules);
        // `own.crt` ends in two days.
        let found: Vec<_> = found
            .into_iter()
            .filter(|text| !text.contains("CN=own expires"))
            .collect();
        match warning {
            Some(text) => assert!(found.len() == 1 && found[0].contains(text), "{rules}{found:?}"),
            None => assert!(found.is_empty(), "{rules}{found:?}"),
        }
    }
}

#[test]
fn backends_that_others_can_reach_are_told_of() {
    let folder = certificates();
    let rules = rule("{ common-name = \"ci\" }", "allow = [\"pull\"]");
    let told = |backend: &str| {
        let text = format!("[listen]\n{HEAD}client-ca = [\"ca.crt\"]\n[backends.x]\n{backend}\n{rules}");
        let warnings = check::warnings(&compile(folder.path(), &text));
        let config = folder.path().join("casgate.toml");
        let mut command = Command::new(env!("CARGO_BIN_EXE_casgate"));
        let output = command.arg("check").arg("--config").arg(config).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let about = |kind: &str| printed.lines().filter(|line| line.starts_with(kind)).count();
        assert_eq!(
            about("warning: backend x is reached in the clear"),
            warnings.len(),
            "{printed}"
        );
        (warnings.len(), about("note: backend x listens on TCP of this machine"))
    };
    assert_eq!(told("endpoint = \"http://cache.internal:8980\""), (1, 0));
    assert_eq!(told("endpoint = \"http://10.0.0.7:8980\""), (1, 0));
    for host in ["localhost", "127.0.0.1", "[::1]"] {
        assert_eq!(told(&format!("endpoint = \"http://{host}:8980\"")), (0, 1), "{host}");
    }
    assert_eq!(
        told("endpoint = \"https://cache.internal:8980\"\nca = \"ca.crt\""),
        (0, 0)
    );
    assert_eq!(told("endpoint = \"unix:/run/casd.sock\""), (0, 0));
    assert_eq!(told("store = \"memory:\""), (0, 0));
}

#[test]
fn keys_that_every_user_can_read_are_warned_of() {
    let folder = certificates();
    let rules = rule("{ common-name = \"ci\" }", "allow = [\"pull\"]");
    let ca = "client-ca = [\"ca.crt\"]";
    assert_eq!(warnings(folder.path(), ca, &rules), Vec::<String>::new());
    let key = folder.path().join("server.key");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    let found = warnings(folder.path(), ca, &rules);
    assert!(
        found.len() == 1 && found[0].contains("can read the key `server.key`"),
        "{found:?}"
    );
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).unwrap();
    assert_eq!(warnings(folder.path(), ca, &rules), Vec::<String>::new());
}

#[test]
fn the_end_of_certificates_is_warned_of_in_time() {
    for (days, expected) in [(29, 1), (60, 0)] {
        let folder = tempfile::tempdir().unwrap();
        let made = Folder::new(folder.path());
        made.authority("test", 365).unwrap();
        made.server(&["localhost".to_owned()], days).unwrap();
        let rules = rule("{ common-name = \"ci\" }", "allow = [\"pull\"]");
        let found = warnings(folder.path(), "client-ca = [\"ca.crt\"]", &rules);
        assert_eq!(found.len(), expected, "{found:?}");
    }
}

#[test]
fn the_program_prints_the_rules_against_the_rights() {
    let folder = certificates();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/casd-unix.toml");
    let config = folder.path().join("casgate.toml");
    std::fs::copy(example, &config).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_casgate"))
        .args(["check", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let table = text.split_once("\n\n").unwrap().1.split_once("\n\n").unwrap().1;
    assert!(
        table.lines().next().unwrap().trim_start().starts_with("pull  cas-"),
        "{text}"
    );
    let rows: Vec<_> = table.lines().filter(|line| line.contains("yes")).collect();
    assert!(!rows.is_empty(), "{text}");
    for row in rows {
        assert!(row.split_whitespace().count() > Right::ALL.len(), "{row}");
    }
}
