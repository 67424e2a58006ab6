//! Writes the small frames of many streams in one system call.
//!
//! h2 writes and flushes after each DATA frame of more than 255 bytes. Here flushing waits until the connection has done all
//! that it could do: [`Gather::poll_flush_all`] is to be called after each poll of it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Writes below this size wait for others. What is larger gains nothing by another copy.
const SMALL: usize = 4 * 1024;
/// So many bytes may wait.
const MOST: usize = 32 * 1024;
/// A buffer that has grown is given back when it is empty and larger than this.
const KEPT: usize = 64 * 1024;

/// A connection whose small writes wait. The clone is for whoever polls it; both are used by one task, so that the lock
/// is always free.
#[derive(Debug)]
pub(crate) struct Gather<IO>(Arc<Mutex<State<IO>>>);

#[derive(Debug)]
struct State<IO> {
    io: IO,
    waiting: BytesMut,
}

impl<IO: AsyncWrite + Unpin> Gather<IO> {
    pub(crate) fn new(io: IO) -> Gather<IO> {
        let waiting = BytesMut::new();
        Gather(Arc::new(Mutex::new(State { io, waiting })))
    }

    /// The same connection.
    pub(crate) fn share(&self) -> Gather<IO> {
        Gather(Arc::clone(&self.0))
    }

    /// Writes what waits. When that is not possible now, the task is woken when it is.
    pub(crate) fn poll_flush_all(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.lock();
        ready!(state.poll_write_out(cx))?;
        Pin::new(&mut state.io).poll_flush(cx)
    }
}

impl<IO: AsyncWrite + Unpin> State<IO> {
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(written);
        }
        if self.waiting.capacity() > KEPT {
            self.waiting = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Gather<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().io).poll_read(cx, to)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Gather<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let state = &mut *self.0.lock();
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if length < SMALL {
            if state.waiting.len() + length > MOST {
                ready!(state.poll_write_out(cx))?;
            }
            for slice in slices {
                state.waiting.extend_from_slice(slice);
            }
            return Poll::Ready(Ok(length));
        }
        if state.waiting.is_empty() {
            return Pin::new(&mut state.io).poll_write_vectored(cx, slices);
        }
        // A header and its payload, and what was before them.
        let mut all = [IoSlice::new(&[]); 8];
        let rest = slices.iter().copied();
        for (place, slice) in all
            .iter_mut()
            .zip([IoSlice::new(&state.waiting)].into_iter().chain(rest))
        {
            *place = slice;
        }
        let written = ready!(Pin::new(&mut state.io).poll_write_vectored(cx, &all))?;
        let waited = state.waiting.len();
        state.waiting.advance(written.min(waited));
        if written > waited {
            return Poll::Ready(Ok(written - waited));
        }
        ready!(state.poll_write_out(cx))?;
        Pin::new(&mut state.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Waits for [`Gather::poll_flush_all`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.lock();
        ready!(state.poll_write_out(cx))?;
        Pin::new(&mut state.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Small and large pieces arrive in their order, the small ones when they are flushed.
    #[tokio::test]
    async fn the_order_is_kept() {
        let (near, mut far) = tokio::io::duplex(1024 * 1024);
        let mut gather = Gather::new(near);
        let shared = gather.share();
        let mut sent = Vec::new();
        for (number, length) in [10, 300, SMALL, 5, SMALL - 1, 3 * SMALL, 0, MOST, 17]
            .into_iter()
            .enumerate()
        {
            let piece = vec![number as u8; length];
            gather.write_all(&piece).await.unwrap();
            sent.extend(piece);
        }
        assert_eq!(gather.0.lock().waiting.len(), 17);
        poll_fn(|cx| shared.poll_flush_all(cx)).await.unwrap();
        assert!(gather.0.lock().waiting.is_empty());
        let mut got = vec![0; sent.len()];
        far.read_exact(&mut got).await.unwrap();
        assert!(got == sent);
    }

    /// A pipe that takes a few bytes at a time loses none.
    #[tokio::test]
    async fn a_narrow_pipe_loses_nothing() {
        let (near, mut far) = tokio::io::duplex(7);
        let mut gather = Gather::new(near);
        let shared = gather.share();
        let sent: Vec<u8> = (0..3 * MOST).map(|number| (number % 251) as u8).collect();
        let (first, second) = sent.split_at(100);
        let write = async {
            gather.write_all(first).await.unwrap();
            gather.write_all(second).await.unwrap();
            poll_fn(|cx| shared.poll_flush_all(cx)).await.unwrap();
        };
        let mut got = vec![0; sent.len()];
        let (read, ()) = tokio::join!(far.read_exact(&mut got), write);
        read.unwrap();
        assert!(got == sent);
    }
}
