//! The listener for monitoring: `/metrics`, `/livez` and `/readyz` over clear HTTP/1.1.

mod visitors;

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::live::Shared;
use crate::upstream::Condition;

use visitors::Visitors;

/// Connections at once. One more ends the one that has asked for nothing for the longest time: those that are kept open keep
/// no orchestrator from `/livez`, which would end the program for it.
const MOST_CONNECTIONS: usize = 64;
/// How long a connection may last, whatever it does; a monitor that keeps one open makes another.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How long a request may take to come, and so how long a connection may be without one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request that are kept at most.
const LONGEST_HEAD: usize = 16 * 1024;

/// Serves until dropped.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let visitors = Arc::new(Visitors::new(MOST_CONNECTIONS));
    loop {
        let Ok((tcp, address)) = listener.accept().await else {
            // Out of descriptors, or a client that went away: the next one may have more luck.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let visitor = visitors.enter(address.ip());
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                visitor.asks();
                let response = answer(&request, &shared);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(LONGEST_HEAD)
                .serve_connection(TokioIo::new(tcp), service);
            tokio::select! {
                ended = tokio::time::timeout(TIMEOUT, connection) => {
                    if let Ok(Err(error)) = ended {
                        tracing::debug!(target: "casgate::admin", %error, "connection ended");
                    }
                }
                () = visitor.told_to_leave() => {}
            }
        });
    }
}

fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    }
    match request.uri().path() {
        "/metrics" => match shared.metrics.text() {
            Ok(metrics) => text(StatusCode::OK, metrics),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" => ready(shared),
        _ => text(StatusCode::NOT_FOUND, "here are /metrics, /livez and /readyz\n"),
    }
}

/// Whether a load balancer should send clients here: not while draining, and not while every backend is known to be down, or
/// none that is checked was reached yet. One backend of several that is down does not take the others away from everybody.
fn ready(shared: &Shared) -> Response<Full<Bytes>> {
    let mut lines = String::new();
    let mut is_ready = false;
    for backend in shared.live().backends() {
        let mut is_usable = false;
        for (endpoint, condition) in backend.conditions() {
            is_usable |= match condition {
                Condition::Up => true,
                Condition::Unknown => !backend.is_checked(),
                Condition::Down(_) => false,
            };
            // Writing to a string does not fail.
            let _ = writeln!(lines, "backend {} at {endpoint}: {condition}", backend.name());
        }
        is_ready |= is_usable;
    }
    let (status, word) = match (*shared.draining.borrow(), is_ready) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "no backend is up"),
        (false, true) => (StatusCode::OK, "ok"),
    };
    text(status, format!("{word}\n{lines}"))
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
