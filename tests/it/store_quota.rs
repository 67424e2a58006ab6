//! `quota` of the embedded store: what is wrong with it, what is told of it, and that a reload changes it.

use std::process::Command;

use crate::configs::certificates;
use crate::harness::store::{Blob, program};
use crate::harness::until;

const MIB: usize = 1 << 20;

/// What `casgate check` says of these backends, and whether it finds them good.
fn check(backends: &str) -> (bool, String) {
    let folder = certificates();
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\ncertificate = \"server.crt\"\nkey = \"server.key\"\nclient-ca = [\"ca.crt\"]\n{backends}"
    );
    let file = folder.path().join("casgate.toml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_casgate"));
    let output = command.args(["check", "--config"]).arg(&file).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn each_mistake_is_told_with_its_key() {
    let store = "[backends.x]\nstore = \"file:store\"\n";
    for (backends, told) in [
        (
            "[backends.x]\nendpoint = \"unix:/x\"\nquota = \"1GiB\"\n".to_owned(),
            "backends.x.quota: is only for a `store`",
        ),
        (
            format!("{store}quota = \"1MiB\"\n"),
            "backends.x.quota: is less than 16MiB",
        ),
        (
            format!("{store}quota = \"lots\"\n"),
            "backends.x.quota: `\"lots\"` is no size: write a whole number with KiB, MiB, GiB or TiB, such as \"100GiB\"",
        ),
        (format!("{store}quota = \"1.5GiB\"\n"), "is no size"),
        (format!("{store}quota = -1\n"), "`-1` is no size"),
        (
            format!(
                "{store}quota = \"1GiB\"\n[backends.y]\nstore = \"file:store\"\n[[routes]]\nservices = [\"cas\"]\nbackend = \"x\"\n"
            ),
            "backends.y.quota: is not that of backend `x`, which has the same store",
        ),
        (
            format!(
                "{store}quota = \"1GiB\"\n[backends.y]\nstore = \"file:./store/\"\nquota = \"2GiB\"\n[[routes]]\nservices = [\"cas\"]\nbackend = \"x\"\n"
            ),
            "backends.y.quota: is not that of backend `x`, which has the same store",
        ),
    ] {
        let (good, text) = check(&backends);
        assert!(!good && text.contains(told), "{backends}{text}");
    }
}

#[test]
fn check_tells_the_quota() {
    for (keys, told) in [
        ("quota = \"100GiB\"\n", "with a quota of 100 GiB"),
        ("quota = 16777216\n", "with a quota of 16 MiB"),
        ("", "without a quota"),
    ] {
        let (good, text) = check(&format!("[backends.x]\nstore = \"file:/var/lib/x\"\n{keys}"));
        assert!(
            good && text.contains(&format!("embedded store file:/var/lib/x {told}")),
            "{text}"
        );
    }
}

#[test]
fn an_index_without_its_blobs_is_warned_of() {
    let backends = |completeness: &str| {
        format!(
            "[backends.index]\nstore = \"memory:\"\n[backends.blobs]\nstore = \"file:blobs\"\n[[routes]]\nservices = [\"cas\", \"action-cache\"]\nbackend = \"blobs\"\n[[routes]]\nservices = [\"asset\"]\nbackend = \"index\"\n{completeness}"
        )
    };
    let told = "`asset` goes to the embedded store of backend `index`, and `cas` does not";
    let (good, text) = check(&backends(""));
    assert!(good && text.contains(told), "{text}");
    let (good, text) = check(&backends("asset-completeness = \"trust\"\n"));
    assert!(good && !text.contains(told), "{text}");
}

#[tokio::test]
async fn a_reload_sets_the_quota_of_a_store_that_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let (mut gate, mut clients) = program(folder.path(), "", "").await;
    let blobs: Vec<_> = (0..20).map(|seed| Blob { seed, size: MIB }).collect();
    for blob in &blobs {
        clients.write(*blob).await.unwrap();
    }
    assert_eq!(gate.scrape("casgate_store_quota_bytes", &[]), 0.0);
    let without = gate.config.backends.clone();
    for (quota, kept) in [("1GiB", 20), ("16MiB", 14)] {
        gate.config.backends = format!("{without}quota = \"{quota}\"\n");
        gate.write();
        gate.hang_up();
        let here = || gate.scrape("casgate_store_bytes", &["store"]);
        until(quota, || here() > 0.0 && here() <= f64::from(kept << 20)).await;
        assert_eq!(gate.scrape("casgate_store_evicted_total", &[]), f64::from(20 - kept));
    }
    // The last ones are there, and over the same connection.
    for blob in &blobs[6..] {
        clients.check_blob(*blob).await;
    }
    assert_eq!(clients.missing(&blobs).await.len(), 6);
    gate.config.backends = without;
    gate.write();
    gate.hang_up();
    until("no quota", || gate.scrape("casgate_store_quota_bytes", &[]) == 0.0).await;
    for seed in 100..110 {
        clients.write(Blob { seed, size: MIB }).await.unwrap();
    }
    assert_eq!(gate.scrape("casgate_store_evicted_total", &[]), 6.0);
}
