//! The log: whole while somebody reads it, and never in the way of a call.

use std::io::Read;

use casgate::policy::method::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::backend::{Backend, silent, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::pki::Authority;
use crate::harness::wire::{Client, tls_config};
use crate::harness::{grpc, until, within};

/// How many calls are made at once.
const AT_ONCE: usize = 500;

/// Makes many calls that need no backend; each of them leaves a line.
async fn calls(client: &mut Client, count: usize) {
    for _ in 0..count / AT_ONCE {
        let calls: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let mut call = client.open(Method::HealthCheck);
                call.body.send_data(grpc::frame(b""), true).unwrap();
                call
            })
            .collect();
        for call in calls {
            let reply = call.reply().await;
            assert_eq!(reply.code(), Some(0), "{reply:?}");
        }
    }
}

/// The value of a metric without labels, from the admin listener that the log names.
async fn metric(lines: &[String], name: &str) -> f64 {
    let address = lines
        .iter()
        .find_map(|line| line.rsplit_once("admin on http://"))
        .unwrap()
        .1;
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    within("metrics", tcp.read_to_string(&mut answer)).await.unwrap();
    let line = answer
        .lines()
        .find(|line| line.split(' ').next() == Some(name))
        .unwrap();
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_no_call() {
    let backend = Backend::start(unary);
    let (mut gate, mut pipe, lines) = Gate::spawn_piped(Config::to(&backend)).await;
    let mut client = gate.client("reader").await;
    // More than wait, so that some are dropped.
    let count = casgate::log::LINES + 4 * AT_ONCE;
    calls(&mut client, count).await;
    let dropped = metric(&lines, "casgate_log_dropped_total").await;
    assert!(dropped > 0.0);
    // Nor does it keep the program from its end. What is in the pipe can still be read.
    drop(client);
    assert!(gate.terminate().await.success());
    let mut rest = String::new();
    pipe.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("casgate::access"), "{rest}");
}

#[tokio::test]
async fn no_line_is_lost_at_the_end() {
    let backend = Backend::start(silent);
    let mut config = Config::to(&backend);
    config.listen.push_str("drain-timeout = 0\n");
    config
        .backends
        .push_str("\n[log]\nformat = \"json\"\nfilter = \"off,casgate::access=info,casgate::serve=info\"\n");
    let mut gate = Gate::spawn(config).await;
    let mut client = gate.client("reader").await;
    calls(&mut client, 4 * AT_ONCE).await;
    // One that is cut off leaves its line as well.
    let mut call = client.open(Method::Read);
    call.body.send_data(grpc::request(Method::Read, ""), true).unwrap();
    backend.until("it runs", |seen| seen.len() == 1).await;
    assert!(gate.terminate().await.success());
    let log = gate.log();
    let text = |line: &toml::Table, key: &str| line.get(key).and_then(|value| value.as_str().map(str::to_owned));
    let access: Vec<_> = log
        .iter()
        .filter(|line| text(line, "target").as_deref() == Some("casgate::access"))
        .collect();
    assert_eq!(access.len(), 4 * AT_ONCE + 1);
    let read = access.last().unwrap();
    assert_eq!(text(read, "method").as_deref(), Some(Method::Read.path()));
    assert_eq!(text(read, "reason").as_deref(), Some("dropped"));
    assert_eq!(text(log.last().unwrap(), "message").as_deref(), Some("stopped"));
    // Though the filter leaves out the span of the connection.
    for line in access {
        assert!(
            text(line, "peer").is_some_and(|peer| peer.starts_with("127.0.0.1:")),
            "{line:?}"
        );
    }
}

/// Lines of the log about handshakes.
fn of_tls(gate: &Gate) -> Vec<toml::Table> {
    let is_tls = |line: &toml::Table| {
        line.get("target")
            .is_some_and(|text| text.as_str() == Some("casgate::tls"))
    };
    gate.log().into_iter().filter(is_tls).collect()
}

#[tokio::test]
async fn a_handshake_that_is_refused_leaves_one_line_and_many_of_an_address_a_few() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    config.top.push_str("\nlog = { format = \"json\" }");
    let gate = Gate::spawn(config).await;
    let stranger = Authority::new("of somebody else").client("mallory");
    let failed = || gate.scrape("casgate_tls_handshakes_total", &["result=\"failure\""]);
    let refuse = async |times: usize| {
        let before = failed();
        for _ in 0..times {
            let refused = Client::try_connect(&gate, tls_config(&gate, Some(&stranger))).await;
            assert!(refused.is_err());
        }
        until("they are counted", || failed() >= before + times as f64).await;
    };
    refuse(1).await;
    until("it is logged", || !of_tls(&gate).is_empty()).await;
    let lines = of_tls(&gate);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let says = |key: &str, what: &str| {
        line.get(key)
            .and_then(|text| text.as_str()?.contains(what).then_some(()))
    };
    assert!(says("message", "client certificate refused").is_some(), "{line:?}");
    assert!(
        says("subject", "CN=mallory").is_some() && says("peer", "127.0.0.1:").is_some(),
        "{line:?}"
    );
    assert!(
        says("reason", "neither it nor its issuer stands in `client-ca`").is_some(),
        "{line:?}"
    );
    // Who only looks whether somebody listens leaves none.
    drop(TcpStream::connect(gate.address()).await.unwrap());
    refuse(100).await;
    // Another line, so that all before it were written.
    let mut client = gate.client("reader").await;
    assert_eq!(client.ask(Method::FindMissingBlobs, "").await.code(), Some(0));
    let access = || {
        let log = gate.log();
        log.iter().any(|line| {
            line.get("target")
                .is_some_and(|text| text.as_str() == Some("casgate::access"))
        })
    };
    until("the call is logged", access).await;
    assert_eq!(of_tls(&gate).len(), 3, "{:?}", of_tls(&gate));
}
