//! Writes the frames of many streams in one system call.
//!
//! h2 writes and flushes after each DATA frame of more than 255 bytes. Here flushing waits until the connection has done all
//! that it could do: [`Gather::poll_flush_all`] is to be called after each poll of it. What waits, and in what form, is the
//! matter of an [`Outbox`]: [`Clear`] or [`Records`].

mod clear;
mod records;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) use clear::Clear;
pub(crate) use records::Records;

/// Slices of one write that are looked at, and what waits before them.
const SLICES: usize = 8;

/// The first bytes, so many, of what waits and of what follows it; and how many slices they are in.
fn behind<'a>(waiting: &'a [u8], slices: &'a [IoSlice<'a>], most: usize) -> ([IoSlice<'a>; SLICES], usize) {
    let mut parts = [IoSlice::new(&[]); SLICES];
    let (mut left, mut number) = (most, 0);
    let all = [waiting].into_iter().chain(slices.iter().map(|slice| &**slice));
    for (place, slice) in parts.iter_mut().zip(all) {
        let part = slice.get(..left.min(slice.len())).unwrap_or_default();
        *place = IoSlice::new(part);
        left -= part.len();
        number += 1;
    }
    (parts, number)
}

/// A connection that keeps what is to be written until it is flushed, or has enough of it.
pub(crate) trait Outbox: AsyncRead + Unpin {
    /// Takes bytes to write; gives how many. Pending when no more may wait and the connection takes none.
    fn poll_put(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// Whether anything waits to be written.
    fn has_waiting(&self) -> bool;

    /// Writes what waits. When that is not possible now, the task is woken when it is.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Writes what waits, and says that there is no more.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// A connection whose writes wait. The clone is for whoever polls it; both are used by one task, so that the lock is always
/// free.
#[derive(Debug)]
pub(crate) struct Gather<O>(Arc<Mutex<O>>);

impl<O: Outbox> Gather<O> {
    pub(crate) fn new(outbox: O) -> Gather<O> {
        Gather(Arc::new(Mutex::new(outbox)))
    }

    /// The same connection.
    pub(crate) fn share(&self) -> Gather<O> {
        Gather(Arc::clone(&self.0))
    }

    /// Whether anything waits to be written.
    pub(crate) fn has_waiting(&self) -> bool {
        self.0.lock().has_waiting()
    }

    /// Writes what waits. When that is not possible now, the task is woken when it is.
    pub(crate) fn poll_flush_all(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_flush(cx)
    }
}

impl<O: Outbox> AsyncRead for Gather<O> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_read(cx, to)
    }
}

impl<O: Outbox> AsyncWrite for Gather<O> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_put(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_put(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Waits for [`Gather::poll_flush_all`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_shutdown(cx)
    }
}
