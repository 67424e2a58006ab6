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
    /// What may still be taken; `None` for all that comes.
    left: Option<(Bound, Records)>,
}

/// How much may be taken of a peer that is not known yet. Whoever sends by the byte makes a system call of each, and whoever
/// writes records of one byte makes rustls open thousands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    /// In so many bytes.
    pub(crate) bytes: usize,
    /// By so many reads.
    pub(crate) reads: usize,
    /// In so many TLS records.
    pub(crate) records: usize,
}

/// Where in the records of TLS what was taken ends (RFC 8446, 5.1).
#[derive(Clone, Copy, Debug, Default)]
struct Records {
    /// Bytes of the head that were taken, of five.
    head: usize,
    /// Bytes of the record that are to come.
    length: usize,
}

impl Records {
    /// Goes on behind these bytes, and tells how many records begin in them.
    fn take(&mut self, mut bytes: &[u8]) -> usize {
        let mut begun = 0;
        while let Some((first, rest)) = bytes.split_first() {
            if self.head == 5 {
                let part = self.length.min(bytes.len());
                self.length -= part;
                bytes = bytes.get(part..).unwrap_or_default();
                if self.length == 0 {
                    self.head = 0;
                }
                continue;
            }
            begun += usize::from(self.head == 0);
            // The last two of five bytes are the length.
            self.length = if self.head == 3 { 0 } else { self.length << 8 } | usize::from(*first);
            self.length &= 0xffff;
            self.head += 1;
            bytes = rest;
        }
        begun
    }
}

#[derive(Debug)]
struct Filled {
    bytes: Box<[u8]>,
    taken: usize,
    end: usize,
}

impl<IO> ReadAhead<IO> {
    pub(crate) fn new(io: IO) -> ReadAhead<IO> {
        ReadAhead {
            io,
            buffer: None,
            left: None,
        }
    }

    /// The same that ends with an error where more than this is taken.
    pub(crate) fn bounded(io: IO, bound: Bound) -> ReadAhead<IO> {
        ReadAhead {
            left: Some((bound, Records::default())),
            ..ReadAhead::new(io)
        }
    }

    /// From now on all that comes may be taken.
    pub(crate) fn unbounded(&mut self) {
        self.left = None;
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ReadAhead<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut filled = match this.buffer.take() {
            Some(filled) => filled,
            None if to.remaining() >= SIZE && this.left.is_none() => return Pin::new(&mut this.io).poll_read(cx, to),
            None => {
                if this.left.is_some_and(|(left, _)| left.reads == 0) {
                    return Poll::Ready(Err(io::Error::other(TooMuch)));
                }
                let mut bytes = spare();
                let mut read = ReadBuf::new(&mut bytes);
                let poll = Pin::new(&mut this.io).poll_read(cx, &mut read);
                let end = read.filled().len();
                if !matches!(poll, Poll::Ready(Ok(()))) || end == 0 {
                    give_back(bytes);
                    return poll;
                }
                if let Some((left, _)) = &mut this.left {
                    left.reads -= 1;
                }
                Filled { bytes, taken: 0, end }
            }
        };
        if this.left.is_some_and(|(left, _)| left.bytes == 0 || left.records == 0) {
            give_back(filled.bytes);
            return Poll::Ready(Err(io::Error::other(TooMuch)));
        }
        let left = filled.bytes.get(filled.taken..filled.end).unwrap_or_default();
        let most = this.left.map_or(usize::MAX, |(left, _)| left.bytes);
        let part = left.get(..to.remaining().min(left.len()).min(most)).unwrap_or_default();
        to.put_slice(part);
        if let Some((left, records)) = &mut this.left {
            left.bytes -= part.len();
            left.records = left.records.saturating_sub(records.take(part));
        }
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

/// More came than is taken of a peer that is not known yet.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it sends more, or in smaller pieces, than a handshake takes")]
pub(crate) struct TooMuch;

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

    use std::collections::VecDeque;

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

    /// Gives so many bytes at each read.
    struct Pieces(VecDeque<usize>);

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            to.put_slice(&vec![0; self.0.pop_front().unwrap_or_default()]);
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_is_bounded_fails_with_the_first_byte_or_read_too_many() {
        let bound = Bound {
            bytes: 5000,
            reads: 3,
            records: usize::MAX,
        };
        for (pieces, expected) in [
            (&[5000][..], Ok(5000)),
            (&[5001], Err(5000)),
            (&[4999, 2], Err(5000)),
            (&[1, 1], Ok(2)),
            (&[1, 1, 1, 1], Err(3)),
        ] {
            let mut ahead = ReadAhead::bounded(Pieces(pieces.iter().copied().collect()), bound);
            let (mut piece, mut got) = ([0; 4096], 0);
            let read = loop {
                match ahead.read(&mut piece).await {
                    Ok(0) => break Ok(got),
                    Ok(length) => got += length,
                    Err(_) => break Err(got),
                }
            };
            assert_eq!(read, expected, "{pieces:?}");
        }
        let mut ahead = ReadAhead::bounded(Pieces([5000, 5000].into()), bound);
        ahead.unbounded();
        let mut all = Vec::new();
        assert_eq!(ahead.read_to_end(&mut all).await.unwrap(), 10_000);
    }

    #[tokio::test]
    async fn records_are_counted_wherever_what_is_taken_ends() {
        let lengths = [0usize, 1, 300, 4096, 2];
        let mut bytes = Vec::new();
        for length in lengths {
            bytes.extend([&[22, 3, 3][..], &(length as u16).to_be_bytes(), &vec![0xff; length]].concat());
        }
        for each in [1, 2, 3, 4, 5, 7, 4096, bytes.len()] {
            let mut records = Records::default();
            let begun: usize = bytes.chunks(each).map(|piece| records.take(piece)).sum();
            assert_eq!(begun, lengths.len(), "{each}");
        }
        let bound = |records| Bound {
            bytes: usize::MAX,
            reads: usize::MAX,
            records,
        };
        let small = [22, 3, 3, 0, 1, 0].repeat(1000);
        let (mut all, mut some) = (Vec::new(), Vec::new());
        let whole = ReadAhead::bounded(&small[..], bound(10_000))
            .read_to_end(&mut all)
            .await;
        let cut = ReadAhead::bounded(&small[..], bound(10)).read_to_end(&mut some).await;
        assert_eq!((whole.ok(), all.len()), (Some(6000), 6000));
        assert!(cut.is_err() && some.len() < 5000, "{}", some.len());
    }
}
