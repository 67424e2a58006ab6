//! TLS under a deadline: from a TCP connection to a peer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::census::Ticket;
use super::{Arrival, Peer};
use crate::http2::read_ahead::ReadAhead;
use crate::live::Shared;
use crate::metrics::{Action, Limit};
use crate::snapshot::listen::ListenerId;
use crate::tls::{ALPN_H2, identity, verifier};

/// How long a client may take from TCP to the end of the TLS handshake, once it is its turn; how long it may wait for
/// its turn; and how long it may then take to the end of its HTTP/2 preface.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that did not come to HTTP/2.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the TLS handshake took more than 10 s")]
    Timeout,
    #[error("{0}")]
    Tls(#[from] std::io::Error),
    #[error("the client did not offer HTTP/2 (ALPN `h2`)")]
    NoAlpn,
    #[error("the client's certificate can't be read")]
    Certificate,
}

/// Shakes hands; a failure is counted and logged.
pub(super) async fn encrypted(
    shared: &Shared,
    arrival: Arrival,
    config: Arc<ServerConfig>,
) -> Option<(Box<TlsStream<ReadAhead<TcpStream>>>, Peer, Ticket)> {
    let Arrival {
        tcp,
        address,
        listener,
        ticket,
        ..
    } = arrival;
    let turn = tokio::time::timeout(TIMEOUT, ticket.handshake());
    let Ok(turn) = ticket.unless_told_to_leave(turn).await? else {
        ticket.count(Limit::Handshakes, Action::Refused);
        return None;
    };
    let handshake = tokio::time::timeout(TIMEOUT, handshake(tcp, address, listener, config));
    let handshake = ticket.unless_told_to_leave(handshake).await?;
    drop(turn);
    match handshake.unwrap_or(Err(Error::Timeout)) {
        Ok((tls, peer)) => {
            shared.metrics.handshakes.with_label_values(&["success", ""]).inc();
            Some((tls, peer, ticket))
        }
        Err(error) => {
            shared
                .metrics
                .handshakes
                .with_label_values(&["failure", label(&error)])
                .inc();
            tracing::info!(target: "casgate::tls", %error, "handshake failed");
            None
        }
    }
}

/// The peer of a connection in the clear.
pub(super) fn clear(arrival: Arrival) -> Option<(TcpStream, Peer, Ticket)> {
    let peer = Peer::new(Vec::new(), arrival.address, arrival.listener).ok()?;
    Some((arrival.tcp, peer, arrival.ticket))
}

async fn handshake(
    tcp: TcpStream,
    address: SocketAddr,
    listener: ListenerId,
    config: Arc<ServerConfig>,
) -> Result<(Box<TlsStream<ReadAhead<TcpStream>>>, Peer), Error> {
    let tls = TlsAcceptor::from(config).accept(ReadAhead::new(tcp)).await?;
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
        Error::NoAlpn => "no-alpn",
        Error::Certificate => "unreadable-certificate",
        Error::Tls(io) => match io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) => verifier::label(error),
            None => "closed",
        },
    }
}
