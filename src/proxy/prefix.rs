//! Reads, out of a stream of gRPC messages, what a decision needs: the instance or resource name, and the URIs of Remote
//! Asset. Sans-I/O: bytes go in as they come from the network, in pieces of any size; nothing else is copied.
//!
//! A protobuf field may come twice (the last one counts) and in any order, and a varint can be spelled in several ways
//! (protobuf.dev, "Encoding"). A gate and a backend that resolve such a message differently would let a caller show one
//! name to the one and another name to the other. So the whole first message is read, and whatever is ambiguous is
//! refused. The reader stays on for the rest of the stream: bytes that it refuses later are not forwarded, and since a
//! gRPC server acts on whole messages only, a message whose end is not forwarded was never received.

use std::collections::VecDeque;
use std::ops::Range;

use crate::policy::Uris;
use crate::policy::method::{InstanceIn, Method, Requests};
use crate::policy::rights::Right;
use crate::wire::protobuf::Varint;

/// From this many bytes of a message on, the name is taken for settled when a field behind it has come: serializers
/// write fields in order. Should the name come after all, the message is cut off.
pub const SETTLE_EARLY: u64 = 16 * 1024;
/// The longest first message of a method whose decision needs all of it (the URIs of Remote Asset fetches), in bytes. Of
/// a push, whose list of referenced blobs may be longer and comes last, as much is read in search of its URIs.
pub const LONGEST_HELD: u64 = 64 * 1024;
/// The most URIs of a Remote Asset request: each is compared with the rules.
pub const MOST_URIS: usize = 1024;
/// The longest instance or resource name, in bytes.
pub const LONGEST_NAME: usize = 4096;

/// Why the bytes of a request are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A message is compressed, and the gate would have to inflate it to read it.
    #[error("compressed gRPC requests are not supported here: send them with grpc-encoding `identity`")]
    Compressed,
    /// The bytes are no gRPC messages, or no protobuf.
    #[error("the request is malformed: {0}")]
    Malformed(&'static str),
    /// The name could be read in two ways.
    #[error("the request is ambiguous: {0}")]
    Ambiguous(&'static str),
    /// A bound was passed.
    #[error("the request is too long: {0}")]
    TooLong(&'static str),
    /// gRPC requests end with their last message (grpc PROTOCOL-HTTP2, "Requests").
    #[error("the request has trailers, which no gRPC client sends")]
    Trailers,
}

/// How far the reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed before the call can be decided.
    Unsettled,
    /// [`Reader::name`] and [`Reader::take_uris`] are what the backend will see, as long as the reader refuses nothing.
    Settled,
}

/// The reader of one request stream.
#[derive(Debug)]
pub struct Reader {
    /// `None` where messages have nothing that a decision needs: then only their bounds are read.
    name_field: Option<u32>,
    uris_field: Option<u32>,
    /// Whether a field behind the URIs tells that there are no more.
    uris_settle_early: bool,
    requests: Requests,
    frame: Frame,
    field: Field,
    messages: u64,
    in_message: u64,
    name: Option<Vec<u8>>,
    name_in_message: bool,
    beyond_name: bool,
    beyond_uris: bool,
    settled: bool,
    uris: Uris,
    /// How long the message is, and where the field begins that is read: bytes from the begin of the message.
    length: u32,
    tag_at: u64,
    /// Where the name stands in each message, for whoever changes it.
    cuts: Option<VecDeque<Cut>>,
    is_cut: bool,
}

/// Where the name stands in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The length of the message, without its prefix.
    pub length: u32,
    /// The field with the name, from its tag to its last byte, in bytes from the begin of the message; `None` where there
    /// is none, and where a later message has an empty one.
    pub name: Option<Range<u64>>,
}

#[derive(Debug)]
enum Frame {
    Head { bytes: [u8; 5], filled: usize },
    Body { left: u64 },
}

#[derive(Debug)]
enum Field {
    Tag(Varint),
    Value { bytes: u32 },
    Length { number: u32, varint: Varint },
    Name { left: u64, bytes: Vec<u8> },
    Uri { left: u64 },
    Skip { left: u64 },
}

impl Reader {
    /// The reader for a method.
    pub fn new(method: Method) -> Reader {
        let name_field = match method.instance_in() {
            InstanceIn::Field(number) => Some(number),
            // google/bytestream/bytestream.proto: resource_name is field 1 of all three requests.
            InstanceIn::ResourceName(_) => Some(1),
            InstanceIn::Unknown => None,
        };
        Reader {
            name_field,
            uris_field: method.uris_in(),
            uris_settle_early: !method.rights().contains(Right::FetchRemote),
            requests: method.requests(),
            frame: Frame::HEAD,
            field: Field::START,
            messages: 0,
            in_message: 0,
            name: None,
            name_in_message: false,
            beyond_name: false,
            beyond_uris: false,
            settled: false,
            uris: Uris::default(),
            length: 0,
            tag_at: 0,
            cuts: None,
            is_cut: false,
        }
    }

    /// The same, which tells where the name stands in each message. In all of them, not only in the first, it must come
    /// with the first [`SETTLE_EARLY`] bytes or not at all.
    pub fn with_cuts(method: Method) -> Reader {
        Reader {
            cuts: Some(VecDeque::new()),
            ..Reader::new(method)
        }
    }

    /// Where the name stands in the next message that was not asked about; `None` while that can't be told.
    pub fn next_cut(&mut self) -> Option<Cut> {
        self.cuts.as_mut()?.pop_front()
    }

    /// Reads the next bytes of the stream.
    ///
    /// # Errors
    /// The refusal; the stream must not be forwarded any further then, these bytes included.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<Progress, Refusal> {
        while !bytes.is_empty() {
            bytes = match &mut self.frame {
                Frame::Head { .. } => self.frame_head(bytes)?,
                Frame::Body { .. } => self.frame_body(bytes)?,
            };
        }
        let progress = self.progress()?;
        self.settled |= progress == Progress::Settled;
        Ok(progress)
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// When it ends within a message, or before the first.
    pub fn finish(&self) -> Result<(), Refusal> {
        match self.frame {
            Frame::Head { filled: 0, .. } if self.messages > 0 => Ok(()),
            Frame::Head { filled: 0, .. } if self.name_field.is_none() => Ok(()),
            Frame::Head { filled: 0, .. } => Err(Refusal::Malformed("it has no message")),
            Frame::Head { .. } | Frame::Body { .. } => Err(Refusal::Malformed("it ends within a message")),
        }
    }

    /// The instance or resource name, empty where the message has none.
    ///
    /// # Errors
    /// When it is not UTF-8, as protobuf strings must be.
    pub fn name(&self) -> Result<&str, Refusal> {
        str::from_utf8(self.name.as_deref().unwrap_or_default())
            .map_err(|_| Refusal::Malformed("the name is not UTF-8"))
    }

    /// Bytes of memory that it keeps of what it has read.
    pub fn kept(&self) -> usize {
        let growing = match &self.field {
            Field::Name { bytes, .. } => bytes.capacity(),
            _ => 0,
        };
        growing + self.name.as_ref().map_or(0, Vec::capacity) + self.uris.kept()
    }

    /// Whether the bytes so far end where a message ends: a server can act on all of them.
    pub fn is_between_messages(&self) -> bool {
        matches!(self.frame, Frame::Head { filled: 0, .. })
    }

    /// The URIs of the message, which are taken out of the reader.
    pub fn take_uris(&mut self) -> Uris {
        std::mem::take(&mut self.uris)
    }

    fn progress(&self) -> Result<Progress, Refusal> {
        let is_settled_early = self.in_message >= SETTLE_EARLY
            && match self.uris_field {
                Some(_) => self.uris_settle_early && self.beyond_uris,
                None => self.beyond_name,
            };
        if self.uris_field.is_some() && !is_settled_early && self.in_message > LONGEST_HELD {
            return Err(Refusal::TooLong("a Remote Asset request may have 64 KiB"));
        }
        if self.messages > 0 || self.name_field.is_none() || is_settled_early {
            return Ok(Progress::Settled);
        }
        Ok(Progress::Unsettled)
    }

    /// Length-Prefixed-Message of the gRPC protocol: a compressed flag, a length of four bytes, the message.
    fn frame_head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Refusal> {
        if self.messages > 0 && self.requests == Requests::One {
            return Err(Refusal::Ambiguous("bytes follow the only message of the call"));
        }
        let Frame::Head { bytes: head, filled } = &mut self.frame else {
            return Ok(bytes);
        };
        let (now, rest) = bytes.split_at(bytes.len().min(head.len() - *filled));
        for byte in now {
            if let Some(place) = head.get_mut(*filled) {
                *place = *byte;
            }
            *filled += 1;
        }
        match head[0] {
            0 => {}
            1 if self.name_field.is_none() => {}
            1 => return Err(Refusal::Compressed),
            _ => return Err(Refusal::Malformed("the compressed flag is neither 0 nor 1")),
        }
        if *filled == head.len() {
            self.length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let left = u64::from(self.length);
            self.frame = Frame::Body { left };
            self.is_cut = false;
            self.field = Field::START;
            self.in_message = 0;
            self.name_in_message = false;
            if left == 0 {
                self.message_end();
            }
        }
        Ok(rest)
    }

    fn frame_body<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Refusal> {
        let Frame::Body { left } = &mut self.frame else {
            return Ok(bytes);
        };
        let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
        let (mut now, rest) = bytes.split_at(take);
        *left -= take as u64;
        let (left, ended) = (*left, *left == 0);
        self.in_message += take as u64;
        if self.name_field.is_none() {
            if ended {
                self.message_end();
            }
            return Ok(rest);
        }
        while !now.is_empty() {
            now = self.field_bytes(now, left)?;
        }
        if self.in_message >= SETTLE_EARLY && !self.is_in_name() {
            self.cut(None);
        }
        if ended {
            match self.field {
                Field::Tag(varint) if varint.is_empty() => self.message_end(),
                _ => {
                    return Err(Refusal::Malformed("a field goes beyond the end of its message"));
                }
            }
        }
        Ok(rest)
    }

    fn message_end(&mut self) {
        self.cut(None);
        self.messages = self.messages.saturating_add(1);
        self.frame = Frame::HEAD;
    }

    /// Tells where the name of this message stands, once.
    fn cut(&mut self, name: Option<Range<u64>>) {
        if let Some(cuts) = &mut self.cuts
            && !self.is_cut
        {
            self.is_cut = true;
            let length = self.length;
            cuts.push_back(Cut { length, name });
        }
    }

    fn is_in_name(&self) -> bool {
        match &self.field {
            Field::Name { .. } => true,
            Field::Length { number, .. } => Some(*number) == self.name_field,
            Field::Tag(_) | Field::Value { .. } | Field::Uri { .. } | Field::Skip { .. } => false,
        }
    }

    /// One step within a message; `behind` bytes of it are still to come after `bytes`.
    fn field_bytes<'a>(&mut self, bytes: &'a [u8], behind: u64) -> Result<&'a [u8], Refusal> {
        let Some((first, rest)) = bytes.split_first() else {
            return Ok(bytes);
        };
        match &mut self.field {
            Field::Tag(varint) => {
                if varint.is_empty() {
                    self.tag_at = self.in_message - bytes.len() as u64;
                }
                if let Some(tag) = varint.short(*first)? {
                    self.field = self.after_tag(tag)?;
                }
                Ok(rest)
            }
            Field::Value { bytes: count } => {
                *count += 1;
                if first & 0x80 == 0 {
                    self.field = Field::START;
                } else if *count == 10 {
                    return Err(Refusal::Malformed("a number has too many bytes"));
                }
                Ok(rest)
            }
            Field::Length { number, varint } => {
                if let Some(length) = varint.short(*first)? {
                    if length > rest.len() as u64 + behind {
                        return Err(Refusal::Malformed("a field goes beyond the end of its message"));
                    }
                    let number = *number;
                    self.field = self.after_length(number, length, rest.len())?;
                }
                Ok(rest)
            }
            Field::Name { left, bytes: name } => {
                let (now, rest) = split(bytes, left);
                name.extend_from_slice(now);
                if *left == 0 {
                    let name = std::mem::take(name);
                    self.name_end(name, rest.len())?;
                }
                Ok(rest)
            }
            Field::Uri { left } => {
                let (now, rest) = split(bytes, left);
                self.uris.extend(now);
                if *left == 0 {
                    self.uris.end();
                    self.field = Field::START;
                }
                Ok(rest)
            }
            Field::Skip { left } => {
                let (_, rest) = split(bytes, left);
                if *left == 0 {
                    self.field = Field::START;
                }
                Ok(rest)
            }
        }
    }

    fn after_tag(&mut self, tag: u64) -> Result<Field, Refusal> {
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|number| (1..1 << 29).contains(number))
            .ok_or(Refusal::Malformed("a field number is out of range"))?;
        self.beyond_name |= Some(number) >= self.name_field;
        self.beyond_uris |= Some(number) > self.uris_field;
        let is_read = Some(number) == self.name_field || Some(number) == self.uris_field;
        match tag & 7 {
            2 => Ok(Field::Length {
                number,
                varint: Varint::START,
            }),
            _ if is_read => Err(Refusal::Ambiguous("the name is not encoded as a string")),
            0 => Ok(Field::Value { bytes: 0 }),
            1 => Ok(Field::Skip { left: 8 }),
            5 => Ok(Field::Skip { left: 4 }),
            // Groups can hold anything, and no message of these protocols has one.
            _ => Err(Refusal::Malformed("a field has a wire type that is not in use")),
        }
    }

    /// What follows a length behind which `rest` bytes are there.
    fn after_length(&mut self, number: u32, length: u64, rest: usize) -> Result<Field, Refusal> {
        if Some(number) == self.name_field {
            if self.name_in_message {
                return Err(Refusal::Ambiguous("the name is given twice"));
            }
            self.name_in_message = true;
            if length > LONGEST_NAME as u64 {
                return Err(Refusal::TooLong("the name may have 4096 bytes"));
            }
            if length == 0 {
                self.name_end(Vec::new(), rest)?;
                return Ok(Field::START);
            }
            return Ok(Field::Name {
                left: length,
                bytes: Vec::new(),
            });
        }
        if Some(number) == self.uris_field {
            // As with a late name.
            if self.settled {
                return Err(Refusal::Ambiguous("a URI comes after the content"));
            }
            if self.uris.len() >= MOST_URIS {
                return Err(Refusal::TooLong("a Remote Asset request may have 1024 URIs"));
            }
            if length == 0 {
                self.uris.end();
                return Ok(Field::START);
            }
            return Ok(Field::Uri { left: length });
        }
        Ok(if length == 0 {
            Field::START
        } else {
            Field::Skip { left: length }
        })
    }

    /// Ends the name, behind which `rest` bytes are there.
    fn name_end(&mut self, name: Vec<u8>, rest: usize) -> Result<(), Refusal> {
        self.field = Field::START;
        let is_first = self.messages == 0;
        if is_first || !name.is_empty() {
            // Whoever changes the name has put another one in front, and the last one counts.
            if self.cuts.is_some() && self.is_cut {
                return Err(Refusal::Ambiguous("the name comes after the content"));
            }
            self.cut(Some(self.tag_at..self.in_message - rest as u64));
        }
        if is_first {
            // A name behind the point where the absence of one was settled would be another call than the decided one.
            if self.settled && !name.is_empty() {
                return Err(Refusal::Ambiguous("the name comes after the content"));
            }
            self.name = Some(name);
            return Ok(());
        }
        // bytestream.proto: later messages of a Write repeat the name or leave it empty.
        if name.is_empty() || Some(&name) == self.name.as_ref() {
            Ok(())
        } else {
            Err(Refusal::Ambiguous("a later message names another resource"))
        }
    }
}

impl Frame {
    const HEAD: Frame = Frame::Head {
        bytes: [0; 5],
        filled: 0,
    };
}

impl Field {
    const START: Field = Field::Tag(Varint::START);
}

/// Takes up to `left` bytes off and counts them.
fn split<'a>(bytes: &'a [u8], left: &mut u64) -> (&'a [u8], &'a [u8]) {
    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
    *left -= take as u64;
    bytes.split_at(take)
}

#[cfg(test)]
mod tests;
