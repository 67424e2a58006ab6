//! Which rules may be about a caller, without a look at all of them: a rule that names a value is only about
//! certificates that have it.

use std::collections::HashMap;

use super::identity::{Certificate, Identity};
use super::pattern::{CertificatePattern, Issuers, Part, Pattern, Serial};

/// The parts of a pattern by which a rule is found, the most telling ones first.
const PARTS: [Part; Part::ALL.len()] = [
    Part::Sha256,
    Part::SpkiSha256,
    Part::Uri,
    Part::Serial,
    Part::CommonName,
    Part::Dns,
    Part::Email,
    Part::OrganizationalUnit,
    Part::Organization,
    Part::IssuedBy,
];

/// Numbers of rules, each in one place.
#[derive(Clone, Debug)]
pub(super) struct Index {
    /// Those about certificates, by the value of the first part in this order that they name, as [`key`] writes it.
    named: [(Part, HashMap<String, Vec<u32>>); PARTS.len()],
    /// Those about certificates that name no single value: only a pattern of SPIFFE IDs, or nothing at all.
    any: Vec<u32>,
    anonymous: Vec<u32>,
}

impl Index {
    /// The index of rules with these patterns.
    pub(super) fn new<'a>(patterns: impl Iterator<Item = &'a Pattern>) -> Index {
        let mut index = Index::default();
        for (rule, pattern) in (0..).zip(patterns) {
            index.place(pattern).push(rule);
        }
        index
    }

    /// Every rule that may be about a caller, in order. No other is.
    pub(super) fn candidates(&self, identity: &Identity, issuers: &Issuers) -> Vec<u32> {
        let Identity::Certificate(certificate) = identity else {
            return self.anonymous.clone();
        };
        let mut found = self.any.clone();
        for (part, rules) in self.named.iter().filter(|(_, rules)| !rules.is_empty()) {
            let keys = given(*part, certificate, issuers);
            found.extend(keys.iter().filter_map(|key| rules.get(key)).flatten());
        }
        found.sort_unstable();
        found
    }

    fn place(&mut self, pattern: &Pattern) -> &mut Vec<u32> {
        let pattern = match pattern {
            Pattern::Any => return &mut self.any,
            Pattern::Anonymous => return &mut self.anonymous,
            Pattern::Certificate(pattern) => pattern,
        };
        let mut parts = self.named.iter_mut();
        match parts.find_map(|(part, rules)| Some((rules, wanted(*part, pattern)?))) {
            Some((rules, key)) => rules.entry(key).or_default(),
            None => &mut self.any,
        }
    }
}

impl Default for Index {
    fn default() -> Index {
        Index {
            named: PARTS.map(|part| (part, HashMap::new())),
            any: Vec::new(),
            anonymous: Vec::new(),
        }
    }
}

/// The one value that a pattern wants of a part.
fn wanted(part: Part, pattern: &CertificatePattern) -> Option<String> {
    match (part, &pattern.uri) {
        (Part::Uri, Some(uri)) if !uri.is_one() => None,
        _ => key(part, pattern.wanted(part)?),
    }
}

/// What a certificate has of a part, each value once.
fn given(part: Part, certificate: &Certificate, issuers: &Issuers) -> Vec<String> {
    let values = match part {
        // Also those that count for denials only.
        Part::IssuedBy => issuers.iter().map(|issuer| issuer.name.to_string()).collect(),
        _ => part.given(certificate, issuers),
    };
    let mut keys: Vec<String> = values.into_iter().filter_map(|value| key(part, value)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// One text for all that a pattern can't tell apart, and perhaps for more; `None` for what matches nothing.
fn key(part: Part, value: String) -> Option<String> {
    match part {
        Part::Dns | Part::Email => Some(value.to_ascii_lowercase()),
        Part::Serial => Serial::parse(&value).map(|serial| serial.to_string()),
        _ => Some(value),
    }
}
