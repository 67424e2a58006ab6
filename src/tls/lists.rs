//! Revocation lists: whose they are, what they revoke, and how long they hold.
//!
//! A list belongs to the **key** that signed it, and not to a name: two authorities may have one name, as the two generations
//! of one that was given another key. Its signature is verified when it is read, with the keys of `client-ca`. An authority
//! whose certificate only clients show, between their own and `client-ca`, is known when one does, and its lists are verified
//! then. A certificate is good if no list of the authority that signed it names it: all of them count, since a list that is
//! newer may have lost what an older one had.

mod list;
mod serials;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateRevocationListDer, UnixTime};
use rustls::{CertificateError, Error};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::OID_X509_EXT_CRL_DISTRIBUTION_POINTS;

use super::refusal::Refusal;
use super::{identity, seconds};
use crate::config::file::{ExpiredLists, MissingLists};
use list::{List, Scope, SignedList};

/// As many keys of authorities that clients have shown are remembered with the lists that they signed.
const MOST_SHOWN: usize = 1024;

/// A revocation list as it was read: once, for all listeners.
#[derive(Clone, Debug)]
pub struct ReadList {
    list: Arc<List>,
    /// Kept as long as nobody knows who signed it.
    signed: Arc<SignedList>,
}

/// The revocation lists of a listener.
#[derive(Debug)]
pub struct Lists {
    terms: Terms,
    algorithms: WebPkiSupportedAlgorithms,
    /// By the SubjectPublicKeyInfo of the authority that signed them.
    signed_by: HashMap<Vec<u8>, Vec<Arc<List>>>,
    /// Those that no key of `client-ca` signed.
    others: Vec<ReadList>,
    /// Which of the others are signed by a key that clients have shown.
    shown: Mutex<HashMap<ShownKey, Found>>,
}

/// A key that a client has shown, with the identifier that its certificate gives it.
type ShownKey = (Vec<u8>, Option<Vec<u8>>);

/// Lists that were found for a key.
type Found = Arc<[Arc<List>]>;

/// The lists of one authority.
struct OfAuthority<'a> {
    /// Its key, where that is known.
    key: Option<&'a [u8]>,
    lists: Vec<&'a Arc<List>>,
}

/// What becomes of certificates that the lists say nothing of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// Those whose list has ended.
    pub expired: ExpiredLists,
    /// Those that no list covers.
    pub missing: MissingLists,
}

/// A key that may have signed lists.
#[derive(Clone, Debug)]
pub(super) struct Signer {
    /// SubjectPublicKeyInfo.
    pub(super) key: Vec<u8>,
    /// The identifier that its certificate gives it.
    pub(super) key_id: Option<Vec<u8>>,
    /// Its name in DER.
    pub(super) subject: Vec<u8>,
    /// Whether it may sign lists under this name: that of an authority, or of who signed its own certificate.
    pub(super) is_authority: bool,
    /// Whether it issues certificates.
    pub(super) issues: bool,
}

/// Who signed a certificate.
#[derive(Clone, Copy, Debug)]
pub(super) enum SignedBy<'a> {
    /// A key of `client-ca`.
    Known(&'a [u8]),
    /// A key that the client has shown, with the identifier that its certificate gives it.
    Shown { key: &'a [u8], key_id: Option<&'a [u8]> },
    /// An authority of which nothing is known but its name, and perhaps the identifier of its key.
    Named { name: &'a [u8], key_id: Option<&'a [u8]> },
}

/// What lists need to know of a certificate.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    serial: Vec<u8>,
    is_authority: bool,
    /// Where it says that the list of its authority is to be had, each in DER.
    points: Vec<Vec<u8>>,
}

impl ReadList {
    /// Reads a list, which lies in this file.
    ///
    /// # Errors
    /// Text for people, as it goes on behind the file's name: it can't be read, or is of a kind that is not understood.
    pub fn new(der: CertificateRevocationListDer<'static>, file: &str) -> Result<ReadList, String> {
        let algorithms = super::provider().signature_verification_algorithms;
        Ok(ReadList {
            list: Arc::new(List::read(&der, file, &algorithms)?),
            signed: Arc::new(SignedList::new(der)),
        })
    }

    /// Whether it revokes the certificate of this serial number, as DER has it in an INTEGER.
    pub fn names(&self, serial: &[u8]) -> bool {
        self.list.names(serials::canonical(serial))
    }
}

impl Lists {
    /// The lists, each bound to the one of these keys that signed it.
    ///
    /// # Errors
    /// Text for people, for each list that has the name of an authority whose key did not sign it.
    pub(super) fn new(lists: &[ReadList], signers: &[Signer], terms: Terms) -> Result<Lists, Vec<String>> {
        let mut bound = Lists {
            terms,
            ..Lists::default()
        };
        let mut errors = Vec::new();
        for read in lists {
            let list = &read.list;
            let claims = |signer: &Signer| {
                let has_id = list.key_id.is_some() && list.key_id == signer.key_id;
                (has_id, signer.is_authority && signer.subject == list.issuer)
            };
            // There may be thousands of clients' own certificates, and a large list takes a while.
            let may_have = |signer: &&Signer| signer.issues || claims(signer) != (false, false);
            let mut candidates: Vec<_> = signers.iter().filter(may_have).collect();
            candidates.sort_by_key(|signer| std::cmp::Reverse(claims(signer)));
            let signer = candidates
                .iter()
                .find(|signer| read.signed.is_by(&bound.algorithms, &signer.key));
            match signer {
                Some(signer) => bound
                    .signed_by
                    .entry(signer.key.clone())
                    .or_default()
                    .push(Arc::clone(list)),
                None if candidates
                    .first()
                    .is_some_and(|likely| claims(likely) != (false, false)) =>
                {
                    errors.push(format!(
                        "`{}` has a revocation list of `{}` whose signature is not that of the authority of this name in client-ca: it belongs to another key, or was damaged; get the list of this authority, or put the certificate that signed it into client-ca as well",
                        list.file, list.issuer_text
                    ));
                }
                None => bound.others.push(read.clone()),
            }
        }
        if errors.is_empty() { Ok(bound) } else { Err(errors) }
    }

    /// Whether a certificate is good by all lists of the authority that signed it, and until when that is known: the last
    /// second in seconds since 1970; `None` for ever.
    ///
    /// # Errors
    /// When it is revoked, or nothing is known of it and must be.
    pub(super) fn check(&self, subject: &Subject, by: SignedBy<'_>, now: UnixTime) -> Result<Option<i64>, Error> {
        let lists = self.of(by)?;
        if lists.iter().any(|list| list.names(&subject.serial)) {
            return Err(CertificateError::Revoked.into());
        }
        let covering = lists.iter().filter(|list| list.covers(subject));
        let Some(end) = covering.map(|list| list.end).reduce(later) else {
            return match self.terms.missing {
                MissingLists::Accept => Ok(None),
                MissingLists::Refuse => Err(CertificateError::UnknownRevocationStatus.into()),
            };
        };
        match (self.terms.expired, end) {
            (ExpiredLists::Refuse, Some(end)) if end < seconds(now) => {
                Err(CertificateError::ExpiredRevocationList.into())
            }
            (ExpiredLists::Refuse, end) => Ok(end),
            (ExpiredLists::Tolerate, _) => Ok(None),
        }
    }

    /// Whether one of them is signed by this key of `client-ca`.
    pub(super) fn are_of(&self, key: &[u8]) -> bool {
        self.signed_by.contains_key(key)
    }

    /// The name of each authority with the end of its newest list, in seconds since 1970. Of two with one name the key is
    /// told as well.
    pub fn ends(&self) -> impl Iterator<Item = (String, i64)> {
        let mut ends = Vec::new();
        for OfAuthority { key, lists } in self.by_authority() {
            // Parts of what an authority has issued may have lists of their own: the first part to end counts.
            let mut parts: Vec<(&Arc<List>, Option<i64>)> = Vec::new();
            for list in &lists {
                match parts.iter_mut().find(|(part, _)| part.is_about_the_same(list)) {
                    Some((_, end)) => *end = later(*end, list.end),
                    None => parts.push((list, list.end)),
                }
            }
            let first = parts.iter().filter_map(|(_, end)| *end).min();
            if let (Some(end), Some(list)) = (first, lists.first()) {
                ends.push((list.issuer_text.clone(), key.or(list.key_id.as_deref()), end));
            }
        }
        let mut names = HashMap::<String, usize>::new();
        for (name, ..) in &ends {
            *names.entry(name.clone()).or_default() += 1;
        }
        ends.into_iter().map(move |(name, key, end)| match key {
            Some(key) if names.get(&name).is_some_and(|count| *count > 1) => {
                (format!("{name}, key {}", short_hash(key)), end)
            }
            _ => (name, end),
        })
    }

    /// Lists that do not do what their administrator thinks. `is_named` tells whether a certificate of `client-ca` itself was
    /// issued under this name.
    pub(super) fn warnings(&self, is_named: &dyn Fn(&[u8]) -> bool) -> Vec<String> {
        let mut warnings = Vec::new();
        for ReadList { list, .. } in self.others.iter().filter(|read| !is_named(&read.list.issuer)) {
            warnings.push(format!(
                "the revocation list of `{}` has no effect on what client-ca names, as no key there signed it (`{}`): it is applied where clients show the certificate of the authority that did",
                list.issuer_text, list.file
            ));
        }
        for OfAuthority { lists, .. } in self.by_authority() {
            for list in &lists {
                let silent_about = match list.scope() {
                    Scope::All => None,
                    Scope::Users => Some((Scope::Authorities, "which authorities below it")),
                    Scope::Authorities => Some((Scope::Users, "which certificates of clients")),
                };
                let is_said_elsewhere = |scope| {
                    let mut others = lists.iter();
                    others.any(|other| [scope, Scope::All].contains(&other.scope()))
                };
                if let Some((_, what)) = silent_about.filter(|(scope, _)| !is_said_elsewhere(*scope)) {
                    warnings.push(format!(
                        "the revocation list of `{}` does not say {what} are revoked, and there is no other (`{}`): `client-crl-missing` decides about them",
                        list.issuer_text, list.file
                    ));
                }
                if list.removed > 0 {
                    warnings.push(format!(
                        "the revocation list of `{}` has {} entries with the reason removeFromCRL, which only lists of changes may have (`{}`): these certificates are taken for revoked",
                        list.issuer_text, list.removed, list.file
                    ));
                }
            }
        }
        let now = crate::live::now();
        let ended = self.ends().filter(|(_, end)| *end < now);
        warnings.extend(ended.map(|(issuer, _)| match self.terms.expired {
            ExpiredLists::Tolerate => format!(
                "the revocation list of `{issuer}` is out of date, and goes on being applied: get the next one from its authority"
            ),
            ExpiredLists::Refuse => format!(
                "the revocation list of `{issuer}` is out of date, and every certificate of this authority is refused: get the next one from it"
            ),
        }));
        warnings
    }

    /// The lists of each authority.
    fn by_authority(&self) -> Vec<OfAuthority<'_>> {
        let known = self.signed_by.iter().map(|(key, lists)| OfAuthority {
            key: Some(key),
            lists: lists.iter().collect(),
        });
        let mut all: Vec<_> = known.collect();
        let known = all.len();
        for ReadList { list, .. } in &self.others {
            let is_same = |other: &&Arc<List>| other.issuer == list.issuer && other.key_id == list.key_id;
            let mut others = all.iter_mut().skip(known);
            match others.find(|other| other.lists.first().is_some_and(is_same)) {
                Some(other) => other.lists.push(list),
                None => all.push(OfAuthority {
                    key: None,
                    lists: vec![list],
                }),
            }
        }
        all
    }

    /// The lists of an authority.
    ///
    /// # Errors
    /// When one that says that it is hers can't be verified.
    fn of(&self, by: SignedBy<'_>) -> Result<Vec<Arc<List>>, Error> {
        let signed_by = |key| self.signed_by.get(key).cloned().unwrap_or_default();
        match by {
            SignedBy::Known(key) => Ok(signed_by(key)),
            SignedBy::Shown { key, key_id } => {
                let mut lists = signed_by(key);
                lists.extend(self.signed_by_shown(key, key_id)?.iter().cloned());
                Ok(lists)
            }
            // Nobody can say whose key it was: whatever has the name counts, unless it says that it is of another key.
            SignedBy::Named { name, key_id } => {
                let others = self.others.iter().map(|read| &read.list);
                let all = self.signed_by.values().flatten().chain(others);
                let is_hers = |list: &&Arc<List>| {
                    let is_of_another_key = key_id
                        .zip(list.key_id.as_deref())
                        .is_some_and(|(one, other)| one != other);
                    list.issuer == name && !is_of_another_key
                };
                Ok(all.filter(is_hers).cloned().collect())
            }
        }
    }

    fn signed_by_shown(&self, key: &[u8], key_id: Option<&[u8]>) -> Result<Found, Error> {
        if self.others.is_empty() {
            return Ok(Arc::default());
        }
        let shown_key = (key.to_vec(), key_id.map(<[u8]>::to_vec));
        if let Some(known) = self.shown.lock().get(&shown_key) {
            return Ok(Arc::clone(known));
        }
        let mut lists = Vec::new();
        for ReadList { list, signed } in &self.others {
            if signed.is_by(&self.algorithms, key) {
                lists.push(Arc::clone(list));
            } else if key_id.is_some() && list.key_id.as_deref() == key_id {
                // It names this very key: whoever damaged it would otherwise have taken it out of use.
                return Err(Refusal::DamagedList(list.file.clone()).into());
            }
        }
        let lists: Found = lists.into();
        let mut shown = self.shown.lock();
        if shown.len() >= MOST_SHOWN {
            shown.clear();
        }
        shown.insert(shown_key, Arc::clone(&lists));
        Ok(lists)
    }
}

impl Default for Lists {
    fn default() -> Lists {
        Lists {
            terms: Terms::default(),
            algorithms: super::provider().signature_verification_algorithms,
            signed_by: HashMap::new(),
            others: Vec::new(),
            shown: Mutex::default(),
        }
    }
}

impl Subject {
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Subject {
        let points = certificate
            .iter_extensions()
            .find(|extension| extension.oid == OID_X509_EXT_CRL_DISTRIBUTION_POINTS);
        Subject {
            serial: serials::canonical(certificate.raw_serial()).to_vec(),
            is_authority: identity::usage(certificate) != identity::Usage::EndEntity,
            points: points
                .and_then(|points| list::distribution_points(points.value).ok())
                .unwrap_or_default(),
        }
    }
}

/// Of two ends the later one; `None` is never.
fn later(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    one.zip(other).map(|(one, other)| one.max(other))
}

/// What tells keys apart in a line.
fn short_hash(key: &[u8]) -> String {
    let hash = identity::sha256(key);
    hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}
