//! One connection of a client: TLS under a deadline, then HTTP/2, then a task for each call.

mod caller;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::server::Connection;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::Instrument;

pub use caller::{Caller, Peer, View};

use crate::http2;
use crate::live::Shared;
use crate::policy::rights::{Right, Rights};
use crate::proxy;
use crate::snapshot::listen::{ListenerId, Security};
use crate::tls::{ALPN_H2, identity, verifier};

/// How long a client may take from TCP to the end of the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams that a client may have open at once. Bazel throttles or hangs below a few hundred.
const MAX_STREAMS: u32 = 1000;
/// Bytes of one upload that may arrive before the backend takes them, for callers who may push: enough for 1 Gbit/s over
/// 40 ms.
const PUSH_WINDOW: u32 = 6 * 1024 * 1024;
/// The same for callers who may not: a denied upload has sent no more than this when it hears of the denial.
const PULL_WINDOW: u32 = 256 * 1024;
/// Bytes of all uploads of a connection that may wait.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// A connection that was accepted.
#[derive(Debug)]
pub struct Arrival {
    /// The connection.
    pub tcp: TcpStream,
    /// From where it came.
    pub address: SocketAddr,
    /// Where it came in.
    pub listener: ListenerId,
    /// The number of the thread that serves it.
    pub worker: usize,
}

/// A connection that did not come to HTTP/2.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("the TLS handshake took more than 10 s")]
    Timeout,
    #[error("{0}")]
    Tls(#[from] std::io::Error),
    #[error("the client did not offer HTTP/2 (ALPN `h2`)")]
    NoAlpn,
    #[error("the client's certificate can't be read")]
    Certificate,
}

/// Serves a connection until it ends.
pub async fn serve(shared: Arc<Shared>, arrival: Arrival) {
    let span = tracing::info_span!("connection", peer = %arrival.address);
    async {
        let live = shared.live();
        let security = live.snapshot.listener(arrival.listener).map(|listen| &listen.security);
        match security {
            Some(Security::Tls { config, .. }) => {
                let config = Arc::clone(config);
                drop(live);
                encrypted(shared, arrival, config).await;
            }
            Some(Security::Clear) => {
                drop(live);
                clear(shared, arrival).await;
            }
            None => {
                tracing::info!(target: "casgate::connection", "refused: this listener is not in the configuration any more");
            }
        }
    }
    .instrument(span)
    .await;
}

async fn encrypted(shared: Arc<Shared>, arrival: Arrival, config: Arc<ServerConfig>) {
    let (address, listener, worker) = (arrival.address, arrival.listener, arrival.worker);
    let handshake = async {
        let (tls, chain) = handshake(arrival.tcp, config).await?;
        let peer = Peer::new(chain, address, listener).map_err(|identity::NotX509| HandshakeError::Certificate)?;
        Ok((tls, peer))
    };
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
    match handshake.unwrap_or(Err(HandshakeError::Timeout)) {
        Ok((tls, peer)) => {
            shared.metrics.handshakes.with_label_values(&["success", ""]).inc();
            http2(shared, worker, tls, peer).await;
        }
        Err(error) => {
            shared
                .metrics
                .handshakes
                .with_label_values(&["failure", label(&error)])
                .inc();
            tracing::info!(target: "casgate::tls", %error, "handshake failed");
        }
    }
}

async fn clear(shared: Arc<Shared>, arrival: Arrival) {
    let peer = Peer::new(Vec::new(), arrival.address, arrival.listener);
    if let (Ok(peer), Ok(())) = (peer, prepare(&arrival.tcp)) {
        http2(shared, arrival.worker, arrival.tcp, peer).await;
    }
}

fn prepare(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15));
    socket2::SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}

/// TLS; gives the chain that the client showed, leaf first.
async fn handshake(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
) -> Result<(TlsStream<TcpStream>, Vec<CertificateDer<'static>>), HandshakeError> {
    prepare(&tcp)?;
    let tls = TlsAcceptor::from(config).accept(tcp).await?;
    let session = tls.get_ref().1;
    if session.alpn_protocol() != Some(ALPN_H2) {
        return Err(HandshakeError::NoAlpn);
    }
    let chain = session.peer_certificates().unwrap_or_default();
    let chain = chain
        .iter()
        .map(|certificate| certificate.clone().into_owned())
        .collect();
    Ok((tls, chain))
}

async fn http2<IO>(shared: Arc<Shared>, worker: usize, io: IO, peer: Peer)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let metrics = Arc::clone(&shared.metrics);
    metrics.connections.inc();
    let caller = Arc::new(Caller::new(Arc::clone(&shared), worker, peer));
    let may_push = caller.view().standing.may_ever(Rights::of(Right::CasPush)).is_ok();
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(if may_push { PUSH_WINDOW } else { PULL_WINDOW })
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(http2::MAX_FRAME_SIZE)
        .max_header_list_size(http2::MAX_HEADER_LIST)
        .max_send_buffer_size(http2::MAX_SEND_BUFFER)
        .max_concurrent_streams(MAX_STREAMS)
        // Early answers to uploads and a client that cancels a whole build are counted here: h2's own limits would cut
        // honest clients off.
        .max_concurrent_reset_streams(1024)
        .max_pending_accept_reset_streams(1024)
        .max_local_error_reset_streams(Some(16 * 1024));
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, builder.handshake(io)).await {
        Ok(Ok(connection)) => run(shared, caller, connection).await,
        Ok(Err(error)) => tracing::info!(target: "casgate::connection", %error, "no HTTP/2"),
        Err(_) => tracing::info!(target: "casgate::connection", "no HTTP/2 preface within 10 s"),
    }
    metrics.connections.dec();
}

async fn run<IO>(shared: Arc<Shared>, caller: Arc<Caller>, mut connection: Connection<IO, Bytes>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut generation = shared.generation.subscribe();
    let mut draining = shared.draining.subscribe();
    let mut is_draining = false;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let silent = http2::until_peer_is_silent(connection.ping_pong(), move || counted.load(Ordering::Relaxed) > 0);
    tokio::pin!(silent);
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let open = Open::one_more(&calls);
                    let caller = Arc::clone(&caller);
                    // Without the span: an access line names its peer itself, whatever is filtered.
                    tokio::spawn(async move {
                        proxy::handle(caller, request, respond).await;
                        drop(open);
                    });
                }
                Some(Err(error)) => {
                    tracing::debug!(target: "casgate::connection", %error, "connection ended");
                    return;
                }
                None => return,
            },
            Ok(()) = generation.changed() => {
                let view = caller.view();
                caller.recheck();
                if view.withdrawn.is_some() && !is_draining {
                    is_draining = true;
                    connection.graceful_shutdown();
                }
            }
            () = until_true(&mut draining), if !is_draining => {
                is_draining = true;
                connection.graceful_shutdown();
            }
            () = caller.until_expired(), if !is_draining => {
                caller.recheck();
                is_draining = true;
                connection.graceful_shutdown();
            }
            () = &mut silent => {
                tracing::info!(target: "casgate::connection", "no answer to PING: connection closed");
                return;
            }
        }
    }
}

/// Counts an open call until dropped.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn one_more(calls: &Arc<AtomicUsize>) -> Open {
        calls.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(calls))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn until_true(flag: &mut tokio::sync::watch::Receiver<bool>) {
    if flag.wait_for(|flag| *flag).await.is_err() {
        std::future::pending().await
    }
}

/// The reason of a failed handshake as a label: a closed set.
fn label(error: &HandshakeError) -> &'static str {
    match error {
        HandshakeError::Timeout => "timeout",
        HandshakeError::NoAlpn => "no-alpn",
        HandshakeError::Certificate => "unreadable-certificate",
        HandshakeError::Tls(io) => match io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) => verifier::label(error),
            None => "closed",
        },
    }
}
