//! The URIs of a Remote Asset request, and the prefixes by which rules limit them.

use crate::reference_storage::URN_PREFIX;

/// The URIs that one request fetches or pushes, as they came: nothing is decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uris {
    /// One behind the other.
    text: Vec<u8>,
    ends: Vec<usize>,
}

/// What a URI must begin with, byte by byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UriPrefix(Box<str>);

/// Why a text is no prefix of URIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrefix {
    /// Every URI begins with it.
    #[error("is empty, and every URI begins so: leave `uris` out")]
    Empty,
    /// `https://example.org` begins `https://example.org.evil.example` as well.
    #[error("ends within the host, so that other hosts begin so too: end it with `/`")]
    WithinHost,
}

impl Uris {
    /// These URIs.
    pub fn of<'a>(uris: impl IntoIterator<Item = &'a str>) -> Uris {
        let mut all = Uris::default();
        for uri in uris {
            all.extend(uri.as_bytes());
            all.end();
        }
        all
    }

    /// Takes the next bytes of a URI.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
    }

    /// Ends a URI.
    pub fn end(&mut self) {
        self.ends.push(self.text.len());
    }

    /// Bytes of memory that they take.
    pub fn kept(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * size_of::<usize>()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none: a probe.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| self.text.get(start..*end).unwrap_or_default())
    }

    /// Whether one of them is a name that BuildStream 1 gives to its artifacts, see
    /// [`crate::reference_storage::URN_PREFIX`].
    pub fn has_build_stream_1(&self) -> bool {
        self.iter().any(|uri| uri.starts_with(URN_PREFIX.as_bytes()))
    }
}

/// Whether a fetch of the URI leads the server out: all but `urn:` names, which only its own index can answer.
pub fn leads_out(uri: &[u8]) -> bool {
    !uri.get(..4).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"urn:"))
}

impl UriPrefix {
    /// Reads a prefix.
    ///
    /// # Errors
    /// What is wrong with it; see [`InvalidPrefix`].
    pub fn parse(text: &str) -> Result<UriPrefix, InvalidPrefix> {
        if text.is_empty() {
            return Err(InvalidPrefix::Empty);
        }
        match text.split_once("://") {
            Some((_, rest)) if !rest.contains('/') => Err(InvalidPrefix::WithinHost),
            _ => Ok(UriPrefix(text.into())),
        }
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the URI begins with it, and stays there: what leads the server out is resolved by programs that turn
    /// `/public/../private` into `/private`, so that a URI with such a part is covered by no prefix.
    pub fn covers(&self, uri: &[u8]) -> bool {
        uri.starts_with(self.0.as_bytes()) && (!leads_out(uri) || !climbs(uri))
    }
}

/// Whether a URI has a component `.` or `..`, in any spelling that a server might take for one (RFC 3986, 6.2.2;
/// clients that follow the WHATWG's URL standard drop tabs and line ends, and take `\` for `/`).
fn climbs(uri: &[u8]) -> bool {
    let is_odd = |byte: &u8| *byte <= b' ' || *byte == 0x7f || *byte == b'\\';
    let mut components = uri.split(|byte| matches!(byte, b'/' | b'?' | b'#'));
    uri.iter().any(is_odd)
        || components.any(|component| {
            let component = component.to_ascii_lowercase();
            let dots = String::from_utf8_lossy(&component).replace("%2e", ".");
            dots == "." || dots == ".." || dots.contains("%2f") || dots.contains("%5c")
        })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn covers(prefix: &str, uri: &str) -> bool {
        UriPrefix::parse(prefix).unwrap().covers(uri.as_bytes())
    }

    #[test]
    fn uris_are_kept_apart() {
        let given = ["urn:a", "", "https://x/\u{e9}", ""];
        let uris = Uris::of(given);
        let back: Vec<_> = uris.iter().map(|uri| str::from_utf8(uri).unwrap()).collect();
        assert_eq!(back, given);
        assert_eq!((uris.len(), uris.is_empty()), (4, false));
        assert!(Uris::default().is_empty());
    }

    #[test]
    fn only_urn_names_stay_within_the_server() {
        for local in ["urn:a", "URN:b", "urn:"] {
            assert!(!leads_out(local.as_bytes()), "{local}");
        }
        for remote in ["", "urn", "git@host:x", "file:///etc/passwd", " urn:a", "https://x"] {
            assert!(leads_out(remote.as_bytes()), "{remote}");
        }
    }

    #[test]
    fn prefixes_are_compared_byte_by_byte() {
        let ours = "urn:fdc:buildstream.build:2020:";
        assert!(covers(ours, "urn:fdc:buildstream.build:2020:artifact:x"));
        assert!(covers(ours, ours));
        assert!(covers("urn:x:", "urn:x:a/../b"));
        for other in [
            "URN:fdc:buildstream.build:2020:x",
            "urn:fdc:buildstream.build:2021:x",
            " urn:fdc:buildstream.build:2020:x",
            "urn:fdc:buildstream%2ebuild:2020:x",
            "urn:fdc",
            "",
        ] {
            assert!(!covers(ours, other), "{other}");
        }
    }

    #[test]
    fn a_prefix_can_not_be_left_again() {
        let ours = "https://example.org/public/";
        for good in [
            "https://example.org/public/",
            "https://example.org/public/a..b/.c?x=1#y",
        ] {
            assert!(covers(ours, good), "{good}");
        }
        for out in [
            "../x",
            "a/%2E%2e/x",
            "a/./x",
            "..\\x",
            ".\t./x",
            "%2e./x",
            "..",
            "a/..#x",
            "..?x",
            "..%2fx",
            "x y",
        ] {
            assert!(!covers(ours, &format!("{ours}{out}")), "{out}");
        }
        assert_eq!(UriPrefix::parse("https://example.org"), Err(InvalidPrefix::WithinHost));
        assert_eq!(UriPrefix::parse(""), Err(InvalidPrefix::Empty));
        assert!(UriPrefix::parse("git@example.org:").is_ok());
    }
}
