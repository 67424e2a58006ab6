//! The clock of the machine, which may be set while certificates are in use. libfaketime sets it for the program alone.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use casgate::policy::method::Method;
use time::OffsetDateTime;

use crate::harness::backend::{Backend, echo};
use crate::harness::gate::{Config, Gate};
use crate::harness::grpc;
use crate::harness::wire::{Client, reply, tls_config};

/// How long a call may go on whose certificate has ended because the clock was set: the gate looks once a minute.
const A_MINUTE_AND_MORE: Duration = Duration::from_secs(80);

/// The library of the package `faketime`.
fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut paths = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    paths.find(|path| path.exists())
}

/// Sets the clock so many seconds from the time that it is.
fn set(clock: &Path, seconds: i64) {
    let new = clock.with_extension("new");
    std::fs::write(&new, format!("{seconds:+}\n")).unwrap();
    std::fs::rename(new, clock).unwrap();
}

async fn is_refused(gate: &Gate, credentials: &crate::harness::pki::Credentials) -> bool {
    Client::try_connect(gate, tls_config(gate, Some(credentials)))
        .await
        .is_err()
}

#[tokio::test]
async fn a_certificate_counts_by_the_clock_as_it_is_however_it_was_set() {
    let Some(library) = library() else {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "the package faketime is missing"
        );
        return eprintln!("NOT RUN: a clock that is set: the package faketime is missing");
    };
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    set(&clock, 0);
    let backend = Backend::start(echo);
    let mut config = Config::to(&backend);
    config.top.push_str("\nlog = { format = \"json\" }");
    let commands = format!(
        "export LD_PRELOAD={} FAKETIME_TIMESTAMP_FILE={} FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1",
        library.display(),
        clock.display()
    );
    let gate = Gate::spawn_after(&commands, config).await;
    let hour = time::Duration::hours(1);
    let brief = gate.config.authority.client_with("reader", |params| {
        params.not_before = OffsetDateTime::now_utc() - hour;
        params.not_after = OffsetDateTime::now_utc() + hour;
    });
    let mut client = gate.client_with(&brief).await;
    let answer = async |client: &mut Client| {
        let reply = client.ask(Method::BatchReadBlobs, "").await;
        (reply.code(), reply.message())
    };
    assert_eq!(answer(&mut client).await.0, Some(0));
    let mut running = client.open(Method::Read);
    running.body.send_data(grpc::request(Method::Read, ""), false).unwrap();
    backend.until("the call runs", |seen| seen.len() == 2).await;

    // Before it begins: who is there has shown it in time, and others can't.
    set(&clock, -2 * 3600);
    assert!(is_refused(&gate, &brief).await);
    assert_eq!(answer(&mut client).await.0, Some(0));

    // Behind its end: at once for new calls and connections, and for those under way when the gate looks.
    set(&clock, 2 * 3600);
    let begun = Instant::now();
    let (code, message) = answer(&mut client).await;
    assert!(code == Some(7) && message.contains("has expired"), "{code:?} {message}");
    assert!(is_refused(&gate, &brief).await);
    let ended = tokio::time::timeout(A_MINUTE_AND_MORE, reply(running.response)).await;
    let ended = ended.expect("a call outlives its certificate");
    assert!(
        ended.message().contains("has expired"),
        "{ended:?}, after {:?}",
        begun.elapsed()
    );

    // Set right again: it is as good as before.
    set(&clock, 0);
    let mut again = gate.client_with(&brief).await;
    assert_eq!(answer(&mut again).await.0, Some(0));
}
