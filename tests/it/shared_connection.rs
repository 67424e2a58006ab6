//! The connection to a backend, which calls of all clients share: it comes back, and no client can end it.

use casgate::policy::method::Method;

use crate::harness::backend::{Backend, Exchange, Options, Place, Raw, silent, unary};
use crate::harness::frames::{self, Frame};
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::{Call, grpc_request};
use crate::harness::{assert_unavailable, grpc, until, within};

#[tokio::test]
async fn a_backend_that_comes_back_is_used_without_a_restart() {
    for place in [Place::tcp(), Place::unix()] {
        let backend = Backend::at(place, Options::default(), unary);
        let gate = Gate::start(Config::to(&backend)).await;
        let mut client = gate.client("reader").await;
        assert_eq!(client.ask(Method::Read, "").await.code(), Some(0));
        let place = backend.vanish().await;
        until("the gate notices", || {
            gate.metric("casgate_backend_connections", &[]) == 0.0
        })
        .await;
        assert_unavailable(&client.ask(Method::Read, "").await, "can't be reached");
        assert_eq!(gate.metric("casgate_backend_up", &["cache"]), 0.0);
        let _back = Backend::at(place, Options::default(), unary);
        within("the backend is used again", async {
            loop {
                let reply = client.ask(Method::Read, "").await;
                match reply.code() {
                    Some(0) => break,
                    // It may not have been tried again yet.
                    code => assert_eq!(code, Some(14), "{reply:?}"),
                }
            }
        })
        .await;
        assert_eq!(gate.metric("casgate_backend_up", &["cache"]), 1.0);
    }
}

#[tokio::test]
async fn a_short_absence_of_the_backend_goes_unnoticed() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("reader").await;
    assert_eq!(client.ask(Method::Read, "").await.code(), Some(0));
    let place = backend.vanish().await;
    until("the gate notices", || {
        gate.metric("casgate_backend_connections", &[]) == 0.0
    })
    .await;
    let mut call = client.open(Method::Read);
    call.body.send_data(grpc::request(Method::Read, ""), true).unwrap();
    until("an attempt fails", || {
        gate.metric("casgate_backend_connect_failures_total", &[]) > 0.0
    })
    .await;
    let _back = Backend::at(place, Options::default(), unary);
    let reply = call.reply().await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
}

#[tokio::test]
async fn cancels_of_clients_do_not_end_the_connection_that_they_share() {
    const AT_ONCE: usize = 150;
    let backend = Backend::at(
        Place::tcp(),
        Options {
            max_streams: Some(2000),
            ..Options::default()
        },
        |mut exchange: Exchange| async move {
            match exchange.body.is_end_stream() {
                true => silent(exchange).await,
                false => {
                    exchange.drain().await;
                    exchange.answer(grpc::frame(b"")).await;
                }
            }
        },
    );
    let gate = Gate::start(Config::to(&backend)).await;
    let mut other = gate.client("root").await;
    for round in 1..=8 {
        // What a build does that is interrupted: everything that runs is cancelled at once.
        let mut client = gate.client("root").await;
        let calls: Vec<_> = (0..AT_ONCE)
            .map(|_| client.open_with(grpc_request(Method::GetOperation.path()), true))
            .collect();
        let before = (AT_ONCE + 1) * (round - 1);
        backend
            .until("all are there", |seen| seen.len() == before + AT_ONCE)
            .await;
        for call in calls {
            call.cancel();
        }
        backend
            .until("all are reset", |seen| {
                seen[before..].iter().all(|seen| seen.reset.is_some())
            })
            .await;
        let reply = other.ask(Method::Read, "").await;
        assert_eq!(reply.code(), Some(0), "round {round}: {reply:?}");
        // And the client's own connection goes on as well.
        assert_eq!(client.call(Method::HealthCheck, grpc::frame(b"")).await.code(), Some(0));
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn denied_and_early_answered_uploads_do_not_end_a_connection() {
    let backend = Backend::start(|mut exchange: Exchange| async move {
        exchange.read().await;
        exchange.trailers_only(0, "");
    });
    let gate = Gate::start(Config::to(&backend)).await;
    for (name, code) in [("reader", 7), ("writer", 0)] {
        let mut client = gate.client(name).await;
        for number in 0..2500 {
            let mut call = client.open(Method::Write);
            call.body.send_data(grpc::write(100), false).unwrap();
            let reply = call.reply().await;
            assert_eq!(reply.code(), Some(code), "{name} {number}: {reply:?}");
        }
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_client_that_only_opens_and_resets_hurts_nobody_else() {
    let backend = Backend::at(
        Place::tcp(),
        Options {
            max_streams: Some(2000),
            ..Options::default()
        },
        unary,
    );
    let gate = Gate::start(Config::to(&backend)).await;
    let mut other = gate.client("reader").await;
    let mut flood = gate.client("root").await;
    for round in 0..100 {
        for _ in 0..50 {
            // The gate may end this connection, and no other.
            if let Ok(call) = flood.try_open(grpc_request(Method::GetOperation.path()), true) {
                call.cancel();
            }
        }
        let reply = other.ask(Method::Read, "").await;
        assert_eq!(reply.code(), Some(0), "round {round}: {reply:?}");
    }
    assert_eq!(backend.connections(), 1);
    drop(flood);
    until("nothing is left of it", || {
        gate.metric("casgate_calls_open", &[]) == 0.0
    })
    .await;
}

#[tokio::test]
async fn calls_wait_for_a_backend_that_takes_one_at_a_time() {
    let options = Options {
        max_streams: Some(1),
        ..Options::default()
    };
    let backend = Backend::at(Place::tcp(), options, unary);
    let mut config = Config::to(&backend);
    config.backends.push_str("max-connections = 1\n");
    let gate = Gate::start(config).await;
    let mut client = gate.client("reader").await;
    // The first tells the gate how many the backend takes.
    assert_eq!(client.ask(Method::Read, "").await.code(), Some(0));
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let mut call = client.open(Method::Read);
            call.body.send_data(grpc::request(Method::Read, ""), true).unwrap();
            call
        })
        .collect();
    for call in calls {
        assert_eq!(call.reply().await.code(), Some(0));
    }
    assert_eq!((backend.streams(), backend.connections()), (51, 1));
}

#[tokio::test]
async fn late_answers_to_cancelled_calls_do_not_end_the_connection() {
    // Together more than h2 counts to by default.
    const CANCELLED: usize = 600;
    const ROUNDS: usize = 2;
    let backend = Backend::raw(|mut raw: Raw| async move {
        let (mut opened, mut reset, mut last) = (0, Vec::new(), None);
        while let Some(frame) = raw.next().await {
            match frame.kind {
                frames::RST_STREAM => reset.push(frame.stream),
                frames::HEADERS => {
                    opened += 1;
                    last = (opened % (CANCELLED + 1) == 0).then_some(frame.stream);
                }
                _ => {}
            }
            if reset.len() == CANCELLED && last.is_some() {
                // The answers crossed the resets on the wire. To h2, frames of a stream that it has forgotten are errors,
                // and so many errors the end of a connection.
                for stream in reset.drain(..).chain(last.take()) {
                    raw.answer(stream).await;
                }
            }
        }
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut clients = [gate.client("root").await, gate.client("root").await];
    for round in 0..ROUNDS {
        let calls: Vec<_> = (0..CANCELLED)
            .map(|number| clients[number % 2].open_with(grpc_request(Method::GetOperation.path()), true))
            .collect();
        let all = round * (CANCELLED + 1) + CANCELLED;
        backend.until("all are there", |seen| seen.len() == all).await;
        calls.into_iter().for_each(Call::cancel);
        until("all end", || gate.metric("casgate_calls_open", &[]) == 0.0).await;
        let reply = clients[0].ask(Method::Read, "").await;
        assert_eq!(reply.code(), Some(0), "{reply:?}");
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn rapid_resets_do_not_end_the_connection_to_a_backend_that_minds_them() {
    for with_body in [false, true] {
        let options = Options {
            max_streams: Some(200),
            minds_resets: true,
            ..Options::default()
        };
        let backend = Backend::at(Place::tcp(), options, |exchange: Exchange| async move {
            match exchange.path() == Method::Read.path() {
                true => silent(exchange).await,
                false => unary(exchange).await,
            }
        });
        let mut config = Config::to(&backend);
        config.backends.push_str("max-connections = 1\n");
        let gate = Gate::start(config).await;
        let mut other = gate.client("reader").await;
        let mut flood = gate.client("reader").await;
        for round in 0..30 {
            let open = |_| {
                let mut call = flood.open(Method::Read);
                call.body
                    .send_data(grpc::request(Method::Read, ""), !with_body)
                    .unwrap();
                call
            };
            let calls: Vec<_> = (0..60).map(open).collect();
            until("some are under way", || gate.metric("casgate_calls_open", &[]) > 30.0).await;
            for call in calls {
                call.cancel();
            }
            let reply = other.ask(Method::GetActionResult, "").await;
            assert_eq!(reply.code(), Some(0), "round {round}: {reply:?}");
        }
        assert_eq!(backend.connections(), 1);
        until("nothing is left of it", || {
            gate.metric("casgate_calls_open", &[]) == 0.0
        })
        .await;
        backend
            .until("all are reset", |seen| {
                seen.iter().all(|seen| seen.ended || seen.reset.is_some())
            })
            .await;
    }
}

#[tokio::test]
async fn a_request_that_is_answered_before_it_is_taken_leaves_no_stream_behind() {
    let options = Options {
        max_streams: Some(2),
        window: Some(0),
        ..Options::default()
    };
    let backend = Backend::raw_with(options, |mut raw: Raw| async move {
        while let Some(frame) = raw.next_of(frames::HEADERS).await {
            let fields = [
                (":status", "200"),
                ("content-type", "application/grpc"),
                ("grpc-status", "16"),
            ];
            let flags = frames::END_HEADERS | frames::END_STREAM;
            let answer = Frame::new(frames::HEADERS, flags, frame.stream, frames::header_block(&fields));
            raw.send(&[answer]).await;
        }
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("root").await;
    for _ in 0..40 {
        let reply = within("an answer", client.ask(Method::FindMissingBlobs, "")).await;
        assert_eq!(reply.code(), Some(16), "{reply:?}");
    }
}
