//! `casgate store verify`: whether the disk has kept what an embedded store has written.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;
use crate::config;
use crate::snapshot::Snapshot;
use crate::snapshot::backends::Target;
use crate::store::{self, Damage, Progress, Report};

/// What can be done with a store.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Read all of a store and compare it with its digests, also while casgate serves it
    ///
    /// Exits with 0 where all is as it was written or what is not was removed, and with 2 where something is damaged.
    Verify(Verify),
}

/// Arguments of `casgate store verify`.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// The folders of stores, or their URLs as a configuration names them
    #[arg(required_unless_present = "config", value_name = "FOLDER")]
    pub folders: Vec<PathBuf>,
    /// The configuration file whose stores are meant
    #[arg(long, value_name = "FILE", conflicts_with = "folders")]
    pub config: Option<PathBuf>,
    /// Remove what is damaged: it is a miss then, and can be pushed again
    #[arg(long)]
    pub repair: bool,
}

/// How often a line tells how far it is, where there is no terminal.
const LINE: Duration = Duration::from_secs(10);

/// Runs the command.
///
/// # Errors
/// What the user should read.
pub fn run(command: &Command) -> Result<ExitCode, Failure> {
    let Command::Verify(args) = command;
    let folders = match &args.config {
        Some(file) => configured(file)?,
        None => args.folders.iter().map(|folder| named(folder)).collect(),
    };
    let mut left = false;
    for folder in folders {
        let report = verify(&folder, args.repair)?;
        left |= report.damaged > report.removed;
    }
    Ok(ExitCode::from(if left { 2 } else { 0 }))
}

fn named(folder: &Path) -> PathBuf {
    let url = folder.to_str().and_then(store::folder);
    url.unwrap_or_else(|| folder.to_owned())
}

fn configured(file: &Path) -> Result<Vec<PathBuf>, Failure> {
    let snapshot = config::load(file)
        .and_then(|loaded| Snapshot::compile(&loaded))
        .map_err(Failure::of)?;
    let targets = snapshot.backends.iter().flat_map(|plan| &plan.endpoints);
    let mut folders: Vec<_> = targets
        .filter_map(|target| match target {
            Target::Store(url) => store::folder(url).map(|folder| store::found(&folder)),
            _ => None,
        })
        .collect();
    folders.sort();
    folders.dedup();
    if folders.is_empty() {
        return Err(Failure(format!("`{}` has no store in a folder", file.display())));
    }
    Ok(folders)
}

fn verify(folder: &Path, repair: bool) -> Result<Report, Failure> {
    let mut shown = Shown::begin(folder);
    let result = store::verify(folder, repair, |progress| shown.step(&progress));
    shown.end();
    let report = result.map_err(|error| Failure(format!("`{}` can't be verified: {error}", folder.display())))?;
    let Report {
        blobs,
        records,
        bytes,
        damaged,
        removed,
        foreign,
    } = report;
    println!(
        "{}: {blobs} blobs and {records} action results and assets with {bytes} bytes are as they were written, {damaged} are damaged, {removed} of them were removed",
        folder.display()
    );
    if foreign > 0 {
        println!(
            "{}: {foreign} files are none of a store, and were left alone",
            folder.display()
        );
    }
    if damaged > removed && !repair {
        println!("remove them with `--repair`: they are misses then, and can be pushed again");
    }
    Ok(report)
}

/// How far it is: a bar in a terminal, else lines.
struct Shown {
    bar: Option<ProgressBar>,
    told: Instant,
}

impl Shown {
    fn begin(folder: &Path) -> Shown {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let template = "{msg} [{wide_bar}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.with_message(folder.display().to_string())
        });
        Shown {
            bar,
            told: Instant::now(),
        }
    }

    fn step(&mut self, progress: &Progress<'_>) {
        match progress {
            Progress::Read { bytes, of } => match &self.bar {
                Some(bar) => {
                    // What came meanwhile is read as well.
                    bar.set_length((*of).max(*bytes));
                    bar.set_position(*bytes);
                }
                None if self.told.elapsed() >= LINE => {
                    self.told = Instant::now();
                    eprintln!("{bytes} of {of} bytes read");
                }
                None => {}
            },
            Progress::Damaged { file, damage, removed } => {
                let what = match damage {
                    Damage::Content => "other bytes than were written",
                    Damage::Size => "another size than was written",
                    Damage::Unreadable => "the disk can't read it",
                };
                let fate = if *removed { ", removed" } else { "" };
                let line = format!("{}: {what}{fate}", file.display());
                match &self.bar {
                    Some(bar) => bar.suspend(|| println!("{line}")),
                    None => println!("{line}"),
                }
            }
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
