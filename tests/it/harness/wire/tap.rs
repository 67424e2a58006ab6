//! Sits between the client's HTTP/2 and TLS, and sees every frame.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use crate::harness::frames::{self, Frame};

/// What lies between the client's HTTP/2 and TLS.
pub(crate) struct Tap {
    up: Mutex<Vec<Frame>>,
    down: Mutex<Vec<Frame>>,
    data_up: AtomicU64,
    /// How the connection ended.
    end: Mutex<Option<String>>,
    deaf: AtomicBool,
    instead: Mutex<Option<Bytes>>,
    inject: UnboundedSender<Frame>,
}

impl Tap {
    /// Begins to relay; the client's end of it comes back.
    pub(super) fn start(
        io: impl AsyncRead + AsyncWrite + Send + 'static,
        tasks: &mut JoinSet<()>,
    ) -> (Arc<Tap>, DuplexStream) {
        let (inject, injected) = unbounded_channel();
        let tap = Arc::new(Tap {
            up: Mutex::default(),
            down: Mutex::default(),
            data_up: AtomicU64::default(),
            end: Mutex::default(),
            deaf: AtomicBool::default(),
            instead: Mutex::default(),
            inject,
        });
        let (near, far) = duplex(256 * 1024);
        let (from_client, to_client) = split(far);
        let (from_gate, to_gate) = split(io);
        let upward = Arc::clone(&tap);
        tasks.spawn(async move {
            let _ended = upward.up(from_client, to_gate, injected).await;
        });
        let downward = Arc::clone(&tap);
        tasks.spawn(async move {
            let mut to_client = to_client;
            let end = downward.down(from_gate, &mut to_client).await;
            let _gone = to_client.shutdown().await;
            *downward.end.lock() = Some(end.to_string());
        });
        (tap, near)
    }

    /// Frames from the client so far; the payload of DATA is left out.
    pub(crate) fn sent(&self) -> Vec<Frame> {
        self.up.lock().clone()
    }

    /// Frames to the client so far.
    pub(crate) fn received(&self) -> Vec<Frame> {
        self.down.lock().clone()
    }

    /// Frames to the client of one stream.
    pub(crate) fn received_on(&self, stream: u32) -> Vec<Frame> {
        let of_stream = |frame: &&Frame| frame.stream == stream;
        self.down.lock().iter().filter(of_stream).cloned().collect()
    }

    /// How many bytes of DATA the client's window let out.
    pub(crate) fn data_sent(&self) -> u64 {
        self.data_up.load(Ordering::SeqCst)
    }

    /// How the connection ended, if it did.
    pub(crate) fn end(&self) -> Option<String> {
        self.end.lock().clone()
    }

    /// From now on the client hears neither GOAWAY nor the PING that follows it, and goes on to call.
    pub(crate) fn ignore_go_away(&self) {
        self.deaf.store(true, Ordering::SeqCst);
    }

    /// These bytes are sent instead of the next HEADERS of the client, which takes what comes back for its answer.
    pub(crate) fn send_instead(&self, bytes: Bytes) {
        *self.instead.lock() = Some(bytes);
    }

    /// Sends a frame that the client knows nothing of.
    pub(crate) fn inject(&self, frame: Frame) {
        let _gone = self.inject.send(frame);
    }

    async fn up(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        mut injected: UnboundedReceiver<Frame>,
    ) -> io::Result<()> {
        let mut preface = [0; frames::PREFACE.len()];
        from.read_exact(&mut preface).await?;
        to.write_all(&preface).await?;
        loop {
            // What is read of a frame must not be lost to an injected one.
            let read = Frame::read(&mut from);
            tokio::pin!(read);
            let frame = loop {
                tokio::select! {
                    frame = &mut read => break frame?,
                    Some(frame) = injected.recv() => frame.write(&mut to).await?,
                }
            };
            // Taken before the await, so that no lock is held across it.
            let instead = (frame.kind == frames::HEADERS)
                .then(|| self.instead.lock().take())
                .flatten();
            if let Some(bytes) = instead {
                to.write_all(&bytes).await?;
                to.flush().await?;
                continue;
            }
            if frame.kind == frames::DATA {
                self.data_up.fetch_add(frame.payload.len() as u64, Ordering::SeqCst);
            }
            self.up.lock().push(without_data(&frame));
            frame.write(&mut to).await?;
        }
    }

    async fn down(&self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Error {
        loop {
            let frame = match Frame::read(&mut from).await {
                Ok(frame) => frame,
                Err(error) => return error,
            };
            self.down.lock().push(without_data(&frame));
            let is_farewell = matches!(frame.kind, frames::GOAWAY | frames::PING);
            if is_farewell && self.deaf.load(Ordering::SeqCst) {
                continue;
            }
            if let Err(error) = frame.write(&mut to).await {
                return error;
            }
        }
    }
}

fn without_data(frame: &Frame) -> Frame {
    let mut frame = frame.clone();
    if frame.kind == frames::DATA {
        frame.payload = Bytes::new();
    }
    frame
}
