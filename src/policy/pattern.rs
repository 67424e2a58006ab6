//! Which callers a rule is about.
//!
//! A certificate is compared attribute by attribute, as they were decoded: a common name that holds the text `dev,CN=ci`
//! is that text and nothing else. Of subject alternative names, all of the pattern's own kind count. A certificate that
//! is ambiguous for a pattern (two common names where the pattern names one) does not match it.

use std::fmt;
use std::sync::Arc;

use super::identity::{Certificate, Identity};
use super::spiffe::UriPattern;

/// Which callers a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Every verified certificate.
    Any,
    /// Callers without a certificate.
    Anonymous,
    /// Certificates that have all of these.
    Certificate(Box<CertificatePattern>),
}

/// The parts of a certificate that a rule names; all that are given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificatePattern {
    /// The one commonName of the subject.
    pub common_name: Option<String>,
    /// The one organizationName of the subject.
    pub organization: Option<String>,
    /// The one organizationalUnitName of the subject.
    pub organizational_unit: Option<String>,
    /// One of the URI names.
    pub uri: Option<UriPattern>,
    /// One of the DNS names; upper and lower case are the same there (RFC 4343).
    pub dns: Option<String>,
    /// One of the mail addresses; upper and lower case are the same behind the `@` (RFC 5280, 7.5).
    pub email: Option<String>,
    /// The serial number.
    pub serial: Option<Serial>,
    /// SHA-256 of the certificate's DER.
    pub sha256: Option<[u8; 32]>,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub spki_sha256: Option<[u8; 32]>,
    /// The name of an authority of `client-ca` that vouches for it.
    pub issued_by: Option<Arc<str>>,
}

/// A serial number: hexadecimal digits in lower case, without leading zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serial(Box<str>);

/// A part of a certificate that a rule may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `common-name`
    CommonName,
    /// `organization`
    Organization,
    /// `organizational-unit`
    OrganizationalUnit,
    /// `uri`
    Uri,
    /// `dns`
    Dns,
    /// `email`
    Email,
    /// `serial`
    Serial,
    /// `sha256`
    Sha256,
    /// `spki-sha256`
    SpkiSha256,
    /// `issued-by`
    IssuedBy,
}

/// How a caller compares with a pattern, or with a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// It is what the pattern means.
    Equal,
    /// It may be: what the pattern names is there, and something of the same kind beside it.
    Ambiguous,
    /// It is another one.
    Different,
}

/// The entries of `client-ca` from which a caller's certificate comes: found by the verifier of a snapshot, so that
/// they are not part of the identity, which outlives it.
pub type Issuers = [Issuer];

/// An entry of `client-ca` from which a certificate comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it vouches for the certificate. Else there is a way from the one to the other that was not taken, which
    /// counts where rights are taken away.
    pub vouches: bool,
}

impl From<&str> for Issuer {
    /// One that vouches.
    fn from(name: &str) -> Issuer {
        Issuer {
            name: name.into(),
            vouches: true,
        }
    }
}

impl Pattern {
    /// How a caller compares with it.
    pub fn fit(&self, identity: &Identity, issuers: &Issuers) -> Fit {
        match (self, identity) {
            (Pattern::Any, Identity::Certificate(_)) | (Pattern::Anonymous, Identity::Anonymous) => Fit::Equal,
            (Pattern::Certificate(pattern), Identity::Certificate(certificate)) => pattern.fit(certificate, issuers),
            (Pattern::Any | Pattern::Certificate(_), Identity::Anonymous)
            | (Pattern::Anonymous, Identity::Certificate(_)) => Fit::Different,
        }
    }
}

impl CertificatePattern {
    /// Whether it names nothing, so that it would match every certificate.
    pub fn is_empty(&self) -> bool {
        *self == CertificatePattern::default()
    }

    /// Whether it names what any authority could write into a certificate, and not which authority it is about.
    pub fn trusts_every_authority(&self) -> bool {
        self.issued_by.is_none() && self.sha256.is_none() && self.spki_sha256.is_none()
    }

    /// How a certificate compares with all that the pattern names.
    pub fn fit(&self, certificate: &Certificate, issuers: &Issuers) -> Fit {
        let mut worst = Fit::Equal;
        for part in Part::ALL {
            worst = worst.max(self.fit_of(part, certificate, issuers).unwrap_or(Fit::Equal));
            if worst == Fit::Different {
                break;
            }
        }
        worst
    }

    /// How a certificate compares with one part of the pattern; `None` where the pattern does not name it.
    pub fn fit_of(&self, part: Part, certificate: &Certificate, issuers: &Issuers) -> Option<Fit> {
        let exactly = |is_equal: bool| if is_equal { Fit::Equal } else { Fit::Different };
        Some(match part {
            Part::CommonName => only(self.common_name.as_ref()?, &certificate.common_names),
            Part::Organization => only(self.organization.as_ref()?, &certificate.organizations),
            Part::OrganizationalUnit => only(self.organizational_unit.as_ref()?, &certificate.organizational_units),
            Part::Uri => {
                let wanted = self.uri.as_ref()?;
                let is_there = certificate.uris.iter().any(|uri| wanted.matches(uri));
                match exactly(is_there) {
                    Fit::Equal if wanted.is_ambiguous(&certificate.uris) => Fit::Ambiguous,
                    fit => fit,
                }
            }
            Part::Dns => {
                let wanted = self.dns.as_ref()?;
                exactly(certificate.dns.iter().any(|dns| dns.eq_ignore_ascii_case(wanted)))
            }
            Part::Email => {
                let wanted = self.email.as_ref()?;
                exactly(certificate.emails.iter().any(|email| is_same_mailbox(email, wanted)))
            }
            Part::Serial => {
                let wanted = self.serial.as_ref()?;
                exactly(Serial::parse(&certificate.serial).as_ref() == Some(wanted))
            }
            Part::Sha256 => exactly(self.sha256? == certificate.sha256),
            Part::SpkiSha256 => exactly(self.spki_sha256? == certificate.spki_sha256),
            Part::IssuedBy => {
                let wanted = self.issued_by.as_ref()?;
                match issuers.iter().find(|issuer| issuer.name == *wanted) {
                    Some(issuer) if issuer.vouches => Fit::Equal,
                    Some(_) => Fit::Ambiguous,
                    None => Fit::Different,
                }
            }
        })
    }

    /// What it wants of a part, as the configuration has it.
    pub fn wanted(&self, part: Part) -> Option<String> {
        match part {
            Part::CommonName => self.common_name.clone(),
            Part::Organization => self.organization.clone(),
            Part::OrganizationalUnit => self.organizational_unit.clone(),
            Part::Uri => self.uri.as_ref().map(UriPattern::to_string),
            Part::Dns => self.dns.clone(),
            Part::Email => self.email.clone(),
            Part::Serial => self.serial.as_ref().map(Serial::to_string),
            Part::Sha256 => self.sha256.map(hex),
            Part::SpkiSha256 => self.spki_sha256.map(hex),
            Part::IssuedBy => self.issued_by.as_deref().map(str::to_owned),
        }
    }
}

impl Part {
    /// Every part, in the order in which they are compared and printed.
    pub const ALL: [Part; 10] = [
        Part::CommonName,
        Part::Organization,
        Part::OrganizationalUnit,
        Part::Uri,
        Part::Dns,
        Part::Email,
        Part::Serial,
        Part::Sha256,
        Part::SpkiSha256,
        Part::IssuedBy,
    ];

    /// The key in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Part::CommonName => "common-name",
            Part::Organization => "organization",
            Part::OrganizationalUnit => "organizational-unit",
            Part::Uri => "uri",
            Part::Dns => "dns",
            Part::Email => "email",
            Part::Serial => "serial",
            Part::Sha256 => "sha256",
            Part::SpkiSha256 => "spki-sha256",
            Part::IssuedBy => "issued-by",
        }
    }

    /// What a certificate has of it.
    pub fn given(self, certificate: &Certificate, issuers: &Issuers) -> Vec<String> {
        match self {
            Part::CommonName => certificate.common_names.clone(),
            Part::Organization => certificate.organizations.clone(),
            Part::OrganizationalUnit => certificate.organizational_units.clone(),
            Part::Uri => certificate.uris.clone(),
            Part::Dns => certificate.dns.clone(),
            Part::Email => certificate.emails.clone(),
            Part::Serial => vec![certificate.serial.clone()],
            Part::Sha256 => vec![hex(certificate.sha256)],
            Part::SpkiSha256 => vec![hex(certificate.spki_sha256)],
            Part::IssuedBy => {
                let vouching = issuers.iter().filter(|issuer| issuer.vouches);
                vouching.map(|issuer| issuer.name.to_string()).collect()
            }
        }
    }
}

impl Serial {
    /// Reads hexadecimal digits, with or without colons between the bytes.
    pub fn parse(text: &str) -> Option<Serial> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        Some(Serial(digits.trim_start_matches('0').to_ascii_lowercase().into()))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Any => f.write_str("every certificate"),
            Pattern::Anonymous => f.write_str("callers without a certificate"),
            Pattern::Certificate(pattern) => {
                let parts = Part::ALL
                    .into_iter()
                    .filter_map(|part| Some((part, pattern.wanted(part)?)));
                for (index, (part, wanted)) in parts.enumerate() {
                    f.write_str(if index == 0 { "certificates with " } else { " and " })?;
                    write!(f, "{} \"{wanted}\"", part.name())?;
                }
                Ok(())
            }
        }
    }
}

/// An attribute of the subject, of which there may be one.
fn only(wanted: &String, given: &[String]) -> Fit {
    match given {
        [one] if one == wanted => Fit::Equal,
        several if several.contains(wanted) => Fit::Ambiguous,
        _ => Fit::Different,
    }
}

fn is_same_mailbox(one: &str, other: &str) -> bool {
    match (one.rsplit_once('@'), other.rsplit_once('@')) {
        (Some((name, host)), Some((other_name, other_host))) => {
            name == other_name && host.eq_ignore_ascii_case(other_host)
        }
        _ => false,
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: [u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn named(names: &[&str]) -> Certificate {
        Certificate {
            common_names: owned(names),
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
        assert_eq!(ci.fit(&named(&["ci"]), &[]), Fit::Equal);
        for other in [&["dev,CN=ci"][..], &["ci\0dev"], &["CI"], &["ci "], &["a", "b"], &[]] {
            assert_eq!(ci.fit(&named(other), &[]), Fit::Different, "{other:?}");
        }
        for double in [&["ci", "dev"][..], &["dev", "ci"], &["ci", "ci"]] {
            assert_eq!(ci.fit(&named(double), &[]), Fit::Ambiguous, "{double:?}");
        }
    }

    #[test]
    fn every_name_of_the_right_kind_counts_and_none_of_another() {
        let all = Certificate {
            uris: owned(&["https://other", "https://ci.example"]),
            dns: owned(&["other.example", "CI.example"]),
            emails: owned(&["other@example.org", "ci@Example.ORG"]),
            ..Certificate::default()
        };
        let uri = |text| CertificatePattern {
            uri: UriPattern::parse(text).ok(),
            ..CertificatePattern::default()
        };
        let dns = |text: &str| CertificatePattern {
            dns: Some(text.into()),
            ..CertificatePattern::default()
        };
        let email = |text: &str| CertificatePattern {
            email: Some(text.into()),
            ..CertificatePattern::default()
        };
        for (pattern, fit) in [
            (uri("https://ci.example"), Fit::Equal),
            (dns("ci.example"), Fit::Equal),
            (email("ci@example.org"), Fit::Equal),
            (email("CI@example.org"), Fit::Different),
            (email("example.org"), Fit::Different),
            (dns("https://ci.example"), Fit::Different),
            (uri("ci@Example.ORG"), Fit::Different),
            (dns("ci.example."), Fit::Different),
        ] {
            assert_eq!(pattern.fit(&all, &[]), fit, "{pattern:?}");
        }
    }

    #[test]
    fn all_parts_of_a_pattern_must_match_and_the_worst_counts() {
        let pattern = CertificatePattern {
            organization: Some("Example".into()),
            ..common_name("ci")
        };
        let mut certificate = named(&["ci", "dev"]);
        assert_eq!(pattern.fit(&certificate, &[]), Fit::Different);
        certificate.organizations = owned(&["Example"]);
        assert_eq!(pattern.fit(&certificate, &[]), Fit::Ambiguous);
        certificate.common_names.pop();
        assert_eq!(pattern.fit(&certificate, &[]), Fit::Equal);
    }

    #[test]
    fn an_issuer_is_one_of_those_that_vouch() {
        let pattern = CertificatePattern {
            issued_by: Some("ci".into()),
            ..common_name("x")
        };
        let x = named(&["x"]);
        assert_eq!(pattern.fit(&x, &["dev".into(), "ci".into()]), Fit::Equal);
        assert_eq!(pattern.fit(&x, &["dev".into()]), Fit::Different);
        assert_eq!(pattern.fit(&x, &[]), Fit::Different);
    }

    #[test]
    fn serials_are_numbers_and_not_text() {
        let serial = |text| Serial::parse(text).unwrap();
        assert_eq!(serial("00:AB:cd"), serial("abCD"));
        assert_ne!(serial("ab"), serial("ab00"));
        assert_eq!(Serial::parse("0x12"), None);
        assert_eq!(Serial::parse(":"), None);
    }
}
