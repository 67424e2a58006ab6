//! What clients and backends may not take: time in a handshake, memory for headers, the listener.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use casgate::policy::method::Method;
use h2::Reason;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::backend::{Backend, Exchange, head, send, silent, status, unary};
use crate::harness::frames::{self, Frame};
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::{Call, Client, connect_tls, grpc_request, tls_config};
use crate::harness::{assert_only_this_is_seen, grpc, until, within};

/// Reads until the gate ends the connection.
async fn until_closed(io: &mut (impl AsyncReadExt + Unpin)) {
    let mut rest = Vec::new();
    // A reset is an end as well.
    let _end = within("the gate closes the connection", io.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn a_client_that_is_silent_at_any_step_of_a_handshake_is_cut_off() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut nothing = TcpStream::connect(gate.address()).await.unwrap();
    let mut hello = TcpStream::connect(gate.address()).await.unwrap();
    // The head of a TLS record whose content never comes.
    hello.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    let config = tls_config(&gate, Some(&gate.config.authority.client("reader")));
    let mut no_preface = connect_tls(&gate, config.clone()).await.unwrap();
    let mut half_preface = connect_tls(&gate, config).await.unwrap();
    half_preface.write_all(b"PRI * HT").await.unwrap();
    half_preface.flush().await.unwrap();
    // They hold up nobody.
    assert_only_this_is_seen(&mut gate.client("reader").await, &backend).await;
    tokio::join!(
        until_closed(&mut nothing),
        until_closed(&mut hello),
        until_closed(&mut no_preface),
        until_closed(&mut half_preface)
    );
    assert_eq!(gate.metric("casgate_tls_handshakes_total", &["timeout"]), 2.0);
    until("only the good one is left", || {
        gate.metric("casgate_connections_open", &[]) <= 1.0
    })
    .await;
}

#[tokio::test]
async fn what_is_no_tls_does_not_end_the_listener() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0; 4096],
        &[0xff; 64],
    ] {
        let mut tcp = TcpStream::connect(gate.address()).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        until_closed(&mut tcp).await;
    }
    for _ in 0..200 {
        drop(TcpStream::connect(gate.address()).await.unwrap());
    }
    assert_only_this_is_seen(&mut gate.client("reader").await, &backend).await;
}

/// A call with so many bytes of metadata, in fields of so many.
fn with_metadata(bytes: usize, each: usize) -> Request<()> {
    let mut request = grpc_request(Method::BatchReadBlobs.path());
    for number in 0..bytes / each {
        let name: HeaderName = format!("x-long-{number}").parse().unwrap();
        let value = HeaderValue::from_str(&"x".repeat(each)).unwrap();
        request.headers_mut().insert(name, value);
    }
    request
}

/// A download that is half there, and its end to come.
async fn downloads(mut exchange: Exchange) {
    if exchange.path() != Method::Read.path() {
        return unary(exchange).await;
    }
    let _request = exchange.read().await;
    let mut answer = exchange.begin();
    send(&mut answer, grpc::frame(&[0; 1000])).await;
    exchange.drain().await;
    send(&mut answer, grpc::frame(&[0; 1000])).await;
    let _gone = answer.send_trailers(status(0, ""));
}

/// Begins a download that goes on when the client ends its request.
async fn download(client: &mut Client) -> Call {
    let mut call = client.open(Method::Read);
    assert!(call.send(grpc::request(Method::Read, "")).await);
    call
}

#[tokio::test]
async fn metadata_that_is_too_large_ends_its_call_with_a_status_and_nothing_else() {
    let backend = Backend::start(downloads);
    let mut config = Config::to(&backend);
    config.top.push_str("\nlog = { format = \"json\" }");
    let gate = Gate::spawn(config).await;
    let mut client = gate.client("reader").await;
    assert_eq!(client.ask(Method::BatchReadBlobs, "").await.code(), Some(0));
    let mut running = download(&mut client).await;
    backend.until("the download runs", |seen| seen.len() == 2).await;
    // 15,000 bytes are taken, all else is not. Those of two million have 32 times the longest frame.
    let sizes = [(17_000, 1000), (40_000, 4000), (60_000, 20_000), (70_000, 70_000)];
    let larger = [(300_000, 300_000), (300_000, 10_000), (2_000_000, 50_000)];
    let all: Vec<_> = sizes.into_iter().chain(larger).collect();
    for (bytes, each) in &all {
        let call = client.send(with_metadata(*bytes, *each), grpc::request(Method::BatchReadBlobs, ""));
        let reply = within("an answer", call).await;
        assert_eq!(reply.code(), Some(3), "{bytes} in {each}: {reply:?}");
        assert!(reply.message().contains("more than 16 KiB"), "{reply:?}");
        // Both sides know the same fields.
        let reply = client
            .send(with_metadata(15_000, 5000), grpc::request(Method::BatchReadBlobs, ""))
            .await;
        assert_eq!(reply.code(), Some(0), "behind {bytes} in {each}: {reply:?}");
    }
    assert_eq!(backend.streams(), 2 + all.len());
    running.end();
    let reply = running.reply().await;
    assert_eq!((reply.code(), reply.body.len()), (Some(0), 2010), "{reply:?}");
    let refused = gate.scrape(
        "casgate_limited_total",
        &["limit=\"header-list\"", "action=\"refused\""],
    );
    assert_eq!(refused, all.len() as f64);
    assert_eq!(
        gate.scrape("grpc_server_handled_total", &["InvalidArgument"]),
        all.len() as f64
    );
    let lines = || {
        let log = gate.log();
        let is_one = |line: &&toml::Table| {
            line.get("reason")
                .is_some_and(|text| text.as_str() == Some("large-headers"))
        };
        log.iter().filter(is_one).count()
    };
    until("each has an access line", || lines() == all.len()).await;
}

#[tokio::test]
async fn large_metadata_that_later_calls_would_build_on_lets_running_calls_end() {
    let backend = Backend::start(downloads);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("reader").await;
    client.tap.ignore_go_away();
    // A field that is put into the table with each (RFC 7541, 6.2.1).
    let entry = |value: &str| [&[0x40][..], &frames::header_block(&[("x-entry", value)])[1..]].concat();
    let usual = Frame::request(3, Method::BatchReadBlobs.path()).payload;
    let block = [&usual[..], &entry(&"x".repeat(500)).repeat(200)].concat();
    let mut running = download(&mut client).await;
    backend.until("the download runs", |seen| seen.len() == 1).await;
    let parts: Vec<_> = block.chunks(16_384).collect();
    let frames = parts.iter().enumerate().map(|(number, part)| {
        let kind = if number == 0 {
            frames::HEADERS
        } else {
            frames::CONTINUATION
        };
        let last = if number + 1 == parts.len() {
            frames::END_HEADERS
        } else {
            0
        };
        Frame::new(kind, last, 3, part.to_vec())
    });
    let bytes: Vec<u8> = frames.flat_map(|frame| frame.bytes()).collect();
    client.tap.send_instead(bytes.into());
    let reply = within("an answer", client.open_with(grpc_request("/replaced"), false).reply()).await;
    assert_eq!(reply.code(), Some(3), "{reply:?}");
    // What comes before the client heard of it can't be read.
    let reply = client.ask(Method::BatchReadBlobs, "").await;
    assert_eq!(reply.code(), Some(14), "{reply:?}");
    assert!(reply.message().contains("call again"), "{reply:?}");
    assert_eq!(backend.streams(), 1);
    running.end();
    let reply = running.reply().await;
    assert_eq!((reply.code(), reply.body.len()), (Some(0), 2010), "{reply:?}");
    until("it is drained", || client.tap.end().is_some()).await;
    let away = client
        .tap
        .received()
        .into_iter()
        .filter(|frame| frame.kind == frames::GOAWAY);
    assert!(away.into_iter().all(|frame| frame.number_at(4) == frames::NO_ERROR));
}

/// Bytes as RFC 9113, 6.5.2 counts them.
fn size(headers: &HeaderMap) -> usize {
    let fields = headers.iter();
    fields.map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

#[tokio::test]
async fn a_status_of_a_backend_comes_through_whatever_else_it_sends() {
    let backend = Backend::start(|mut exchange: Exchange| async move {
        if exchange.body.is_end_stream() {
            return silent(exchange).await;
        }
        exchange.drain().await;
        let mut large = status(3, &"x".repeat(80_000));
        large.insert("grpc-status-details-bin", "y".repeat(120_000).parse().unwrap());
        if exchange.index.is_multiple_of(2) {
            let mut answer = exchange.begin();
            let _gone = answer.send_trailers(large);
        } else {
            let mut response = head();
            response.headers_mut().extend(large);
            let _gone = exchange.respond.send_response(response, true);
        }
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut other = gate.client("root").await;
    let mut running = other.open_with(grpc_request(Method::GetOperation.path()), true);
    backend.until("it is there", |seen| seen.len() == 1).await;
    let mut client = gate.client("reader").await;
    for _ in 0..4 {
        let reply = client.ask(Method::Read, "").await;
        assert_eq!(reply.code(), Some(3), "{:?}", reply.error);
        assert_eq!(reply.message(), "x".repeat(2048));
        let headers = reply.trailers.as_ref().unwrap_or(&reply.headers);
        assert!(size(headers) <= 8192, "{}", size(headers));
    }
    let waker = Waker::noop();
    let poll = std::pin::Pin::new(&mut running.response).poll(&mut Context::from_waker(waker));
    assert!(poll.is_pending(), "the call of another goes on");
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn many_idle_connections_hold_up_nobody() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let reader = Arc::new(gate.config.authority.client("reader"));
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(gate.client_with(&reader).await);
    }
    until("all are counted", || {
        gate.metric("casgate_connections_open", &[]) == 100.0
    })
    .await;
    assert_only_this_is_seen(&mut gate.client_with(&reader).await, &backend).await;
    drop(idle);
    until("they are counted off", || {
        gate.metric("casgate_connections_open", &[]) == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_client_that_breaks_http_2_ends_its_own_connection_only() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut other = gate.client("reader").await;
    let broken = [
        // DATA of no stream, of one that was never opened, and of the server's half of the numbers.
        Frame::new(frames::DATA, 0, 0, vec![0; 10]),
        Frame::new(frames::DATA, 0, 99, vec![0; 10]),
        Frame::new(
            frames::HEADERS,
            frames::END_HEADERS,
            2,
            frames::header_block(&[(":method", "POST")]),
        ),
        Frame::new(frames::WINDOW_UPDATE, 0, 0, vec![0; 4]),
        Frame::new(frames::WINDOW_UPDATE, 0, 0, vec![0x7f, 0xff, 0xff, 0xff]),
        Frame::new(frames::SETTINGS, 0, 0, vec![0; 5]),
        Frame::new(frames::PING, 0, 0, vec![0; 3]),
        // A frame that is larger than was agreed.
        Frame::new(frames::DATA, 0, 1, vec![0; 1 << 20]),
        Frame::new(frames::HEADERS, frames::END_HEADERS, 1, vec![0xff; 64]),
    ];
    for (number, frame) in broken.into_iter().enumerate() {
        let client = gate.client("root").await;
        client.tap.inject(frame);
        until(&format!("connection {number} ends"), || client.tap.end().is_some()).await;
        assert_only_this_is_seen(&mut other, &backend).await;
    }
}

#[tokio::test]
async fn a_fetch_that_is_too_long_to_be_held_is_refused() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("reader").await;
    let uris = |count: usize| grpc::frame(&grpc::string(4, &format!("urn:{}", "x".repeat(1_000))).repeat(count));
    assert_eq!(client.call(Method::FetchBlob, uris(60)).await.code(), Some(0));
    let mut call = client.open(Method::FetchBlob);
    call.send(uris(80)).await;
    let reply = call.reply().await;
    assert_eq!(reply.code(), Some(3), "{reply:?}");
    assert!(reply.message().contains("64 KiB"), "{reply:?}");
    assert_eq!(backend.streams(), 1);
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_given_up_and_a_slow_one_is_not() {
    const SIZE: usize = 3_000_000;
    let backend = Backend::start(|mut exchange: Exchange| async move {
        exchange.drain().await;
        let mut answer = exchange.begin();
        send(&mut answer, grpc::frame(&[0; SIZE])).await;
        let _gone = answer.send_trailers(status(0, ""));
    });
    let mut config = Config::to(&backend);
    config.top.push_str("\nlimits = { stall-timeout = 1 }");
    let gate = Gate::start(config).await;
    // On connections of their own, so that the window of the one is not that of the other.
    let (mut first, mut second) = (gate.client("reader").await, gate.client("reader").await);
    let mut calls = [first.open(Method::Read), second.open(Method::Read)];
    for call in &mut calls {
        call.send(grpc::request(Method::Read, "")).await;
        call.end();
    }
    let [mut stalled, mut slow] = calls;
    let (_, mut body) = slow.head().await;
    // Three seconds in all, and never one without progress.
    let mut taken = 0;
    while let Some(chunk) = within("a chunk", body.data()).await {
        let length = chunk.unwrap().len();
        taken += length;
        body.flow_control().release_capacity(length).unwrap();
        if taken % 500_000 < length {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    assert_eq!(taken, SIZE + 5);
    // Nothing was given back of the window of the other one.
    let (_, mut body) = stalled.head().await;
    let reset = loop {
        match within("a reset", body.data()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error.reason(),
            None => panic!("it ended"),
        }
    };
    assert_eq!(reset, Some(Reason::CANCEL));
    let limited = gate.metric("casgate_limited_total", &["stall-timeout", "closed"]);
    assert_eq!(limited, 1.0);
}
