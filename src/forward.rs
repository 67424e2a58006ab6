//! What a backend is told of who calls: headers, made once for a connection and a configuration.
//!
//! The text of a certificate comes from whoever asked for it. None of it may end a value, or look like another one: what is no
//! visible ASCII letter, and what separates values, is percent-encoded, and so is `%` itself.

use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::policy::RuleId;
use crate::policy::identity::{Certificate, Identity};
use crate::policy::pattern::{Issuers, Part, hex};

/// The header of Envoy, <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers>.
pub const XFCC: &str = "x-forwarded-client-cert";

/// The longest value, in bytes. A longer one is not sent: cut off, it could be that of somebody else, and servers take 8 KiB of
/// headers in all.
const LONGEST: usize = 4096;

/// What is percent-encoded, besides what is no ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%').add(b',').add(b';').add(b'\\');

/// A piece of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// All values of a part of the certificate.
    Part(Part),
    /// Its whole subject, by RFC 2253.
    Subject,
}

/// What one backend is told, and under which names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forward {
    /// Whether it gets [`XFCC`].
    pub xfcc: bool,
    /// Plain headers.
    pub plain: Vec<(Said, HeaderName)>,
    /// The header with the name of the rule, and its values by the index of their [`RuleId`].
    pub rule: Option<(HeaderName, Vec<Option<HeaderValue>>)>,
}

/// Headers with their values.
pub type Headers = Vec<(HeaderName, HeaderValue)>;

impl Forward {
    /// Whether the backend is told nothing.
    pub fn is_empty(&self) -> bool {
        !self.xfcc && self.plain.is_empty() && self.rule.is_none()
    }

    /// The names that only the gate may use, besides [`XFCC`].
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        let plain = self.plain.iter().map(|(_, name)| name);
        plain.chain(self.rule.iter().map(|(name, _)| name))
    }

    /// What is said of a caller for whom these entries of `client-ca` vouch; `None` for a caller without a certificate, of
    /// whom nothing is said.
    pub fn of(&self, identity: &Identity, issuers: &Issuers) -> Option<Headers> {
        let Identity::Certificate(certificate) = identity else {
            return None;
        };
        let plain = self.plain.iter().filter_map(|(said, name)| {
            let value = match said {
                Said::Part(part) => list(&part.given(certificate, issuers)),
                Said::Subject => certificate.distinguished_name.clone(),
            };
            Some((name.clone(), header_value(&value)?))
        });
        let xfcc = self.xfcc.then(|| header_value(&xfcc(certificate))).flatten();
        let xfcc = xfcc.map(|value| (HeaderName::from_static(XFCC), value));
        Some(plain.chain(xfcc).collect())
    }

    /// The header with the name of a rule.
    pub fn rule(&self, rule: RuleId) -> Option<(&HeaderName, &HeaderValue)> {
        let (name, values) = self.rule.as_ref()?;
        Some((name, values.get(rule.index())?.as_ref()?))
    }
}

/// The value for a text; `None` where there is nothing to say, or too much.
pub fn plain_value(text: &str) -> Option<HeaderValue> {
    header_value(&encode(text))
}

fn header_value(text: &str) -> Option<HeaderValue> {
    if text.is_empty() || text.len() > LONGEST {
        return None;
    }
    HeaderValue::from_str(text).ok()
}

fn list(values: &[String]) -> String {
    let values: Vec<_> = values.iter().map(|value| encode(value)).collect();
    values.join(",")
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// One element of Envoy's list: the client in front of the gate.
fn xfcc(certificate: &Certificate) -> String {
    let mut pairs = vec![
        format!("Hash={}", hex(certificate.sha256)),
        // Always quoted; there is no quotation mark in it.
        format!("Subject=\"{}\"", certificate.distinguished_name),
    ];
    pairs.extend(certificate.uris.iter().map(|uri| format!("URI={}", quoted(uri))));
    pairs.extend(certificate.dns.iter().map(|dns| format!("DNS={}", quoted(dns))));
    pairs.join(";")
}

/// A value that has a `=` is quoted; what else would have to be is encoded.
fn quoted(text: &str) -> String {
    let encoded = encode(text);
    if encoded.contains('=') {
        format!("\"{encoded}\"")
    } else {
        encoded
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    use super::*;

    fn said(forward: &Forward, certificate: Certificate) -> Headers {
        let identity = Identity::Certificate(Box::new(certificate));
        forward.of(&identity, &["build, too".into()]).unwrap()
    }

    fn plain(parts: &[(Said, &'static str)]) -> Forward {
        Forward {
            plain: parts
                .iter()
                .map(|(said, name)| (*said, HeaderName::from_static(name)))
                .collect(),
            ..Forward::default()
        }
    }

    #[test]
    fn envoys_header_is_as_envoy_writes_it() {
        let forward = Forward {
            xfcc: true,
            ..Forward::default()
        };
        let certificate = Certificate {
            distinguished_name: "CN=ci,O=Example Inc.".into(),
            uris: vec!["spiffe://example.org/ci".into(), "urn:a?b=c;URI=d,e\"f".into()],
            dns: vec!["ci.example.org".into()],
            sha256: [0xab; 32],
            ..Certificate::default()
        };
        let expected = format!(
            "Hash={};Subject=\"CN=ci,O=Example Inc.\";URI=spiffe://example.org/ci;URI=\"urn:a?b=c%3BURI=d%2Ce%22f\";DNS=ci.example.org",
            "ab".repeat(32)
        );
        let headers = said(&forward, certificate);
        assert_eq!(headers, [(HeaderName::from_static(XFCC), expected.parse().unwrap())]);
    }

    #[test]
    fn a_header_has_all_values_of_its_part_and_is_left_out_without_any() {
        let forward = plain(&[
            (Said::Part(Part::CommonName), "x-cn"),
            (Said::Part(Part::Uri), "x-uri"),
            (Said::Part(Part::IssuedBy), "x-by"),
            (Said::Subject, "x-subject"),
        ]);
        let certificate = Certificate {
            common_names: vec!["a,b".into(), "Größe 1".into()],
            distinguished_name: r"CN=a\2Cb".into(),
            ..Certificate::default()
        };
        let headers = said(&forward, certificate);
        let told: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(
            told,
            [
                ("x-cn", "a%2Cb,Gr%C3%B6%C3%9Fe%201"),
                ("x-by", "build%2C%20too"),
                ("x-subject", r"CN=a\2Cb")
            ]
        );
    }

    #[test]
    fn nothing_is_said_of_a_caller_without_a_certificate_and_nothing_is_cut_off() {
        let forward = plain(&[(Said::Part(Part::CommonName), "x-cn")]);
        assert_eq!(forward.of(&Identity::Anonymous, &[]), None);
        let named = |length| Certificate {
            common_names: vec!["x".repeat(length)],
            ..Certificate::default()
        };
        assert_eq!(said(&forward, named(LONGEST)).len(), 1);
        assert_eq!(said(&forward, named(LONGEST + 1)), []);
    }

    proptest! {
        #[test]
        fn no_text_ends_its_value_and_all_can_be_read_back(texts in proptest::collection::vec(any::<String>(), 1..4)) {
            let value = list(&texts);
            prop_assert!(value.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\;".contains(&byte)));
            let back: Vec<_> = value
                .split(',')
                .map(|text| percent_decode_str(text).decode_utf8().unwrap().into_owned())
                .collect();
            prop_assert_eq!(back, texts);
        }
    }
}
