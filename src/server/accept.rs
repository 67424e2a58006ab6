//! The accept loop. No error ends it: what accept(2) reports is about one connection, or passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;

use super::sockets;
use super::worker::Door;
use crate::connection::{self, Newcomer};
use crate::live::Shared;
use crate::snapshot::listen::ListenerId;

/// Out of descriptors or memory: closing connections give some back.
const PAUSE: Duration = Duration::from_millis(50);

/// Connections that were accepted, and are with no thread yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Entering(Arc<AtomicUsize>);

/// One of them, counted until dropped.
struct OneEntering(Entering);

/// Accepts until the drain begins, and hands each connection that is to be served to the thread with the fewest.
pub(super) async fn run(
    listener: TcpListener,
    id: ListenerId,
    doors: Arc<[Door]>,
    entering: Entering,
    shared: Arc<Shared>,
) {
    let mut draining = shared.draining.subscribe();
    let mut is_out = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = draining.wait_for(|draining| *draining) => return,
        };
        match accepted {
            Ok((tcp, address)) => {
                // One that is gone already is found to be so where it is read.
                let _gone = sockets::prepare_accepted(&tcp);
                if is_out {
                    is_out = false;
                    tracing::info!(target: "casgate::accept", listener = %id.address, "connections are accepted again");
                }
                let limits = shared.live().snapshot.limits;
                // Without a ticket it is closed at once.
                if let Some(ticket) = shared.census.admit(address.ip(), &limits).await {
                    let (shared, doors) = (Arc::clone(&shared), Arc::clone(&doors));
                    let one = entering.one();
                    tokio::spawn(async move {
                        if let Some(newcomer) = connection::wait(&shared, tcp, address, id, ticket).await {
                            hand_over(&doors, newcomer);
                        }
                        drop(one);
                    });
                }
            }
            Err(error) => {
                shared.metrics.accept_errors.inc();
                if !is_about_one_connection(&error) {
                    // Once, however often it is tried.
                    if !is_out {
                        is_out = true;
                        tracing::warn!(target: "casgate::accept", listener = %id.address, %error, "no connections are accepted: those that come wait in the kernel");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

impl Entering {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn one(&self) -> OneEntering {
        self.0.fetch_add(1, Ordering::Relaxed);
        OneEntering(self.clone())
    }
}

impl Drop for OneEntering {
    fn drop(&mut self) {
        let OneEntering(Entering(count)) = self;
        count.fetch_sub(1, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn what_passes_is_waited_for_and_what_is_about_one_connection_is_not() {
        // accept(2), "ERRORS".
        for (errno, is_about_one) in [
            (Errno::CONNABORTED, true),
            (Errno::INTR, true),
            (Errno::MFILE, false),
            (Errno::NFILE, false),
            (Errno::NOMEM, false),
            (Errno::NOBUFS, false),
        ] {
            assert_eq!(is_about_one_connection(&errno.into()), is_about_one, "{errno}");
        }
    }
}
