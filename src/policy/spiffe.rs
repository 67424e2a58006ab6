//! URI names of certificates, and the patterns of rules that match them. SPIFFE IDs are matched by component; all other
//! URIs are compared whole.

use std::fmt;

/// What begins a SPIFFE ID (SPIFFE-ID, section 2).
const SCHEME: &str = "spiffe://";

/// The `uri` of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UriPattern {
    text: Box<str>,
    /// Only for SPIFFE IDs.
    path: Option<Path>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Path {
    trust_domain: Box<str>,
    /// `*` stands for any one.
    components: Vec<Box<str>>,
    /// Whether `**` ends it.
    rest: bool,
}

/// Why a text is no pattern of URIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUri {
    /// A wildcard in a URI whose components have no meaning that is known here.
    #[error("`*` has a meaning only in the path of a `spiffe://` URI; others are compared whole")]
    Wildcard,
    /// `**` stands before the last component.
    #[error("`**` may only be the last component")]
    RestInside,
    /// `*` is only a part of a component.
    #[error("`*` must be a whole component of the path")]
    PartialWildcard,
    /// The trust domain has other characters than SPIFFE-ID, section 2.1 allows, such as a wildcard or a port.
    #[error("the trust domain of a SPIFFE ID has only the characters a-z, 0-9, `.`, `-` and `_`")]
    TrustDomain,
    /// No SPIFFE ID has such a path (SPIFFE-ID, section 2.2), so that the pattern could never match.
    #[error(
        "no SPIFFE ID has such a path: components have only letters, digits, `.`, `-` and `_`, and are neither `.` nor `..`"
    )]
    Path,
}

impl UriPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it; see [`InvalidUri`].
    pub fn parse(text: &str) -> Result<UriPattern, InvalidUri> {
        let path = match text.strip_prefix(SCHEME) {
            Some(rest) => Some(Path::parse(rest)?),
            None if text.contains('*') => return Err(InvalidUri::Wildcard),
            None => None,
        };
        Ok(UriPattern {
            text: text.into(),
            path,
        })
    }

    /// Whether this URI is one that the pattern means.
    pub fn matches(&self, uri: &str) -> bool {
        match &self.path {
            Some(path) => uri.strip_prefix(SCHEME).is_some_and(|rest| path.matches(rest)),
            None => *self.text == *uri,
        }
    }

    /// Whether it means one URI, which is its text.
    pub fn is_one(&self) -> bool {
        let is_open = |path: &Path| path.rest || path.components.iter().any(|component| **component == *"*");
        !self.path.as_ref().is_some_and(is_open)
    }

    /// Whether these names could be those of somebody else as well: a certificate has exactly one SPIFFE ID (SPIFFE
    /// X509-SVID, section 2), and one that shows two is nobody.
    pub fn is_ambiguous(&self, uris: &[String]) -> bool {
        let mut ids = uris.iter().filter(|uri| is_spiffe(uri));
        let first = ids.next();
        self.path.is_some() && ids.any(|other| Some(other) != first)
    }
}

impl fmt::Display for UriPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Path {
    fn parse(rest: &str) -> Result<Path, InvalidUri> {
        let mut parts = rest.split('/');
        let trust_domain = parts.next().unwrap_or_default();
        let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if trust_domain.is_empty() || !trust_domain.bytes().all(is_good) {
            return Err(InvalidUri::TrustDomain);
        }
        let mut path = Path {
            trust_domain: trust_domain.into(),
            components: Vec::new(),
            rest: false,
        };
        for part in parts {
            if path.rest {
                return Err(InvalidUri::RestInside);
            }
            match part {
                "**" => path.rest = true,
                "*" => path.components.push(part.into()),
                _ if part.contains('*') => return Err(InvalidUri::PartialWildcard),
                _ if is_component(part) => path.components.push(part.into()),
                _ => return Err(InvalidUri::Path),
            }
        }
        Ok(path)
    }

    fn matches(&self, rest: &str) -> bool {
        let mut given = rest.split('/');
        if given.next() != Some(&*self.trust_domain) {
            return false;
        }
        for wanted in &self.components {
            match given.next() {
                Some(component) if is_component(component) && (**wanted == *"*" || **wanted == *component) => {}
                _ => return false,
            }
        }
        if self.rest {
            // What is no SPIFFE ID is not matched by leaving the odd part to the wildcard.
            given.all(is_component)
        } else {
            given.next().is_none()
        }
    }
}

/// SPIFFE-ID, section 2.2.
fn is_component(text: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(is_good)
}

/// Schemes are the same in upper and lower case (RFC 3986, 3.1): one that is written oddly matches no pattern, but it
/// is a second identity.
fn is_spiffe(uri: &str) -> bool {
    uri.get(..SCHEME.len())
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn matches(pattern: &str, uri: &str) -> bool {
        UriPattern::parse(pattern).unwrap().matches(uri)
    }

    #[test]
    fn spiffe_paths_match_by_component() {
        for (pattern, yes, no) in [
            (
                "spiffe://x/ci",
                &["spiffe://x/ci"][..],
                &[
                    "spiffe://x/ci/",
                    "spiffe://x/ci2",
                    "spiffe://x",
                    "spiffe://y/ci",
                    "SPIFFE://x/ci",
                    "spiffe://x:1/ci",
                    "spiffe://u@x/ci",
                    "spiffe://x/ci?q",
                    "spiffe://x/%63i",
                ][..],
            ),
            (
                "spiffe://x/*/ci",
                &["spiffe://x/a/ci"],
                &[
                    "spiffe://x/ci",
                    "spiffe://x/a/b/ci",
                    "spiffe://x//ci",
                    "spiffe://x/../ci",
                    "spiffe://x/a%2fb/ci",
                ],
            ),
            (
                "spiffe://x/ns/**",
                &["spiffe://x/ns", "spiffe://x/ns/a", "spiffe://x/ns/a/b"],
                &[
                    "spiffe://x/nsa",
                    "spiffe://x/ns/",
                    "spiffe://x/ns/../a",
                    "spiffe://x/ns/a#b",
                    "spiffe://x.y/ns",
                ],
            ),
            ("spiffe://x/**", &["spiffe://x", "spiffe://x/a"], &["spiffe://xa/a"]),
            (
                "https://x/ci",
                &["https://x/ci"],
                &["https://x/ci/", "HTTPS://x/ci", "https://x/c"],
            ),
        ] {
            for uri in yes {
                assert!(matches(pattern, uri), "{pattern} {uri}");
            }
            for uri in no {
                assert!(!matches(pattern, uri), "{pattern} {uri}");
            }
        }
    }

    #[test]
    fn patterns_that_could_not_match_are_refused() {
        for (text, error) in [
            ("https://x/*", InvalidUri::Wildcard),
            ("spiffe://*/a", InvalidUri::TrustDomain),
            ("spiffe://X/a", InvalidUri::TrustDomain),
            ("spiffe://", InvalidUri::TrustDomain),
            ("spiffe://x/**/a", InvalidUri::RestInside),
            ("spiffe://x/a*", InvalidUri::PartialWildcard),
            ("spiffe://x/a//b", InvalidUri::Path),
            ("spiffe://x/a/", InvalidUri::Path),
            ("spiffe://x/..", InvalidUri::Path),
        ] {
            assert_eq!(UriPattern::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn two_different_spiffe_ids_are_ambiguous_for_a_rule_about_one() {
        let ambiguous = |pattern: &str, uris: &[&str]| {
            let uris: Vec<_> = uris.iter().map(|uri| (*uri).to_owned()).collect();
            UriPattern::parse(pattern).unwrap().is_ambiguous(&uris)
        };
        assert!(ambiguous("spiffe://x/*", &["spiffe://x/a", "spiffe://x/b"]));
        assert!(ambiguous(
            "spiffe://x/a",
            &["spiffe://x/a", "https://x", "SPIFFE://x/a"]
        ));
        assert!(!ambiguous(
            "spiffe://x/a",
            &["spiffe://x/a", "spiffe://x/a", "https://x"]
        ));
        assert!(!ambiguous("https://x", &["https://x", "spiffe://x/a", "spiffe://x/b"]));
    }
}
