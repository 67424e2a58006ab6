//! The notation of the case files: short texts that stand for bytes which no library would send.
//!
//! | text | bytes |
//! |---|---|
//! | `0x0a04` | these, in hexadecimal digits, spaces allowed |
//! | `1 team` | the field 1 of a protobuf message, with the text `team` |
//! | `fill 2 300000` | the field 2, with so many bytes |
//! | `repeat 1025 4 urn:x` | so many times the field 4, with the text `urn:x` |
//! | `usual` | in a header block: the fields of a gRPC request |
//! | `path: /x` | in a header block: a field and its value (`:` begins a pseudo-header as well) |
//!
//! `HASH` in a text is the SHA-256 of nothing, and `LONG(n)` so many letters.

use bytes::Bytes;
use casgate::policy::method::Method;

use super::cases::{Call, FrameText};
use crate::harness::frames::{self, Frame, header_block};
use crate::harness::grpc;

/// The stream that a client opens first.
pub(super) const STREAM: u32 = 1;

/// The method with this name in the table of the gate.
pub(super) fn method(name: &str) -> Method {
    let mut all = Method::ALL.iter().copied();
    all.find(|method| method.name() == name)
        .unwrap_or_else(|| panic!("there is no method `{name}`"))
}

/// Bytes in hexadecimal digits behind `0x`.
pub(super) fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.strip_prefix("0x")?.bytes().filter(|byte| *byte != b' ').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    digits
        .chunks(2)
        .map(|pair| byte(pair).filter(|_| pair.len() == 2))
        .collect()
}

/// A text with its placeholders filled in.
pub(super) fn filled(text: &str) -> String {
    let mut text = text.replace("HASH", grpc::HASH);
    while let Some((before, rest)) = text.split_once("LONG(") {
        let (count, after) = rest.split_once(')').unwrap();
        text = format!("{before}{}{after}", "x".repeat(count.parse().unwrap()));
    }
    text
}

/// Parts of a message, one behind the other.
pub(super) fn parts(texts: &[String]) -> Vec<u8> {
    texts.iter().flat_map(|text| part(text)).collect()
}

fn part(text: &str) -> Vec<u8> {
    if let Some(bytes) = hex(text) {
        return bytes;
    }
    let words: Vec<_> = text.splitn(4, ' ').collect();
    match words[..] {
        ["fill", number, count] => {
            let mut field = Vec::new();
            let filling = vec![b'x'; count.parse().unwrap()];
            prost::encoding::bytes::encode(number.parse().unwrap(), &filling, &mut field);
            field
        }
        ["repeat", count, number, text] => {
            grpc::string(number.parse().unwrap(), &filled(text)).repeat(count.parse().unwrap())
        }
        _ => {
            let (number, text) = text.split_once(' ').unwrap_or_else(|| panic!("what is `{text}`?"));
            grpc::string(number.parse().unwrap(), &filled(text))
        }
    }
}

/// All that a call sends at once, as frames.
pub(super) fn request(call: &Call) -> Bytes {
    if !call.frames.is_empty() {
        return call.frames.iter().flat_map(|text| frame(text, call)).collect();
    }
    let body = body(call);
    let ends = call.later.is_empty();
    let (data, end) = (!body.is_empty(), if ends { frames::END_STREAM } else { 0 });
    let flags = frames::END_HEADERS | if data { 0 } else { end };
    let mut bytes = raw(&Frame::new(frames::HEADERS, flags, STREAM, block(call)), None);
    let size = call.pieces.unwrap_or(16 * 1024);
    let count = body.chunks(size).count();
    for (number, piece) in (1..).zip(body.chunks(size)) {
        let flags = if number == count { end } else { 0 };
        bytes.extend(raw(&Frame::new(frames::DATA, flags, STREAM, piece.to_vec()), None));
    }
    bytes.into()
}

/// The body of a request: what the case says, or an honest message.
pub(super) fn body(call: &Call) -> Vec<u8> {
    match (&call.body, call.messages.is_empty()) {
        (Some(body), true) => parts(body),
        (None, false) => call
            .messages
            .iter()
            .flat_map(|message| grpc::frame(&parts(message)))
            .collect(),
        (None, true) => grpc::request(method(&call.method), "").to_vec(),
        (Some(_), false) => panic!("`{}` has a body and messages", call.name),
    }
}

/// The header block of a request.
fn block(call: &Call) -> Bytes {
    if let Some(parts) = &call.block {
        return parts.iter().flat_map(|part| block_part(part, call)).collect();
    }
    let given: Vec<_> = call.headers.iter().map(|(name, _)| name.as_str()).collect();
    let without = |name: &str| given.contains(&name) || call.without.iter().any(|other| other == name);
    let usual = usual(call).into_iter().filter(|(name, _)| !without(name));
    let all: Vec<_> = usual
        .chain(call.headers.iter().cloned())
        .map(|(name, value)| (name, bytes(&value)))
        .collect();
    // Pseudo-headers come first, so that nothing but what a case is about is wrong with it.
    let (first, second): (Vec<_>, Vec<_>) = all.into_iter().partition(|(name, _)| name.starts_with(':'));
    header_block(&[first, second].concat())
}

fn block_part(part: &str, call: &Call) -> Bytes {
    if let Some(bytes) = hex(part) {
        return bytes.into();
    }
    if part == "usual" {
        return header_block(&usual(call));
    }
    let (name, value) = part.split_once(": ").unwrap_or_else(|| panic!("what is `{part}`?"));
    header_block(&[(name, bytes(value))])
}

/// The value of a header field.
pub(super) fn bytes(value: &str) -> Vec<u8> {
    hex(value).unwrap_or_else(|| filled(value).into_bytes())
}

fn usual(call: &Call) -> Vec<(String, String)> {
    let path = method(&call.method).path();
    [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// A frame that is written out.
fn frame(text: &FrameText, call: &Call) -> Vec<u8> {
    let kind = match text.kind.as_str() {
        "DATA" => frames::DATA,
        "HEADERS" => frames::HEADERS,
        "PRIORITY" => frames::PRIORITY,
        "RST_STREAM" => frames::RST_STREAM,
        "SETTINGS" => frames::SETTINGS,
        "PUSH_PROMISE" => frames::PUSH_PROMISE,
        "PING" => frames::PING,
        "WINDOW_UPDATE" => frames::WINDOW_UPDATE,
        "CONTINUATION" => frames::CONTINUATION,
        other => panic!("what is the frame `{other}`?"),
    };
    let flag = |name: &String| match name.as_str() {
        "END_STREAM" | "ACK" => 1,
        "END_HEADERS" => 4,
        "PADDED" => 8,
        "PRIORITY" => 0x20,
        other => panic!("what is the flag `{other}`?"),
    };
    let flags = text.flags.iter().map(flag).fold(0, |all, flag| all | flag);
    let mut payload: Vec<u8> = text.before.iter().flat_map(|part| hex(part).unwrap()).collect();
    payload.extend(text.block.iter().flat_map(|part| block_part(part, call)));
    match text.body.as_deref() {
        Some([usual]) if usual == "usual" => payload.extend(body(call)),
        Some(body) => payload.extend(parts(body)),
        None => {}
    }
    if let Some([from, to]) = text.cut {
        payload = payload[from.min(payload.len())..to.min(payload.len())].to_vec();
    }
    let frame = Frame::new(kind, flags, text.stream.unwrap_or(STREAM), payload);
    raw(&frame, text.length).repeat(text.times.unwrap_or(1))
}

/// A frame as bytes; its length may be a lie.
fn raw(frame: &Frame, length: Option<u32>) -> Vec<u8> {
    let length = length
        .unwrap_or(u32::try_from(frame.payload.len()).unwrap())
        .to_be_bytes();
    let head = [length[1], length[2], length[3], frame.kind, frame.flags];
    [&head[..], &frame.stream.to_be_bytes(), &frame.payload].concat()
}
