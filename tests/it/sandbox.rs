//! What the program can do no more once it serves.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use casgate::policy::method::Method;

use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::until;

/// A configuration whose audit log is in this folder.
fn config(backend: &Backend, sandbox: &str, folder: &Path) -> Config {
    let mut config = Config::to(backend);
    let file = folder.join("audit.jsonl");
    config.top.push_str(&format!(
        "\nlog = {{ format = \"json\" }}\nsandbox = \"{sandbox}\"\nwatch = false\naudit = {{ file = {file:?} }}\n"
    ));
    config
}

fn lines(folder: &Path) -> usize {
    std::fs::read_to_string(folder.join("audit.jsonl")).map_or(0, |text| crate::harness::audit::calls(&text).len())
}

/// What the program says of its sandbox.
fn said(gate: &Gate) -> String {
    let log = gate.log();
    let texts = log.iter().filter_map(|line| line.get("message")?.as_str());
    texts.filter(|text| text.starts_with("sandbox: ")).collect()
}

#[tokio::test]
async fn a_reload_that_would_write_elsewhere_is_refused_and_the_log_goes_on() {
    let [kept, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let backend = Backend::start(unary);
    let gate = Gate::spawn(config(&backend, "if-supported", kept.path())).await;
    let told = said(&gate);
    if told.contains("this kernel does not offer it") {
        return eprintln!("NOT RUN: a program in a sandbox: {told}");
    }
    assert!(
        told.contains("no writing but in") && told.contains(kept.path().to_str().unwrap()),
        "{told}"
    );
    let writer = gate.config.authority.client("writer");
    let mut client = gate.client_with(&writer).await;
    let mut noted = 0;
    let push = async |client: &mut crate::harness::wire::Client, noted: &mut usize| {
        assert_eq!(client.ask(Method::BatchUpdateBlobs, "").await.code(), Some(0));
        *noted += 1;
        until("the push is noted", || lines(kept.path()) == *noted).await;
    };
    push(&mut client, &mut noted).await;

    let file = gate.dir().join("casgate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let [from, to] = [&kept, &other].map(|folder| folder.path().to_str().unwrap());
    std::fs::write(&file, text.replace(from, to)).unwrap();
    gate.hang_up();
    let refused = "is none of the folders that casgate kept the right to write to when it started: restart it";
    until("the reload is refused", || gate.told(refused) == 1).await;
    push(&mut client, &mut noted).await;
    assert_eq!(lines(other.path()), 0);

    // A log that is rotated, as logrotate does: moved away, and made anew by the reload.
    std::fs::write(&file, text).unwrap();
    std::fs::rename(kept.path().join("audit.jsonl"), kept.path().join("audit.jsonl.1")).unwrap();
    gate.hang_up();
    until("the reload", || gate.told("configuration reloaded") == 1).await;
    noted = 0;
    push(&mut client, &mut noted).await;
}

#[tokio::test]
async fn a_sandbox_that_is_off_holds_nothing_back() {
    let [kept, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let backend = Backend::start(unary);
    let gate = Gate::spawn(config(&backend, "off", kept.path())).await;
    assert_eq!(said(&gate), "sandbox: off");
    let file = gate.dir().join("casgate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let [from, to] = [&kept, &other].map(|folder| folder.path().to_str().unwrap());
    std::fs::write(&file, text.replace(from, to)).unwrap();
    gate.hang_up();
    until("the reload", || gate.told("configuration reloaded") == 1).await;
    assert!(other.path().join("audit.jsonl").exists());
}

#[tokio::test]
async fn a_crash_leaves_no_memory_behind_unless_somebody_wants_it() {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let backend = Backend::start(unary);
    for (wanted, key) in [(false, ""), (true, "\ncore-dumps = true")] {
        if wanted && (pattern.starts_with(['|', '/']) || pattern.trim().is_empty()) {
            eprintln!("NOT RUN: a core dump that is wanted: this machine puts it elsewhere");
            continue;
        }
        let mut config = Config::to(&backend);
        // A sandbox alone would keep the dump from being written, wherever it is a file.
        config.top.push_str("\nlog = { format = \"json\" }\nsandbox = \"off\"");
        config.top.push_str(key);
        // Where the dump goes.
        let folder = tempfile::tempdir().unwrap();
        let commands = format!("cd '{}'; ulimit -c unlimited", folder.path().display());
        let mut gate = Gate::spawn_after(&commands, config).await;
        let status = gate.end_by("ABRT").await;
        assert_eq!(status.signal(), Some(6), "{status}");
        assert_eq!(status.core_dumped(), wanted, "core dumps are wanted: {wanted}");
    }
}
