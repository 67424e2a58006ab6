//! What becomes of a call when the backend, or the way to it, fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use casgate::policy::method::Method;
use h2::Reason;
use http::{HeaderValue, Response, StatusCode};
use tokio_rustls::TlsAcceptor;

use crate::harness::backend::{Backend, Exchange, Options, Place, Raw, send, unary};
use crate::harness::frames::{self, Frame};
use crate::harness::gate::{Config, Gate};
use crate::harness::pki::Authority;
use crate::harness::{assert_unavailable, grpc, pull_from};

#[tokio::test]
async fn nobody_who_listens_is_unavailable() {
    for place in [Place::tcp(), Place::unix()] {
        let gate = Gate::start(Config::to_endpoint(&place.endpoint())).await;
        let reply = gate.client("reader").await.ask(Method::Read, "").await;
        assert_unavailable(&reply, "can't be reached");
        let message = reply.message();
        let is_plain = !message.contains('/') && !message.contains("os error") && !message.contains("127.");
        assert!(is_plain, "{message}");
    }
}

#[tokio::test]
async fn a_reset_before_the_answer_is_unavailable() {
    for reason in [
        Reason::INTERNAL_ERROR,
        Reason::CANCEL,
        Reason::NO_ERROR,
        Reason::ENHANCE_YOUR_CALM,
    ] {
        let backend = Backend::start(move |mut exchange: Exchange| async move {
            exchange.drain().await;
            exchange.reset(reason);
        });
        assert_unavailable(&pull_from(&backend).await, "");
        assert_eq!(backend.streams(), 1, "{reason:?}");
    }
}

#[tokio::test]
async fn a_connection_that_ends_before_the_answer_is_unavailable() {
    let backend = Backend::start(|mut exchange: Exchange| async move {
        exchange.drain().await;
        exchange.close();
        std::future::pending::<()>().await;
    });
    assert_unavailable(&pull_from(&backend).await, "");
    // The backend may have acted on it, so nobody asks again.
    assert_eq!(backend.streams(), 1);
}

#[tokio::test]
async fn what_is_no_http_2_is_unavailable() {
    let backend = Backend::raw(|mut raw: Raw| async move {
        raw.send_bytes(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            .await;
    });
    assert_unavailable(&pull_from(&backend).await, "");
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_in_unavailable_behind_what_came() {
    const ENDS: usize = 5;
    let backend = Backend::raw(|mut raw: Raw| async move {
        while let Some(request) = raw.next_of(frames::HEADERS).await {
            let stream = request.stream;
            let [head, half, _] = raw.answer_frames(stream, b"half");
            raw.send(&[head, half]).await;
            let end = match (stream - 1) / 2 {
                0 => Frame::reset(stream, 2),
                // Never again, whatever the reset says: the answer had begun.
                1 => Frame::reset(stream, Reason::REFUSED_STREAM.into()),
                2 => Frame::new(frames::DATA, frames::END_STREAM, stream, Bytes::new()),
                3 => Frame::new(
                    frames::HEADERS,
                    frames::END_HEADERS | frames::END_STREAM,
                    stream,
                    Bytes::new(),
                ),
                _ => return,
            };
            raw.send(&[end]).await;
        }
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("reader").await;
    for turn in 0..ENDS {
        let reply = client.ask(Method::Read, "").await;
        assert_eq!((reply.code(), reply.reset), (Some(14), None), "{turn}: {reply:?}");
        assert_eq!(reply.body, grpc::frame(b"half"), "{turn}");
        assert!(
            reply.message().starts_with("backend `cache` is not available"),
            "{turn}: {reply:?}"
        );
    }
    assert_eq!(backend.streams(), ENDS);
}

#[tokio::test]
async fn answers_that_are_no_grpc_get_the_status_of_the_mapping() {
    let cases = [
        (502, 14),
        (503, 14),
        (429, 14),
        (504, 14),
        (404, 12),
        (400, 2),
        (401, 2),
        (403, 2),
        (500, 2),
        (200, 2),
    ];
    let backend = Backend::start(move |mut exchange: Exchange| async move {
        exchange.drain().await;
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(cases[exchange.index].0).unwrap();
        response
            .headers_mut()
            .insert("content-type", HeaderValue::from_static("text/html"));
        let mut answer = exchange.respond.send_response(response, false).unwrap();
        send(
            &mut answer,
            Bytes::from_static(b"<html><body>Bad Gateway</body></html>"),
        )
        .await;
        let _gone = answer.send_data(Bytes::new(), true);
    });
    let gate = Gate::start(Config::to(&backend)).await;
    let mut client = gate.client("reader").await;
    for (http, code) in cases {
        let reply = client.ask(Method::Read, "").await;
        assert_eq!(
            (reply.http, reply.code()),
            (Some(StatusCode::OK), Some(code)),
            "{http}: {reply:?}"
        );
        assert!(reply.body.is_empty(), "{reply:?}");
        assert!(reply.message().contains(&http.to_string()), "{reply:?}");
        assert_eq!(reply.headers["content-type"], "application/grpc");
    }
}

#[tokio::test]
async fn headers_that_end_without_a_status_are_unavailable() {
    let backend = Backend::start(|mut exchange: Exchange| async move {
        exchange.drain().await;
        let _gone = exchange.respond.send_response(crate::harness::backend::head(), true);
    });
    assert_unavailable(&pull_from(&backend).await, "without a status");
}

#[tokio::test]
async fn a_backend_with_tls_is_checked_by_its_authority_and_its_name() {
    let authority = Authority::new("of the backend");
    let cases = [
        (authority.server(), true),
        (authority.server_for(&["elsewhere.example"]), false),
        (Authority::new("another").server(), false),
    ];
    for (server, is_good) in cases {
        let mut tls = rustls::ServerConfig::builder_with_provider(casgate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![server.der.clone()], server.key_der())
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let options = Options {
            tls: Some(TlsAcceptor::from(Arc::new(tls))),
            ..Options::default()
        };
        let backend = Backend::at(Place::tcp(), options, unary);
        let mut config = Config::to(&backend);
        config.backends = config.backends.replace("http:", "https:") + "ca = \"backend-ca.crt\"\n";
        config.files.insert("backend-ca.crt", authority.pem());
        let gate = Gate::start(config).await;
        let reply = gate.client("reader").await.ask(Method::Read, "").await;
        if is_good {
            assert_eq!(reply.code(), Some(0), "{reply:?}");
        } else {
            assert_unavailable(&reply, "certificate");
            assert_eq!(backend.streams(), 0);
        }
    }
}

#[tokio::test]
async fn a_backend_that_never_finishes_its_handshake_is_unavailable() {
    // It accepts, and waits for a preface that does not come within TLS.
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((tcp, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            held.push(tcp);
        }
    });
    let mut config = Config::to_endpoint(&format!("https://127.0.0.1:{port}"));
    config.backends.push_str("ca = \"ca.crt\"\n");
    let gate = Gate::start(config).await;
    let reply = gate.client("reader").await.ask(Method::Read, "").await;
    assert_unavailable(&reply, "more than 5 s");
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn calls_do_not_wait_for_attempts_to_reach_a_backend_that_is_down() {
    // It accepts, and says nothing.
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((tcp, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            held.push(tcp);
        }
    });
    let gate = Gate::start(Config::to_endpoint(&endpoint)).await;
    let mut client = gate.client("reader").await;
    let failures = || gate.metric("casgate_backend_connect_failures_total", &[]);
    while accepted.load(Ordering::SeqCst) < 2 {
        assert_unavailable(&client.ask(Method::Read, "").await, "more than 5 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The second attempt hangs, and calls are answered all the same.
    assert_unavailable(&client.ask(Method::Read, "").await, "more than 5 s");
    assert_eq!((failures(), accepted.load(Ordering::SeqCst)), (1.0, 2));
}

#[tokio::test]
async fn a_backend_that_nobody_asked_for_is_neither_up_nor_down() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    assert!(!gate.metrics().contains("casgate_backend_up{"));
    let mut client = gate.client("reader").await;
    assert_eq!(client.ask(Method::Read, "").await.code(), Some(0));
    assert!(gate.metrics().contains("casgate_backend_up{backend=\"cache\"} 1"));
}
