//! How much of its uploads a connection may have waiting in the gate: little at first, and more from the ledger of all
//! memory once there is a call that needs it (see [`WindowShare`]).
//!
//! A window that was given can't be taken back, since the client may use it at any time; so it counts until its connection
//! ends.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::Connection;
use tokio::io::{AsyncRead, AsyncWrite};

use super::caller::Caller;
use crate::clients::WindowShare;
use crate::metrics::{Action, Limit};
use crate::policy::Permit;
use crate::policy::rights::Right;

/// Bytes that may wait in any case, of one request and of all of a connection: 50 Mbit/s over 40 ms. A denied upload has
/// sent no more than this when it hears of the denial.
pub(super) const LEAST: u32 = 256 * 1024;
/// The same once there was a call: more than fifty requests of which nothing was read.
const PULL_CONNECTION: u32 = 16 * 1024 * 1024;
/// The same once there was a push: nine uploads whose backend has stopped leave room for those to a backend that has not.
const PUSH_CONNECTION: u32 = 64 * 1024 * 1024;
/// Bytes of one upload, of which half may have gone before the client is told that there is room again: enough for 1 Gbit/s
/// over 40 ms.
const PUSH: u32 = 7 * 1024 * 1024;
/// How soon it is tried to tell a client of another window that has not answered to the one before; twice as long each time.
const AGAIN: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What a connection needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// Nothing was allowed yet.
    #[default]
    Nothing,
    /// Short requests.
    Requests,
    /// Uploads.
    Uploads,
}

/// What a client does not know yet.
#[derive(Clone, Copy, Debug)]
struct Untold {
    /// The window of a single stream.
    stream: u32,
    /// When to try to tell it.
    at: Instant,
    /// And when again, after that.
    pause: Duration,
}

/// The window of one connection, which counts until dropped.
#[derive(Debug)]
pub(super) struct Window {
    caller: Arc<Caller>,
    need: Need,
    /// The least that there is, and what was taken besides.
    given: u64,
    share: WindowShare,
    /// What the client is still to be told of a single stream, and when to try that.
    untold: Option<Untold>,
}

impl Need {
    /// What a call that is allowed needs.
    pub(super) fn of(permit: &Permit) -> Need {
        match permit.right() {
            Right::CasPush | Right::ActionPush | Right::AssetPush | Right::Events => Need::Uploads,
            Right::Pull | Right::Execute | Right::Worker | Right::FetchRemote | Right::Admin => Need::Requests,
        }
    }
}

impl Window {
    /// The least that there is, whatever is left: it is of the base of a connection.
    pub(super) fn new(caller: &Arc<Caller>) -> Window {
        let given = u64::from(LEAST);
        caller.shared.metrics.windows.add(signed(given));
        Window {
            caller: Arc::clone(caller),
            need: Need::Nothing,
            given,
            share: WindowShare::none(caller.member.party().account()),
            untold: None,
        }
    }

    /// Ends when [`Window::grow`] has something to do.
    pub(super) async fn wanted(&self) {
        let told = async {
            match self.untold {
                Some(untold) => tokio::time::sleep_until(untold.at.into()).await,
                None => self.caller.hurry.notified().await,
            }
        };
        tokio::select! {
            biased;
            () = poll_fn(|_| self.poll_behind()) => {}
            () = told => {}
        }
    }

    /// Ready when the connection needs more than it has. Nobody is woken for it.
    fn poll_behind(&self) -> Poll<()> {
        if self.caller.need() > self.need {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Gives the connection what it needs, as far as there is something left.
    pub(super) fn grow<IO>(&mut self, connection: &mut Connection<IO, Bytes>)
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let need = self.caller.need();
        if need > self.need {
            self.need = need;
            self.take(need, connection);
        }
        if let Some(Untold { stream, pause, .. }) = self.untold {
            let told = connection.set_initial_window_size(stream);
            self.untold = told.is_err().then(|| Untold {
                stream,
                at: Instant::now() + pause,
                pause: (2 * pause).min(LONGEST_PAUSE),
            });
        }
    }

    fn take<IO>(&mut self, need: Need, connection: &mut Connection<IO, Bytes>)
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let shared = &self.caller.shared;
        let most = match need {
            Need::Uploads => PUSH_CONNECTION,
            Need::Requests | Need::Nothing => PULL_CONNECTION,
        };
        let more = u64::from(most).saturating_sub(self.given);
        // Requests do well with the least; what they would have must not be missing for uploads.
        let taken = self.share.take(more, LEAST.into(), need != Need::Uploads);
        shared.metrics.windows.add(signed(taken));
        if taken < more && need == Need::Uploads {
            shared.census.count(Limit::Memory, Action::Reduced);
        }
        self.given += taken;
        // Not more than `most`, which fits.
        let window = u32::try_from(self.given).unwrap_or(most);
        connection.set_target_window_size(window);
        if need == Need::Uploads {
            let stream = (window / (PUSH_CONNECTION / PUSH)).min(PUSH);
            self.untold = (stream > LEAST).then(|| Untold {
                stream,
                at: Instant::now(),
                pause: AGAIN,
            });
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let shared = &self.caller.shared;
        shared.metrics.windows.sub(signed(self.given));
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
