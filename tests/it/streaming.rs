//! What passes through the gate, and how: whole, as it came, at once, and never more of it than the windows allow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use casgate::policy::method::Method;
use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore};

use crate::harness::backend::{Backend, Exchange, Options, Place, echo, head, send, silent, status, unary};
use crate::harness::gate::{Config, Gate, backend_table};
use crate::harness::wire::{Reply, grpc_request, rest};
use crate::harness::{frames, grpc, settled, within};

/// More than all windows and buffers of the gate together.
const MUCH: usize = 24 * 1024 * 1024;
/// What the gate may hold of one stream: a window on each side, and the buffers for writing.
const HELD: u64 = 8 * 1024 * 1024;

/// Bytes in which every place looks different from its neighbours.
fn pattern(length: usize) -> Bytes {
    (0..length)
        .map(|place| (place.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

#[tokio::test]
async fn initial_metadata_arrives_before_any_message() {
    let (told, tell) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let wait = Arc::clone(&tell);
    let backend = Backend::start(move |mut exchange: Exchange| {
        let wait = Arc::clone(&wait);
        async move {
            let mut response = head();
            response.headers_mut().insert("x-note", "early".parse().unwrap());
            let mut answer = exchange.respond.send_response(response, false).unwrap();
            wait.notified().await;
            exchange.drain().await;
            let _gone = answer.send_trailers(status(0, ""));
        }
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("writer").await;
    let mut call = client.open(Method::Write);
    call.send(grpc::write(10)).await;
    let (headers, body) = call.head().await;
    assert_eq!(headers["x-note"], "early");
    told.notify_one();
    tell.notify_one();
    call.end();
    let mut reply = Reply::default();
    within("the rest", rest(body, &mut reply)).await.unwrap();
    assert_eq!(reply.code(), Some(0));
}

#[tokio::test]
async fn messages_pass_both_ways_while_both_ways_are_open() {
    let backend = Backend::start(echo);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("root").await;
    let mut call = client.open(Method::PublishBuildToolEventStream);
    let (_, mut body) = call.head().await;
    for turn in 0..20 {
        let message = grpc::frame(format!("message {turn}").as_bytes());
        assert!(call.send(message.clone()).await);
        let mut back = Vec::new();
        while back.len() < message.len() {
            back.extend_from_slice(&within("the echo", body.data()).await.unwrap().unwrap());
        }
        assert_eq!(back, message);
    }
    call.end();
    let mut reply = Reply::default();
    within("the end", rest(body, &mut reply)).await.unwrap();
    assert_eq!((reply.code(), reply.body.len()), (Some(0), 0));
}

#[tokio::test]
async fn bytes_are_forwarded_as_they_came_in_both_directions() {
    // Through wide windows, and through one that breaks everything into small pieces.
    for window in [None, Some(5000)] {
        let options = Options {
            window,
            ..Options::default()
        };
        let backend = Backend::at(Place::tcp(), options, echo);
        let gate = Gate::start(Config::to(&backend)).await;
        let mut client = gate.client("root").await;
        let mut call = client.open(Method::PublishBuildToolEventStream);
        // No protobuf, and said to be compressed: whatever is decoded on the way would break.
        let sent: Vec<u8> = pattern(5_000_000)
            .chunks(777_777)
            .flat_map(|chunk| {
                let mut message = grpc::frame(chunk).to_vec();
                message[0] = 1;
                message
            })
            .collect();
        let sent = Bytes::from(sent);
        let (_, body) = call.head().await;
        let mut reply = Reply::default();
        let upload = async {
            assert!(call.send(sent.clone()).await);
            call.end();
        };
        let (result, ()) = within("the echo", async { tokio::join!(rest(body, &mut reply), upload) }).await;
        result.unwrap();
        assert!(reply.body == sent, "other bytes came back");
        assert_eq!(reply.code(), Some(0));
        assert_eq!(backend.seen()[0].received, sent.len() as u64);
    }
}

#[tokio::test]
async fn an_upload_that_the_backend_does_not_take_stops_at_the_windows() {
    let go_on = Arc::new(Notify::new());
    let wait = Arc::clone(&go_on);
    let backend = Backend::start(move |exchange: Exchange| {
        let wait = Arc::clone(&wait);
        async move {
            wait.notified().await;
            unary(exchange).await;
        }
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("writer").await;
    let tap = Arc::clone(&client.tap);
    let mut call = client.open(Method::Write);
    let message = grpc::write(MUCH);
    let length = message.len() as u64;
    let upload = tokio::spawn(async move {
        assert!(call.send(message).await);
        call.end();
        call.reply().await
    });
    backend.until("the stream is there", |seen| seen.len() == 1).await;
    let held = settled("the upload stops", || tap.data_sent()).await;
    assert!((64 * 1024..HELD).contains(&held), "{held} bytes were taken");
    go_on.notify_one();
    let reply = within("the upload", upload).await.unwrap();
    assert_eq!(reply.code(), Some(0));
    assert_eq!(backend.seen()[0].received, length);
}

#[tokio::test]
async fn an_answer_that_the_client_does_not_read_stops_at_the_windows_and_holds_back_no_other() {
    const SLOW: usize = 3;
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let backend = Backend::start(move |mut exchange: Exchange| {
        let count = Arc::clone(&count);
        async move {
            exchange.drain().await;
            if exchange.index >= SLOW {
                return exchange.answer(grpc::frame(b"")).await;
            }
            let mut answer = exchange.begin();
            for _ in 0..MUCH / 16384 {
                if !send(&mut answer, Bytes::from_static(&[7; 16384])).await {
                    return;
                }
                count.fetch_add(16384, Ordering::SeqCst);
            }
            let _gone = answer.send_trailers(status(0, ""));
        }
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut slow = gate.client("reader").await;
    let mut calls = Vec::new();
    for _ in 0..SLOW {
        let mut call = slow.open(Method::Read);
        call.send(grpc::request(Method::Read, "")).await;
        call.end();
        let (_, body) = call.head().await;
        calls.push((call, body));
    }
    let held = settled("the answers stop", || sent.load(Ordering::SeqCst)).await;
    assert!(
        (64 * 1024..SLOW as u64 * HELD).contains(&held),
        "{held} bytes were taken"
    );
    // Both use the one connection to the backend.
    let mut quick = gate.client("reader").await;
    for _ in 0..20 {
        assert_eq!(quick.ask(Method::Read, "").await.code(), Some(0));
    }
    assert_eq!(backend.connections(), 1);
    for (_call, body) in calls {
        let mut reply = Reply::default();
        within("the rest", rest(body, &mut reply)).await.unwrap();
        assert_eq!((reply.body.len(), reply.code()), (MUCH, Some(0)));
    }
}

#[tokio::test]
async fn stalled_uploads_hold_back_no_other_of_the_same_client() {
    const STALLED: usize = 8;
    // Each that stalls has its connection to itself, so that only the client's is shared.
    let stalled = Backend::start(silent);
    let backend = Backend::start(unary);
    let mut config = Config::to(&stalled);
    let route =
        |services: &str, backend: &str| format!("\n[[routes]]\nservices = {services}\nbackend = \"{backend}\"\n");
    config.backends.push_str(&format!(
        "{}{}{}",
        backend_table("good", &backend.endpoint()),
        route("[\"cas\"]", "cache"),
        route("[\"action-cache\"]", "good"),
    ));
    let gate = Gate::start(config).await;
    let mut client = gate.client("writer").await;
    let mut calls = Vec::new();
    for number in 1..=STALLED {
        let mut call = client.open(Method::Write);
        // More than the window of a stream.
        call.body.send_data(grpc::write(7_000_000), false).unwrap();
        stalled.until("it is there", |seen| seen.len() == number).await;
        calls.push(call);
    }
    let tap = Arc::clone(&client.tap);
    settled("the uploads stop", || tap.data_sent()).await;
    let reply = client.ask(Method::UpdateActionResult, "").await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
}

#[tokio::test]
async fn request_headers_go_through_as_they_came() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut request = grpc_request(Method::BatchReadBlobs.path());
    let kept = [
        ("build.bazel.remote.execution.v2.requestmetadata-bin", "CgcKBWJhemVs"),
        ("grpc-timeout", "90S"),
        ("grpc-accept-encoding", "identity,gzip"),
        ("user-agent", "grpc-c++/1.81.1"),
        ("authorization", "Bearer token"),
        ("te", "trailers"),
        ("x.y.z-bin", "AAEC,AwQF"),
    ];
    for (name, value) in kept {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request.headers_mut().append("x.y.z-bin", "BgcI".parse().unwrap());
    let reply = gate.client("reader").await.send(request, grpc::frame(b"")).await;
    assert_eq!(reply.code(), Some(0));
    let seen = backend.seen().remove(0);
    for (name, value) in kept {
        assert_eq!(seen.headers[name], value, "{name}");
    }
    assert_eq!(
        seen.headers.get_all("x.y.z-bin").iter().collect::<Vec<_>>(),
        ["AAEC,AwQF", "BgcI"]
    );
    assert_eq!(seen.headers["content-type"], "application/grpc");
}

#[tokio::test]
async fn a_thousand_streams_are_announced_and_run_at_once() {
    let all = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&all);
    let options = Options {
        max_streams: Some(2000),
        ..Options::default()
    };
    let backend = Backend::at(Place::tcp(), options, move |mut exchange: Exchange| {
        let wait = Arc::clone(&wait);
        async move {
            exchange.drain().await;
            wait.acquire().await.unwrap().forget();
            exchange.answer(grpc::frame(b"")).await;
        }
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("reader").await;
    let settings = client
        .tap
        .received()
        .into_iter()
        .find(|frame| frame.kind == frames::SETTINGS)
        .unwrap();
    // RFC 9113, 6.5.2: 3 is SETTINGS_MAX_CONCURRENT_STREAMS.
    assert_eq!(settings.setting(3), Some(1000));
    let calls: Vec<_> = (0..1000)
        .map(|_| {
            let mut call = client.open(Method::GetActionResult);
            call.body.send_data(grpc::frame(b""), true).unwrap();
            call
        })
        .collect();
    backend.until("all streams run", |seen| seen.len() == 1000).await;
    all.add_permits(1000);
    for call in calls {
        let reply = call.reply().await;
        assert_eq!(reply.code(), Some(0), "{reply:?}");
    }
}

/// A backend that gets the headers alone is woken twice for each call, and so is the gate.
#[tokio::test]
async fn a_short_request_reaches_the_backend_in_one_piece() {
    let backend = Backend::start(|mut exchange: Exchange| async move {
        // What came with the headers, and nothing that comes later.
        let first = exchange.read().now_or_never().flatten().unwrap_or_default();
        exchange.answer(first).await;
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("root").await;
    let request = grpc::request(Method::FindMissingBlobs, "");
    for number in 0..20 {
        let answer = client
            .send(grpc_request(Method::FindMissingBlobs.path()), request.clone())
            .await;
        // The first one shows how large the windows of the backend are.
        assert!(number == 0 || answer.body == request, "{number}: {answer:?}");
    }
}
