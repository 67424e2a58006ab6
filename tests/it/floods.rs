//! Clients that do without end what is cheap for them: their own connection ends, and no other one suffers.

mod control;
mod honest;
mod resets;
mod slow;
mod strangers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use casgate::policy::method::Method;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use crate::harness::backend::{Backend, Exchange, silent, unary};
use crate::harness::frames::{self, Frame};
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::Scripted;
use crate::harness::{until, within};

/// What no flood may make the gate take, in bytes.
const MOST_MEMORY: u64 = 64 << 20;

/// Something that is done without end.
struct Flood {
    name: &'static str,
    /// What is sent before.
    begin: Vec<Frame>,
    /// What is sent each time.
    round: Box<dyn Fn(u32) -> Vec<Frame>>,
    rounds: u32,
    /// The limit that ends it; none where it breaks HTTP/2, so that any single one would.
    limit: Option<&'static str>,
}

impl Flood {
    /// The same frame again and again.
    fn of(name: &'static str, limit: &'static str, frame: Frame) -> Flood {
        Flood {
            name,
            begin: Vec::new(),
            round: Box::new(move |_| vec![frame.clone()]),
            // Far more than the default lets pass, also on a slow machine.
            rounds: 40_000,
            limit: Some(limit),
        }
    }

    /// The same after other frames.
    fn after(mut self, begin: Vec<Frame>) -> Flood {
        self.begin = begin;
        self
    }

    /// Sends it all, and then nothing more; gives what came, once the gate has ended the connection.
    async fn run(&self, mut client: Scripted) -> Vec<Frame> {
        let _gone = client.send(&self.begin).await;
        let Scripted { mut from, mut to } = client;
        let send = async {
            for rounds in (0..self.rounds).collect::<Vec<_>>().chunks(500) {
                let frames = rounds.iter().flat_map(|round| (self.round)(*round));
                let bytes: Vec<u8> = frames.flat_map(|frame| frame.bytes()).collect();
                if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
                    return;
                }
            }
        };
        let receive = async {
            let mut received = Vec::new();
            while let Ok(frame) = Frame::read(&mut from).await {
                received.push(frame);
            }
            received
        };
        let ((), received) = within(self.name, async { tokio::join!(send, receive) }).await;
        received
    }
}

/// A client that calls and calls, on a connection of its own. It must not notice anything.
struct Bystander {
    stop: Arc<AtomicBool>,
    calls: JoinHandle<Vec<Duration>>,
}

impl Bystander {
    async fn start(gate: &Gate) -> Bystander {
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stop);
        let mut client = gate.client("reader").await;
        let calls = tokio::spawn(async move {
            let mut times = Vec::new();
            while !is_over.load(Ordering::Relaxed) || times.len() < 20 {
                let begun = Instant::now();
                let reply = client.ask(Method::FindMissingBlobs, "").await;
                assert_eq!(reply.code(), Some(0), "{reply:?}");
                times.push(begun.elapsed());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            times
        });
        Bystander { stop, calls }
    }

    /// How long 99 of 100 calls took at most.
    async fn stop(self) -> (usize, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = within("the last call", self.calls).await.unwrap();
        times.sort_unstable();
        (times.len(), times[(times.len() * 99).div_ceil(100) - 1])
    }
}

/// Answers unary calls, and keeps the others waiting.
async fn waiting(exchange: Exchange) {
    match exchange.path() == Method::GetOperation.path() {
        true => silent(exchange).await,
        false => unary(exchange).await,
    }
}

/// The program with these limits, and else with those that it has by itself.
async fn gate_with(backend: &Backend, limits: &str) -> Gate {
    let mut config = Config::to(backend);
    config.top.push_str("\nlog = { format = \"json\" }");
    config.backends.push_str(&format!("\n[limits]\n{limits}\n"));
    Gate::spawn(config).await
}

/// The reasons of the GOAWAY frames that a client got.
fn reasons(received: &[Frame]) -> Vec<u32> {
    received
        .iter()
        .filter(|frame| frame.kind == frames::GOAWAY)
        .map(|frame| frame.number_at(4))
        .collect()
}

/// Runs each of them, and looks at all that must hold.
async fn withstand(floods: Vec<Flood>) {
    let backend = Backend::start(waiting);
    let gate = gate_with(&backend, "").await;
    for flood in floods {
        let name = flood.name;
        let bystander = Bystander::start(&gate).await;
        let before = gate.memory();
        let count = |limit| gate.scrape("casgate_limited_total", &[limit, "action=\"closed\""]);
        let counted = flood.limit.map(|limit| (limit, count(limit)));
        let received = flood.run(Scripted::connect(&gate, "root").await).await;
        if let Some((limit, before)) = counted {
            let log = gate.log();
            assert_eq!(
                count(limit),
                before + 1.0,
                "{name}: {limit}: {:?}, {:?}",
                reasons(&received),
                log.last()
            );
            let calm = u32::from(h2::Reason::ENHANCE_YOUR_CALM);
            // The rest of the flood meets a closed socket, whose reset may be faster than the GOAWAY.
            assert!(reasons(&received).iter().all(|reason| *reason == calm), "{name}");
        }
        until(name, || gate.scrape("casgate_calls_open", &[]) <= 1.0).await;
        let (calls, p99) = bystander.stop().await;
        let grown = gate.peak_memory().saturating_sub(before);
        println!(
            "{name}: {calls} calls of another client, p99 {p99:?}; {} KiB more",
            grown >> 10
        );
        assert!(grown < MOST_MEMORY, "{name}: {grown} bytes");
        // Of few calls, beside other tests.
        assert!(p99 < Duration::from_secs(3), "{name}: {p99:?}");
    }
}
