//! Sees the head of every frame that h2 reads and writes: ends a flood of those that move no call on, and what h2 lets through
//! though it breaks HTTP/2, and notes where in a frame the connection waits.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::account::Account;
use super::blocks::Blocks;
use super::caller::Caller;
use super::standstill::{Midway, Progress};
use crate::clients::Reservation;
use crate::http2::heads::{self, Head, Heads};

/// How many frames are read at most until what they have h2 say is written. A client that does not read what it is told must
/// not make that pile up: each stream that h2 must reset waits for it with some 400 bytes. Honest clients don't come near it
/// while they are told nothing: their windows are shut before, and so are their calls at once.
const UNANSWERED: u32 = 8192;

/// A connection whose frames are counted. From a breach on nothing of it can be read.
#[derive(Debug)]
pub(super) struct Counted<IO> {
    io: IO,
    caller: Arc<Caller>,
    read: Heads,
    written: Heads,
    account: Account,
    /// Frames that were read since h2 could last write all that it had.
    unanswered: u32,
    /// The last stream that the client has opened.
    newest: u32,
    /// The last frame of the client.
    last: Option<Head>,
    /// Whether a header block has begun whose end is not there.
    in_block: bool,
    /// What goes on to h2, and what it keeps.
    blocks: Blocks,
    kept: Reservation,
    /// Frames of the client, those of a header block as one; and bytes.
    frames: u32,
    bytes: u64,
    progress: Arc<Progress>,
    /// Gone when a breach was told of.
    tell: Option<oneshot::Sender<Breach>>,
}

/// For what a connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breach {
    /// Too many frames of this kind, among others.
    Flood(&'static str),
    /// A header block of a stream that was opened before, which does not end it: no trailers (RFC 9113, 8.1), and a number
    /// may not be used again (5.1.1). h2 resets the stream, if the answer is not complete yet.
    Reused,
    /// The ledger has nothing left for a header block that is not whole.
    Memory,
}

/// Tells of a breach.
#[derive(Debug)]
pub(super) struct Breaches(oneshot::Receiver<Breach>);

impl<IO> Counted<IO> {
    pub(super) fn new(io: IO, caller: Arc<Caller>, progress: Arc<Progress>) -> (Counted<IO>, Breaches) {
        let (tell, told) = oneshot::channel();
        // A purse of its own, whose floor is there also where the calls have used up all else: their headers must get in.
        let kept = caller.member.party().account().purse().reservation();
        let counted = Counted {
            io,
            account: Account::new(&caller.view().live.snapshot.limits, Instant::now()),
            caller,
            read: Heads::of_client(),
            written: Heads::of_server(),
            unanswered: 0,
            newest: 0,
            last: None,
            in_block: false,
            blocks: Blocks::new(),
            kept,
            frames: 0,
            bytes: 0,
            progress,
            tell: Some(tell),
        };
        (counted, Breaches(told))
    }

    /// Counts what was read; false when it is a breach.
    fn count(&mut self, bytes: &[u8]) -> bool {
        let Counted {
            account,
            unanswered,
            newest,
            last,
            in_block,
            frames,
            progress,
            ..
        } = self;
        let (mut beyond, mut is_reused) = (None, false);
        self.read.pass(bytes, |head| {
            *unanswered = unanswered.saturating_add(1);
            if !account.read(head) && beyond.is_none() {
                beyond = Some(head.name());
            }
            *last = Some(head);
            match head.kind {
                heads::CONTINUATION => {
                    progress.count_blocks(head.length);
                    *in_block &= !head.has(heads::END_HEADERS);
                }
                heads::HEADERS => {
                    progress.count_blocks(head.length);
                    *frames = frames.wrapping_add(1);
                    *in_block = !head.has(heads::END_HEADERS);
                    is_reused |= head.stream <= *newest && !head.has(heads::END_STREAM);
                    *newest = head.stream.max(*newest);
                }
                _ => *frames = frames.wrapping_add(1),
            }
        });
        self.bytes += bytes.len() as u64;
        let breach = match beyond {
            _ if is_reused => Breach::Reused,
            None => return true,
            Some(name) => {
                let limits = self.caller.view().live.snapshot.limits;
                if self.account.fill(Instant::now(), &limits) {
                    return true;
                }
                Breach::Flood(name)
            }
        };
        if let Some(tell) = self.tell.take() {
            // Nobody listens any more when the connection ends anyway.
            let _ended = tell.send(breach);
        }
        false
    }

    /// Takes from the ledger what is kept of header blocks; false where there is nothing left.
    fn keep(&mut self) -> bool {
        let bytes = self.blocks.kept() as u64;
        if bytes == 0 {
            if self.kept.bytes() > 0 {
                self.kept.shrink_to(0);
            }
            return true;
        }
        let is_kept = self.kept.grow_to(bytes).is_ok();
        if !is_kept && let Some(tell) = self.tell.take() {
            let _ended = tell.send(Breach::Memory);
        }
        is_kept
    }

    /// Gives what was put together of what came before; false where there is nothing.
    fn give(&mut self, to: &mut ReadBuf<'_>) -> bool {
        let ready = self.blocks.ready();
        if ready.is_empty() {
            return false;
        }
        let length = ready.len().min(to.remaining());
        to.put_slice(ready.get(..length).unwrap_or_default());
        if length < ready.len() {
            ready.drain(..length);
        } else {
            *ready = Vec::new();
        }
        true
    }

    /// Where the client is waited for.
    fn midway(&self) -> Midway {
        match self.last {
            // The preface ends with SETTINGS.
            None => Midway::Frame,
            Some(_) if self.in_block || self.read.is_in_head() => Midway::Frame,
            Some(_) if self.read.is_between_frames() => Midway::No,
            Some(head) if head.kind == heads::DATA => Midway::Data,
            Some(_) => Midway::Frame,
        }
    }
}

impl Breaches {
    /// Ends when there is a breach.
    pub(super) async fn found(self) -> Breach {
        match self.0.await {
            Ok(breach) => breach,
            Err(_) => std::future::pending().await,
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Counted<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.tell.is_none() {
            // Whoever was told of the breach ends the connection.
            return Poll::Pending;
        }
        if this.unanswered >= UNANSWERED {
            // It is h2's turn to write, which it does when there is nothing to read; `poll_flush` wakes the task.
            this.progress.waits(Midway::No, this.frames, this.bytes);
            return Poll::Pending;
        }
        let before = to.filled().len();
        loop {
            if this.give(to) {
                this.keep();
                return Poll::Ready(Ok(()));
            }
            if this.progress.count_blocks(0) {
                // Whoever takes the calls wakes the task.
                this.progress.waits(Midway::No, this.frames, this.bytes);
                return Poll::Pending;
            }
            let poll = Pin::new(&mut this.io).poll_read(cx, to);
            let bytes = to.filled().get(before..).unwrap_or_default();
            if poll.is_pending() {
                this.progress.waits(this.midway(), this.frames, this.bytes);
                return Poll::Pending;
            }
            if bytes.is_empty() {
                // An error, or the end.
                return poll;
            }
            if !this.count(bytes) {
                to.set_filled(before);
                return Poll::Pending;
            }
            let passed = this.blocks.pass(bytes);
            if !this.keep() {
                to.set_filled(before);
                return Poll::Pending;
            }
            if this.blocks.is_out_of_step() {
                this.progress.is_out_of_step();
            }
            to.set_filled(before + passed);
            if passed > 0 {
                return poll;
            }
        }
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
