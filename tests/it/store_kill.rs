//! The embedded store under `kill -9`: what was acknowledged is there afterwards, what was not is whole or not there at all, and
//! nothing unfinished stays.
//!
//! `CASGATE_KILL_ROUNDS=200 cargo test --test it -- store_kill --nocapture` is the long run; `CASGATE_KILL_SEED` repeats one.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::harness::store::{Blob, Clients, Kind, Named, Random, digest, files, hash, program, unfinished};
use crate::harness::until;

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
            let (gate, clients) = program(folder.path(), "", "").await;
            let storms: Vec<_> = (0..CLIENTS)
                .map(|_| tokio::spawn(push(clients.another(), random.next())))
                .collect();
            tokio::time::sleep(Duration::from_millis(random.next() % LONGEST)).await;
            // It ends the program by SIGKILL.
            drop(gate);
            let mut last = Log::default();
            for storm in storms {
                last.add(storm.await.unwrap());
            }
            let left = unfinished(folder.path()).len();

            let (gate, mut clients) = program(folder.path(), "", "").await;
            let found = check(&mut clients, &last).await;
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
        let (_gate, mut clients) = program(folder.path(), "", "").await;
        check(&mut clients, &all).await;
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

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}: `{text}` is no number")),
    )
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

/// What one storm has done, or several.
#[derive(Default)]
struct Log {
    blobs: Vec<Blob>,
    names: Vec<Named>,
    /// Pushed without an answer: they may be there or not.
    unanswered: Vec<Blob>,
}

impl Log {
    fn add(&mut self, other: Log) {
        self.blobs.extend(other.blobs);
        self.names.extend(other.names);
        self.unanswered.extend(other.unanswered);
    }

    fn acknowledged(&self) -> usize {
        self.blobs.len() + self.names.len()
    }

    fn in_doubt(&self) -> usize {
        self.unanswered.len()
    }
}

/// Pushes until the other end is gone.
async fn push(mut clients: Clients, seed: u64) -> Log {
    let mut random = Random(seed);
    let mut log = Log::default();
    loop {
        if random.next().is_multiple_of(3) {
            let blob = Blob {
                seed: random.next(),
                size: (1 << 20) + (random.next() % (5 << 20)) as usize,
            };
            match clients.write(blob).await {
                Ok(()) => log.blobs.push(blob),
                Err(_) => {
                    log.unanswered.push(blob);
                    return log;
                }
            }
        } else {
            let count = 1 + random.next() % 6;
            let blobs: Vec<_> = (0..count)
                .map(|_| Blob {
                    seed: random.next(),
                    size: 1 + (random.next() % 60_000) as usize,
                })
                .collect();
            let Ok(codes) = clients.batch(&blobs).await else {
                log.unanswered.extend(blobs);
                return log;
            };
            assert_eq!(codes, vec![0; blobs.len()]);
            log.blobs.extend(blobs);
        }
        let kinds = [Kind::ActionResult, Kind::BlobAsset];
        let named = Named {
            name: random.next(),
            kind: kinds[(random.next() % 2) as usize],
            blob: log.blobs[log.blobs.len() - 1],
        };
        if clients.name(&named).await.is_err() {
            return log;
        }
        log.names.push(named);
    }
}

/// All that was acknowledged is there, and what was not is whole or not there. How many of the latter are.
async fn check(clients: &mut Clients, log: &Log) -> usize {
    let missing = clients.missing(&log.blobs).await;
    assert!(missing.is_empty(), "acknowledged, and gone: {missing:?}");
    for blob in &log.blobs {
        clients.check_blob(*blob).await;
    }
    for named in &log.names {
        clients.check_name(named).await;
    }
    let missing = clients.missing(&log.unanswered).await;
    for blob in &log.unanswered {
        let data = blob.bytes();
        if !missing.contains(&digest(&data)) {
            clients.check_blob(*blob).await;
        }
    }
    log.unanswered.len() - missing.len()
}
