//! Who calls, as the certificate says it, and the patterns of rules that match it.
//!
//! Attributes are compared as they were decoded, attribute by attribute, never in a printed distinguished name: a
//! common name that holds the text `dev,CN=ci` is that text and nothing else. A certificate that is ambiguous for a
//! pattern (two common names where the pattern wants one) does not match it.

use std::fmt;

/// The caller of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// No certificate was shown, and the listener does not require one.
    Anonymous,
    /// A verified certificate.
    Certificate(Box<Certificate>),
}

/// What a verified client certificate says of its holder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// Every commonName of the subject, in order.
    pub common_names: Vec<String>,
    /// Every organizationName of the subject.
    pub organizations: Vec<String>,
    /// Subject alternative names of kind URI.
    pub uris: Vec<String>,
    /// Subject alternative names of kind dNSName.
    pub dns: Vec<String>,
    /// The subject, printed for people; never compared.
    pub subject: String,
    /// The issuer, printed for people; never compared.
    pub issuer: String,
    /// The serial number, in hexadecimal digits.
    pub serial: String,
    /// SHA-256 of the certificate's DER.
    pub sha256: [u8; 32],
    /// Last second of validity, in seconds since 1970.
    pub not_after: i64,
}

impl Identity {
    /// A short name for people: in answers, logs and metrics. At most 100 characters, none of them a control character.
    pub fn label(&self) -> String {
        match self {
            Identity::Anonymous => "anonymous".to_owned(),
            Identity::Certificate(certificate) => match certificate.common_names.as_slice() {
                [name] => printable(&format!("CN={name}")),
                _ => printable(&certificate.subject),
            },
        }
    }

    /// Whether the certificate's validity has ended at a time in seconds since 1970 (RFC 5280, 4.1.2.5: the last
    /// second still counts).
    pub fn expired_at(&self, now: i64) -> bool {
        match self {
            Identity::Anonymous => false,
            Identity::Certificate(certificate) => now > certificate.not_after,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Anonymous => f.write_str("anonymous caller"),
            Identity::Certificate(_) => write!(f, "certificate `{}`", self.label()),
        }
    }
}

/// Which callers a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Every verified certificate.
    Any,
    /// Callers without a certificate.
    Anonymous,
    /// Certificates that have all of these.
    Certificate(CertificatePattern),
}

/// The parts of a certificate that a rule names; all that are given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificatePattern {
    /// The one commonName of the subject.
    pub common_name: Option<String>,
    /// The one organizationName of the subject.
    pub organization: Option<String>,
    /// One of the URI names.
    pub uri: Option<String>,
    /// One of the DNS names; upper and lower case are the same there (RFC 4343).
    pub dns: Option<String>,
    /// SHA-256 of the certificate's DER.
    pub sha256: Option<[u8; 32]>,
}

impl Pattern {
    /// Whether the caller is one that the pattern means.
    pub fn matches(&self, identity: &Identity) -> bool {
        match (self, identity) {
            (Pattern::Any, Identity::Certificate(_)) | (Pattern::Anonymous, Identity::Anonymous) => true,
            (Pattern::Certificate(pattern), Identity::Certificate(certificate)) => pattern.matches(certificate),
            (Pattern::Any | Pattern::Certificate(_), Identity::Anonymous)
            | (Pattern::Anonymous, Identity::Certificate(_)) => false,
        }
    }
}

impl CertificatePattern {
    /// Whether it names nothing, so that it would match every certificate.
    pub fn is_empty(&self) -> bool {
        *self == CertificatePattern::default()
    }

    /// Whether the certificate has all that the pattern names, without ambiguity.
    pub fn matches(&self, certificate: &Certificate) -> bool {
        let only = |wanted: &Option<String>, given: &[String]| match wanted {
            None => true,
            Some(wanted) => matches!(given, [one] if one == wanted),
        };
        only(&self.common_name, &certificate.common_names)
            && only(&self.organization, &certificate.organizations)
            && self.uri.as_ref().is_none_or(|wanted| certificate.has_uri(wanted))
            && self
                .dns
                .as_ref()
                .is_none_or(|wanted| certificate.dns.iter().any(|dns| dns.eq_ignore_ascii_case(wanted)))
            && self.sha256.is_none_or(|wanted| wanted == certificate.sha256)
    }
}

impl Certificate {
    /// A SPIFFE certificate has exactly one SPIFFE ID (SPIFFE X509-SVID, section 2): one that shows two is nobody.
    fn has_uri(&self, wanted: &str) -> bool {
        let is_spiffe = |uri: &str| uri.starts_with("spiffe://");
        let ambiguous = is_spiffe(wanted) && self.uris.iter().any(|uri| is_spiffe(uri) && uri != wanted);
        !ambiguous && self.uris.iter().any(|uri| uri == wanted)
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Text of a certificate made safe to print: control characters and backticks replaced, and cut at 100 characters.
pub fn printable(text: &str) -> String {
    const LONGEST: usize = 100;
    let mut safe: String = text
        .chars()
        .take(LONGEST)
        .map(|c| if c.is_control() || c == '`' { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        safe.push('…');
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Certificate {
        Certificate {
            common_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Certificate::default()
        }
    }

    fn common_name(name: &str) -> CertificatePattern {
        CertificatePattern {
            common_name: Some(name.to_owned()),
            ..CertificatePattern::default()
        }
    }

    #[test]
    fn a_common_name_is_compared_whole_and_must_be_the_only_one() {
        let ci = common_name("ci");
        assert!(ci.matches(&named(&["ci"])));
        for other in [
            &["dev,CN=ci"][..],
            &["ci\0dev"],
            &["CI"],
            &["ci "],
            &["ci", "dev"],
            &["ci", "ci"],
            &[],
        ] {
            assert!(!ci.matches(&named(other)), "{other:?}");
        }
    }

    #[test]
    fn every_name_of_the_right_kind_counts_and_none_of_another() {
        let pattern = CertificatePattern {
            uri: Some("https://ci.example/runner".into()),
            ..CertificatePattern::default()
        };
        let mut certificate = Certificate {
            dns: vec!["https://ci.example/runner".into()],
            ..Certificate::default()
        };
        assert!(!pattern.matches(&certificate));
        certificate.uris = vec!["https://other.example".into(), "https://ci.example/runner".into()];
        assert!(pattern.matches(&certificate));
    }

    #[test]
    fn two_spiffe_ids_are_nobody() {
        let pattern = CertificatePattern {
            uri: Some("spiffe://example/ci".into()),
            ..CertificatePattern::default()
        };
        let with = |uris: &[&str]| Certificate {
            uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
            ..Certificate::default()
        };
        assert!(pattern.matches(&with(&["spiffe://example/ci", "https://example"])));
        assert!(!pattern.matches(&with(&["spiffe://example/ci", "spiffe://example/dev"])));
    }

    #[test]
    fn all_parts_of_a_pattern_must_match() {
        let pattern = CertificatePattern {
            organization: Some("Example".into()),
            ..common_name("ci")
        };
        let mut certificate = named(&["ci"]);
        assert!(!pattern.matches(&certificate));
        certificate.organizations = vec!["Example".into()];
        assert!(pattern.matches(&certificate));
    }

    #[test]
    fn labels_are_safe_to_print() {
        let identity = |names: &[&str]| Identity::Certificate(Box::new(named(names)));
        assert_eq!(identity(&["ci"]).label(), "CN=ci");
        assert_eq!(identity(&["a\nb`c"]).label(), "CN=a\u{fffd}b\u{fffd}c");
        assert!(identity(&[&"x".repeat(500)]).label().chars().count() <= 101);
    }
}
