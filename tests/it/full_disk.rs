//! A full disk, under the embedded store and under the audit log.

use std::collections::HashSet;

use bazel_remote_apis::build::bazel::remote::asset::v1::PushBlobRequest;
use casgate::audit::Line;
use casgate::policy::method::Method;
use prost::Message;
use tonic::Code;

use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::small_disk::SmallDisk;
use crate::harness::store::{Blob, Clients, Kind, Named, files, hash, program, unfinished};
use crate::harness::{grpc, until};

const MIB: usize = 1 << 20;

fn blob(seed: u64, size: usize) -> Blob {
    Blob { seed, size }
}

/// Pushes blobs of one MiB until there is no place for one; those that were taken.
async fn fill(clients: &mut Clients, from: u64) -> Vec<Blob> {
    let mut taken = Vec::new();
    for seed in from..from + 100 {
        match clients.write(blob(seed, MIB)).await {
            Ok(()) => taken.push(blob(seed, MIB)),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                assert!(
                    status.message().contains("insufficient disk quota: the disk"),
                    "{status}"
                );
                return taken;
            }
        }
    }
    panic!("the disk does not get full");
}

async fn assert_all_there(clients: &mut Clients, blobs: &[Blob]) {
    assert!(clients.missing(blobs).await.is_empty());
    for blob in blobs {
        clients.check_blob(*blob).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_reads_on_a_full_disk_and_writes_when_there_is_space() {
    let Some(disk) = SmallDisk::of(24 << 10) else { return };
    let store = disk.inside().join("store");
    let seen = disk.outside().join("store");
    disk.take(8 << 10);
    let (gate, mut clients) = program(&store, "", &disk.commands()).await;
    let named = Named {
        name: 1,
        kind: Kind::ActionResult,
        blob: blob(0, MIB),
    };
    clients.write(blob(0, MIB)).await.unwrap();
    clients.name(&named).await.unwrap();
    let mut there = fill(&mut clients, 1).await;
    assert!(there.len() > 10, "{}", there.len());
    there.push(blob(0, MIB));
    // What has begun to be written takes space until it is removed.
    let given_back = || until("unfinished files are gone", || unfinished(&seen).is_empty());
    given_back().await;
    // Large ones, small ones, names: none of them finds a place, and each is told so.
    while clients.batch(&[blob(1000 + there.len() as u64, 3000)]).await.unwrap() == [0] {
        there.push(blob(1000 + there.len() as u64, 3000));
    }
    for size in [MIB, 5 * MIB] {
        let refused = clients.write(blob(2000, size)).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        given_back().await;
    }
    let codes = clients.batch(&[blob(2001, 9000), blob(2002, 9000)]).await.unwrap();
    assert_eq!(codes, [Code::ResourceExhausted as i32; 2]);
    let refused = clients
        .name(&Named {
            name: 2,
            ..named.clone()
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");

    assert_all_there(&mut clients, &there).await;
    clients.check_name(&named).await;
    let lost = [blob(2000, MIB), blob(2000, 5 * MIB), blob(2001, 9000), blob(2002, 9000)];
    assert_eq!(clients.missing(&lost).await.len(), lost.len());
    given_back().await;
    for file in files(&seen.join("cas")) {
        let bytes = std::fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_eq!(name, format!("{}-{}", hash(&bytes), bytes.len()));
    }

    // It can be started there.
    drop(gate);
    let (_gate, mut clients) = program(&store, "", &disk.commands()).await;
    assert_all_there(&mut clients, &there).await;
    assert!(fill(&mut clients, 3000).await.is_empty());
    // And needs no restart when there is space.
    disk.give_back();
    let more = fill(&mut clients, 4000).await;
    assert!(more.len() >= 6, "{}", more.len());
    assert_all_there(&mut clients, &more).await;
    assert_all_there(&mut clients, &there).await;
    given_back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_with_a_quota_below_its_disk_never_meets_its_end() {
    let Some(disk) = SmallDisk::of(24 << 10) else { return };
    let (_gate, mut clients) = program(&disk.inside().join("store"), "", &disk.commands()).await;
    let there = fill(&mut clients, 0).await;
    drop(_gate);
    // What is older than a minute may go; these count as such, as another process has stored them.
    let keys = "quota = \"20MiB\"";
    let (gate, mut clients) = program(&disk.inside().join("store"), keys, &disk.commands()).await;
    until("room is made", || {
        gate.scrape("casgate_store_evicted_total", &[]) >= 4.0
    })
    .await;
    for seed in 100..112 {
        clients.write(blob(seed, MIB)).await.unwrap();
    }
    let bytes = gate.scrape("casgate_store_bytes", &["store"]);
    assert!(bytes <= f64::from(20 << 20), "{bytes}");
    assert_eq!(
        gate.scrape("casgate_store_quota_bytes", &["store"]),
        f64::from(20 << 20)
    );
    assert!(clients.missing(&there).await.len() >= 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_log_goes_on_when_there_is_space() {
    for (on_failure, code) in [("refuse", 14), ("count", 0)] {
        let Some(disk) = SmallDisk::of(128) else { return };
        let backend = Backend::start(unary);
        let mut config = Config::to(&backend);
        let file = disk.inside().join("audit.jsonl");
        config.top.push_str("\nlog = { format = \"json\" }");
        config.top.push_str(&format!(
            "\naudit = {{ file = \"{}\", on-failure = \"{on_failure}\" }}",
            file.display()
        ));
        let gate = Gate::spawn_after(&disk.commands(), config).await;
        let mut writer = gate.client("writer").await;
        disk.take(120);
        let mut pushed = 0;
        // The rest of it takes some lines.
        let failures = || gate.scrape("casgate_audit_write_failures_total", &[]);
        while failures() == 0.0 {
            assert!(pushed < 200, "the disk does not get full");
            let reply = writer.call(Method::PushBlob, push(pushed)).await;
            pushed += u32::from(reply.code() == Some(0));
        }
        // Neither does anybody wait, nor does the program end.
        let reply = writer.call(Method::PushBlob, push(pushed)).await;
        assert_eq!(reply.code(), Some(code), "{on_failure}: {reply:?}");
        pushed += u32::from(code == 0);
        assert_eq!(writer.ask(Method::Read, "").await.code(), Some(0));

        disk.give_back();
        until("each push has its line", || {
            let text = std::fs::read(disk.outside().join("audit.jsonl")).unwrap();
            let lines = text.split(|byte| *byte == b'\n');
            let uris = lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok()?.uris.pop());
            uris.collect::<HashSet<_>>().len() as u32 >= pushed
        })
        .await;
        assert_eq!(gate.scrape("casgate_audit_lost_lines_total", &[]), 0.0);
        let mut code = None;
        until("pushes are taken again", || {
            code = tokio::task::block_in_place(|| {
                let call = writer.call(Method::PushBlob, push(pushed));
                tokio::runtime::Handle::current().block_on(call).code()
            });
            code == Some(0)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_are_lost_at_the_end_are_told_and_no_success() {
    let Some(disk) = SmallDisk::of(128) else { return };
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    config.top.push_str("\nlog = { format = \"json\" }");
    config.top.push_str(&format!(
        "\naudit = {{ file = \"{}\", on-failure = \"count\" }}",
        disk.inside().join("audit.jsonl").display()
    ));
    let mut gate = Gate::spawn_after(&disk.commands(), config).await;
    let mut writer = gate.client("writer").await;
    disk.take(120);
    let failures = || gate.scrape("casgate_audit_write_failures_total", &[]);
    let mut pushed = 0;
    while failures() == 0.0 || pushed < 50 {
        assert!(pushed < 300, "the disk does not get full");
        assert_eq!(writer.call(Method::PushBlob, push(pushed)).await.code(), Some(0));
        pushed += 1;
    }
    drop(writer);
    let status = gate.end_by("TERM").await;
    assert_eq!(status.code(), Some(1));
    let log = std::fs::read_to_string(gate.dir().join("log")).unwrap();
    // The last word is for people.
    let log = log
        .lines()
        .filter_map(|line| serde_json::from_str::<toml::Table>(line).ok());
    let lost: i64 = log.filter_map(|line| line.get("lines")?.as_integer()).sum();
    let text = std::fs::read_to_string(disk.outside().join("audit.jsonl")).unwrap();
    let written = text
        .lines()
        .filter(|line| serde_json::from_str::<Line>(line).is_ok())
        .count();
    // Two for each push.
    assert!(
        lost > 0 && written as i64 + lost >= 2 * i64::from(pushed),
        "{lost} lost, {written} written of {pushed}"
    );
}

fn push(number: u32) -> bytes::Bytes {
    let request = PushBlobRequest {
        uris: vec![format!("urn:x:{number}")],
        ..Default::default()
    };
    grpc::frame(&request.encode_to_vec())
}
