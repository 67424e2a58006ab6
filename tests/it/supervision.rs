//! The program under a supervisor, as systemd is one: what it tells, and the sockets that it is given.

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use casgate::policy::method::Method;

use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::{Client, connect_tls_at, grpc_request, tls_config};
use crate::harness::{DEADLINE, until};

/// What a supervisor is told, message by message.
struct Supervisor {
    socket: UnixDatagram,
    told: Vec<String>,
}

impl Supervisor {
    fn hear(&mut self) {
        let mut bytes = [0; 1024];
        while let Ok(length) = self.socket.recv(&mut bytes) {
            self.told.push(String::from_utf8(bytes[..length].to_vec()).unwrap());
        }
    }

    async fn until_told(&mut self, what: &str, times: usize) {
        until(what, || {
            self.hear();
            self.told.iter().filter(|told| told.starts_with(what)).count() >= times
        })
        .await;
    }
}

#[tokio::test]
async fn a_supervisor_is_told_of_start_life_reload_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut supervisor = Supervisor {
        socket,
        told: Vec::new(),
    };
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    config.top.push_str("\nlog = { format = \"json\" }");
    let commands = format!("export NOTIFY_SOCKET={} WATCHDOG_USEC=300000", path.display());
    let mut gate = Gate::spawn_after(&commands, config).await;
    supervisor.until_told("READY=1", 1).await;
    supervisor.until_told("WATCHDOG=1", 3).await;
    gate.hang_up();
    supervisor.until_told("RELOADING=1\nMONOTONIC_USEC=", 1).await;
    supervisor.until_told("READY=1", 2).await;
    // Also when nothing came of it: the configuration before goes on.
    std::fs::write(gate.dir().join("casgate.toml"), "nonsense").unwrap();
    gate.hang_up();
    supervisor.until_told("READY=1", 3).await;
    let status = gate.terminate().await;
    assert!(status.success());
    supervisor.until_told("STOPPING=1", 1).await;
    assert_eq!(supervisor.told[0], "READY=1\n");
}

#[tokio::test]
async fn a_restart_on_a_socket_of_the_supervisor_refuses_nobody() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    config.top.push_str("\nlog = { format = \"json\" }");
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut gate = Gate::spawn_on(&socket, config).await;
    assert_eq!(gate.address(), socket.local_addr().unwrap());
    let tls = tls_config(&gate, Some(&gate.config.authority.client("reader")));
    let (over, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let client = {
        let (over, calls, address) = (Arc::clone(&over), Arc::clone(&calls), gate.address());
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                // Each on a connection of its own: none may be refused.
                let io = connect_tls_at(address, tls.clone()).await.unwrap();
                let mut client = Client::over(io, &h2::client::Builder::new()).await;
                let Ok(call) = client.try_open(grpc_request(Method::BatchReadBlobs.path()), true) else {
                    continue;
                };
                // A connection that was accepted when the end came may be told to go: the client tries again.
                if call.reply().await.http == Some(http::StatusCode::OK) {
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    };
    for _ in 0..3 {
        let before = calls.load(Ordering::Relaxed);
        until("calls", || calls.load(Ordering::Relaxed) > before + 3).await;
        assert!(gate.terminate().await.success());
        // Whoever connects now waits.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let config = std::mem::replace(&mut gate.config, Config::to(&backend));
        gate = Gate::spawn_on(&socket, config).await;
    }
    let before = calls.load(Ordering::Relaxed);
    until("calls", || calls.load(Ordering::Relaxed) > before + 3).await;
    over.store(true, Ordering::Relaxed);
    tokio::time::timeout(DEADLINE, client).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_socket_that_nothing_is_configured_for_is_an_error() {
    let backend = Backend::start(unary);
    let config = Config::to(&backend);
    let gate = Gate::start(config).await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let output = std::process::Command::new("sh")
        .args([
            "-euc",
            "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\"",
        ])
        .args([env!("CARGO_BIN_EXE_casgate"), "serve", "--config"])
        .arg(gate.dir().join("casgate.toml"))
        .stdin(std::os::fd::OwnedFd::from(socket))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        text.contains(&format!("a socket that listens on `{address}` was passed in")),
        "{text}"
    );
}
