//! Who calls, as the certificate says it: attributes as they were decoded, one by one, never a printed distinguished
//! name. Rules match it by [`super::pattern`].

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
    /// Every organizationalUnitName of the subject.
    pub organizational_units: Vec<String>,
    /// Subject alternative names of kind URI.
    pub uris: Vec<String>,
    /// Subject alternative names of kind dNSName.
    pub dns: Vec<String>,
    /// Subject alternative names of kind rfc822Name.
    pub emails: Vec<String>,
    /// The subject, printed for people; never compared.
    pub subject: String,
    /// The subject by RFC 2253, in visible ASCII: for other programs; never compared here.
    pub distinguished_name: String,
    /// The issuer, printed for people; never compared.
    pub issuer: String,
    /// The serial number, in hexadecimal digits.
    pub serial: String,
    /// SHA-256 of the certificate's DER.
    pub sha256: [u8; 32],
    /// SHA-256 of the DER of its SubjectPublicKeyInfo, which a renewal for the same key keeps.
    pub spki_sha256: [u8; 32],
    /// First second of validity, in seconds since 1970.
    pub not_before: i64,
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

    #[test]
    fn labels_are_safe_to_print() {
        let identity = |name: &str| {
            Identity::Certificate(Box::new(Certificate {
                common_names: vec![name.to_owned()],
                ..Certificate::default()
            }))
        };
        assert_eq!(identity("ci").label(), "CN=ci");
        assert_eq!(identity("a\nb`c").label(), "CN=a\u{fffd}b\u{fffd}c");
        assert!(identity(&"x".repeat(500)).label().chars().count() <= 101);
    }
}
