//! Reads as much of a TCP connection in one system call as there is.
//!
//! rustls asks for 4 KiB at a time, so that one DATA frame of 64 KiB would take 17 system calls. What was read waits in a
//! buffer that is given back when it is empty: an idle connection has none.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read at once, at most.
const SIZE: usize = 64 * 1024;
/// Buffers that a thread keeps for its connections, which need them by turns.
const SPARE: usize = 8;

thread_local! {
    static SPARES: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A connection with what was read of it and not yet taken.
#[derive(Debug)]
pub(crate) struct ReadAhead<IO> {
    io: IO,
    /// There while not all of it was taken.
    buffer: Option<Filled>,
}

#[derive(Debug)]
struct Filled {
    bytes: Box<[u8]>,
    taken: usize,
    end: usize,
}

impl<IO> ReadAhead<IO> {
    pub(crate) fn new(io: IO) -> ReadAhead<IO> {
        ReadAhead { io, buffer: None }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ReadAhead<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut filled = match this.buffer.take() {
            Some(filled) => filled,
            None if to.remaining() >= SIZE => return Pin::new(&mut this.io).poll_read(cx, to),
            None => {
                let mut bytes = spare();
                let mut read = ReadBuf::new(&mut bytes);
                let poll = Pin::new(&mut this.io).poll_read(cx, &mut read);
                let end = read.filled().len();
                if !matches!(poll, Poll::Ready(Ok(()))) || end == 0 {
                    give_back(bytes);
                    return poll;
                }
                Filled { bytes, taken: 0, end }
            }
        };
        let left = filled.bytes.get(filled.taken..filled.end).unwrap_or_default();
        let part = left.get(..to.remaining().min(left.len())).unwrap_or_default();
        to.put_slice(part);
        filled.taken += part.len();
        if filled.taken < filled.end {
            this.buffer = Some(filled);
        } else {
            give_back(filled.bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ReadAhead<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

fn spare() -> Box<[u8]> {
    let spare = SPARES.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())
}

fn give_back(bytes: Box<[u8]>) {
    SPARES.with_borrow_mut(|spares| {
        if spares.len() < SPARE {
            spares.push(bytes);
        }
    });
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What is read by small pieces is what was sent, and an empty buffer is given back.
    #[tokio::test]
    async fn pieces_are_the_whole() {
        let (mut near, far) = tokio::io::duplex(3 * SIZE);
        let sent: Vec<u8> = (0..2 * SIZE + 77).map(|number| (number % 251) as u8).collect();
        near.write_all(&sent).await.unwrap();
        near.shutdown().await.unwrap();
        let mut ahead = ReadAhead::new(far);
        let mut got = Vec::new();
        let mut piece = [0; 4097];
        loop {
            let length = ahead.read(&mut piece).await.unwrap();
            if length == 0 {
                break;
            }
            got.extend_from_slice(&piece[..length]);
            assert!(ahead.buffer.is_some() || got.len() % SIZE == 0 || got.len() == sent.len());
        }
        assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
        assert!(ahead.buffer.is_none());
    }
}
