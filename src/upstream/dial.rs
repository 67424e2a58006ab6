//! Makes one HTTP/2 connection to a backend.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::address;
use super::callers::Callers;
use crate::http2;
use crate::http2::gather::{Clear, Gather, Outbox, Records};
use crate::snapshot::backends::Target;
use crate::store::Store;

/// How long the way to an open connection may take: address lookup, TCP, TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The connection's own window never limits: a client that reads slowly may hold back its stream and no other.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// Bytes of headers or trailers that a backend may send: h2 ends the connection, which all share, of one that sends four
/// times as many. What clients take is another matter.
const MAX_HEADER_LIST: u32 = 1024 * 1024;
/// Bytes in flight between the gate and the embedded store.
const STORE_PIPE: usize = 256 * 1024;

/// An open connection whose driver has another type for each kind of transport.
pub(super) type Driver = Pin<Box<dyn Future<Output = Result<(), h2::Error>> + Send>>;

/// What [`Dialer::dial`] gives.
pub(super) struct Dialed {
    /// Opens streams.
    pub(super) sender: SendRequest<Bytes>,
    /// Sends probes.
    pub(super) ping_pong: Option<h2::PingPong>,
    /// How many streams the server allows.
    pub(super) limit: watch::Receiver<usize>,
    /// Must run for anything to move.
    pub(super) driver: Driver,
}

/// Makes connections to one backend.
#[derive(Debug)]
pub(super) struct Dialer {
    target: Target,
    store: Option<(Store, Arc<Callers>)>,
    serve_on: Handle,
    /// Bytes of one answer that may arrive before the client takes them.
    window: u32,
    /// Attempts that failed: the next one begins at another address of the name.
    failures: AtomicUsize,
}

impl Dialer {
    /// `store` is there, with those who call it, when the target is the embedded one; it is served on the runtime of `serve_on`.
    pub(super) fn new(target: Target, store: Option<(Store, Arc<Callers>)>, serve_on: Handle, window: u32) -> Dialer {
        Dialer {
            target,
            store,
            serve_on,
            window,
            failures: AtomicUsize::new(0),
        }
    }

    /// Connects.
    pub(super) async fn dial(&self) -> io::Result<Dialed> {
        let dialed = tokio::time::timeout(CONNECT_TIMEOUT, self.connect())
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "connecting took more than 5 s")));
        if dialed.is_err() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        dialed
    }

    async fn connect(&self) -> io::Result<Dialed> {
        let begin = self.failures.load(Ordering::Relaxed);
        match &self.target {
            Target::Unix(path) => {
                let stream = UnixStream::connect(path)
                    .await
                    .map_err(|error| io::Error::new(error.kind(), format!("`{}`: {error}", path.display())))?;
                handshake(Clear::new(stream), self.window).await
            }
            Target::Tcp(to) => handshake(Clear::new(tcp(&to.host, to.port, begin).await?), self.window).await,
            Target::Tls(to, name, config) => {
                let tcp = tcp(&to.host, to.port, begin).await?;
                let tls = TlsConnector::from(config.clone()).connect(name.clone(), tcp).await?;
                if tls.get_ref().1.alpn_protocol() != Some(crate::tls::ALPN_H2) {
                    return Err(io::Error::other("the server does not speak HTTP/2 (ALPN `h2`)"));
                }
                handshake(Records::new(Box::new(tls)), self.window).await
            }
            Target::Store(_) => {
                let (store, callers) = self
                    .store
                    .clone()
                    .ok_or_else(|| io::Error::other("the store is not open"))?;
                let (near, far) = tokio::io::duplex(STORE_PIPE);
                self.serve_on.spawn(store.serve(far, callers));
                handshake(Clear::new(near), self.window).await
            }
        }
    }
}

async fn tcp(host: &str, port: u16, begin: usize) -> io::Result<TcpStream> {
    let stream = address::connect(host, port, begin).await?;
    http2::prepare(&socket2::SockRef::from(&stream))?;
    Ok(stream)
}

async fn handshake<O>(outbox: O, window: u32) -> io::Result<Dialed>
where
    O: Outbox + Send + 'static,
{
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(window)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(http2::MAX_FRAME_SIZE)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buffer_size(http2::MAX_SEND_BUFFER)
        // None before the server's SETTINGS say how many: a stream that waits within h2 can't be taken back.
        .initial_max_send_streams(0)
        // Clients cancel at will, and the connection is shared: their resets must not end it.
        .max_concurrent_reset_streams(4096)
        .max_local_error_reset_streams(None);
    let io = Gather::new(outbox);
    let gathered = io.share();
    let (sender, mut connection): (_, Connection<Gather<O>, Bytes>) =
        builder.handshake(io).await.map_err(io::Error::other)?;
    let ping_pong = connection.ping_pong();
    let allowed = poll_fn(|cx| {
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
            let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection");
            return Poll::Ready(Err(ended.map_or_else(io::Error::other, |()| closed())));
        }
        if let Poll::Ready(Err(error)) = gathered.poll_flush_all(cx) {
            return Poll::Ready(Err(error));
        }
        match connection.max_concurrent_send_streams() {
            0 => Poll::Pending,
            streams => Poll::Ready(Ok(streams)),
        }
    })
    .await?;
    let (limit, limits) = watch::channel(allowed);
    let mut last = allowed;
    let driver = poll_fn(move |cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        // What can't be written is an error that reading meets, too: answers that have come are read first.
        let _written = gathered.poll_flush_all(cx);
        let now = connection.max_concurrent_send_streams();
        if now != last {
            last = now;
            limit.send_replace(now);
        }
        ended
    });
    Ok(Dialed {
        sender,
        ping_pong,
        limit: limits,
        driver: Box::pin(driver),
    })
}
