//! Whether a call that was authorized may still go on.

use std::sync::Arc;

use tokio::sync::watch;

use super::verdict;
use crate::connection::{Caller, View};
use crate::live::now;
use crate::policy::Permit;
use crate::policy::rights::Rights;
use crate::status::Rejection;

/// Watches over the right of a call that is under way.
pub(super) struct Held {
    caller: Arc<Caller>,
    rechecks: watch::Receiver<u64>,
    /// Whether something changed since the begin.
    changed: bool,
}

impl Held {
    /// Begins to watch: what changes from now on is not missed.
    pub(super) fn new(caller: &Arc<Caller>) -> Held {
        Held {
            caller: Arc::clone(caller),
            rechecks: caller.rechecks(),
            changed: false,
        }
    }

    /// Ends when none of the rights is left, with what the client is told: for a call that is not decided yet.
    pub(super) async fn lost_all_of(&mut self, needed: Rights) -> Rejection {
        loop {
            let view = self.next_view().await;
            let lost = check(&self.caller, &view).err().or_else(|| {
                let denial = view.standing.may_ever(needed).err()?;
                Some(Rejection::denied(&self.caller.peer.identity, denial))
            });
            if let Some(rejection) = lost {
                return rejection;
            }
        }
    }

    /// Whether what changed since the begin, if anything did, took the right.
    ///
    /// # Errors
    /// What the client is told.
    pub(super) fn check(&mut self, permit: &Permit) -> Result<(), Rejection> {
        if self.changed || self.rechecks.has_changed().unwrap_or(false) {
            renew(&self.caller, permit)
        } else {
            Ok(())
        }
    }

    /// Ends when the right is lost, with what the client is told.
    pub(super) async fn lost(&mut self, permit: &Permit) -> Rejection {
        loop {
            let _view = self.next_view().await;
            if let Err(rejection) = renew(&self.caller, permit) {
                return rejection;
            }
        }
    }

    /// What the configuration gives to the caller after the next change.
    async fn next_view(&mut self) -> Arc<View> {
        // The caller outlives the call, so there is always one more change to wait for.
        let _ = self.rechecks.changed().await;
        self.changed = true;
        self.caller.view()
    }
}

/// Asks again for a call that was allowed.
fn renew(caller: &Caller, permit: &Permit) -> Result<(), Rejection> {
    let view = caller.view();
    check(caller, &view)?;
    let denied = |denial| Rejection::denied(&caller.peer.identity, denial);
    permit.renew(&view.live.snapshot.policy, &view.standing).map_err(denied)
}

/// Whether the certificate is still good.
pub(super) fn check(caller: &Caller, view: &View) -> Result<(), Rejection> {
    verdict::check_good(&caller.peer.identity, view.withdrawn.as_ref(), now())
}
