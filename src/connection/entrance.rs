//! From the moment that a connection is accepted to the moment that a thread is to serve it: it waits for a whole ClientHello
//! among strangers, and then for a slot. Threads that serve calls have nothing to do with it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::census::{Slot, Ticket};
use super::handshake;
use super::hello::{self, First};
use crate::live::Shared;
use crate::metrics::{Action, Limit};
use crate::snapshot::listen::{ListenerId, Security};

/// How long a client may take to the end of its ClientHello, or of its HTTP/2 preface where there is no TLS; and how long it
/// may then wait for a slot.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The same where the gate is about to end.
const LATE: Duration = Duration::from_secs(2);

/// A connection that a thread is to serve.
#[derive(Debug)]
pub struct Newcomer {
    pub(super) tcp: std::net::TcpStream,
    pub(super) address: SocketAddr,
    pub(super) listener: ListenerId,
    pub(super) ticket: Ticket,
    /// For TLS.
    pub(super) slot: Option<Slot>,
}

/// Waits until a connection that was accepted is to be served; `None` when it is not, which is counted and logged.
pub async fn wait(
    shared: &Shared,
    tcp: TcpStream,
    address: SocketAddr,
    listener: ListenerId,
    ticket: Ticket,
) -> Option<Newcomer> {
    let is_tls = match shared.live().snapshot.listener(listener)?.security {
        Security::Tls { .. } => true,
        Security::Clear => false,
    };
    let first = if is_tls { First::Hello } else { First::Preface };
    let mut draining = shared.draining.subscribe();
    let said = {
        let said = tokio::time::timeout(TIMEOUT, hello::wait(&tcp, first, &ticket));
        let mut said = std::pin::pin!(ticket.unless_told_to_leave(said));
        let in_time = tokio::select! {
            said = &mut said => Some(said),
            _ = draining.wait_for(|draining| *draining) => None,
        };
        match in_time {
            Some(said) => said?,
            // Whoever has just come says hello at once: closed now, it would take the gate for broken.
            None => tokio::time::timeout(LATE, said).await.ok()??,
        }
    };
    let failed = match said {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error),
        Err(_) => Some(handshake::Error::Timeout),
    };
    if let Some(error) = failed {
        if is_tls {
            handshake::failed(shared, address, &error);
        }
        return None;
    }
    let slot = if is_tls {
        let slot = tokio::time::timeout(TIMEOUT, ticket.handshake());
        let Ok(slot) = ticket.unless_told_to_leave(slot).await? else {
            ticket.count(Limit::Handshakes, Action::Refused);
            return None;
        };
        Some(slot?)
    } else {
        ticket.is_no_stranger();
        None
    };
    Some(Newcomer {
        tcp: tcp.into_std().ok()?,
        address,
        listener,
        ticket,
        slot,
    })
}
