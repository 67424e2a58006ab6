//! The embedded store under `kill -9`: what was acknowledged is there afterwards, what was not is whole or not there at all, and
//! nothing unfinished stays.
//!
//! `CASGATE_KILL_ROUNDS=200 cargo test --test it -- store_kill --nocapture` is the long run; `CASGATE_KILL_SEED` repeats one.

mod acknowledged;
mod storm;

use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::harness::gate::{Config, Gate};
use crate::harness::until;

use acknowledged::{Log, Random, hash};
use storm::Clients;

/// Rounds unless told otherwise.
const ROUNDS: u64 = 20;
/// Clients that push at a time, each over a connection of its own.
const CLIENTS: u64 = 4;
/// The longest storm before the end.
const LONGEST: u64 = 400;
/// Rounds after which all is looked at once more, and a new store is begun: the disk is not endless.
const SPAN: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_kill_9_and_nothing_unfinished_does() {
    let rounds = number("CASGATE_KILL_ROUNDS").unwrap_or(ROUNDS);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("CASGATE_KILL_SEED").unwrap_or(since.as_nanos() as u64);
    println!("{rounds} rounds, CASGATE_KILL_SEED={seed}");
    let begun = Instant::now();
    let mut random = Random(seed);
    let mut sum = Sum::default();
    let mut round = 0;
    while round < rounds {
        let folder = tempfile::tempdir().unwrap();
        let mut all = Log::default();
        let mut hashed = HashSet::new();
        for _ in 0..SPAN.min(rounds - round) {
            round += 1;
            let (gate, clients) = start(folder.path()).await;
            let storms: Vec<_> = (0..CLIENTS)
                .map(|_| tokio::spawn(storm::push(clients.another(), random.next())))
                .collect();
            tokio::time::sleep(Duration::from_millis(random.next() % LONGEST)).await;
            // It ends the program by SIGKILL.
            drop(gate);
            let mut last = Log::default();
            for storm in storms {
                last.add(storm.await.unwrap());
            }
            let left = unfinished(folder.path()).len();

            let (gate, mut clients) = start(folder.path()).await;
            let found = clients.check(&last).await;
            until("unfinished files are gone", || unfinished(folder.path()).is_empty()).await;
            let visible = check_files(&folder.path().join("cas"), &mut hashed);
            drop(gate);
            println!(
                "round {round}: {} acknowledged, all there; {found} of {} in doubt are there, and whole; {left} unfinished files, now gone; {visible} new files with the digest of their name",
                last.acknowledged(),
                last.in_doubt()
            );
            sum.acknowledged += last.acknowledged();
            sum.in_doubt += last.in_doubt();
            sum.left += left;
            all.add(last);
        }
        let (_gate, mut clients) = start(folder.path()).await;
        clients.check(&all).await;
        println!("all {} of these rounds are still there", all.acknowledged());
    }
    let seconds = begun.elapsed().as_secs();
    println!("{rounds} rounds in {seconds} s: {sum:?}");
    assert!(sum.acknowledged as u64 > rounds, "too little was tried: {sum:?}");
}

#[derive(Debug, Default)]
struct Sum {
    acknowledged: usize,
    in_doubt: usize,
    left: usize,
}

/// The real program on this folder, and what connects to it in the clear.
async fn start(folder: &Path) -> (Gate, Clients) {
    let mut config = Config::to_endpoint("unix:/nowhere");
    config.top.push_str("\nlog = { format = \"json\" }");
    config.backends = format!("[backends.store]\nstore = \"file:{}\"\n", folder.display());
    let more = &mut config.more_listeners;
    more.write_str("[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\n")
        .unwrap();
    config.rule("all", "\"anonymous\"", &["pull", "push"], None);
    let gate = Gate::spawn(config).await;
    let clients = Clients::of(gate.clear_address().await);
    (gate, clients)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}: `{text}` is no number")),
    )
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // Before the first blob there is no folder, and files come and go.
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => found.push(entry.path()),
            }
        }
    }
    found
}

fn unfinished(folder: &Path) -> Vec<PathBuf> {
    let mut files = files(folder);
    files.retain(|file| file.to_str().unwrap().contains('#'));
    files
}

/// No file is visible that has not the digest of its name. How many were not looked at before.
fn check_files(folder: &Path, hashed: &mut HashSet<PathBuf>) -> usize {
    let mut new = 0;
    for file in files(folder) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        if !hashed.insert(file.clone()) || name.contains('#') {
            continue;
        }
        let bytes = std::fs::read(&file).unwrap();
        assert_eq!(name, format!("{}-{}", hash(&bytes), bytes.len()));
        new += 1;
    }
    new
}
