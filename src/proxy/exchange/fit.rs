//! Makes a backend's headers and trailers so small that every client takes them, and so hears of the status.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

/// Bytes of headers or trailers, counted as RFC 9113, 6.5.2 counts them: BuildStream 1 takes 8 KiB (gRPC's default).
const LONGEST: usize = 8 * 1024;
/// Bytes of an encoded `grpc-message`.
const LONGEST_MESSAGE: usize = 2 * 1024;
const MESSAGE: &str = "grpc-message";

/// Cuts the message, and drops the largest fields that the answer can do without.
pub(in crate::proxy) fn fit(headers: &mut HeaderMap) {
    if size(headers) <= LONGEST {
        return;
    }
    let cut = headers.get(MESSAGE).and_then(|value| cut(value.as_bytes()));
    if let Some(cut) = cut {
        headers.insert(MESSAGE, cut);
    }
    while size(headers) > LONGEST
        && let Some(largest) = largest(headers)
    {
        headers.remove(largest);
    }
}

/// The message as far as it may be sent, where that is not all of it: cut between characters, each of which is one byte
/// or several, as they are or as `%XX`.
pub(in crate::proxy) fn cut(message: &[u8]) -> Option<HeaderValue> {
    if message.len() <= LONGEST_MESSAGE {
        return None;
    }
    let (mut at, mut end) = (0, 0);
    while at <= LONGEST_MESSAGE
        && let Some((byte, length)) = unit(message.get(at..)?)
    {
        // Not before one that continues a character (RFC 3629, 3).
        if byte & 0xc0 != 0x80 {
            end = at;
        }
        at += length;
    }
    HeaderValue::from_bytes(message.get(..end)?).ok()
}

/// The first byte of an encoded text, and how many bytes its code has.
fn unit(text: &[u8]) -> Option<(u8, usize)> {
    match text {
        [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
            let digits = std::str::from_utf8(text.get(1..3)?).ok()?;
            Some((u8::from_str_radix(digits, 16).ok()?, 3))
        }
        [byte, ..] => Some((*byte, 1)),
        [] => None,
    }
}

/// Bytes of headers, counted as RFC 9113, 6.5.2 counts them.
pub(in crate::proxy) fn size(headers: &HeaderMap) -> usize {
    let fields = headers.iter();
    fields.map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

fn largest(headers: &HeaderMap) -> Option<HeaderName> {
    let is_needed =
        |name: &HeaderName| *name == CONTENT_TYPE || matches!(name.as_str(), "grpc-status" | MESSAGE | "grpc-encoding");
    let all = |name: &HeaderName| headers.get_all(name).iter().map(HeaderValue::len).sum::<usize>();
    let names = headers.keys().filter(|name| !is_needed(name));
    names.max_by_key(|name| all(name)).cloned()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn cut_text(text: &str) -> String {
        cut(text.as_bytes()).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn messages_are_cut_between_characters() {
        assert_eq!(cut(&[b'x'; 2048]), None);
        assert_eq!(cut_text(&"x".repeat(5000)), "x".repeat(2048));
        assert_eq!(cut_text(&"%C3%BC".repeat(1000)), "%C3%BC".repeat(2048 / 6));
        assert_eq!(cut_text(&"%zz%".repeat(1000)).len(), 2048);
        let raw = "ü".repeat(2000);
        assert_eq!(cut(format!("x{raw}").as_bytes()).unwrap().len(), 2047);
        assert_eq!(cut(&[0x80; 4000]).unwrap().len(), 0);
    }

    #[test]
    fn the_largest_go_first_and_the_status_stays() {
        let mut headers = HeaderMap::new();
        let fields = [
            ("grpc-status", 3),
            ("grpc-message", 9000),
            ("content-type", 20),
            ("grpc-status-details-bin", 7000),
            ("x-small", 100),
        ];
        for (name, length) in fields {
            headers.insert(name, HeaderValue::from_bytes(&vec![b'x'; length]).unwrap());
        }
        fit(&mut headers);
        assert!(size(&headers) <= LONGEST && headers["grpc-message"].len() == 2048);
        assert!(!headers.contains_key("grpc-status-details-bin") && headers.contains_key("x-small"));
        assert!(headers.contains_key("grpc-status") && headers.contains_key("content-type"));
    }
}
