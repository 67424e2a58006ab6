//! Programs that a test starts: their output is kept in files, and they end with the test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take that is not a client's whole run.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A program that runs until the value is dropped.
pub(crate) struct Running {
    child: Child,
    output: PathBuf,
}

/// A program that has ended.
pub(crate) struct Ended {
    /// What it printed, to both outputs.
    pub(crate) text: String,
    /// Whether it said that all went well.
    pub(crate) is_success: bool,
}

impl Running {
    /// Starts a program with both outputs in `output`.
    pub(crate) fn start(command: &mut Command, output: &Path) -> Running {
        let file = File::create(output).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Running {
            child,
            output: output.to_owned(),
        }
    }

    /// What it printed until now.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap()).into_owned()
    }

    /// Waits until it has printed `word`, and gives the rest of that line.
    pub(crate) fn wait_for(&mut self, word: &str) -> String {
        let end = Instant::now() + SOON;
        loop {
            let text = self.text();
            // Only whole lines: the rest may be on its way.
            let line = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(rest) = line
                .filter_map(|line| line.split_once(word))
                .map(|(_, rest)| rest)
                .next()
            {
                return rest.trim_end().to_owned();
            }
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "ended without `{word}`:\n{text}"
            );
            assert!(Instant::now() < end, "no `{word}` in time:\n{text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            // Its folder may be gone already.
            let output = std::fs::read(&self.output).unwrap_or_default();
            eprintln!("---- {}\n{}", self.output.display(), String::from_utf8_lossy(&output));
        }
    }
}

/// Runs a program to its end, at most `limit`.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Ended {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut running = Running::start(command, file.path());
    let end = Instant::now() + limit;
    let status = loop {
        if let Some(status) = running.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "{command:?} took too long:\n{}", running.text());
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut text = String::new();
    std::io::Read::read_to_string(&mut file, &mut text).unwrap();
    Ended {
        text,
        is_success: status.success(),
    }
}

impl Ended {
    /// The output of a program that must have succeeded.
    pub(crate) fn success(self) -> String {
        assert!(self.is_success, "{}", self.text);
        self.text
    }

    /// The output of a program that must have failed.
    pub(crate) fn failure(self) -> String {
        assert!(!self.is_success, "{}", self.text);
        self.text
    }
}

/// That a text holds each of these.
pub(crate) fn assert_has(text: &str, wanted: &[&str]) {
    for word in wanted {
        assert!(text.contains(word), "`{word}` is not in:\n{text}");
    }
}
