//! What a rule lets its callers take: calls are refused or wait before they go on, and bytes wait on their way.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::answer::Answer;
use super::body::Upload;
use super::right::Held;
use crate::connection::{Caller, Direction, Meter, PartyCall};
use crate::metrics::{Action, Limit};
use crate::policy::Permit;
use crate::snapshot::limits::Limits;
use crate::status::{Excess, Rejection};

/// How long a call waits for another one of its caller to end, as it does for a stream of a backend.
const PATIENCE: Duration = Duration::from_secs(10);
/// When such a call may come again.
const PAUSE: Duration = Duration::from_secs(1);

/// The place of an open call among those of its caller, where they are limited.
pub(super) type Place = Option<OwnedSemaphorePermit>;

/// Lets the bytes of a call through as fast as they may go.
pub(super) struct Pace {
    caller: Arc<Caller>,
    meter: Arc<Meter>,
    direction: Direction,
    was_delayed: bool,
}

/// Counts an allowed call, waits for its place among others, and has its bytes counted from here on.
///
/// # Errors
/// What the client is told when there are too many, or when the call ends while it waits.
pub(super) async fn admit(
    caller: &Arc<Caller>,
    meter: &Arc<Meter>,
    permit: &Permit,
    upload: &mut Upload,
    answer: &mut Answer,
    held: &mut Held,
) -> Result<Place, Rejection> {
    let limited = |excess, after| Rejection::Limited(caller.peer.identity.clone(), excess, after);
    meter.count().map_err(|after| limited(Excess::Rate, after))?;
    let place = tokio::select! {
        biased;
        place = meter.place() => place,
        () = poll_fn(|cx| answer.poll_closed(cx)) => return Err(Rejection::Cancelled),
        rejection = held.lost(permit) => return Err(rejection),
        () = tokio::time::sleep(PATIENCE) => return Err(limited(Excess::Calls, PAUSE)),
    };
    if meter.quota().bandwidth.is_some() {
        let pace = |direction| Pace {
            caller: Arc::clone(caller),
            meter: Arc::clone(meter),
            direction,
            was_delayed: false,
        };
        upload.pace(pace(Direction::Up));
        answer.pace(pace(Direction::Down));
    }
    Ok(place)
}

/// Counts an open call to its caller.
///
/// # Errors
/// What the client is told when there are too many, over all of its connections.
pub(super) fn count<'a>(caller: &'a Caller, limits: &Limits) -> Result<PartyCall<'a>, Rejection> {
    let counted = caller.member.party().call(limits.calls_per_certificate);
    counted.ok_or_else(|| Rejection::Limited(caller.peer.identity.clone(), Excess::CallsOfCertificate, PAUSE))
}

impl Pace {
    /// Waits until so many bytes may go.
    pub(super) async fn pass(&mut self, bytes: usize) {
        if self.meter.pass(self.direction, bytes).await && !self.was_delayed {
            self.was_delayed = true;
            self.caller.shared.census.count(Limit::Bandwidth, Action::Delayed);
        }
    }
}
