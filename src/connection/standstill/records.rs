//! Sees where in a TLS record a connection is: rustls does not tell.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Progress;

/// The head of a record: its type, a version, and a length (RFC 8446, 5.1).
const HEAD: usize = 5;

/// A TCP connection with TLS, of which is noted where it waits.
#[derive(Debug)]
pub(in crate::connection) struct Seen<IO> {
    io: IO,
    progress: Arc<Progress>,
    records: Records,
    bytes: u64,
}

/// Where in its records a stream is.
#[derive(Debug, Default)]
struct Records {
    /// Bytes before the next head.
    skip: usize,
    head: [u8; HEAD],
    /// How much of a head is there.
    there: usize,
}

impl<IO> Seen<IO> {
    pub(in crate::connection) fn new(io: IO, progress: Arc<Progress>) -> Seen<IO> {
        Seen {
            io,
            progress,
            records: Records::default(),
            bytes: 0,
        }
    }
}

impl Records {
    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((_, rest)) = bytes.split_at_checked(self.skip) {
            self.skip = 0;
            let (now, rest) = rest.split_at(rest.len().min(HEAD - self.there));
            for (place, byte) in self.head.iter_mut().skip(self.there).zip(now) {
                *place = *byte;
            }
            self.there += now.len();
            if self.there < HEAD {
                return;
            }
            let [_, _, _, high, low] = self.head;
            self.skip = usize::from(u16::from_be_bytes([high, low]));
            self.there = 0;
            bytes = rest;
        }
        self.skip -= bytes.len();
    }

    fn is_in_one(&self) -> bool {
        self.skip > 0 || self.there > 0
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Seen<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = to.filled().len();
        let poll = Pin::new(&mut this.io).poll_read(cx, to);
        if poll.is_pending() {
            this.progress.waits_for_record(this.records.is_in_one(), this.bytes);
        } else {
            let bytes = to.filled().get(before..).unwrap_or_default();
            this.records.pass(bytes);
            this.bytes += bytes.len() as u64;
        }
        poll
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Seen<IO> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_record_is_known_however_it_is_cut() {
        let mut stream = Vec::new();
        let mut ends = vec![0];
        for length in [1_usize, 300, 0, 16_384, 7] {
            let [.., high, low] = length.to_be_bytes();
            stream.extend([23, 3, 3, high, low]);
            stream.resize(stream.len() + length, 0xff);
            ends.push(stream.len());
        }
        for size in [1, 2, 3, 4, 5, 6, 100, 16_384, 40_000] {
            let mut records = Records::default();
            let mut at = 0;
            for part in stream.chunks(size) {
                records.pass(part);
                at += part.len();
                assert_eq!(records.is_in_one(), !ends.contains(&at), "{size}: {at}");
            }
        }
    }
}
