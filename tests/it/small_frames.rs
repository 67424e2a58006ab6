//! Requests whose bytes come one by one: the backend does not get them so, and the gate holds no more than the bytes.

use bytes::Bytes;
use casgate::policy::method::Method;

use crate::harness::backend::{Backend, Exchange, Options, Place, silent};
use crate::harness::frames::{DATA, END_STREAM, Frame, HEADERS};
use crate::harness::gate::{Config, Gate};
use crate::harness::grpc;
use crate::harness::wire::{Call, Client, grpc_request};
use crate::harness::{until, within};

/// A request of about so many bytes, nearly all of them in a field that no version of the message has.
fn long(method: Method, size: usize) -> Bytes {
    let request = grpc::request(method, "");
    grpc::frame(&[&request[5..], &grpc::string(999, &"x".repeat(size))].concat())
}

/// Begins a call, and waits until its head is out: frames that are injected go past what h2 still holds.
async fn open(client: &mut Client, method: Method) -> Call {
    let call = client.open(method);
    let is_out = |frame: &Frame| frame.kind == HEADERS && frame.stream == call.id();
    until("the head is sent", || client.tap.sent().iter().any(is_out)).await;
    call
}

/// Sends a message in frames of one byte each, past the client's own h2, which would put them together.
fn drip(client: &Client, stream: u32, message: &[u8]) {
    let (last, rest) = message.split_last().unwrap();
    for byte in rest {
        client.tap.inject(Frame::new(DATA, 0, stream, vec![*byte]));
    }
    client.tap.inject(Frame::new(DATA, END_STREAM, stream, vec![*last]));
}

#[tokio::test]
async fn a_backend_does_not_take_a_drip_for_an_attack_by_all_of_us() {
    // With the defaults of h2, 100 small frames that wait end a connection.
    let backend = Backend::at(Place::tcp(), Options::default(), |mut exchange: Exchange| async move {
        if exchange.body.is_end_stream() {
            return silent(exchange).await;
        }
        exchange.drain().await;
        exchange.answer(grpc::frame(b"")).await;
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut victim = gate.client("root").await;
    let _long = victim.open_with(grpc_request(Method::GetOperation.path()), true);
    backend.until("the long call is there", |seen| seen.len() == 1).await;

    for (name, method) in [
        ("reader", Method::FindMissingBlobs),
        ("reader", Method::FetchBlob),
        ("writer", Method::Write),
    ] {
        let mut client = gate.client(name).await;
        let call = open(&mut client, method).await;
        // Fewer than h2 lets wait in the gate, should all of them come before the call has its turn.
        let message = long(method, 3_500);
        drip(&client, call.id(), &message);
        let reply = call.reply().await;
        assert_eq!(reply.code(), Some(0), "{method:?}: {reply:?}");
        assert_eq!(backend.seen().pop().unwrap().body, message, "{method:?}");
    }
    assert_eq!(backend.connections(), 1);
    assert_eq!(backend.seen()[0].reset, None);
}

#[tokio::test]
async fn a_byte_that_waits_does_not_keep_the_buffer_that_it_came_in() {
    let backend = Backend::start(|mut exchange: Exchange| async move { exchange.drain().await });
    let mut config = Config::to(&backend);
    config.top.push_str("\nlog = { format = \"json\" }");
    config
        .backends
        .push_str("\n[limits]\ncontrol-frames-at-once = 100000\n");
    let gate = Gate::spawn(config).await;
    let mut client = gate.client("reader").await;
    let call = open(&mut client, Method::FetchBlob).await;
    let message = long(Method::FetchBlob, 60_000);
    client.tap.inject(Frame::new(DATA, 0, call.id(), message.slice(..20)));
    let before = gate.memory();
    // A frame of a type that nobody knows fills the buffer behind each byte (RFC 9113, 4.1: such frames are ignored).
    let filler = Bytes::from_static(&[0; 8_000]);
    for byte in message.slice(20..12_000) {
        client.tap.inject(Frame::new(0x77, 0, 0, filler.clone()));
        client.tap.inject(Frame::new(DATA, 0, call.id(), vec![byte]));
    }
    client
        .tap
        .inject(Frame::new(DATA, END_STREAM, call.id(), message.slice(12_000..)));
    backend
        .until("the whole request", |seen| seen.first().is_some_and(|seen| seen.ended))
        .await;
    let grown = gate.memory().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes for a request of 60 kB");
}

#[tokio::test]
async fn a_message_whose_end_is_late_waits_and_one_that_is_whole_does_not() {
    let backend = Backend::start(|mut exchange: Exchange| async move { exchange.drain().await });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("writer").await;
    let mut call = client.open(Method::Write);
    let received = || backend.seen().first().map_or(0, |seen| seen.received);
    let whole = grpc::write(10);
    assert!(call.send(whole.clone()).await);
    within("the whole message", until("it", || received() == whole.len() as u64)).await;
    let next = grpc::write(1000);
    assert!(call.send(next.slice(..500)).await);
    assert!(call.send(next.slice(500..)).await);
    let all = (whole.len() + next.len()) as u64;
    within("both messages", until("it", || received() == all)).await;
}
