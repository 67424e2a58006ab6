//! A connection as a backend sees it that writes its frames by hand.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Io, Options, Record, Seen};
use crate::harness::frames::{self, Frame};
use crate::harness::grpc;

/// A connection frame by frame, the preface read and SETTINGS sent.
pub(crate) struct Raw {
    io: Box<dyn Io>,
    pub(crate) connection: usize,
    record: Arc<Record>,
}

impl Raw {
    pub(super) async fn accept(
        mut io: Box<dyn Io>,
        options: &Options,
        connection: usize,
        record: Arc<Record>,
    ) -> Option<Raw> {
        let mut preface = [0; frames::PREFACE.len()];
        io.read_exact(&mut preface).await.ok()?;
        // SETTINGS_MAX_CONCURRENT_STREAMS and SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113, 6.5.2).
        let given = [(3u16, options.max_streams), (4, options.window)];
        let given = given.into_iter().filter_map(|(id, value)| Some((id, value?)));
        Frame::settings_of(given).write(&mut io).await.ok()?;
        Some(Raw { io, connection, record })
    }

    /// The next frame that is not about the connection itself; streams go into the record.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = Frame::read(&mut self.io).await.ok()?;
            match frame.kind {
                frames::SETTINGS if !frame.has(frames::ACK) => self.send(&[Frame::settings_ack()]).await,
                frames::SETTINGS | frames::WINDOW_UPDATE => {}
                frames::HEADERS => {
                    let mut seen = self.record.seen.lock();
                    seen.push(Seen {
                        connection: self.connection,
                        ..Seen::default()
                    });
                    return Some(frame);
                }
                _ => return Some(frame),
            }
        }
    }

    /// Waits for the next frame of a kind.
    pub(crate) async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    pub(crate) async fn send(&mut self, frames: &[Frame]) {
        for frame in frames {
            let _gone = frame.write(&mut self.io).await;
        }
    }

    /// Sends what is no frame.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        let _gone = self.io.write_all(bytes).await;
    }

    /// An answer of one empty message with OK.
    pub(crate) async fn answer(&mut self, stream: u32) {
        let frames = self.answer_frames(stream, b"");
        self.send(&frames).await;
    }

    /// Head, one message, and trailers with OK.
    pub(crate) fn answer_frames(&self, stream: u32, message: &[u8]) -> [Frame; 3] {
        let headers = |flags, fields| {
            Frame::new(
                frames::HEADERS,
                frames::END_HEADERS | flags,
                stream,
                frames::header_block(fields),
            )
        };
        [
            headers(0, &[(":status", "200"), ("content-type", "application/grpc")]),
            Frame::new(frames::DATA, 0, stream, grpc::frame(message)),
            headers(frames::END_STREAM, &[("grpc-status", "0")]),
        ]
    }
}
