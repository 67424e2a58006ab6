//! The accept loop. No error ends it: what accept(2) reports is about one connection, or passes.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::worker::{Door, Newcomer};
use crate::live::Shared;
use crate::snapshot::listen::ListenerId;

/// Out of descriptors or memory: closing connections give some back.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts until the drain begins, and hands each connection to the thread with the fewest.
pub(super) async fn run(listener: TcpListener, id: ListenerId, doors: Vec<Door>, shared: Arc<Shared>) {
    let mut draining = shared.draining.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = draining.wait_for(|draining| *draining) => return,
        };
        match accepted.and_then(|(tcp, address)| Ok((tcp.into_std()?, address))) {
            Ok((tcp, address)) => {
                let limits = shared.live().snapshot.limits;
                // Without a ticket it is closed at once.
                if let Some(ticket) = shared.census.admit(address.ip(), &limits).await {
                    hand_over(
                        &doors,
                        Newcomer {
                            tcp,
                            address,
                            listener: id,
                            ticket,
                        },
                    );
                }
            }
            Err(error) => {
                shared.metrics.accept_errors.inc();
                if !is_about_one_connection(&error) {
                    tracing::warn!(target: "casgate::accept", %error, "no connection accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

fn hand_over(doors: &[Door], newcomer: Newcomer) {
    if let Some(door) = doors.iter().min_by_key(|door| door.connections()) {
        door.enter(newcomer);
    }
}

fn is_about_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
