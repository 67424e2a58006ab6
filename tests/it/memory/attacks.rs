//! What one certificate makes the gate keep, in ways that leave it there: it stays within `limits.memory`, the metric says
//! how much it is, and another certificate notices nothing.

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::bytestream::WriteRequest;
use bytes::Bytes;
use casgate::policy::method::Method;
use prost::Message;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::MIB;
use crate::harness::backend::{Backend, Exchange, Options, Raw, unary};
use crate::harness::frames::{DATA, END_STREAM, Frame, HEADERS};
use crate::harness::gate::{Config, Gate};
use crate::harness::grpc::{self, frame, string};
use crate::harness::noise::digest;
use crate::harness::store::Blob;
use crate::harness::wire::{Call, Client, Scripted, connect_tls, tls_config};
use crate::harness::{settled, until};

/// The limit of each of these gates.
const LIMIT: u64 = 64 * MIB;
/// What the process takes besides, beyond what it took before.
const BASE: u64 = 8 * MIB;
/// What RSS may be off where little is kept.
const NOISE: u64 = 4 * MIB;

/// A gate before an attack.
struct Before {
    gate: Gate,
    rss: u64,
    kept: u64,
    works: Method,
    _folder: Option<TempDir>,
}

impl Before {
    async fn new(config: Config, folder: Option<TempDir>) -> Before {
        Before::with(config, folder, Method::FindMissingBlobs).await
    }

    /// One where this method is answered whatever happens.
    async fn with(mut config: Config, folder: Option<TempDir>, works: Method) -> Before {
        config
            .top
            .push_str("\nlimits = { memory = \"64MiB\", calls-per-connection = 10000, control-frames-at-once = 1000000 }\nlog = { format = \"json\", filter = \"warn,casgate::serve=info\" }");
        // The allocator gives free pages back at once, so that RSS is what is in use.
        let allocator = "export _RJEM_MALLOC_CONF=dirty_decay_ms:0,muzzy_decay_ms:0";
        let gate = Gate::spawn_after(allocator, config).await;
        // What is made once is there.
        let mut client = gate.client("root").await;
        assert_eq!(client.ask(works, "").await.code(), Some(0));
        drop(client);
        let rss = settled("it rests", || gate.memory() / MIB).await * MIB;
        let kept = kept(&gate);
        Before {
            gate,
            rss,
            kept,
            works,
            _folder: folder,
        }
    }

    /// With the embedded store.
    async fn store() -> Before {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::to_endpoint("unix:/nowhere");
        config.backends = format!("[backends.store]\nstore = \"file:{}\"\n", folder.path().display());
        Before::new(config, Some(folder)).await
    }

    /// Asserts what is promised while the attack lasts; `least` is what it must have made the gate keep to be one.
    async fn holds(&self, least: u64) {
        let grown = settled("RSS", || self.gate.memory() / MIB).await * MIB;
        let grown = grown.saturating_sub(self.rss);
        let kept = kept(&self.gate).saturating_sub(self.kept);
        println!("{} KiB more, of which {} KiB are told", grown >> 10, kept >> 10);
        assert!(kept >= least, "{kept} bytes are no attack");
        assert!(grown <= LIMIT + BASE, "{grown} bytes");
        assert!(kept <= LIMIT, "{kept} bytes are told");
        assert!(
            grown <= kept + kept / 5 + NOISE && kept <= grown + grown / 5 + NOISE,
            "{kept} of {grown}"
        );
        let mut other = self.gate.client("writer").await;
        for _ in 0..20 {
            let reply = other.ask(self.works, "").await;
            assert_eq!(reply.code(), Some(0), "{reply:?}");
        }
    }

    /// Nothing is kept any more.
    async fn is_over(&self) {
        until("it is given back", || kept(&self.gate) <= self.kept + MIB / 4).await;
    }
}

fn kept(gate: &Gate) -> u64 {
    gate.scrape("casgate_memory_bytes", &[]) as u64
}

/// A request of so many bytes that says what it must, and then nothing of meaning.
fn long(size: usize) -> Bytes {
    frame(&string(999, &"x".repeat(size)))
}

/// Opens calls, each of which sends this and ends or stops; some may be refused.
fn stopped(client: &mut Client, method: Method, calls: usize, (bytes, ends): (Bytes, bool)) -> JoinSet<Call> {
    let mut tasks = JoinSet::new();
    for _ in 0..calls {
        let mut call = client.open(method);
        let bytes = bytes.clone();
        tasks.spawn(async move {
            if call.send(bytes).await && ends {
                call.end();
            }
            call
        });
    }
    tasks
}

#[tokio::test]
async fn unfinished_messages_to_the_store() {
    let before = Before::store().await;
    let mut client = before.gate.client("reader").await;
    let bytes = long(2 << 20);
    let calls = stopped(
        &mut client,
        Method::FindMissingBlobs,
        16,
        (bytes.slice(..bytes.len() - 100), false),
    );
    until("much is kept", || kept(&before.gate) > 20 * MIB).await;
    before.holds(20 * MIB).await;
    drop((calls, client));
    before.is_over().await;
}

#[tokio::test]
async fn first_messages_that_do_not_end() {
    let backend = Backend::start(unary);
    let before = Before::new(Config::to(&backend), None).await;
    let mut client = before.gate.client("reader").await;
    let bytes = long(60_000);
    let calls = stopped(
        &mut client,
        Method::FetchBlob,
        1000,
        (bytes.slice(..bytes.len() - 100), false),
    );
    until("much is kept", || kept(&before.gate) > 20 * MIB).await;
    before.holds(20 * MIB).await;
    assert_eq!(
        backend
            .seen()
            .iter()
            .filter(|seen| seen.path == Method::FetchBlob.path())
            .count(),
        0
    );
    drop((calls, client));
    before.is_over().await;
}

#[tokio::test]
async fn uploads_whose_bytes_come_one_by_one_and_stop() {
    const CALLS: usize = 20;
    const BYTES: usize = 20_000;
    let before = Before::store().await;
    let mut client = before.gate.client("writer").await;
    let mut bytes = Vec::new();
    for offset in 0..BYTES {
        let message = WriteRequest {
            resource_name: String::new(),
            write_offset: i64::try_from(offset).unwrap(),
            finish_write: false,
            data: vec![b'x'],
        };
        bytes.push(message);
    }
    let mut calls = Vec::new();
    for number in 0..CALLS {
        let mut call = client.open(Method::Write);
        bytes[0].resource_name = format!("uploads/{number}/blobs/{}/1000000", grpc::HASH);
        for messages in bytes.chunks(1000) {
            let framed = messages.iter().map(|message| frame(&message.encode_to_vec()));
            assert!(call.send(framed.collect::<Vec<_>>().concat().into()).await);
        }
        calls.push(call);
    }
    // 400 KB in all.
    before.holds(0).await;
    calls.into_iter().for_each(Call::cancel);
    drop(client);
    before.holds(0).await;
}

/// A connection whose windows for answers are shut.
async fn deaf(gate: &Gate) -> Client {
    let config = tls_config(gate, Some(&gate.config.authority.client("reader")));
    let io = connect_tls(gate, config).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0);
    Client::over(io, &builder).await
}

/// Reads that take nothing.
async fn stalled_reads(gate: &Gate, number: usize, message: &Bytes) -> (Client, Vec<Call>) {
    let mut client = deaf(gate).await;
    let mut calls = Vec::new();
    for _ in 0..number {
        let mut call = client.open(Method::Read);
        call.send(message.clone()).await;
        call.end();
        calls.push(call);
    }
    (client, calls)
}

#[tokio::test]
async fn reads_of_the_store_that_nobody_takes() {
    let before = Before::store().await;
    let blob = Blob { seed: 1, size: 2 << 20 };
    let _pushed = push(&before.gate, blob).await;
    let name = digest(&blob.bytes());
    let message = frame(&string(1, &format!("blobs/{}/{}", name.hash, name.size_bytes)));
    let before = Before {
        kept: kept(&before.gate),
        rss: settled("it rests", || before.gate.memory() / MIB).await * MIB,
        ..before
    };
    let client = stalled_reads(&before.gate, 500, &message).await;
    until("much is kept", || kept(&before.gate) > 20 * MIB).await;
    before.holds(20 * MIB).await;
    drop(client);
    before.is_over().await;
}

async fn push(gate: &Gate, blob: Blob) -> bool {
    let mut client = gate.client("writer").await;
    let name = digest(&blob.bytes());
    let message = WriteRequest {
        resource_name: format!("uploads/1/blobs/{}/{}", name.hash, name.size_bytes),
        write_offset: 0,
        finish_write: true,
        data: blob.bytes(),
    };
    let mut call = client.open(Method::Write);
    call.send(frame(&message.encode_to_vec())).await && {
        call.end();
        call.reply().await.code() == Some(0)
    }
}

#[tokio::test]
async fn answers_of_a_backend_that_nobody_takes() {
    let backend = Backend::start(|mut exchange: Exchange| async move {
        if exchange.path() != Method::Read.path() {
            return unary(exchange).await;
        }
        exchange.drain().await;
        exchange.answer(frame(&[0; 3 << 20])).await;
    });
    let before = Before::new(Config::to(&backend), None).await;
    let client = stalled_reads(&before.gate, 500, &grpc::request(Method::Read, "")).await;
    until("much is kept", || kept(&before.gate) > 20 * MIB).await;
    before.holds(20 * MIB).await;
    drop(client);
    before.is_over().await;
}

#[tokio::test]
async fn uploads_that_a_backend_with_open_windows_does_not_read() {
    let options = Options {
        window: Some((1 << 31) - 1),
        ..Options::default()
    };
    let deaf = Backend::raw_with(options, |mut raw: Raw| async move {
        raw.send(&[Frame::window_update(0, (1 << 31) - 70_000)]).await;
        // It reads the first call, and nothing behind it.
        let _begun = raw.next_of(HEADERS).await;
        std::future::pending::<()>().await;
    });
    let good = Backend::start(unary);
    let mut config = Config::to(&deaf);
    config.backends.push_str(&format!(
        "[backends.good]\nendpoint = \"{}\"\n[[routes]]\nservices = [\"cas\"]\nbackend = \"cache\"\n\
         [[routes]]\nservices = [\"action-cache\"]\nbackend = \"good\"\n",
        good.endpoint()
    ));
    let before = Before::with(config, None, Method::GetActionResult).await;
    let mut client = before.gate.client("root").await;
    let calls = stopped(&mut client, Method::Write, 200, (grpc::write(500_000), false));
    until("much is kept", || kept(&before.gate) > 20 * MIB).await;
    before.holds(20 * MIB).await;
    drop((calls, client));
    before.is_over().await;
}

#[tokio::test]
async fn short_answers_that_have_ended_and_that_nobody_takes() {
    let backend = Backend::start(|mut exchange: Exchange| async move {
        if exchange.path() != Method::Read.path() {
            return unary(exchange).await;
        }
        exchange.drain().await;
        exchange.answer(frame(&[0; 200_000])).await;
    });
    let before = Before::new(Config::to(&backend), None).await;
    // All windows are open, and nothing is read.
    let mut client = Scripted::connect(&before.gate, "reader").await;
    let frames: Vec<_> = [
        Frame::settings_of([(4, (1 << 31) - 1)]),
        Frame::window_update(0, (1 << 31) - 70_000),
    ]
    .into_iter()
    .chain((0..1000).map(|number| 2 * number + 1).flat_map(|stream| {
        let request = Frame::new(DATA, END_STREAM, stream, grpc::request(Method::Read, ""));
        [Frame::request(stream, Method::Read.path()), request]
    }))
    .collect();
    client.send(&frames).await.unwrap();
    until("much is kept", || kept(&before.gate) > 20 * MIB).await;
    before.holds(20 * MIB).await;
    drop(client);
    before.is_over().await;
}

#[tokio::test]
async fn denials_that_are_answered_kindly_and_that_nobody_takes() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    config.rules.push_str(
        "\n[[rules]]\nname = \"kind\"\ncertificate = { common-name = \"reader\" }\non-denied-push = \"discard\"\n",
    );
    let before = Before::new(config, None).await;
    let message = reapi::UpdateActionResultRequest {
        action_digest: Some(digest(b"x")),
        action_result: Some(reapi::ActionResult {
            stdout_raw: vec![b'x'; 1 << 20],
            ..Default::default()
        }),
        ..Default::default()
    };
    let message = frame(&message.encode_to_vec());
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = deaf(&before.gate).await;
        let calls = stopped(&mut client, Method::UpdateActionResult, 30, (message.clone(), true));
        clients.push((client, calls));
    }
    until("much is kept", || kept(&before.gate) > 8 * MIB).await;
    before.holds(8 * MIB).await;
    drop(clients);
    before.is_over().await;
}
