//! The heads of HTTP/2 frames (RFC 9113, 4.1) in a stream of bytes: nothing is kept of it but a head that has begun.

/// What a client sends before its first frame (RFC 9113, 3.4), in bytes.
pub(crate) const PREFACE: usize = 24;
/// A head, in bytes.
const HEAD: usize = 9;
/// The head of RST_STREAM and the reason that follows it (RFC 9113, 6.4).
const HEAD_AND_REASON: usize = 13;

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

/// Of SETTINGS and PING.
pub(crate) const ACK: u8 = 1;
/// Of DATA and HEADERS.
pub(crate) const END_STREAM: u8 = 1;
/// Of HEADERS, PUSH_PROMISE and CONTINUATION.
pub(crate) const END_HEADERS: u8 = 4;
/// Of DATA and HEADERS: up to 255 bytes of the frame, and the one that says how many, are no payload (RFC 9113, 6.1).
pub(crate) const PADDED: u8 = 8;
/// Of HEADERS: a dependency comes before the fields (RFC 9113, 6.2, where this flag is named PRIORITY).
pub(crate) const PRIORITY_FIELDS: u8 = 0x20;

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes after the head.
    pub(crate) length: usize,
    /// One of the kinds above, or one that nobody knows.
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    /// Of RST_STREAM.
    pub(crate) reason: u32,
}

impl Head {
    /// The name of the kind.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            DATA => "DATA",
            HEADERS => "HEADERS",
            PRIORITY => "PRIORITY",
            RST_STREAM => "RST_STREAM",
            SETTINGS => "SETTINGS",
            PUSH_PROMISE => "PUSH_PROMISE",
            PING => "PING",
            GOAWAY => "GOAWAY",
            WINDOW_UPDATE => "WINDOW_UPDATE",
            CONTINUATION => "CONTINUATION",
            _ => "unknown",
        }
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// One direction of a connection: where in a frame it is.
#[derive(Debug)]
pub(crate) struct Heads {
    /// Bytes before the next head.
    skip: usize,
    /// The begin of a head.
    part: [u8; HEAD_AND_REASON],
    /// How much of it is there.
    there: usize,
}

impl Heads {
    /// What a client sends: its preface first.
    pub(crate) fn of_client() -> Heads {
        Heads {
            skip: PREFACE,
            ..Heads::of_server()
        }
    }

    /// What a server sends.
    pub(crate) fn of_server() -> Heads {
        Heads {
            skip: 0,
            part: [0; HEAD_AND_REASON],
            there: 0,
        }
    }

    /// Goes on by these bytes, and tells of each frame that begins in them.
    pub(crate) fn pass(&mut self, mut bytes: &[u8], mut each: impl FnMut(Head)) {
        loop {
            let Some((_, rest)) = bytes.split_at_checked(self.skip) else {
                self.skip -= bytes.len();
                return;
            };
            self.skip = 0;
            bytes = rest;
            let wanted = self.wanted();
            let more = bytes.len().min(wanted - self.there);
            let (now, rest) = bytes.split_at(more);
            if let Some(place) = self.part.get_mut(self.there..self.there + more) {
                place.copy_from_slice(now);
            }
            self.there += more;
            bytes = rest;
            if self.there < wanted {
                return;
            }
            if self.there == self.wanted() {
                let head = self.head();
                self.skip = head.length + HEAD - self.there;
                self.there = 0;
                each(head);
            }
        }
    }

    /// Whether all of the last frame is there and nothing of the next.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.skip == 0 && self.there == 0
    }

    /// Whether a head has begun whose end is not there.
    pub(crate) fn is_in_head(&self) -> bool {
        self.there > 0
    }

    /// How long the head is that has begun, as far as that is known.
    fn wanted(&self) -> usize {
        match self.part {
            [0, 0, 4, RST_STREAM, ..] if self.there >= HEAD => HEAD_AND_REASON,
            _ => HEAD,
        }
    }

    fn head(&self) -> Head {
        let [a, b, c, kind, flags, d, e, f, g, reason @ ..] = self.part;
        Head {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes([d & 0x7f, e, f, g]),
            reason: if self.there > HEAD {
                u32::from_be_bytes(reason)
            } else {
                0
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize, kind: u8, flags: u8, stream: u8) -> Vec<u8> {
        let [.., a, b, c] = length.to_be_bytes();
        let mut bytes = vec![a, b, c, kind, flags, 0x80, 0, 0, stream];
        bytes.resize(9 + length, 0xff);
        bytes
    }

    /// However the bytes are cut, the heads are the same.
    #[test]
    fn heads_are_found_in_pieces_of_any_size() {
        let mut reset = frame(4, RST_STREAM, 0, 5);
        reset[9..].copy_from_slice(&[0, 0, 1, 8]);
        let frames = [
            frame(0, SETTINGS, ACK, 0),
            frame(8, PING, 0, 0),
            frame(70_000, DATA, 1, 3),
            frame(0, DATA, 0, 3),
            reset,
            // Of a wrong length, which is for HTTP/2 to refuse.
            frame(3, RST_STREAM, 0, 7),
            frame(5, 0x77, 0xff, 9),
            frame(4, WINDOW_UPDATE, 0, 0),
        ];
        let wanted = [
            (0, SETTINGS, ACK, 0, 0),
            (8, PING, 0, 0, 0),
            (70_000, DATA, 1, 3, 0),
            (0, DATA, 0, 3, 0),
            (4, RST_STREAM, 0, 5, 264),
            (3, RST_STREAM, 0, 7, 0),
            (5, 0x77, 0xff, 9, 0),
            (4, WINDOW_UPDATE, 0, 0, 0),
        ];
        let bytes = [vec![b'P'; PREFACE], frames.concat()].concat();
        for size in (1..40).chain([4096, 65_536, bytes.len()]) {
            let (mut heads, mut found) = (Heads::of_client(), Vec::new());
            for piece in bytes.chunks(size) {
                heads.pass(piece, |head| {
                    found.push((head.length, head.kind, head.flags, head.stream, head.reason));
                });
            }
            assert_eq!(found, wanted, "in pieces of {size}");
        }
    }
}
