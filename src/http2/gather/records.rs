//! TLS records wait for others, and all but the last one are full.
//!
//! tokio-rustls makes at least one record of each write, and one system call: a DATA frame of 16 KiB and its head would be
//! a full record and another one of 9 bytes.

use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::Writer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{client, server};

use super::{Outbox, behind};

/// The most that a record has of what is encrypted (RFC 8446, 5.1), in bytes.
const RECORD: usize = 16 * 1024;
/// When so much waits as records, it is written.
const ENOUGH: usize = 64 * 1024;
/// So much may wait at most: what was not enough, and one write more.
const MOST: usize = 256 * 1024;

/// A TLS connection whose session can be had.
pub(crate) trait Tls: AsyncRead + AsyncWrite + Unpin {
    /// Takes what is to be encrypted.
    fn writer(&mut self) -> Writer<'_>;

    /// Sets how many bytes may wait as records.
    fn set_buffer_limit(&mut self, bytes: usize);
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Tls for server::TlsStream<IO> {
    fn writer(&mut self) -> Writer<'_> {
        self.get_mut().1.writer()
    }

    fn set_buffer_limit(&mut self, bytes: usize) {
        self.get_mut().1.set_buffer_limit(Some(bytes));
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Tls for client::TlsStream<IO> {
    fn writer(&mut self) -> Writer<'_> {
        self.get_mut().1.writer()
    }

    fn set_buffer_limit(&mut self, bytes: usize) {
        self.get_mut().1.set_buffer_limit(Some(bytes));
    }
}

/// A TLS connection, and what waits for it.
#[derive(Debug)]
pub(crate) struct Records<T> {
    tls: Box<T>,
    /// Less than a record.
    rest: Vec<u8>,
    /// Bytes that were encrypted since all was written.
    encrypted: usize,
}

impl<T: Tls> Records<T> {
    pub(crate) fn new(mut tls: Box<T>) -> Records<T> {
        tls.set_buffer_limit(MOST);
        Records {
            tls,
            rest: Vec::new(),
            encrypted: 0,
        }
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut *self.tls).poll_flush(cx))?;
        self.encrypted = 0;
        Poll::Ready(Ok(()))
    }

    /// Encrypts so much of what waits and of what follows; gives how much it was.
    fn encrypt(&mut self, slices: &[IoSlice<'_>], most: usize) -> io::Result<usize> {
        let (parts, number) = behind(&self.rest, slices, most);
        let written = self
            .tls
            .writer()
            .write_vectored(parts.get(..number).unwrap_or_default())?;
        self.encrypted += written;
        Ok(written)
    }

    /// Encrypts what is less than a record.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let written = self.tls.writer().write(&self.rest)?;
            self.encrypted += written;
            self.rest.drain(..written);
            if !self.rest.is_empty() {
                ready!(self.poll_write_out(cx))?;
            }
        }
        // Not kept: an idle connection has none.
        self.rest = Vec::new();
        Poll::Ready(Ok(()))
    }
}

impl<T: Tls> AsyncRead for Records<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().tls).poll_read(cx, to)
    }
}

impl<T: Tls> Outbox for Records<T> {
    fn poll_put(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.encrypted >= ENOUGH {
            ready!(self.poll_write_out(cx))?;
        }
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        loop {
            let waits = self.rest.len();
            if waits + length < RECORD {
                for slice in slices {
                    self.rest.extend_from_slice(slice);
                }
                return Poll::Ready(Ok(length));
            }
            let written = self.encrypt(slices, (waits + length) / RECORD * RECORD)?;
            if written > waits {
                self.rest.clear();
                return Poll::Ready(Ok(written - waits));
            }
            // The queue is full, which happens when keys are changed.
            self.rest.drain(..written);
            if self.encrypted == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            ready!(self.poll_write_out(cx))?;
        }
    }

    fn has_waiting(&self) -> bool {
        !self.rest.is_empty() || self.encrypted > 0
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_end(cx))?;
        self.poll_write_out(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_end(cx))?;
        Pin::new(&mut *self.tls).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
