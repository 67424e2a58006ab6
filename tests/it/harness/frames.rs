//! HTTP/2 frames as bytes (RFC 9113, 4.1), for what no library would send or show.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const ACK: u8 = 1;

pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const CANCEL: u32 = 8;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Bytes,
}

impl Frame {
    pub(crate) fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Bytes>) -> Frame {
        Frame {
            kind,
            flags,
            stream,
            payload: payload.into(),
        }
    }

    pub(crate) fn settings() -> Frame {
        Frame::settings_of([])
    }

    /// SETTINGS with these, each an identifier and a value.
    pub(crate) fn settings_of(settings: impl IntoIterator<Item = (u16, u32)>) -> Frame {
        let bytes = |(id, value): (u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat();
        let payload: Vec<u8> = settings.into_iter().flat_map(bytes).collect();
        Frame::new(SETTINGS, 0, 0, payload)
    }

    pub(crate) fn settings_ack() -> Frame {
        Frame::new(SETTINGS, ACK, 0, Bytes::new())
    }

    pub(crate) fn go_away(last: u32, reason: u32) -> Frame {
        Frame::new(GOAWAY, 0, 0, [last.to_be_bytes(), reason.to_be_bytes()].concat())
    }

    pub(crate) fn ping() -> Frame {
        Frame::new(PING, 0, 0, vec![0; 8])
    }

    pub(crate) fn window_update(stream: u32, increment: u32) -> Frame {
        Frame::new(WINDOW_UPDATE, 0, stream, increment.to_be_bytes().to_vec())
    }

    /// The head of a gRPC request, whose body is still to come.
    pub(crate) fn request(stream: u32, path: &str) -> Frame {
        let fields = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", path),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        Frame::new(HEADERS, END_HEADERS, stream, header_block(&fields))
    }

    pub(crate) fn reset(stream: u32, reason: u32) -> Frame {
        Frame::new(RST_STREAM, 0, stream, reason.to_be_bytes().to_vec())
    }

    /// Whether a flag is set.
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// A number of four bytes in the payload: the reason of RST_STREAM at 0, that of GOAWAY at 4.
    pub(crate) fn number_at(&self, at: usize) -> u32 {
        let bytes = self.payload[at..at + 4].try_into().unwrap();
        u32::from_be_bytes(bytes)
    }

    /// The value of a setting, where the frame has it.
    pub(crate) fn setting(&self, id: u16) -> Option<u32> {
        self.payload
            .chunks_exact(6)
            .find(|entry| u16::from_be_bytes([entry[0], entry[1]]) == id)
            .map(|entry| u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]))
    }

    pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
        let mut head = [0; 9];
        from.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        from.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        Ok(Frame::new(head[3], head[4], stream, payload))
    }

    pub(crate) async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        to.write_all(&self.bytes()).await?;
        to.flush().await
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], self.kind, self.flags];
        bytes.extend_from_slice(&self.stream.to_be_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// A header block with these fields in this order, each a literal without indexing (RFC 7541, 6.2.2): it needs no
/// table, and says whatever it is told to say.
pub(crate) fn header_block(fields: &[(impl AsRef<[u8]>, impl AsRef<[u8]>)]) -> Bytes {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(name.as_ref(), &mut block);
        string(value.as_ref(), &mut block);
    }
    block.into()
}

/// A string without Huffman code; lengths from 127 on are continued (RFC 7541, 5.1).
fn string(text: &[u8], block: &mut Vec<u8>) {
    match text.len() {
        short @ 0..127 => block.push(short as u8),
        mut long => {
            block.push(127);
            long -= 127;
            while long >= 128 {
                block.push((long % 128) as u8 | 128);
                long /= 128;
            }
            block.push(long as u8);
        }
    }
    block.extend_from_slice(text);
}
