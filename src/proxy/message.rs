//! gRPC messages with their prefix: a compressed flag, a length of four bytes, the message (grpc PROTOCOL-HTTP2,
//! "Length-Prefixed-Message").

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// The longest message that is taken from a backend, in bytes: gRPC's own limit is 4 MiB unless raised, and nothing is asked
/// for here that has more.
const LONGEST: usize = 5 << 20;

/// Takes one message out of the buffer, where it is whole.
pub(crate) fn take(buffer: &mut BytesMut) -> Result<Option<Bytes>, &'static str> {
    let Some(head) = buffer.first_chunk::<5>() else {
        return Ok(None);
    };
    if head[0] != 0 {
        return Err("it compressed a message that it was not asked to compress");
    }
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > LONGEST {
        return Err("its message is longer than 5 MiB");
    }
    if buffer.len() - head.len() < length {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// A message with its prefix (grpc PROTOCOL-HTTP2, "Length-Prefixed-Message").
pub(crate) fn framed(message: &impl Message) -> Bytes {
    frame(&message.encode_to_vec())
}

/// The same for a message that is encoded.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn messages_are_taken_whole_and_none_is_too_long() {
        let mut buffer = BytesMut::new();
        for byte in b"\0\0\0\0\x02ab\0\0\0\0\0" {
            buffer.put_u8(*byte);
            match buffer.len() {
                7 => assert_eq!(take(&mut buffer).unwrap().unwrap(), "ab"),
                _ if buffer.as_ref() == b"\0\0\0\0\0" => assert_eq!(take(&mut buffer).unwrap().unwrap(), ""),
                _ => assert_eq!(take(&mut buffer), Ok(None)),
            }
        }
        assert!(buffer.is_empty());
        assert!(take(&mut BytesMut::from(&b"\x01\0\0\0\0"[..])).is_err());
        assert!(take(&mut BytesMut::from(&b"\0\xff\0\0\0"[..])).is_err());
    }
}
