//! Clients that stop in the middle of a frame: given up within seconds, and slow ones are not.

use std::io::Write;
use std::time::{Duration, Instant};

use casgate::policy::method::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::backend::{Backend, unary};
use crate::harness::frames::{self, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, HEADERS, PREFACE};
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::{Scripted, connect_tls, tls_config};
use crate::harness::{grpc, until};

/// By then a client that stands still is certainly gone: ten seconds without progress, seen after twenty at the latest.
const LATEST: Duration = Duration::from_secs(40);

/// A header block in two halves.
fn halves() -> [Vec<u8>; 2] {
    let Frame { payload, .. } = Frame::request(1, Method::Write.path());
    let (begin, end) = payload.split_at(payload.len() / 2);
    [begin.to_vec(), end.to_vec()]
}

fn call() -> Vec<u8> {
    [
        Frame::settings().bytes(),
        Frame::request(1, Method::Write.path()).bytes(),
    ]
    .concat()
}

/// Sends the preface and these bytes, and then a byte of `drip` each second; gives how long the gate had patience.
async fn patience(gate: &Gate, begin: Vec<u8>, drip: Vec<u8>) -> Option<Duration> {
    let config = tls_config(gate, Some(&gate.config.authority.client("writer")));
    let mut tls = connect_tls(gate, config).await.unwrap();
    tls.write_all(&[PREFACE, &begin].concat()).await.unwrap();
    tls.flush().await.unwrap();
    let begun = Instant::now();
    let (mut from, mut to) = tokio::io::split(tls);
    let drip = async {
        for byte in drip {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let _gone = to.write_all(&[byte]).await;
            let _gone = to.flush().await;
        }
        std::future::pending::<()>().await;
    };
    let closed = async {
        let _end = from.read_to_end(&mut Vec::new()).await;
    };
    tokio::select! {
        () = closed => Some(begun.elapsed()),
        () = drip => None,
        () = tokio::time::sleep(LATEST) => None,
    }
}

/// The same with all but the end of a TLS record.
async fn patience_with_half_a_record(gate: &Gate) -> Option<Duration> {
    let config = tls_config(gate, Some(&gate.config.authority.client("writer")));
    let mut tls = connect_tls(gate, config).await.unwrap();
    tls.write_all(&[PREFACE, &Frame::settings().bytes()].concat())
        .await
        .unwrap();
    tls.flush().await.unwrap();
    let (mut tcp, mut session) = tls.into_inner();
    session.writer().write_all(&Frame::ping().bytes()).unwrap();
    let mut record = Vec::new();
    session.write_tls(&mut record).unwrap();
    tcp.write_all(&record[..record.len() - 3]).await.unwrap();
    let begun = Instant::now();
    let closed = tokio::time::timeout(LATEST, tcp.read_to_end(&mut Vec::new())).await;
    closed.ok().map(|_| begun.elapsed())
}

#[tokio::test]
async fn who_stands_still_in_the_middle_of_a_frame_is_given_up_in_seconds() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let [begin, end] = halves();
    let settings = Frame::settings().bytes();
    let with = |frame: Frame| [Frame::settings().bytes(), frame.bytes()].concat();
    let cut = |bytes: Vec<u8>, left: usize| bytes[..bytes.len() - left].to_vec();
    let headers = |block: &[u8], flags| Frame::new(HEADERS, flags, 1, block.to_vec());
    let data = Frame::new(DATA, 0, 1, grpc::request(Method::Write, "")).bytes();
    let long = Frame::new(0x77, 0, 0, vec![0; 200]).bytes();
    let parts: Vec<u8> = end
        .iter()
        .flat_map(|byte| Frame::new(CONTINUATION, 0, 1, vec![*byte]).bytes())
        .take(30)
        .collect();
    let none = Vec::new;
    let cases = [
        ("no SETTINGS", none(), none()),
        ("half a SETTINGS", settings[..4].to_vec(), none()),
        ("half a head", [settings.clone(), vec![0, 0, 1, 0]].concat(), none()),
        ("half a header block", with(headers(&begin, 0)), none()),
        ("half a HEADERS", cut(with(headers(&begin, END_HEADERS)), 3), none()),
        ("a block in drops", with(headers(&begin, 0)), parts),
        ("half a DATA", [call(), data[..12].to_vec()].concat(), none()),
        ("half a PING", cut(with(Frame::ping()), 1), none()),
        (
            "a frame in drops",
            [settings.clone(), long[..9].to_vec()].concat(),
            long[9..].to_vec(),
        ),
        (
            "DATA in drops",
            [call(), data[..12].to_vec()].concat(),
            data[12..].to_vec(),
        ),
    ];
    let number = cases.len() + 1;
    let cases = cases.map(async |(name, begin, drip)| (name, patience(&gate, begin, drip).await));
    let half_a_record = async { ("half a TLS record", patience_with_half_a_record(&gate).await) };
    // One that is between two frames has time.
    let idle = patience(&gate, settings.clone(), Vec::new());
    let (cases, record, idle) = tokio::join!(futures_util::future::join_all(cases), half_a_record, idle);
    for (name, patience) in cases.into_iter().chain([record]) {
        let patience = patience.unwrap_or_else(|| panic!("{name}: it is still open"));
        assert!(patience >= Duration::from_secs(9), "{name}: {patience:?}");
    }
    assert_eq!(idle, None);
    let labels = ["limit=\"standstill\"", "action=\"closed\""];
    assert_eq!(gate.metric("casgate_limited_total", &labels), number as f64);
}

/// 4 KiB in one frame over half a minute.
#[tokio::test]
async fn an_upload_over_a_slow_way_is_not_given_up() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = Scripted::connect(&gate, "writer").await;
    let message = [&grpc::request(Method::Write, "")[..], &grpc::write(4096)[..]].concat();
    let frame = Frame::new(DATA, END_STREAM, 1, message).bytes();
    client.send(&[Frame::request(1, Method::Write.path())]).await.unwrap();
    for part in frame.chunks(frame.len() / 25) {
        client.to.write_all(part).await.unwrap();
        client.to.flush().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    loop {
        let frame = client.next().await.unwrap();
        assert_ne!(frame.kind, frames::GOAWAY);
        if frame.stream == 1 && frame.has(END_STREAM) {
            break;
        }
    }
    assert_eq!(gate.metric("casgate_limited_total", &[]), 0.0);
}

#[tokio::test]
async fn half_a_header_block_is_in_the_ledger_until_it_is_whole() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let kept = || gate.metric("casgate_memory_bytes", &[]);
    let mut client = Scripted::connect(&gate, "writer").await;
    until("it is there", || gate.metric("casgate_connections_open", &[]) == 1.0).await;
    let before = kept();
    let usual = Frame::request(1, Method::FindMissingBlobs.path()).payload;
    let field = frames::header_block(&[("x-long", "y".repeat(1000))]);
    let begin = Frame::new(HEADERS, 0, 1, [&usual[..], &field.repeat(12)[..]].concat());
    client.send(&[begin]).await.unwrap();
    until("it is kept", || kept() >= before + 12_000.0).await;
    let end = Frame::new(CONTINUATION, END_HEADERS, 1, Vec::new());
    let data = Frame::new(DATA, END_STREAM, 1, grpc::request(Method::FindMissingBlobs, ""));
    client.send(&[end, data]).await.unwrap();
    loop {
        let frame = client.next().await.unwrap();
        if frame.stream == 1 && frame.has(END_STREAM) {
            break;
        }
    }
    backend.until("it is served", |seen| seen.len() == 1).await;
}
