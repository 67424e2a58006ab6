//! What one caller does not finish keeps nothing of the embedded store from others, whoever it says that it is.

use std::net::Ipv4Addr;

use crate::harness::store::{Blob, program};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_uploads_of_one_caller_evict_nothing_and_stop_no_push() {
    let folder = tempfile::tempdir().unwrap();
    let blobs: Vec<_> = (0..10).map(|seed| Blob { seed, size: MIB }).collect();
    {
        // What is older than a minute may go; these count as such, as another process has stored them.
        let (_gate, mut clients) = program(folder.path(), "", "").await;
        for blob in &blobs {
            clients.write(*blob).await.unwrap();
        }
    }
    let (gate, mut clients) = program(folder.path(), "quota = \"16MiB\"", "").await;
    let other = clients.elsewhere(Ipv4Addr::new(127, 0, 0, 2).into());
    let mut open = Vec::new();
    for seed in 100..107 {
        // Its own word for who it is counts for nothing.
        let forged = [
            ("casgate-on-behalf-of", format!("{seed:032x}")),
            ("casgate-caller", seed.to_string()),
        ];
        open.push(
            other
                .begin(
                    Blob {
                        seed,
                        size: 9 * MIB / 4,
                    },
                    &forged,
                )
                .await,
        );
    }
    assert!(clients.missing(&blobs).await.is_empty());
    assert_eq!(gate.scrape("casgate_store_evicted_total", &[]), 0.0);
    for seed in 200..203 {
        clients.write(Blob { seed, size: MIB }).await.unwrap();
    }
    drop(open);
}
