//! The admin listener among those who only keep it busy.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::tcp_from;
use crate::harness::within;

/// What an orchestrator waits for `/livez` at least, and less than what connections without a request may stay.
const PATIENCE: Duration = Duration::from_secs(5);

async fn assert_alive(address: SocketAddr, what: &str) {
    let ask = async {
        let mut tcp = TcpStream::connect(address).await?;
        tcp.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await?;
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, ask).await;
    let answer = answer.unwrap_or_else(|_| panic!("{what}: no answer")).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{what}: {answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn livez_answers_however_many_connections_are_kept_open() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let address = gate.server().admin_address().unwrap();
    // Nothing, half a head, and a request that was answered.
    let request = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
    for (what, words) in [
        ("silence", ""),
        ("half a head", &request[..20]),
        ("kept alive", request),
    ] {
        for own in [true, false] {
            let mut open = Vec::new();
            for number in 0..1000 {
                let mut tcp = match own {
                    true => TcpStream::connect(address).await.unwrap(),
                    false => tcp_from(100 + (number % 12) as u8, address).await,
                };
                // One that had to go already takes nothing.
                let _gone = tcp.write_all(words.as_bytes()).await;
                open.push(tcp);
                if number % 100 == 99 {
                    assert_alive(address, what).await;
                }
            }
            assert_alive(address, what).await;
        }
    }
}

#[tokio::test]
async fn a_head_that_is_too_long_or_never_ends_is_given_up() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let address = gate.server().admin_address().unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET /livez HT").await.unwrap();
    let mut long = TcpStream::connect(address).await.unwrap();
    long.write_all(b"GET /livez HTTP/1.1\r\nx: ").await.unwrap();
    let fill = async {
        while long.write_all(&[b'x'; 1024]).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    within("it is not read without end", fill).await;
    let mut rest = Vec::new();
    let _end = within("it is closed", slow.read_to_end(&mut rest)).await;
}
