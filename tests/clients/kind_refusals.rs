//! Clients of which a refusal asks too much: BuildStream that was left with `push: true`, and a Bazel that uploads whatever it
//! is told.

use crate::bazel::{self, Bazel};
use crate::gate::{Gate, folder};
use crate::process::assert_has;
use crate::{build_stream_1, build_stream_2};

/// A gate with the embedded store, and a rule for everybody who may only pull that has these keys.
fn gate(keys: &str) -> Gate {
    Gate::start_with(folder(), r#""ca.crt""#, r#"store = "file:store""#, keys)
}

const ACCEPT: &str = r#"push-probe = "accept""#;

#[test]
fn build_stream_2_that_asks_for_pushes_pulls_and_its_push_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(bst) = build_stream_2::BuildStream::new(scratch.path()) else {
        return;
    };
    let gate = gate(ACCEPT);
    let settings = |certificate| build_stream_2::settings(&gate, certificate, true);
    bst.push_and_pull(&settings("ci"), &settings("dev"));
    // The second one pulls as part of a build, and has nothing to push then.
    let built = bst.run("builds", &settings("dev"), &["build", "hello.bst"]).success();
    assert_has(&built, &["Pulled artifact"]);
    assert!(!built.contains("PERMISSION_DENIED"), "{built}");

    std::fs::write(scratch.path().join("project/files/hello.txt"), "changed\n").unwrap();
    let pushes = bst.run("dev", &settings("dev"), &["build", "hello.bst"]).text;
    assert_has(&pushes, &["certificate `CN=dev` may not push here"]);
    assert!(!pushes.contains("Pushed artifact"), "{pushes}");
    assert_has(&gate.log(), &["answered=\"probe\""]);
}

#[test]
fn build_stream_1_that_asks_for_pushes_pulls_and_its_push_is_refused() {
    for version in ["1.6.8", "1.4.3"] {
        let scratch = tempfile::tempdir().unwrap();
        let Some(bst) = build_stream_1::BuildStream::new(version, scratch.path()) else {
            continue;
        };
        let gate = gate(ACCEPT);
        let settings = |certificate| build_stream_1::settings(&gate, certificate, true);
        bst.push_and_pull(&settings("ci"), &settings("dev"));
        std::fs::write(scratch.path().join("project-1/files/hello.txt"), "changed\n").unwrap();
        let pushes = bst.run("dev", &settings("dev"), &["build", "hello.bst"]).text;
        assert!(!pushes.contains("Pushed artifact"), "{version}: {pushes}");
        assert_has(&pushes, &["may not push here"]);
    }
}

#[test]
fn bazel_whose_uploads_are_thrown_away_has_nothing_to_complain_of() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(bazel) = Bazel::new(scratch.path()) else {
        return;
    };
    let gate = gate(r#"on-denied-push = "discard""#);
    for _ in 0..2 {
        let built = bazel.build(&bazel::bazelrc(&gate, "dev")).success();
        assert!(!built.contains("WARNING"), "{built}");
        // The second time as well: nothing was stored.
        assert_has(&built, &["1 linux-sandbox"]);
    }
    assert_has(&gate.log(), &["answered=\"discarded\""]);
    bazel.build(&bazel::bazelrc(&gate, "ci")).success();
    let pulled = bazel.build(&bazel::bazelrc(&gate, "dev")).success();
    assert_has(&pulled, &["1 remote cache hit"]);
}
