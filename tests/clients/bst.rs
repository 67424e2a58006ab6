//! What both BuildStreams have in common: their command line and their project.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process::{Ended, run};

/// Makes a project with one element that imports one file.
pub(crate) fn make_project(folder: &Path, conf: &str) {
    std::fs::create_dir_all(folder.join("files")).unwrap();
    for (name, text) in [
        ("project.conf", conf),
        ("hello.bst", "kind: import\nsources:\n- kind: local\n  path: files\n"),
        ("files/hello.txt", "hello\n"),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

/// Runs `bst` in a project, with this configuration and with the cache in `home`, which is made if it is not there.
pub(crate) fn bst(program: &Path, home: &Path, settings: &str, project: &Path, arguments: &[&str]) -> Ended {
    std::fs::create_dir_all(home).unwrap();
    let config = home.join("buildstream.conf");
    std::fs::write(&config, settings).unwrap();
    let mut command = Command::new(program);
    command
        .env("HOME", home)
        .env("XDG_CACHE_HOME", home.join("cache"))
        .env_remove("XDG_CONFIG_HOME")
        .args(["--no-colors", "--no-interactive", "--config"])
        .arg(config)
        .arg("-C")
        .arg(project)
        .args(arguments);
    run(&mut command, Duration::from_secs(180))
}
