//! `casgate quickstart`, and clients with the settings that it prints.

use crate::bazel::Bazel;
use crate::gate::casgate;
use crate::process::{Running, assert_has};
use crate::{build_stream_1, build_stream_2};

/// What the quickstart prints for a client and a certificate.
fn printed(output: &str, client: &str, certificate: &str) -> String {
    let is_head =
        |line: &&str| line.starts_with(&format!("# ---- {client}")) && line.ends_with(&format!("as {certificate}:"));
    let settings: Vec<_> = output
        .lines()
        .skip_while(|line| !is_head(line))
        .skip(1)
        .take_while(|line| !line.starts_with('#'))
        .collect();
    assert!(
        !settings.is_empty(),
        "nothing for {client} as {certificate} in:\n{output}"
    );
    settings.join("\n") + "\n"
}

#[test]
fn every_client_works_with_the_settings_that_are_printed() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("with a space");
    let start = || {
        let mut command = casgate();
        command
            .arg("quickstart")
            .arg(&folder)
            .args(["--address", "127.0.0.1:0"]);
        let mut running = Running::start(&mut command, &scratch.path().join("output"));
        running.wait_for("==== serving");
        running
    };
    let mut running = start();
    let output = running.text();
    assert_has(&output, &["made ", "ci.crt"]);
    let settings = |client: &str| [printed(&output, client, "ci"), printed(&output, client, "dev")];
    if let Some(bst) = build_stream_2::BuildStream::new(scratch.path()) {
        let [ci, dev] = settings("BuildStream 2");
        bst.push_and_pull(&ci, &dev);
    }
    if let Some(bst) = build_stream_1::BuildStream::new("1.6.8", scratch.path()) {
        let [ci, dev] = settings("BuildStream 1");
        bst.push_and_pull(&ci, &dev);
    }
    if let Some(bazel) = Bazel::new(scratch.path()) {
        let [ci, dev] = settings("Bazel");
        assert_has(&bazel.build(&ci).success(), &["1 linux-sandbox"]);
        // It does not mean to write, so there is nothing to complain about.
        let pulled = bazel.build(&dev).success();
        assert_has(&pulled, &["1 remote cache hit"]);
        assert!(!pulled.contains("WARNING: Writing"), "{pulled}");
    }

    // Run again after kill -9, it keeps what is there: certificates, configuration and the store.
    running.kill();
    let certificate = std::fs::read(folder.join("ci.crt")).unwrap();
    let running = start();
    assert!(!running.text().contains("made "), "{}", running.text());
    assert_eq!(std::fs::read(folder.join("ci.crt")).unwrap(), certificate);
    if let Some(bst) = build_stream_2::BuildStream::new(scratch.path()) {
        let dev = printed(&running.text(), "BuildStream 2", "dev");
        let pulled = bst.run("dev-again", &dev, &["artifact", "pull", "hello.bst"]).success();
        assert_has(&pulled, &["Pulled artifact"]);
    }
}
