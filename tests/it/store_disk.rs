//! The disk below the embedded store: what it did not keep, `casgate store verify`, and who may read it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tonic::Code;

use crate::harness::store::{Blob, Kind, Named, files, hash, program, program_with};

const MIB: usize = 1 << 20;

fn file(folder: &Path, blob: Blob) -> PathBuf {
    let bytes = blob.bytes();
    let hash = hash(&bytes);
    folder.join(format!("cas/_/{}/{hash}-{}", &hash[..2], bytes.len()))
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// What `casgate store verify` says, and its exit code.
fn verify(arguments: &[&str], folder: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_casgate"));
    let output = command
        .args(["store", "verify"])
        .args(arguments)
        .arg(folder)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn what_the_disk_has_not_kept_is_told_removed_and_healed_by_a_push() {
    let folder = tempfile::tempdir().unwrap();
    let (gate, mut clients) = program(folder.path(), "", "").await;
    let blobs: Vec<_> = (0..4).map(|seed| Blob { seed, size: 3 * MIB }).collect();
    for blob in &blobs {
        clients.write(*blob).await.unwrap();
    }
    let named = Named {
        name: 1,
        kind: Kind::ActionResult,
        blob: blobs[0],
    };
    clients.name(&named).await.unwrap();
    let damaged = || gate.scrape("casgate_store_damaged_total", &["store"]);

    flip(&file(folder.path(), blobs[1]), 3 * MIB - 1);
    let error = clients.read(blobs[1]).await.unwrap_err();
    assert_eq!(error.code(), Code::DataLoss, "{error}");
    assert_eq!(damaged(), 1.0);
    assert_eq!(clients.missing(&blobs).await.len(), 1);
    clients.write(blobs[1]).await.unwrap();
    clients.check_blob(blobs[1]).await;

    // Nobody has read these. The gate goes on meanwhile.
    assert_eq!(verify(&[], folder.path()).0, Some(0));
    let url = format!("file:{}", folder.path().display());
    assert_eq!(verify(&[], Path::new(&url)).0, Some(0));
    flip(&file(folder.path(), blobs[2]), 0);
    let record = files(&folder.path().join("ac")).remove(0);
    let size = std::fs::metadata(&record).unwrap().len();
    std::fs::File::options()
        .write(true)
        .open(&record)
        .unwrap()
        .set_len(size - 2)
        .unwrap();
    let (code, text) = verify(&[], folder.path());
    assert!(
        code == Some(2) && text.contains("2 are damaged, 0 of them were removed"),
        "{text}"
    );
    assert!(text.contains(&record.display().to_string()), "{text}");
    let (code, text) = verify(&["--repair"], folder.path());
    assert!(
        code == Some(0) && text.contains("2 are damaged, 2 of them were removed"),
        "{text}"
    );
    assert_eq!(verify(&[], folder.path()).0, Some(0));
    assert_eq!(clients.missing(&blobs).await.len(), 1);
    clients.write(blobs[2]).await.unwrap();
    clients.name(&named).await.unwrap();
    clients.check_name(&named).await;
    for blob in &blobs {
        clients.check_blob(*blob).await;
    }
    let (code, text) = verify(&[], &folder.path().join("nowhere"));
    assert!(code == Some(1) && text.contains("can't be verified"), "{text}");
}

#[tokio::test]
async fn folders_and_files_are_open_to_nobody_else_unless_configured() {
    for (top, folders, files_) in [("", 0o700, 0o600), ("umask = \"0027\"\n", 0o750, 0o640)] {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("store");
        let (_gate, mut clients) = program_with(&folder, "", "", top).await;
        // One in one piece, one in several.
        for (seed, size) in [(0, 100), (1, 3 * MIB)] {
            clients.write(Blob { seed, size }).await.unwrap();
        }
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let found = files(&folder);
        assert_eq!(found.len(), 3);
        for file in &found {
            assert_eq!(mode(file), files_, "{}", file.display());
            for above in file.ancestors().skip(1).take_while(|above| *above != parent.path()) {
                assert_eq!(mode(above), folders, "{}", above.display());
            }
        }
    }
}

/// BuildStream 2's `type: index`, beside a storage that the gate knows nothing of.
#[tokio::test]
async fn assets_may_name_what_is_in_another_store() {
    for (completeness, found) in [("check", false), ("trust", true)] {
        let folder = tempfile::tempdir().unwrap();
        let (mut gate, mut clients) = program(folder.path(), "", "").await;
        gate.config.backends.push_str(&format!(
            "[[routes]]\nservices = [\"asset\", \"cas\", \"action-cache\"]\nbackend = \"store\"\nasset-completeness = \"{completeness}\"\n"
        ));
        gate.write();
        gate.hang_up();
        crate::harness::until("the routes are in use", || {
            gate.scrape("casgate_config_generation", &[]) >= 2.0
        })
        .await;
        let named = Named {
            name: 1,
            kind: Kind::BlobAsset,
            blob: Blob { seed: 0, size: MIB },
        };
        clients.name(&named).await.unwrap();
        assert_eq!(clients.find_name(&named).await.is_ok(), found, "{completeness}");
    }
}
