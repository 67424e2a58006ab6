//! Whether a call that was authorized may still go on.

use std::sync::Arc;

use tokio::sync::watch;

use super::verdict;
use crate::connection::{Caller, View};
use crate::live::now;
use crate::policy::method::Method;
use crate::policy::{Permit, Scope, Uris};
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

    /// Ends when none of the rights for a method is left, and no kindness either, with what the client is told: for a call
    /// that is not decided yet.
    pub(super) async fn lost_all_for(&mut self, method: Method) -> Rejection {
        self.until_refused(|caller, view| {
            let (policy, identity) = (&view.live.snapshot.policy, &caller.peer.identity);
            verdict::check_ever(policy, identity, &view.standing, method)
        })
        .await
    }

    /// Ends when the certificate is not good any more, with what the client is told: for a call that needs no right.
    pub(super) async fn lost_certificate(&mut self) -> Rejection {
        self.until_refused(|_, _| Ok(())).await
    }

    /// Whether the certificate is still good now.
    ///
    /// # Errors
    /// What the client is told.
    pub(super) fn check_certificate(&self) -> Result<(), Rejection> {
        check(&self.caller, &self.caller.view())
    }

    /// Ends when a denied call is not to be answered kindly any more, with what the client is told.
    pub(super) async fn lost_kindness(&mut self, method: Method, scope: &Scope, denial: &Rejection) -> Rejection {
        self.until_refused(|_, view| {
            // Probes have no URIs, and what is discarded knows none.
            let policy = &view.live.snapshot.policy;
            let kindly = policy.kindly(&view.standing, method, scope, &Uris::default());
            kindly.map(drop).ok_or_else(|| denial.clone())
        })
        .await
    }

    /// Whether what changed since the begin, if anything did, took the right.
    ///
    /// # Errors
    /// What the client is told.
    pub(super) fn check(&mut self, permit: &Permit) -> Result<(), Rejection> {
        if !self.changed && !self.rechecks.has_changed().unwrap_or(false) {
            return Ok(());
        }
        let view = self.caller.view();
        check(&self.caller, &view)?;
        renew(&self.caller, &view, permit)
    }

    /// Ends when the right is lost, with what the client is told.
    pub(super) async fn lost(&mut self, permit: &Permit) -> Rejection {
        self.until_refused(|caller, view| renew(caller, view, permit)).await
    }

    /// Ends after a change with which the certificate is not good any more, or the call may not go on for another reason.
    async fn until_refused(&mut self, may_go_on: impl Fn(&Caller, &View) -> Result<(), Rejection>) -> Rejection {
        loop {
            let view = self.next_view().await;
            let good = check(&self.caller, &view);
            if let Err(rejection) = good.and_then(|()| may_go_on(&self.caller, &view)) {
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
fn renew(caller: &Caller, view: &View, permit: &Permit) -> Result<(), Rejection> {
    let denied = |denial| Rejection::denied(&caller.peer.identity, denial);
    permit.renew(&view.live.snapshot.policy, &view.standing).map_err(denied)
}

/// Whether the certificate is still good.
pub(super) fn check(caller: &Caller, view: &View) -> Result<(), Rejection> {
    verdict::check_good(&caller.peer.identity, view.withdrawn.as_ref(), now())
}
