//! Gives h2 each header block whole, in one frame, and none that is too large.
//!
//! h2 decodes what has come of a block, so that a few bytes would be kept as many fields for as long as a client likes; and it ends
//! the connection, with the downloads on it, where a block has too many parts or a list far too many bytes. Here a block
//! waits as it came, up to [`LONGEST`]. Of a longer one nothing is kept: h2 gets another one for it, which the call is
//! refused by.
//!
//! Both sides must have put the same fields into their tables (RFC 7541, 2.3.2). A long block that puts none there changes
//! nothing. After one that does, no other block of the connection can be read: it is drained, calls that run go on, and
//! those that still come are told to come again.

mod walk;

use walk::Walk;

use crate::http2::MAX_FRAME_SIZE;
use crate::http2::heads::{CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PADDED, PREFACE, PRIORITY_FIELDS};
use crate::proxy::headers::{MARK, TOO_LARGE, UNREADABLE};

/// The longest block that is taken, in bytes as they are sent.
const LONGEST: usize = 60 * 1024;
/// And in how many frames. h2 says what is wrong with more of them.
const MOST_FRAMES: usize = 64;
/// A block that is refused is read to its end, up to so many bytes.
const LONGEST_REFUSED: usize = 4 << 20;
/// The head of a frame (RFC 9113, 4.1).
const HEAD: usize = 9;

/// What a client sends, on its way to h2.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Bytes before the next head.
    skip: usize,
    /// The begin of a frame or block whose end is not there.
    held: Vec<u8>,
    /// What goes to h2 before all that comes.
    ready: Vec<u8>,
    refused: Option<Refused>,
    /// Whether a block was not seen that changes the table.
    is_out_of_step: bool,
    /// h2 is to say what is wrong.
    is_broken: bool,
}

/// A block of which nothing is kept.
#[derive(Debug)]
struct Refused {
    stream: [u8; 4],
    ends_stream: bool,
    /// Bytes before the next frame of it, which there is unless this is the last one.
    left: usize,
    is_last: bool,
    walk: Walk,
    length: usize,
}

/// A head, as far as it is needed here.
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: [u8; 4],
}

/// How far a block is.
enum Block {
    Part,
    /// Its one frame, and how many bytes it was.
    Whole(Vec<u8>, usize),
    TooLong,
    Broken,
}

impl Blocks {
    pub(super) fn new() -> Blocks {
        Blocks {
            skip: PREFACE,
            held: Vec::new(),
            ready: Vec::new(),
            refused: None,
            is_out_of_step: false,
            is_broken: false,
        }
    }

    /// How many of these bytes go on as they are. The others are taken, and may come out of [`Blocks::ready`].
    pub(super) fn pass(&mut self, bytes: &[u8]) -> usize {
        if self.is_broken {
            return bytes.len();
        }
        let is_first = self.held.is_empty() && self.ready.is_empty() && self.refused.is_none();
        let passed = if is_first { self.scan(bytes) } else { 0 };
        let rest = bytes.get(passed..).unwrap_or_default();
        if !rest.is_empty() {
            self.held.extend_from_slice(rest);
            self.work();
        }
        passed
    }

    /// What goes on before anything else is read.
    pub(super) fn ready(&mut self) -> &mut Vec<u8> {
        &mut self.ready
    }

    /// Bytes that are kept.
    pub(super) fn kept(&self) -> usize {
        self.held.capacity() + self.ready.capacity()
    }

    /// Whether header blocks can't be read any more.
    pub(super) fn is_out_of_step(&self) -> bool {
        self.is_out_of_step
    }

    /// How many bytes there are before a head, or a header block that is not whole and in one frame.
    fn scan(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let skip = self.skip.min(bytes.len() - at);
            at += skip;
            self.skip -= skip;
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(head) = Head::of(rest) else { return at };
            let is_whole = head.has(END_HEADERS) && rest.len() >= HEAD + head.length && head.length <= LONGEST;
            if head.kind == HEADERS && (!is_whole || self.is_out_of_step) {
                return at;
            }
            self.skip = HEAD + head.length;
        }
    }

    /// Goes on with what is held, as far as that is possible.
    fn work(&mut self) {
        loop {
            if self.refused.is_some() && !self.refuse() {
                return;
            }
            let held = std::mem::take(&mut self.held);
            let passed = self.scan(&held);
            let (now, rest) = held.split_at(passed);
            self.ready.extend_from_slice(now);
            self.held = rest.to_vec();
            let Some(head) = Head::of(&self.held) else { return };
            let block = if self.is_out_of_step && head.length <= MAX_FRAME_SIZE as usize {
                Block::TooLong
            } else {
                whole(&self.held)
            };
            match block {
                Block::Part => return,
                Block::Whole(frame, length) => {
                    self.ready.extend_from_slice(&frame);
                    self.held.drain(..length);
                }
                Block::TooLong => {
                    self.refused = Some(Refused::new(&head));
                    self.held.drain(..HEAD);
                }
                Block::Broken => {
                    self.is_broken = true;
                    self.ready.append(&mut self.held);
                    return;
                }
            }
        }
    }

    /// Reads on in a block of which nothing is kept; whether that is over.
    fn refuse(&mut self) -> bool {
        let Some(refused) = &mut self.refused else { return true };
        let mut at = 0;
        let is_over = loop {
            let rest = self.held.get(at..).unwrap_or_default();
            let part = rest.get(..refused.left.min(rest.len())).unwrap_or_default();
            refused.walk.pass(part);
            refused.left -= part.len();
            refused.length += part.len();
            at += part.len();
            if refused.left > 0 {
                break false;
            }
            if refused.is_last {
                break true;
            }
            let Some(head) = Head::of(self.held.get(at..).unwrap_or_default()) else {
                break false;
            };
            let is_next =
                head.kind == CONTINUATION && head.stream == refused.stream && head.length <= MAX_FRAME_SIZE as usize;
            if !is_next || refused.length > LONGEST_REFUSED {
                // h2 finds a frame that it does not expect, or more parts than there may be.
                self.is_broken = true;
                self.ready.extend_from_slice(&frame(HEADERS, 0, refused.stream, &[]));
                if is_next {
                    let more = frame(CONTINUATION, 0, refused.stream, &[]);
                    self.ready.extend_from_slice(&more.repeat(MOST_FRAMES));
                }
                self.ready.extend(self.held.drain(..).skip(at));
                return false;
            }
            refused.left = head.length;
            refused.is_last = head.has(END_HEADERS);
            at += HEAD;
        };
        self.held.drain(..at);
        if is_over {
            let (why, instead) = if self.is_out_of_step {
                (UNREADABLE, refused)
            } else {
                (TOO_LARGE, refused)
            };
            let flags = END_HEADERS | if instead.ends_stream { END_STREAM } else { 0 };
            let frame = frame(HEADERS, flags, instead.stream, &block(why));
            self.ready.extend_from_slice(&frame);
            self.is_out_of_step |= !instead.walk.changes_nothing();
            self.refused = None;
        }
        is_over
    }
}

impl Refused {
    fn new(head: &Head) -> Refused {
        // What is beside the fields is not told from them: so it counts as a change.
        let walk = if head.has(PADDED) || head.has(PRIORITY_FIELDS) {
            Walk::Unknown
        } else {
            Walk::new()
        };
        Refused {
            stream: head.stream,
            ends_stream: head.has(END_STREAM),
            left: head.length,
            is_last: head.has(END_HEADERS),
            walk,
            length: 0,
        }
    }
}

impl Head {
    fn of(bytes: &[u8]) -> Option<Head> {
        let &[a, b, c, kind, flags, d, e, f, g] = bytes.first_chunk::<HEAD>()?;
        Some(Head {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: [d & 0x7f, e, f, g],
        })
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Puts a block together that begins here.
fn whole(bytes: &[u8]) -> Block {
    let (mut at, mut payload, mut first) = (0, Vec::new(), None);
    for _ in 0..MOST_FRAMES {
        let Some(head) = Head::of(bytes.get(at..).unwrap_or_default()) else {
            return Block::Part;
        };
        if head.length > MAX_FRAME_SIZE as usize {
            return Block::Broken;
        }
        if payload.len() + head.length > LONGEST {
            return Block::TooLong;
        }
        let stream = match &first {
            None => head.stream,
            Some((_, stream)) => *stream,
        };
        if first.is_some() && (head.kind != CONTINUATION || head.stream != stream) {
            return Block::Broken;
        }
        let Some(part) = bytes.get(at + HEAD..at + HEAD + head.length) else {
            return Block::Part;
        };
        at += HEAD + head.length;
        let is_last = head.has(END_HEADERS);
        if first.is_none() {
            let Some(part) = without_padding(&head, part) else {
                return Block::Broken;
            };
            payload.extend_from_slice(part);
            first = Some((head.flags & !PADDED, stream));
        } else {
            payload.extend_from_slice(part);
        }
        if is_last {
            let flags = first.map_or(0, |(flags, _)| flags) | END_HEADERS;
            return Block::Whole(frame(HEADERS, flags, stream, &payload), at);
        }
    }
    Block::Broken
}

/// The payload of HEADERS without its padding (RFC 9113, 6.2).
fn without_padding<'a>(head: &Head, payload: &'a [u8]) -> Option<&'a [u8]> {
    if !head.has(PADDED) {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(*padding))?)
}

fn frame(kind: u8, flags: u8, stream: [u8; 4], payload: &[u8]) -> Vec<u8> {
    // Of `LONGEST` at most.
    let [.., a, b, c] = payload.len().to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend_from_slice(&stream);
    frame.extend_from_slice(payload);
    frame
}

/// A block that puts nothing into the table: a call that is refused for the mark.
fn block(why: &str) -> Vec<u8> {
    // `:method: POST`, `:scheme: https`, and the names `:path` and `content-type` of the static table (RFC 7541, A).
    let mut block = vec![0x83, 0x87, 0x04];
    let mut string = |text: &str, before: &[u8]| {
        block.extend_from_slice(before);
        // Shorter than 127 bytes (RFC 7541, 5.1).
        block.push(text.len() as u8);
        block.extend_from_slice(text.as_bytes());
    };
    string("/", &[]);
    string("application/grpc", &[0x0f, 0x10]);
    string(MARK, &[0x00]);
    string(why, &[]);
    block
}

#[cfg(test)]
mod tests;
