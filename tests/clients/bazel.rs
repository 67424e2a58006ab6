//! Bazel 4.2.3, which speaks API 2.0 only: with the embedded store, which announces it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::gate::{Gate, certs, folder};
use crate::install;
use crate::process::{Ended, assert_has, run};

/// A Bazel with a workspace and a server of its own.
pub(crate) struct Bazel<'a> {
    bazel: PathBuf,
    netty: PathBuf,
    scratch: &'a Path,
}

impl<'a> Bazel<'a> {
    /// `None` where there is no Bazel.
    pub(crate) fn new(scratch: &'a Path) -> Option<Bazel<'a>> {
        let (bazel, netty) = install::bazel()?;
        let workspace = scratch.join("workspace");
        std::fs::create_dir_all(&workspace).unwrap();
        let rule = "genrule(name = \"hello\", outs = [\"hello.txt\"], cmd = \"echo hello > $@\")\n";
        std::fs::write(workspace.join("WORKSPACE"), "").unwrap();
        std::fs::write(workspace.join("BUILD"), rule).unwrap();
        Some(Bazel { bazel, netty, scratch })
    }

    /// Builds from nothing, with these lines of a `.bazelrc`.
    pub(crate) fn build(&self, bazelrc: &str) -> Ended {
        // `clean` takes the options of `build`, and would ask the remote cache.
        std::fs::write(self.scratch.join("bazelrc"), "").unwrap();
        self.run(&["clean"]).success();
        std::fs::write(self.scratch.join("bazelrc"), bazelrc).unwrap();
        self.run(&["build", "//:hello"])
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let path = |name: &str| self.scratch.join(name).display().to_string();
        let mut command = Command::new(&self.bazel);
        command
            .current_dir(self.scratch.join("workspace"))
            .env("HOME", self.scratch)
            .arg("--nohome_rc")
            .arg(format!("--bazelrc={}", path("bazelrc")))
            .arg(format!("--output_user_root={}", path("bazel")))
            .arg("--max_idle_secs=120")
            .arg(format!("--host_jvm_args=-Djava.library.path={}", self.netty.display()))
            .args(arguments);
        run(&mut command, Duration::from_secs(240))
    }
}

impl Drop for Bazel<'_> {
    fn drop(&mut self) {
        self.run(&["shutdown"]);
    }
}

/// The lines for one gate; `certificate` names files of its folder.
pub(crate) fn bazelrc(gate: &Gate, certificate: &str) -> String {
    format!(
        "build --remote_cache=grpcs://localhost:{}\nbuild --tls_certificate={}\nbuild --tls_client_certificate={}\nbuild \
         --tls_client_key={}\n",
        gate.port,
        gate.path("ca.crt").display(),
        gate.path(&format!("{certificate}.crt")).display(),
        gate.path(&format!("{certificate}.key")).display(),
    )
}

#[test]
fn bazel_before_the_embedded_store() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(bazel) = Bazel::new(scratch.path()) else {
        return;
    };
    let gate = Gate::with_store();

    // A developer whose Bazel does not know that it may not write builds all the same.
    let denied = bazel.build(&bazelrc(&gate, "dev")).success();
    assert_has(&denied, &["WARNING: Writing to Remote Cache", "1 linux-sandbox"]);

    let pushed = bazel.build(&bazelrc(&gate, "ci")).success();
    assert!(!pushed.contains("WARNING: Writing to Remote Cache"), "{pushed}");
    assert_has(&pushed, &["1 linux-sandbox"]);

    let pulled = bazel.build(&bazelrc(&gate, "dev")).success();
    assert_has(&pulled, &["1 remote cache hit"]);
    let result = scratch.path().join("workspace/bazel-bin/hello.txt");
    assert_eq!(std::fs::read_to_string(result).unwrap(), "hello\n");

    let stranger = bazel.build(&bazelrc(&gate, "stranger/ci")).failure();
    assert_has(&stranger, &["Failed to query remote execution capabilities"]);
    assert_has(
        &gate.log(),
        &["client certificate refused", "neither it nor its issuer stands in"],
    );
}

#[test]
fn bazel_of_a_pull_request_writes_into_a_place_of_its_own() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(bazel) = Bazel::new(scratch.path()) else {
        return;
    };
    let folder = folder();
    certs(&["client", "main-ci", "pull-requests"], folder.path());
    // As it is shipped, on ports that are free.
    let example = include_str!("../../configs/tenants.toml");
    let text = example
        .replace("0.0.0.0:11002", "127.0.0.1:0")
        .replace("127.0.0.1:9090", "127.0.0.1:0");
    let gate = Gate::serve(folder, &text);
    let build = |certificate: &str| {
        let instance = "build --remote_instance_name=main\n";
        bazel.build(&(bazelrc(&gate, certificate) + instance)).success()
    };
    let pushed = build("pull-requests");
    assert!(!pushed.contains("WARNING: Writing to Remote Cache"), "{pushed}");
    assert_has(&build("pull-requests"), &["1 remote cache hit"]);
    // Who is trusted finds nothing of it under the same name, and writes beside it.
    assert_has(&build("main-ci"), &["1 linux-sandbox"]);
    assert_has(&build("dev"), &["1 remote cache hit"]);
    assert_has(&gate.log(), &["untrusted/main"]);
}
