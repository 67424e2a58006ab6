//! Sees the head of every frame that h2 reads and writes, and ends a flood of those that move no call on.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::account::Account;
use super::caller::Caller;
use crate::http2::heads::Heads;

/// How many frames are read at most until what they have h2 say is written. A client that does not read what it is told must
/// not make that pile up: each stream that h2 must reset waits for it with some 400 bytes. Honest clients don't come near it
/// while they are told nothing: their windows are shut before, and so are their calls at once.
const UNANSWERED: u32 = 8192;

/// A connection whose frames are counted. From a flood on nothing of it can be read.
#[derive(Debug)]
pub(super) struct Counted<IO> {
    io: IO,
    caller: Arc<Caller>,
    read: Heads,
    written: Heads,
    account: Account,
    /// Frames that were read since h2 could last write all that it had.
    unanswered: u32,
    /// Gone when the flood was told of.
    tell: Option<oneshot::Sender<&'static str>>,
}

/// Tells of a flood.
#[derive(Debug)]
pub(super) struct Flood(oneshot::Receiver<&'static str>);

impl<IO> Counted<IO> {
    pub(super) fn new(io: IO, caller: Arc<Caller>) -> (Counted<IO>, Flood) {
        let (tell, told) = oneshot::channel();
        let counted = Counted {
            io,
            account: Account::new(&caller.view().live.snapshot.limits, Instant::now()),
            caller,
            read: Heads::of_client(),
            written: Heads::of_server(),
            unanswered: 0,
            tell: Some(tell),
        };
        (counted, Flood(told))
    }

    /// Counts what was read; false when it is a flood.
    fn count(&mut self, bytes: &[u8]) -> bool {
        let account = &mut self.account;
        let mut beyond = None;
        let unanswered = &mut self.unanswered;
        self.read.pass(bytes, |head| {
            *unanswered = unanswered.saturating_add(1);
            if !account.read(head) && beyond.is_none() {
                beyond = Some(head.name());
            }
        });
        let Some(name) = beyond else { return true };
        let limits = self.caller.view().live.snapshot.limits;
        if account.fill(Instant::now(), &limits) {
            return true;
        }
        if let Some(tell) = self.tell.take() {
            // Nobody listens any more when the connection ends anyway.
            let _ended = tell.send(name);
        }
        false
    }
}

impl Flood {
    /// Ends when there is a flood; gives the kind of its frames.
    pub(super) async fn begun(self) -> &'static str {
        match self.0.await {
            Ok(name) => name,
            Err(_) => std::future::pending().await,
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Counted<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.tell.is_none() {
            // Whoever was told of the flood ends the connection.
            return Poll::Pending;
        }
        if this.unanswered >= UNANSWERED {
            // It is h2's turn to write, which it does when there is nothing to read; `poll_flush` wakes the task.
            return Poll::Pending;
        }
        let before = to.filled().len();
        let poll = Pin::new(&mut this.io).poll_read(cx, to);
        if !this.count(to.filled().get(before..).unwrap_or_default()) {
            to.set_filled(before);
            return Poll::Pending;
        }
        poll
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Counted<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Counted {
            io, written, account, ..
        } = self.get_mut();
        let poll = Pin::new(io).poll_write_vectored(cx, slices);
        if let Poll::Ready(Ok(mut length)) = poll {
            for slice in slices {
                let taken = slice.get(..length).unwrap_or(slice);
                written.pass(taken, |head| account.written(head));
                length -= taken.len();
            }
        }
        poll
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_flush(cx);
        if poll.is_ready() && std::mem::take(&mut this.unanswered) >= UNANSWERED {
            // What waits to be read has no waker.
            cx.waker().wake_by_ref();
        }
        poll
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
