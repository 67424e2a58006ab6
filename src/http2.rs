//! What both sides of the gate do alike with an HTTP/2 connection.

pub(crate) mod gather;
pub(crate) mod heads;
pub(crate) mod read_ahead;

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::{Ping, PingPong, Reason, SendStream};

/// How often a connection with open streams is probed.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long a peer may take to answer a probe.
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest DATA frame that is taken, in bytes. Larger frames mean fewer of them; measured, more than this gains little.
pub(crate) const MAX_FRAME_SIZE: u32 = 64 * 1024;
/// Bytes of one stream that may wait to be written.
pub(crate) const MAX_SEND_BUFFER: usize = 512 * 1024;
/// Largest header list of a request that h2 reads, in bytes as RFC 9113, 6.5.2 counts them. More than what the longest block
/// says (see `connection::blocks`), even in Huffman code, so that h2 does not answer with HTTP 431; far less is served (see
/// `proxy::headers`).
pub(crate) const MAX_HEADER_LIST: u32 = 128 * 1024;

/// Sets what a TCP connection is to have, or a socket that connections come from: small frames go at once, and a peer that is
/// gone is noticed while nothing is sent.
///
/// # Errors
/// What the operating system says.
pub(crate) fn prepare(socket: &socket2::Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15));
    socket.set_tcp_keepalive(&keepalive)
}

/// Probes a peer with PINGs while `has_streams`, and ends when it does not answer. casd and other gRPC servers close a
/// connection that is pinged while idle, so an idle one is left alone (grpc doc/keepalive.md).
pub(crate) async fn until_peer_is_silent(ping_pong: Option<PingPong>, has_streams: impl Fn() -> bool) {
    let Some(mut ping_pong) = ping_pong else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        if !has_streams() {
            continue;
        }
        match tokio::time::timeout(PING_TIMEOUT, ping_pong.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection ended by itself: whoever drives it knows.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// The receiver of a stream is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// Sends a chunk as the receiver's flow-control window allows.
///
/// # Errors
/// When the stream was reset or the connection ended.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, chunk: Bytes, end_of_stream: bool) -> Result<(), Closed> {
    let sent = send_within(None, stream, chunk, end_of_stream, || true).await;
    sent.map_err(|_| Closed)
}

/// The longest first chunk that need not wait, in bytes.
const SHORT: usize = 16 * 1024;

/// Whether a server gives each new stream a window of [`SHORT`] bytes or more, as nearly all do (RFC 9113, 6.9.2: 65,535
/// unless it says otherwise). It is not known before the first stream.
#[derive(Debug, Default)]
pub(crate) struct FirstWindow {
    is_roomy: AtomicBool,
}

impl FirstWindow {
    /// Sends the first chunk of a stream that was opened this moment, as [`send`] does. h2 gives such a stream no window before
    /// its headers are on their way, so that a chunk which waits for it goes a write and two wake-ups later than they do.
    /// A short one is handed to h2 at once where the window is known to be there.
    ///
    /// Not where it is not: a chunk that ends the request and waits in h2 for a window that never comes would keep the stream
    /// for ever, once the server has ended its answer and the stream counts as closed.
    ///
    /// # Errors
    /// When the stream was reset or the connection ended.
    pub(crate) async fn send(
        &self,
        stream: &mut SendStream<Bytes>,
        chunk: Bytes,
        end_of_stream: bool,
    ) -> Result<(), Closed> {
        if self.is_roomy.load(Ordering::Relaxed) {
            if chunk.len() <= SHORT {
                return stream.send_data(chunk, end_of_stream).map_err(|_| Closed);
            }
        } else {
            stream.reserve_capacity(SHORT);
            poll_fn(|cx| stream.poll_capacity(cx))
                .await
                .and_then(Result::ok)
                .ok_or(Closed)?;
            self.is_roomy.store(stream.capacity() >= SHORT, Ordering::Relaxed);
        }
        send(stream, chunk, end_of_stream).await
    }
}

/// Why a chunk was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The receiver is gone.
    Closed,
    /// The receiver took nothing for too long.
    Stalled,
    /// It has to be waited for, and that was not wanted.
    Unwanted,
}

/// The same, unless the receiver takes nothing at all for so long. One that is slow is waited for, where `may_wait` says so.
///
/// # Errors
/// See [`Stopped`].
pub(crate) async fn send_within(
    patience: Option<Duration>,
    stream: &mut SendStream<Bytes>,
    mut chunk: Bytes,
    end_of_stream: bool,
    mut may_wait: impl FnMut() -> bool,
) -> Result<(), Stopped> {
    loop {
        stream.reserve_capacity(chunk.len());
        let capacity = stream.capacity();
        if capacity >= chunk.len() {
            return stream.send_data(chunk, end_of_stream).map_err(|_| Stopped::Closed);
        }
        if capacity > 0 {
            let part = chunk.split_to(capacity);
            stream.send_data(part, false).map_err(|_| Stopped::Closed)?;
            continue;
        }
        let capacity = match poll_fn(|cx| Poll::Ready(stream.poll_capacity(cx))).await {
            Poll::Ready(capacity) => capacity,
            Poll::Pending if may_wait() => {
                let capacity = poll_fn(|cx| stream.poll_capacity(cx));
                within(patience, capacity).await.ok_or(Stopped::Stalled)?
            }
            Poll::Pending => return Err(Stopped::Unwanted),
        };
        match capacity {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Err(Stopped::Closed),
        }
    }
}

/// What becomes of a future, unless that takes so long. The clock is read only where it is waited for.
pub(crate) async fn within<T>(patience: Option<Duration>, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    if let Poll::Ready(now) = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
        return Some(now);
    }
    match patience {
        None => Some(future.await),
        Some(patience) => tokio::time::timeout(patience, future).await.ok(),
    }
}

/// What a client is told of an error: not the operating system's words. The log has them when the connection ends.
pub(crate) fn plain(error: &h2::Error) -> String {
    if error.is_io() {
        "its connection broke off".to_owned()
    } else {
        error.to_string()
    }
}

/// Whether an error of a stream shows that the server certainly did nothing with the request: it refused the stream, or
/// said in a GOAWAY that it will not look at it (RFC 9113, 8.7).
///
/// A GOAWAY with an error does not count: this very request may be what ended the connection, and would end the next.
pub(crate) fn is_unprocessed(error: &h2::Error) -> bool {
    let expected = if error.is_go_away() {
        Reason::NO_ERROR
    } else {
        Reason::REFUSED_STREAM
    };
    error.is_remote() && (error.is_go_away() || error.is_reset()) && error.reason() == Some(expected)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::pin::Pin;

    use futures_util::FutureExt;
    use http::Request;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::heads::Heads;
    use super::*;

    /// A server's SETTINGS with nothing in them (RFC 9113, 6.5).
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

    /// Kind and flags of each frame that a client sends behind its preface.
    fn frames(bytes: &[u8]) -> Vec<(u8, u8)> {
        let mut frames = Vec::new();
        Heads::of_server().pass(bytes, |head| frames.push((head.kind, head.flags)));
        frames
    }

    #[tokio::test]
    async fn the_first_chunk_leaves_with_the_headers() {
        let (near, mut far) = tokio::io::duplex(4096);
        far.write_all(&SETTINGS).await.unwrap();
        let (mut sender, mut connection) = h2::client::handshake(near).await.unwrap();
        // Once, as after an event.
        let mut drive = || poll_fn(|cx| Poll::Ready(Pin::new(&mut connection).poll(cx).is_pending())).now_or_never();
        drive().unwrap();
        let mut read = || {
            let mut bytes = vec![0; 4096];
            let length = far.read(&mut bytes).now_or_never().unwrap().unwrap();
            bytes.truncate(length);
            bytes
        };
        read();
        let first = FirstWindow::default();
        let chunk = Bytes::from_static(b"chunk");
        // HEADERS with END_HEADERS, DATA with END_STREAM (RFC 9113, 6.1 and 6.2).
        let (headers, data) = ((heads::HEADERS, 4), (heads::DATA, 1));
        let mut answers = Vec::new();
        for expected in [vec![headers], vec![headers, data], vec![headers, data]] {
            let (answer, mut body) = sender.send_request(Request::new(()), false).unwrap();
            answers.push(answer);
            let mut send = Box::pin(first.send(&mut body, chunk.clone(), true));
            let is_sent = send.as_mut().now_or_never().is_some();
            drive().unwrap();
            assert_eq!(frames(&read()), expected);
            if !is_sent {
                send.await.unwrap();
                drive().unwrap();
                assert_eq!(frames(&read()), [data]);
            }
        }
    }

    #[tokio::test]
    async fn a_chunk_waits_where_windows_are_small() {
        let (near, mut far) = tokio::io::duplex(4096);
        // SETTINGS_INITIAL_WINDOW_SIZE of 100 bytes.
        far.write_all(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 100])
            .await
            .unwrap();
        let (mut sender, mut connection) = h2::client::handshake(near).await.unwrap();
        let mut drive = || poll_fn(|cx| Poll::Ready(Pin::new(&mut connection).poll(cx).is_pending())).now_or_never();
        drive().unwrap();
        let first = FirstWindow::default();
        for _ in 0..3 {
            let (_answer, mut body) = sender.send_request(Request::new(()), false).unwrap();
            let mut send = Box::pin(first.send(&mut body, Bytes::from_static(&[0; 101]), true));
            for _ in 0..3 {
                assert!(send.as_mut().now_or_never().is_none());
                drive().unwrap();
            }
        }
    }
}
