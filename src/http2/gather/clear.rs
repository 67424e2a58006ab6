//! Frames wait for others until there are enough of them.
//!
//! Most servers take DATA frames of 16 KiB at most. A copy of one costs less than a system call for it alone.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Outbox, behind};

/// Writes below this size wait for others. What is larger gains nothing by another copy.
const SMALL: usize = 32 * 1024;
/// So many bytes may wait.
const MOST: usize = 64 * 1024;
/// A buffer that has grown beyond this is given back when it is empty.
const KEPT: usize = 4 * 1024;

/// A connection as it is.
#[derive(Debug)]
pub(crate) struct Clear<IO> {
    io: IO,
    waiting: Vec<u8>,
    /// How much of that was written.
    written: usize,
}

impl<IO> Clear<IO> {
    pub(crate) fn new(io: IO) -> Clear<IO> {
        Clear {
            io,
            waiting: Vec::new(),
            written: 0,
        }
    }

    fn wait(&mut self, slices: &[IoSlice<'_>], length: usize) {
        if self.waiting.is_empty() && length > KEPT {
            // More will come.
            self.waiting.reserve_exact(MOST);
        }
        for slice in slices {
            self.waiting.extend_from_slice(slice);
        }
    }

    /// So much of what waits was written.
    fn advance(&mut self, written: usize) {
        self.written += written;
        if self.written < self.waiting.len() {
            return;
        }
        self.written = 0;
        self.waiting.clear();
        if self.waiting.capacity() > KEPT {
            self.waiting = Vec::new();
        }
    }
}

impl<IO: AsyncWrite + Unpin> Clear<IO> {
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let waiting = self.waiting.get(self.written..).unwrap_or_default();
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Clear<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, to)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Outbox for Clear<IO> {
    fn poll_put(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        let waits = self.waiting.len() - self.written;
        // What was written of it is still in the buffer.
        if length < SMALL && self.waiting.len() + length <= MOST {
            self.wait(slices, length);
            return Poll::Ready(Ok(length));
        }
        if waits == 0 {
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        }
        let waiting = self.waiting.get(self.written..).unwrap_or_default();
        let (parts, number) = behind(waiting, slices, usize::MAX);
        let parts = parts.get(..number).unwrap_or_default();
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, parts))?;
        self.advance(written.min(waits));
        if written > waits {
            return Poll::Ready(Ok(written - waits));
        }
        ready!(self.poll_write_out(cx))?;
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::Gather;
    use super::*;

    /// Small and large pieces arrive in their order, the small ones when they are flushed.
    #[tokio::test]
    async fn the_order_is_kept() {
        let (near, mut far) = tokio::io::duplex(1024 * 1024);
        let mut gather = Gather::new(Clear::new(near));
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
        let mut gather = Gather::new(Clear::new(near));
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
