//! Connections from many addresses of which nobody knows yet whose they are: they keep no honest one out.

use std::sync::Arc;
use std::time::Duration;

use casgate::policy::method::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Bystander;
use crate::harness::backend::{Backend, unary};
use crate::harness::frames::PREFACE;
use crate::harness::gate::{Config, Gate};
use crate::harness::grpc;
use crate::harness::wire::{Client, client_from, tcp_from, tls_config};

/// Addresses that a flood comes from.
const ADDRESSES: u8 = 12;
/// Its connections.
const CONNECTIONS: usize = 240;
/// What an honest connection may take: much less than the 10 seconds that a silent one may.
const SOON: Duration = Duration::from_secs(5);

/// Few handshakes at once, all of which the flood could take.
fn config(backend: &Backend) -> Config {
    let mut config = Config::to(backend);
    config.backends.push_str("\n[limits]\nhandshakes = 24\n");
    config
}

/// A ClientHello as honest clients send it, in its record.
fn hello(gate: &Gate) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut client =
        rustls::ClientConnection::new(Arc::new(tls_config(gate, None)), "localhost".try_into().unwrap()).unwrap();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Connections that say these first words and then nothing, each made anew when it is closed, until this is dropped.
async fn flood(gate: &Gate, addresses: u8, words: &[u8]) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let address = gate.address();
    for number in 0..CONNECTIONS {
        let from = 100 + (number % usize::from(addresses)) as u8;
        let mut tcp = tcp_from(from, address).await;
        let words = words.to_owned();
        let _refused = tcp.write_all(&words).await;
        tasks.spawn(async move {
            loop {
                let _end = tcp.read_to_end(&mut Vec::new()).await;
                // No faster than the floods that were seen.
                tokio::time::sleep(Duration::from_millis(200)).await;
                tcp = tcp_from(from, address).await;
                let _refused = tcp.write_all(&words).await;
            }
        });
    }
    tasks
}

async fn assert_honest_ones_get_in(gate: &Gate, what: &str) {
    for number in 0..10 {
        let honest = async {
            let mut client = client_from(2, gate).await;
            client.call(Method::HealthCheck, grpc::frame(b"")).await
        };
        let reply = tokio::time::timeout(SOON, honest).await;
        let reply = reply.unwrap_or_else(|_| panic!("{what}: honest connection {number} waits"));
        assert_eq!(reply.code(), Some(0), "{what}: {number}: {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_or_half_a_hello_takes_no_handshake() {
    let backend = Backend::start(unary);
    let gate = Gate::start(config(&backend)).await;
    let hello = hello(&gate);
    for (what, words) in [
        ("silence", &[][..]),
        ("a byte", &hello[..1]),
        ("half", &hello[..hello.len() / 2]),
    ] {
        let _flood = flood(&gate, 5 * ADDRESSES, words).await;
        assert_honest_ones_get_in(&gate, what).await;
    }
    // There are addresses enough to take all slots: nobody had one that another one waited for.
    assert_eq!(gate.metric("casgate_limited_total", &["limit=\"handshakes\""]), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stands_still_in_a_handshake_takes_no_more_than_a_share() {
    let backend = Backend::start(unary);
    let gate = Gate::start(config(&backend)).await;
    let mut bystander = gate.client("reader").await;
    let _flood = flood(&gate, ADDRESSES, &hello(&gate)).await;
    assert_honest_ones_get_in(&gate, "a whole hello").await;
    let reply = bystander.ask(Method::FindMissingBlobs, "").await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    // They stand in the way of others of their own address, and lose their slots to them.
    let closed = || gate.metric("casgate_limited_total", &["limit=\"handshakes\"", "action=\"closed\""]);
    crate::harness::until("slots are taken back", || closed() >= 24.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_handshakes_without_a_certificate_hold_up_no_call() {
    let backend = Backend::start(unary);
    let gate = super::gate_with(&backend, "handshakes = 24").await;
    let bystander = Bystander::start(&gate).await;
    let mut flood = JoinSet::new();
    let config = tls_config(&gate, None);
    let hello = hello(&gate);
    let address = gate.address();
    for number in 0..24_u8 {
        let config = config.clone();
        let garbage = [&hello[..60], &vec![0xff; hello.len() - 60]].concat();
        flood.spawn(async move {
            for round in 0..25 {
                let tcp = tcp_from(100 + number % ADDRESSES, address).await;
                if round % 5 == 0 {
                    let mut tcp = tcp;
                    let _refused = tcp.write_all(&garbage).await;
                    let _end = tcp.read_to_end(&mut Vec::new()).await;
                } else if let Ok(mut tls) = tokio_rustls::TlsConnector::from(Arc::new(config.clone()))
                    .connect("localhost".try_into().unwrap(), tcp)
                    .await
                {
                    let _refused = tls.read_to_end(&mut Vec::new()).await;
                }
            }
        });
    }
    crate::harness::within("the flood", async { while flood.join_next().await.is_some() {} }).await;
    let (calls, p99) = bystander.stop().await;
    println!("{calls} calls of another client beside 600 handshakes, p99 {p99:?}");
    assert!(p99 < Duration::from_secs(3), "{p99:?}");
    let failed = |reason| gate.scrape("casgate_tls_handshakes_total", &["result=\"failure\"", reason]);
    assert_eq!(failed("no-certificate"), 24.0 * 20.0);
    assert_honest_ones_get_in(&gate, "afterwards").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_that_comes_byte_by_byte_or_is_too_long_is_not_waited_for_for_ever() {
    let backend = Backend::start(unary);
    let gate = Gate::start(config(&backend)).await;
    // Its length says 16 MiB.
    let mut long = TcpStream::connect(gate.address()).await.unwrap();
    long.write_all(&[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff]).await.unwrap();
    let end = crate::harness::within("it is closed", long.read_to_end(&mut Vec::new())).await;
    assert!(end.is_err() || end.is_ok_and(|length| length == 0));
    // One that is whole comes in, whatever the pieces.
    let config = Arc::new(tls_config(&gate, Some(&gate.config.authority.client("reader"))));
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let tcp = TcpStream::connect(gate.address()).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let (mut from, mut to) = tcp.into_split();
    let pass = async move {
        let (mut read, mut write) = tokio::io::split(&mut far);
        let up = async {
            let mut bytes = [0; 4096];
            let mut pieces = 0;
            // The hello; for what follows, pieces have a bound.
            let length = read.read(&mut bytes).await.unwrap();
            {
                for byte in &bytes[..length] {
                    if to.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    pieces += 1;
                    if pieces % 64 == 0 {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
            }
            let _ = tokio::io::copy(&mut read, &mut to).await;
        };
        let down = tokio::io::copy(&mut from, &mut write);
        let _ = tokio::join!(up, down);
    };
    tokio::spawn(pass);
    let connector = tokio_rustls::TlsConnector::from(config);
    let tls = crate::harness::within("a handshake", connector.connect("localhost".try_into().unwrap(), near)).await;
    let mut client = Client::over(tls.unwrap(), &h2::client::Builder::new()).await;
    let reply = client.ask(Method::FindMissingBlobs, "").await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_push_out_nobody_who_is_known() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    config.more_listeners = "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\n".to_owned();
    config.backends.push_str("\n[limits]\nconnections = 64\n");
    let gate = Gate::start(config).await;
    let clear = gate.server().listen_addresses()[1];
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut client = gate.client("reader").await;
        let reply = client.call(Method::HealthCheck, grpc::frame(b"")).await;
        assert_eq!(reply.code(), Some(0), "{reply:?}");
        idle.push(client);
    }
    // Silent ones with TLS and without, and half a preface.
    let mut silent = Vec::new();
    for number in 0..400_usize {
        let address = if number % 2 == 0 { gate.address() } else { clear };
        let mut tcp = tcp_from(100 + number as u8 % ADDRESSES, address).await;
        if number % 3 == 0 {
            let _refused = tcp.write_all(&PREFACE[..7]).await;
        }
        silent.push(tcp);
    }
    for client in &mut idle {
        let reply = client.call(Method::HealthCheck, grpc::frame(b"")).await;
        assert_eq!(reply.code(), Some(0), "{reply:?}");
    }
    // By the limit for strangers, or by that for all.
    let closed = gate.metric("casgate_limited_total", &["action=\"closed\""]);
    assert!(closed > 100.0, "{closed}");
    assert_honest_ones_get_in(&gate, "among strangers").await;
}
