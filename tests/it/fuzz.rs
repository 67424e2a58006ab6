//! The properties of `tests/fuzz` on mutations of their seeds, with the toolchain that is there anyway. For a second each,
//! or as many as `CASGATE_FUZZ_SECONDS` says, and then with other inputs each time.

mod mutation;
#[path = "../fuzz/properties/mod.rs"]
mod properties;
mod seeds;

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use mutation::Mutation;
use seeds::seeds;
pub(crate) use seeds::stream;

/// How many inputs are kept that lead somewhere new.
const KEPT: usize = 4096;
/// The longest input that is made, in bytes.
const LONGEST: usize = 80 * 1024;

#[test]
fn path() {
    run("path", properties::path, |_| {});
}

#[test]
fn first_message() {
    run("first-message", properties::first_message, mutation::mend_prefix);
}

#[test]
fn message() {
    run("message", properties::message, |_| {});
}

#[test]
fn resource_name() {
    run("resource-name", properties::resource_name, |_| {});
}

#[test]
fn certificate() {
    run("certificate", properties::certificate, |_| {});
}

#[test]
fn revocation_list() {
    run("revocation-list", properties::revocation_list, |_| {});
}

#[test]
fn configuration() {
    run("configuration", properties::configuration, |_| {});
}

/// Tries all seeds, and mutations of them and of what led somewhere new. Half of the inputs are mended, where a mutation
/// hardly ever leaves whole what comes first.
fn run(target: &str, property: fn(&[u8]) -> String, mend: fn(&mut [u8])) {
    let asked = std::env::var("CASGATE_FUZZ_SECONDS").ok();
    let seconds = asked
        .as_ref()
        .map_or(1, |text| text.parse().expect("CASGATE_FUZZ_SECONDS is a number"));
    // The same inputs in each ordinary run of the tests, so that it fails for everybody or for nobody.
    let seed = asked.map_or(1, |_| SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    let mut pool = seeds(target);
    assert!(pool.len() >= 3, "{target} has {} seeds", pool.len());
    let mut kinds = BTreeSet::new();
    for input in &pool {
        kinds.insert(outcome(target, property, input));
    }
    let mut mutation = Mutation::new(seed, &pool);
    let (begun, mut count) = (Instant::now(), pool.len());
    while begun.elapsed() < Duration::from_secs(seconds) {
        let mut input = mutation.of(&pool);
        input.truncate(LONGEST);
        if mutation.chance(2) {
            mend(&mut input);
        }
        count += 1;
        if kinds.insert(outcome(target, property, &input)) && pool.len() < KEPT {
            pool.push(input);
        }
    }
    println!(
        "fuzz: {target}: {count} inputs in {seconds} s, {} kinds of outcome",
        kinds.len()
    );
}

/// What comes of an input. One for which the property does not hold is kept in a file, to be a test of its own.
fn outcome(target: &str, property: fn(&[u8]) -> String, input: &[u8]) -> String {
    catch_unwind(|| property(input)).unwrap_or_else(|_| {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
        let file = folder.join(format!("{target}-{}", &hex[..hex.len().min(16)]));
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(&file, input))
            .unwrap();
        panic!(
            "{target}: the property does not hold for {hex}, which is in {}",
            file.display()
        );
    })
}
