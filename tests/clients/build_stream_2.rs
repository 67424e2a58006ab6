//! BuildStream 2.8.1: push as ci, wipe the local cache, pull as dev; and all that must be refused.

use std::path::{Path, PathBuf};

use crate::bst::{bst, make_project};
use crate::casd::Casd;
use crate::gate::{Gate, folder};
use crate::install;
use crate::process::{Ended, assert_has};

/// A BuildStream with a home and a cache of its own.
pub(crate) struct BuildStream<'a> {
    bst: PathBuf,
    /// Where its home, its project and its results are.
    scratch: &'a Path,
}

impl<'a> BuildStream<'a> {
    /// `None` where there is no BuildStream 2.
    pub(crate) fn new(scratch: &'a Path) -> Option<BuildStream<'a>> {
        let bst = install::build_stream_2()?.join("bst");
        make_project(&scratch.join("project"), "name: test\nmin-version: 2.0\n");
        Some(BuildStream { bst, scratch })
    }

    /// Runs `bst` with this configuration. `home` names the local cache, a new one unless it was named before.
    pub(crate) fn run(&self, home: &str, settings: &str, arguments: &[&str]) -> Ended {
        let home = self.scratch.join(home);
        let project = self.scratch.join("project");
        bst(&self.bst, &home, settings, &project, arguments)
    }

    /// Pushes as `ci`, pulls as `dev` into an empty cache, and looks at what came.
    pub(crate) fn push_and_pull(&self, ci: &str, dev: &str) {
        let pushed = self.run("ci", ci, &["build", "hello.bst"]).success();
        assert_has(
            &pushed,
            &["Pushed artifact", "Pushed data from artifact", "Pushed source"],
        );
        let pulled = self.run("dev", dev, &["artifact", "pull", "hello.bst"]).success();
        assert_has(&pulled, &["Pulled artifact"]);
        let results = self.scratch.join("results");
        let checkout = [
            "artifact",
            "checkout",
            "hello.bst",
            "--directory",
            results.to_str().unwrap(),
        ];
        self.run("dev", dev, &checkout).success();
        assert_eq!(std::fs::read_to_string(results.join("hello.txt")).unwrap(), "hello\n");
    }
}

/// The settings for one gate; `certificate` names files of its folder.
pub(crate) fn settings(gate: &Gate, certificate: &str, push: bool) -> String {
    let mut text = String::new();
    for section in ["artifacts", "source-caches"] {
        text += &format!(
            "{section}:\n  override-project-caches: true\n  servers:\n  - url: https://localhost:{}\n    push: {push}\n    \
             auth:\n      server-cert: {}\n      client-key: {}\n      client-cert: {}\n",
            gate.port,
            gate.path("ca.crt").display(),
            gate.path(&format!("{certificate}.key")).display(),
            gate.path(&format!("{certificate}.crt")).display(),
        );
    }
    text
}

/// All that BuildStream 2 does with a gate.
pub(crate) fn drive(gate: &Gate) {
    let scratch = tempfile::tempdir().unwrap();
    let Some(bst) = BuildStream::new(scratch.path()) else {
        return;
    };
    bst.push_and_pull(&settings(gate, "ci", true), &settings(gate, "dev", false));

    // A developer who asks for pushes reads what to do instead.
    let refused = bst
        .run("dev-push", &settings(gate, "dev", true), &["build", "hello.bst"])
        .text;
    assert_has(
        &refused,
        &[
            "PERMISSION_DENIED",
            "certificate `CN=dev` may not push here",
            "set `push: false` for this remote",
        ],
    );
    assert!(!refused.contains("Pushed artifact"), "{refused}");

    // Nobody of another authority gets in, whatever its name.
    let stranger = bst
        .run(
            "stranger",
            &settings(gate, "stranger/ci", false),
            &["artifact", "pull", "hello.bst"],
        )
        .text;
    assert!(!stranger.contains("Pulled artifact"), "{stranger}");
    assert_has(&stranger, &["Failed to initialize remote"]);
    assert_has(&gate.log(), &["issuer=\"CN=casgate authority ", "CN=ci"]);
}

#[test]
fn build_stream_2_before_casd_on_a_unix_socket() {
    let folder = folder();
    let Some(casd) = Casd::on_unix(folder.path()) else {
        return;
    };
    drive(&Gate::before(folder, &casd.endpoint));
}

#[test]
fn build_stream_2_before_casd_on_tcp() {
    let folder = folder();
    let Some(casd) = Casd::on_tcp(folder.path()) else {
        return;
    };
    drive(&Gate::before(folder, &casd.endpoint));
}

#[test]
fn build_stream_2_before_the_embedded_store() {
    drive(&Gate::with_store());
}
