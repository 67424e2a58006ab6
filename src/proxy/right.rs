//! Whether a call that was authorized may still go on.

use std::sync::Arc;

use tokio::sync::watch;

use crate::connection::{Caller, View};
use crate::live::now;
use crate::policy::Permit;
use crate::status::Rejection;

/// Watches over the right of a call that is under way.
pub(super) struct Held {
    caller: Arc<Caller>,
    rechecks: watch::Receiver<u64>,
}

impl Held {
    /// Begins to watch: what changes from now on is not missed.
    pub(super) fn new(caller: &Arc<Caller>) -> Held {
        Held {
            caller: Arc::clone(caller),
            rechecks: caller.rechecks(),
        }
    }

    /// Ends when the right is lost, with what the client is told.
    pub(super) async fn lost(&mut self, permit: &Permit) -> Rejection {
        loop {
            // The caller outlives the call, so there is always one more change to wait for.
            let _ = self.rechecks.changed().await;
            let view = self.caller.view();
            if let Err(rejection) = check(&self.caller, &view) {
                return rejection;
            }
            if let Err(denial) = permit.renew(&view.live.snapshot.policy, &view.standing) {
                return Rejection::denied(&self.caller.peer.identity, denial);
            }
        }
    }
}

/// Whether the certificate is still good.
pub(super) fn check(caller: &Caller, view: &View) -> Result<(), Rejection> {
    let identity = &caller.peer.identity;
    if identity.expired_at(now()) {
        return Err(Rejection::Expired(identity.clone()));
    }
    match &view.withdrawn {
        Some(reason) => Err(Rejection::Withdrawn(identity.clone(), reason.clone())),
        None => Ok(()),
    }
}
