//! Google's own gRPC, with the stubs that BuildStream ships: what no build would try, and what is big.

use std::process::Command;
use std::time::Duration;

use crate::casd::Casd;
use crate::gate::{Gate, folder};
use crate::install;
use crate::process::{assert_has, run};

const MIB: u64 = 1 << 20;

/// Runs a step of `probe.py` against a gate; `None` where there is no grpcio.
fn probe(gate: &Gate, certificate: &str, step: &str, arguments: &[&str]) -> Option<String> {
    let python = install::build_stream_2()?.join("python");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/probe.py");
    let mut command = Command::new(python);
    command
        .arg(script)
        .arg(format!("localhost:{}", gate.port))
        .arg(gate.path("ca.crt"))
        .arg(gate.path(certificate))
        .arg(step)
        .args(arguments);
    let ended = run(&mut command, Duration::from_secs(300));
    Some(ended.success())
}

/// The number after `name=` in what the script printed.
fn number(text: &str, name: &str) -> u64 {
    let word = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    word.and_then(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in: {text}"))
}

#[test]
fn local_cas_of_a_real_casd_is_out_of_reach() {
    let folder = folder();
    let Some(casd) = Casd::on_unix(folder.path()) else {
        return;
    };
    let gate = Gate::before(folder, &casd.endpoint);
    for certificate in ["ci", "dev"] {
        let Some(text) = probe(&gate, certificate, "local-cas", &[]) else {
            return;
        };
        assert_eq!(text.lines().count(), 3, "{text}");
        for line in text.lines() {
            assert_has(line, &["UNIMPLEMENTED", "is not served here"]);
        }
    }
    // The same call reads a file of the host when nothing stands in between.
    let python = install::build_stream_2().unwrap().join("python");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/probe.py");
    let mut command = Command::new(python);
    command.args([script, &casd.endpoint, "-", "-", "local-cas"]);
    let open = run(&mut command, Duration::from_secs(60)).success();
    assert!(
        open.starts_with("OK"),
        "casd does not serve LocalCAS, so this test shows nothing: {open}"
    );
}

#[test]
fn a_denied_write_of_64_mib_is_answered_before_1_mib_is_sent() {
    let folder = folder();
    let Some(casd) = Casd::on_unix(folder.path()) else {
        return;
    };
    let gate = Gate::before(folder, &casd.endpoint);
    // Again and again, since the answer races with the upload.
    let Some(text) = probe(&gate, "dev", "denied-write", &["64", "20"]) else {
        return;
    };
    assert_eq!(text.lines().count(), 20, "{text}");
    for line in text.lines() {
        assert_has(
            line,
            &["code=PERMISSION_DENIED ", "certificate `CN=dev` may not push here"],
        );
        assert!(number(line, "sent") <= MIB, "{line}");
    }
    let open = probe(&gate, "dev", "capabilities", &[]).unwrap();
    assert_has(&open, &["update_enabled=False"]);
}

/// Writes and reads a blob of 1 GiB; gives by how many bytes the gate's memory grew at most.
fn grown_by_1_gib(gate: &Gate) -> Option<u64> {
    // The first call opens connections and starts what is started once.
    probe(gate, "ci", "blob", &["1"])?;
    let before = gate.memory("VmRSS");
    let text = probe(gate, "ci", "blob", &["1024"])?;
    assert_has(&text, &["wrote=1073741824", "read=1073741824", "same=True"]);
    let grown = gate.memory("VmHWM").saturating_sub(before);
    install::say(&format!(
        "1 GiB through Write and Read: memory grew by {} KiB at most",
        grown / 1024
    ));
    Some(grown)
}

#[test]
fn a_blob_of_1_gib_before_casd_takes_less_than_32_mib_of_memory() {
    let folder = folder();
    let Some(casd) = Casd::on_unix(folder.path()) else {
        return;
    };
    let gate = Gate::before(folder, &casd.endpoint);
    if let Some(grown) = grown_by_1_gib(&gate) {
        assert!(grown < 32 * MIB, "{grown} bytes");
    }
}

#[test]
fn a_blob_of_1_gib_before_the_embedded_store_takes_less_than_32_mib_of_memory() {
    if let Some(grown) = grown_by_1_gib(&Gate::with_store()) {
        assert!(grown < 32 * MIB, "{grown} bytes");
    }
}
