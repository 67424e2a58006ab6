//! TLS under a deadline: from a TCP connection to a peer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::census::{Address, Ticket};
use super::standstill::{Progress, Seen};
use super::{Arrival, Peer};
use crate::http2::read_ahead::{Bound, ReadAhead, TooMuch};
use crate::live::Shared;
use crate::metrics::{Action, Limit};
use crate::policy::identity::Identity;
use crate::snapshot::listen::ListenerId;
use crate::tls::{ALPN_H2, identity, verifier};

/// How long a client may take from its ClientHello to the end of the TLS handshake, and how long it may then take to the end
/// of its HTTP/2 preface.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// A fatal alert in a record of its own, as it is before there are keys (RFC 8446, 6; RFC 7301, 3.2).
const NO_APPLICATION_PROTOCOL: [u8; 7] = [21, 3, 3, 0, 2, 2, 120];

/// A connection with TLS.
pub(super) type Secure = TlsStream<ReadAhead<Seen<TcpStream>>>;

/// What is taken of a client before it is known: the longest ClientHello that is waited for, the longest chain, and what TLS
/// and HTTP/2 put around them. Packets of 536 bytes and records of 512, the smallest of the field, are some hundred.
const MOST: Bound = Bound {
    bytes: 56 << 10,
    reads: 192,
    records: 192,
};

/// A connection that did not come to HTTP/2.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the TLS handshake took more than 10 s")]
    Timeout,
    #[error("the client closed the connection without a word")]
    Wordless,
    #[error("{0}")]
    Tls(#[from] std::io::Error),
    #[error("the client did not offer HTTP/2 (ALPN `h2`)")]
    NoAlpn,
    #[error("the client's certificate can't be read")]
    Certificate,
}

/// Shakes hands, in the turns of its thread; a failure is counted and logged.
pub(super) async fn encrypted(
    shared: &Shared,
    arrival: Arrival,
    config: Arc<ServerConfig>,
) -> Option<(Box<Secure>, Peer, Ticket, Arc<Progress>)> {
    let Arrival {
        tcp,
        address,
        listener,
        ticket,
        slot,
        turns,
        ..
    } = arrival;
    let progress = Arc::<Progress>::default();
    let seen = Seen::new(tcp, Arc::clone(&progress));
    let handshake = Box::pin(handshake(seen, address, listener, config));
    let handshake = tokio::time::timeout(TIMEOUT, turns.take(ticket.address(), handshake));
    let handshake = async {
        tokio::select! {
            biased;
            handshake = handshake => Some(handshake),
            () = async { match &slot { Some(slot) => slot.is_wanted().await, None => std::future::pending().await } } => None,
        }
    };
    let Some(handshake) = ticket.unless_told_to_leave(handshake).await? else {
        ticket.count(Limit::Handshakes, Action::Closed);
        return None;
    };
    drop(slot);
    match handshake.unwrap_or(Err(Error::Timeout)) {
        Ok((tls, peer)) => {
            shared.metrics.handshakes.with_label_values(&["success", ""]).inc();
            if matches!(peer.identity, Identity::Certificate(_)) {
                ticket.is_known();
            }
            Some((tls, peer, ticket, progress))
        }
        Err(error) => {
            failed(shared, address, &error);
            None
        }
    }
}

/// Counts and logs why a handshake failed.
pub(super) fn failed(shared: &Shared, address: SocketAddr, error: &Error) {
    shared
        .metrics
        .handshakes
        .with_label_values(&["failure", label(error)])
        .inc();
    if matches!(error, Error::Wordless) {
        // Somebody looks whether there is a listener: monitors and load balancers do.
        tracing::debug!(target: "casgate::tls", peer = %address, %error, "no handshake");
        return;
    }
    // Said here, and once: who verifies does not know whose it is, nor how many there were.
    let certificate = verifier::take_refused();
    if !shared.census.refusals().count(Address::of(address.ip()), label(error)) {
        return;
    }
    match (error, certificate) {
        (Error::Tls(_), Some(certificate)) => tracing::warn!(
            target: "casgate::tls",
            peer = %address,
            subject = certificate.subject,
            issuer = certificate.issuer,
            serial = certificate.serial,
            reason = certificate.reason,
            "client certificate refused"
        ),
        _ => tracing::info!(target: "casgate::tls", peer = %address, %error, "handshake failed"),
    }
}

/// The peer of a connection in the clear.
pub(super) fn clear(arrival: Arrival) -> Option<(TcpStream, Peer, Ticket)> {
    let peer = Peer::new(Vec::new(), arrival.address, arrival.listener).ok()?;
    Some((arrival.tcp, peer, arrival.ticket))
}

async fn handshake(
    tcp: Seen<TcpStream>,
    address: SocketAddr,
    listener: ListenerId,
    config: Arc<ServerConfig>,
) -> Result<(Box<Secure>, Peer), Error> {
    let mut hello = LazyConfigAcceptor::new(Acceptor::default(), ReadAhead::bounded(tcp, MOST)).await?;
    if hello.client_hello().alpn().is_none() {
        // rustls goes on where a client offers nothing, and what it would speak is not known.
        hello.io.write_all(&NO_APPLICATION_PROTOCOL).await?;
        hello.io.shutdown().await?;
        return Err(Error::NoAlpn);
    }
    let mut tls = hello.into_stream(config).await?;
    tls.get_mut().0.unbounded();
    let session = tls.get_ref().1;
    if session.alpn_protocol() != Some(ALPN_H2) {
        return Err(Error::NoAlpn);
    }
    let chain = session.peer_certificates().unwrap_or_default();
    let chain = chain
        .iter()
        .map(|certificate| certificate.clone().into_owned())
        .collect();
    let peer = Peer::new(chain, address, listener).map_err(|identity::NotX509| Error::Certificate)?;
    Ok((Box::new(tls), peer))
}

/// The reason of a failed handshake as a label: a closed set.
fn label(error: &Error) -> &'static str {
    match error {
        Error::Timeout => "timeout",
        Error::Wordless => "closed",
        Error::NoAlpn => "no-alpn",
        Error::Certificate => "unreadable-certificate",
        Error::Tls(io) => match io.get_ref() {
            Some(inner) if inner.is::<TooMuch>() => "too-long",
            Some(inner) => inner.downcast_ref().map_or("closed", verifier::label),
            None => "closed",
        },
    }
}
