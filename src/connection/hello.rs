//! Waits for the first words of a client without reading them: they stay with the kernel, so that who says nothing, or half
//! of it, costs a socket and no memory of TLS.

use std::io;

use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::census::Ticket;
use super::handshake::Error;

/// The longest ClientHello that is waited for, in bytes: with keys of post-quantum algorithms and a session ticket honest
/// ones have 2 to 6 KiB.
const LONGEST: usize = 16 * 1024;
/// So many bytes are looked at: a ClientHello may be in several records.
const LOOKED_AT: usize = LONGEST + 1024;
/// The head of a TLS record: its type, a version, and a length (RFC 8446, 5.1).
const RECORD_HEAD: usize = 5;
const HANDSHAKE: u8 = 22;
/// The head of a handshake message: its type and a length (RFC 8446, 4).
const MESSAGE_HEAD: usize = 4;
/// What an HTTP/2 client sends before its first frame (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// A ClientHello.
    Hello,
    /// The preface of HTTP/2.
    Preface,
}

/// How much of it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    Part,
    /// All of it, or something else: whoever reads it will say so.
    Whole,
    TooLong,
}

/// Ends when all of it has come.
///
/// # Errors
/// When the connection ends before that, or it does not come to an end.
pub(super) async fn wait(tcp: &TcpStream, first: First, ticket: &Ticket) -> Result<(), Error> {
    let mut has_spoken = false;
    let said = until_whole(tcp, first, || {
        if !has_spoken {
            has_spoken = true;
            ticket.has_spoken();
        }
    });
    match said.await {
        Err(_) if !has_spoken => Err(Error::Wordless),
        said => Ok(said?),
    }
}

async fn until_whole(tcp: &TcpStream, first: First, mut has_part: impl FnMut()) -> io::Result<()> {
    loop {
        let ready = tcp.ready(Interest::READABLE).await?;
        let words = tcp.try_io(Interest::READABLE, || match peek(tcp, first)? {
            // More of it is an event, though this much was not taken.
            Words::Part => {
                has_part();
                Err(io::ErrorKind::WouldBlock.into())
            }
            words => Ok(words),
        });
        match words {
            Ok(Words::TooLong) => return Err(io::Error::other("the ClientHello has more than 16 KiB")),
            Ok(_) => return Ok(()),
            // Nothing more will come, of which there is an event without end.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// How much has come, all of which stays where it is.
fn peek(tcp: &TcpStream, first: First) -> io::Result<Words> {
    let mut bytes = [0; LOOKED_AT];
    let (length, _) = rustix::net::recv(tcp, &mut bytes[..], RecvFlags::PEEK)?;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(first.words(bytes.get(..length).unwrap_or_default()))
}

impl First {
    fn words(self, bytes: &[u8]) -> Words {
        match self {
            First::Hello => hello(bytes),
            First::Preface if bytes.len() < PREFACE.len() && PREFACE.starts_with(bytes) => Words::Part,
            First::Preface => Words::Whole,
        }
    }
}

/// How much of a ClientHello is there, which may be in several records.
fn hello(mut bytes: &[u8]) -> Words {
    let is_all_there_may_be = bytes.len() >= LOOKED_AT;
    let more = if is_all_there_may_be {
        Words::TooLong
    } else {
        Words::Part
    };
    let mut head = [0; MESSAGE_HEAD];
    let mut got = 0;
    loop {
        match bytes.first() {
            None => return more,
            Some(&HANDSHAKE) => {}
            Some(_) => return Words::Whole,
        }
        let Some((record, rest)) = bytes.split_at_checked(RECORD_HEAD) else {
            return more;
        };
        let &[_, _, _, high, low] = record else { return more };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 {
            // Only application data may be empty (RFC 8446, 5.1).
            return Words::Whole;
        }
        let part = rest.get(..length.min(rest.len())).unwrap_or_default();
        for (place, byte) in head.iter_mut().skip(got).zip(part) {
            *place = *byte;
        }
        got += part.len();
        if got >= MESSAGE_HEAD {
            let [_, a, b, c] = head;
            let message = MESSAGE_HEAD + u32::from_be_bytes([0, a, b, c]) as usize;
            if message > LONGEST {
                return Words::TooLong;
            }
            if got >= message {
                return Words::Whole;
            }
        }
        let Some((_, behind)) = rest.split_at_checked(length) else {
            return more;
        };
        bytes = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello of so many bytes, in records of so many.
    fn records(message: usize, each: usize) -> Vec<u8> {
        let [.., a, b, c] = (message - MESSAGE_HEAD).to_be_bytes();
        let mut bytes = vec![1, a, b, c];
        bytes.resize(message, 0);
        let records = bytes.chunks(each).map(|part| {
            let [.., high, low] = part.len().to_be_bytes();
            [&[HANDSHAKE, 3, 1, high, low], part].concat()
        });
        records.collect::<Vec<_>>().concat()
    }

    #[test]
    fn a_hello_is_whole_with_its_last_byte_and_not_before() {
        for (message, each) in [(200, 500), (200, 100), (200, 7), (4, 1), (16_000, 16_000), (5000, 4096)] {
            let bytes = records(message, each);
            for length in 0..bytes.len() {
                assert_eq!(hello(&bytes[..length]), Words::Part, "{message} {each} {length}");
            }
            assert_eq!(hello(&bytes), Words::Whole);
            assert_eq!(hello(&[&bytes[..], b"more"].concat()), Words::Whole);
        }
    }

    #[test]
    fn what_is_no_hello_is_not_waited_for() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\0",
            &[HANDSHAKE, 3, 1, 0, 0],
            &[21, 3, 1, 0, 2],
        ] {
            assert_eq!(hello(bytes), Words::Whole, "{bytes:?}");
        }
        assert_eq!(First::Preface.words(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"), Words::Part);
        assert_eq!(First::Preface.words(PREFACE), Words::Whole);
        assert_eq!(First::Preface.words(b"GET"), Words::Whole);
    }

    #[test]
    fn one_that_never_ends_is_too_long() {
        assert_eq!(hello(&records(LONGEST + 1, 9)[..20]), Words::TooLong);
        // Records of one byte each, whose heads are most of it.
        let small = records(LONGEST, 1);
        assert_eq!(hello(&small[..LOOKED_AT]), Words::TooLong);
    }
}
