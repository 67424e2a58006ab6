//! BuildStream 1.6, 1.4 and 1.2, with the certificates that its documentation tells to make.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bst::{bst, make_project};
use crate::build_stream_2;
use crate::casd::Casd;
use crate::gate::{Gate, folder};
use crate::install;
use crate::process::{Ended, assert_has, run};

/// A BuildStream with a home and a cache of its own.
pub(crate) struct BuildStream<'a> {
    bst: PathBuf,
    version: &'static str,
    /// Where its home, its project and its results are.
    scratch: &'a Path,
}

impl<'a> BuildStream<'a> {
    /// `None` where this version is not there.
    pub(crate) fn new(version: &'static str, scratch: &'a Path) -> Option<BuildStream<'a>> {
        let bst = install::build_stream_1(version)?;
        make_project(&scratch.join("project-1"), "name: test\n");
        Some(BuildStream { bst, version, scratch })
    }

    /// Runs `bst` with this configuration. `home` names the local cache, a new one unless it was named before.
    pub(crate) fn run(&self, home: &str, settings: &str, arguments: &[&str]) -> Ended {
        let home = self.scratch.join(format!("{home}-{}", self.version));
        let project = self.scratch.join("project-1");
        bst(&self.bst, &home, settings, &project, arguments)
    }

    /// Pushes as `ci`, and pulls as `dev` into an empty cache.
    pub(crate) fn push_and_pull(&self, ci: &str, dev: &str) {
        let pushed = self.run("ci", ci, &["build", "hello.bst"]).success();
        assert_has(&pushed, &["Pushed artifact"]);
        let pulled = self.run("dev", dev, &["pull", "hello.bst"]).success();
        assert_has(&pulled, &["Pulled artifact"]);
        let results = self.scratch.join(format!("results-{}", self.version));
        self.run("dev", dev, &["checkout", "hello.bst", results.to_str().unwrap()])
            .success();
        assert_eq!(std::fs::read_to_string(results.join("hello.txt")).unwrap(), "hello\n");
    }
}

/// The settings for one gate; `certificate` names files of its folder.
pub(crate) fn settings(gate: &Gate, certificate: &str, push: bool) -> String {
    format!(
        "artifacts:\n  url: https://localhost:{}\n  push: {push}\n  server-cert: {}\n  client-key: {}\n  client-cert: {}\n",
        gate.port,
        gate.path("ca.crt").display(),
        gate.path(&format!("{certificate}.key")).display(),
        gate.path(&format!("{certificate}.crt")).display(),
    )
}

/// Self-signed client certificates `old-ci` and `old-dev`, as BuildStream's documentation makes them.
fn self_signed(folder: &Path) {
    for name in ["ci", "dev"] {
        documented(folder, &format!("old-{name}"), name);
    }
}

/// A self-signed certificate, by the command of BuildStream's documentation.
fn documented(folder: &Path, file: &str, name: &str) {
    let mut command = Command::new("openssl");
    command
        .args([
            "req", "-new", "-newkey", "rsa:4096", "-x509", "-sha256", "-days", "3650", "-nodes", "-batch",
        ])
        .args(["-subj", &format!("/CN={name}")])
        .arg("-out")
        .arg(folder.join(format!("{file}.crt")))
        .arg("-keyout")
        .arg(folder.join(format!("{file}.key")));
    run(&mut command, Duration::from_secs(120)).success();
}

/// A gate for self-signed certificates, before a casd or with the embedded store.
fn gate(folder: tempfile::TempDir, backend: &str) -> Gate {
    self_signed(folder.path());
    Gate::start(folder, r#""old-ci.crt", "old-dev.crt""#, backend)
}

fn drive(version: &'static str, gate: &Gate) {
    let scratch = tempfile::tempdir().unwrap();
    let Some(bst) = BuildStream::new(version, scratch.path()) else {
        return;
    };
    bst.push_and_pull(&settings(gate, "old-ci", true), &settings(gate, "old-dev", false));

    let refused = bst
        .run("dev-push", &settings(gate, "old-dev", true), &["build", "hello.bst"])
        .text;
    assert!(!refused.contains("Pushed artifact"), "{refused}");
    assert_has(&refused, &["does not allow push"]);

    let stranger = bst
        .run("stranger", &settings(gate, "ci", false), &["pull", "hello.bst"])
        .text;
    assert!(!stranger.contains("Pulled artifact"), "{stranger}");
    assert_has(&gate.log(), &["issuer=\"CN=casgate authority "]);
}

/// What one version pushed, another one pulls, and BuildStream 2 works with the same server.
#[test]
fn versions_share_their_artifacts_on_one_server() {
    let folder = folder();
    let Some(casd) = Casd::on_unix(folder.path()) else {
        return;
    };
    let gate = Gate::before(folder, &casd.endpoint);
    let (ci, dev) = (settings(&gate, "ci", true), settings(&gate, "dev", false));
    // The cache keys of 1.2 are others.
    for (pushes, pulls) in [("1.4.3", "1.6.8"), ("1.6.8", "1.4.3")] {
        let scratch = tempfile::tempdir().unwrap();
        let Some((pusher, puller)) =
            BuildStream::new(pushes, scratch.path()).zip(BuildStream::new(pulls, scratch.path()))
        else {
            continue;
        };
        // An artifact of its own for each pair.
        let file = scratch.path().join("project-1/files/hello.txt");
        std::fs::write(file, format!("from {pushes} to {pulls}\n")).unwrap();
        let pushed = pusher.run("ci", &ci, &["build", "hello.bst"]).success();
        assert_has(&pushed, &["Pushed artifact"]);
        let pulled = puller.run("dev", &dev, &["pull", "hello.bst"]).success();
        assert_has(&pulled, &["Pulled artifact"]);
        // Its strong and its weak key were both pushed, so there is nothing left to push.
        let again = puller.run("ci", &ci, &["build", "hello.bst"]).success();
        assert!(!again.contains("Pushed artifact"), "{pushes} {pulls} {again}");
    }
    build_stream_2::drive(&gate);
}

/// An artifact whose blob was lost is not there, until it is pushed again.
#[test]
fn an_incomplete_artifact_is_not_there_and_the_next_push_repairs_it() {
    for version in ["1.6.8", "1.4.3"] {
        let folder = folder();
        let Some(casd) = Casd::on_unix(folder.path()) else {
            return;
        };
        let objects = folder.path().join("casd/cas/objects");
        let gate = Gate::before(folder, &casd.endpoint);
        let (ci, dev) = (settings(&gate, "ci", true), settings(&gate, "dev", false));
        let scratch = tempfile::tempdir().unwrap();
        let Some(bst) = BuildStream::new(version, scratch.path()) else {
            continue;
        };
        let pushed = bst.run("ci", &ci, &["build", "hello.bst"]).success();
        assert_has(&pushed, &["Pushed artifact"]);

        // SHA-256 of `hello\n`, the one file of the artifact.
        let blob = objects.join("58/91b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        std::fs::remove_file(blob).unwrap();
        let pulled = bst.run("dev", &dev, &["pull", "hello.bst"]).text;
        assert!(!pulled.contains("Pulled artifact"), "{version} {pulled}");
        assert_has(&pulled, &["does not have"]);

        let repaired = bst.run("ci", &ci, &["push", "hello.bst"]).success();
        assert_has(&repaired, &["Pushed artifact"]);
        let pulled = bst.run("dev", &dev, &["pull", "hello.bst"]).success();
        assert_has(&pulled, &["Pulled artifact"]);
    }
}

/// The layout of bst-artifact-server, as `configs/` has it: pull in the clear on one port, push on the other, with the
/// server's own self-signed certificate and the clients' ones in one file.
#[test]
fn the_two_ports_of_bst_artifact_server_go_on_working() {
    let folder = folder();
    let Some(casd) = Casd::on_unix(folder.path()) else {
        return;
    };
    self_signed(folder.path());
    let path = |name: &str| folder.path().join(name);
    documented(folder.path(), "server", "localhost");
    std::fs::copy(path("server.crt"), path("ca.crt")).unwrap();
    std::fs::copy(path("old-ci.crt"), path("authorized.crt")).unwrap();
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/configs/bst-artifact-server.toml")).unwrap();
    let text = text
        .replace("[::]:11001", "127.0.0.1:0")
        .replace("[::]:11002", "127.0.0.1:0")
        .replace("unix:/run/casd/casd.sock", &casd.endpoint);
    let gate = Gate::serve(folder, &text);
    let log = gate.log();
    let (_, clear) = log.split_once("listening on http://127.0.0.1:").unwrap();
    let clear = clear.lines().next().unwrap();
    let public = format!("artifacts:\n  url: http://localhost:{clear}\n  push: false\n");
    for version in ["1.6.8", "1.4.3", "1.2.8"] {
        let scratch = tempfile::tempdir().unwrap();
        let Some(bst) = BuildStream::new(version, scratch.path()) else {
            continue;
        };
        let file = scratch.path().join("project-1/files/hello.txt");
        std::fs::write(file, format!("by {version}\n")).unwrap();
        let pushed = bst
            .run("ci", &settings(&gate, "old-ci", true), &["build", "hello.bst"])
            .success();
        assert_has(&pushed, &["Pushed artifact"]);
        let pulled = bst.run("public", &public, &["pull", "hello.bst"]).success();
        assert_has(&pulled, &["Pulled artifact"]);
        let refused = bst
            .run("public-push", &public.replace("false", "true"), &["build", "hello.bst"])
            .text;
        assert_has(&refused, &["does not allow push"]);
    }
}

fn before_casd(version: &'static str) {
    let folder = folder();
    let Some(casd) = Casd::on_unix(folder.path()) else {
        return;
    };
    drive(version, &gate(folder, &format!("endpoint = {:?}", casd.endpoint)));
}

fn before_the_embedded_store(version: &'static str) {
    drive(version, &gate(folder(), r#"store = "file:store""#));
}

#[test]
fn build_stream_1_6_before_casd() {
    before_casd("1.6.8");
}

#[test]
fn build_stream_1_6_before_the_embedded_store() {
    before_the_embedded_store("1.6.8");
}

#[test]
fn build_stream_1_4_before_casd() {
    before_casd("1.4.3");
}

#[test]
fn build_stream_1_4_before_the_embedded_store() {
    before_the_embedded_store("1.4.3");
}

#[test]
fn build_stream_1_2_before_casd() {
    before_casd("1.2.8");
}

#[test]
fn build_stream_1_2_before_the_embedded_store() {
    before_the_embedded_store("1.2.8");
}
