//! How fast the embedded store is read through the gate, beside a backend that keeps nothing, and how much memory many large
//! reads take: `cargo bench --bench store`.
//!
//! One gate has both backends, by instance. Clients connect in the clear, so that nothing but the backends differs and TLS
//! does not level them.

#[path = "../side_by_side/backend.rs"]
mod backend;
#[expect(dead_code, reason = "only reads are measured here")]
#[path = "../side_by_side/calls.rs"]
mod calls;
mod client;

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::{Blob, Reader};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const MIB: usize = 1 << 20;
/// Blobs of 4 MiB that are read in turn. They stay in the page cache: the disk is not measured.
const SMALL: usize = 64;
/// Streams at a time.
const STREAMS: usize = 16;
/// Blobs of 256 MiB, each read by several streams.
const LARGE: usize = 4;
/// Rounds of both backends.
const ROUNDS: usize = 4;
/// How long each of them is measured.
const TIME: Duration = Duration::from_secs(4);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let runtime = tokio::runtime::Runtime::new()?;
    if arguments.next().as_deref() == Some("null-backend") {
        return runtime.block_on(backend::run(([127, 0, 0, 1], 0).into()));
    }
    let (null, address) = started(Command::new(std::env::current_exe()?).arg("null-backend"), |line| {
        line.parse().ok()
    })?;
    let folder = tempfile::tempdir()?;
    let (gate, address) = gate(folder.path(), address)?;
    let done = runtime.block_on(measure(address, &gate.0));
    drop((gate, null));
    done
}

async fn measure(address: SocketAddr, gate: &Child) -> Result<()> {
    let begun = Instant::now();
    let mut reader = Reader::connect(address, 4).await?;
    let mut small = Vec::new();
    for seed in 0..SMALL {
        small.push(reader.push(seed as u64, 4 * MIB).await?);
    }
    println!(
        "[{:3.0} s] {SMALL} blobs of 4 MiB are pushed",
        begun.elapsed().as_secs_f32()
    );
    let mut sums = [0.0; 2];
    for round in 1..=ROUNDS {
        for (sum, instance) in sums.iter_mut().zip(["store", "null"]) {
            let blobs: Vec<Blob> = small.iter().map(|blob| blob.at(instance)).collect();
            let cpu = cpu(gate)?;
            let (bytes, seconds) = reader.read_for(&blobs, STREAMS, TIME).await?;
            let cpu = (self::cpu(gate)? - cpu).as_secs_f64();
            let speed = bytes as f64 / seconds / 1e6;
            *sum += speed;
            println!(
                "[{:3.0} s] round {round} of {ROUNDS}, {instance:5}: {speed:6.0} MB/s, {:5.2} CPU seconds of the gate a GB",
                begun.elapsed().as_secs_f32(),
                cpu / (bytes as f64 / 1e9)
            );
        }
    }
    let [store, null] = sums.map(|sum| sum / ROUNDS as f64);
    println!("store {store:.0} MB/s, null {null:.0} MB/s: {:.2} of it", store / null);

    let mut large = Vec::new();
    for seed in 0..LARGE {
        large.push(reader.push(1000 + seed as u64, 256 * MIB).await?);
    }
    println!(
        "[{:3.0} s] {LARGE} blobs of 256 MiB are pushed",
        begun.elapsed().as_secs_f32()
    );
    let before = memory(gate)?;
    let mut peak = before;
    let blobs: Vec<Blob> = large.iter().map(|blob| blob.at("store")).collect();
    let mut reads = std::pin::pin!(reader.read_each(&blobs, STREAMS));
    loop {
        tokio::select! {
            read = &mut reads => break read?,
            () = tokio::time::sleep(Duration::from_millis(5)) => peak = peak.max(memory(gate)?),
        }
    }
    println!(
        "[{:3.0} s] {STREAMS} streams of 256 MiB: memory of the gate {} MiB, at most {} MiB while they ran",
        begun.elapsed().as_secs_f32(),
        before >> 20,
        peak >> 20
    );
    Ok(())
}

/// A program that is ended when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn gate(folder: &Path, null: SocketAddr) -> Result<(Running, SocketAddr)> {
    let config = folder.join("casgate.toml");
    let services = r#"services = ["cas", "action-cache", "asset"]"#;
    let text = format!(
        r#"
        listen = {{ address = "127.0.0.1:0", tls = false }}
        rules = [{{ certificate = "anonymous", allow = ["pull", "push"] }}]
        backends.store = {{ store = "file:store", quota = "20GiB" }}
        backends.null.endpoint = "http://{null}"
        [[routes]]
        {services}
        backend = "store"
        [[routes]]
        {services}
        instances = ["null"]
        backend = "null"
        [log]
        filter = "warn,casgate::serve=info"
        "#
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_casgate"));
    command.arg("serve").arg("--config").arg(&config);
    started(&mut command, |line| {
        line.rsplit_once("listening on http://")?.1.trim().parse().ok()
    })
}

/// Starts a program, and waits for the line with its address.
fn started(command: &mut Command, address: impl Fn(&str) -> Option<SocketAddr>) -> Result<(Running, SocketAddr)> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (out, log) = (
        child.stdout.take().ok_or("no output")?,
        child.stderr.take().ok_or("no log")?,
    );
    let running = Running(child);
    let (lines, heard) = std::sync::mpsc::channel();
    // To the end: who writes must not be held up.
    let hear = |pipe: Box<dyn std::io::Read + Send>| {
        let lines = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(std::result::Result::ok) {
                let _nobody = lines.send(line);
            }
        })
    };
    hear(Box::new(out));
    hear(Box::new(log));
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut said = Vec::new();
    while let Ok(line) = heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if let Some(address) = address(line.trim()) {
            return Ok((running, address));
        }
        said.push(line);
    }
    Err(format!("it did not start:\n{}", said.join("\n")).into())
}

/// Resident memory, in bytes.
fn memory(child: &Child) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
    Ok(kibibytes.parse::<u64>()? * 1024)
}

/// User and system time (proc(5): in hundredths of a second).
fn cpu(child: &Child) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("no fields")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
    Ok(Duration::from_millis(10 * ticks.sum::<std::result::Result<u64, _>>()?))
}
