//! One revocation list (RFC 5280, 5): what it revokes, for how long it holds, and what it covers.
//!
//! A list is read once, whatever the number of names and listeners that it is for, and in few bytes. One of a kind that is
//! not understood is an error: what it says would be ignored otherwise, or taken for more than it is.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::CertificateRevocationListDer;
use x509_parser::der_parser::Oid;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use super::Subject;
use super::serials::{Serials, canonical};
use crate::policy::identity::printable;
use crate::tls::der::{
    BOOLEAN, ENUMERATED, Element, Elements, GENERALIZED_TIME, INTEGER, NotDer, OCTET_STRING, OID, SEQUENCE, Signed,
    UTC_TIME,
};
use crate::tls::signature;

/// A revocation list.
#[derive(Debug)]
pub(super) struct List {
    /// The file, as the configuration names it.
    pub(super) file: String,
    /// The name of its authority, in DER and as text.
    pub(super) issuer: Vec<u8>,
    pub(super) issuer_text: String,
    /// What it says of the key that signed it (RFC 5280, 5.2.1).
    pub(super) key_id: Option<Vec<u8>>,
    /// Its nextUpdate in seconds since 1970; `None` for never.
    pub(super) end: Option<i64>,
    scope: Scope,
    /// Where it says that it is to be had, each in DER; it covers certificates that name one of these places, or none.
    points: Vec<Vec<u8>>,
    serials: Serials,
    /// Entries that only lists of changes have (RFC 5280, 5.3.1: removeFromCRL).
    pub(super) removed: usize,
}

/// A list with the bytes that its signature is over.
#[derive(Debug)]
pub(super) struct SignedList {
    der: CertificateRevocationListDer<'static>,
}

/// What a certificate must be for a list to cover it. All that a list names is revoked, whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    All,
    /// onlyContainsUserCerts
    Users,
    /// onlyContainsCACerts
    Authorities,
}

impl List {
    /// Reads a list, which lies in this file.
    ///
    /// # Errors
    /// Text for people, as it goes on behind the file's name: it can't be read, or is of a kind that is not understood.
    pub(super) fn read(der: &[u8], file: &str, algorithms: &WebPkiSupportedAlgorithms) -> Result<List, String> {
        let unreadable = |NotDer| "has a revocation list that can't be read".to_owned();
        let signed = Signed::read(der).map_err(unreadable)?;
        let parts = Parts::read(&signed).map_err(unreadable)?;
        let (_, name) = X509Name::from_der(parts.issuer.whole).map_err(|_| unreadable(NotDer))?;
        let issuer_text = printable(&name.to_string());
        let of = |text: &str| format!("has a revocation list of `{issuer_text}` that {text}");
        signature::check_algorithm(algorithms, &signed).map_err(|algorithm| {
            of(&format!(
                "is signed with {algorithm}, which is not taken: have its authority sign it with SHA-256 or better"
            ))
        })?;
        let mut list = List {
            file: file.to_owned(),
            issuer: parts.issuer.whole.to_vec(),
            key_id: None,
            end: parts.next_update.map(seconds).transpose().map_err(unreadable)?,
            scope: Scope::All,
            points: Vec::new(),
            serials: Serials::default(),
            removed: 0,
            issuer_text: issuer_text.clone(),
        };
        list.read_extensions(parts.extensions).map_err(|kind| match kind {
            Unfit::NotDer => unreadable(NotDer),
            Unfit::Kind(text) => of(&text),
        })?;
        list.read_entries(parts.revoked).map_err(|kind| match kind {
            Unfit::NotDer => unreadable(NotDer),
            Unfit::Kind(text) => of(&text),
        })?;
        Ok(list)
    }

    /// Whether it names a serial number, which is as [`canonical`] has it.
    pub(super) fn names(&self, serial: &[u8]) -> bool {
        self.serials.contains(serial)
    }

    /// Whether a certificate that it does not name is good by it: it is about all of this kind.
    pub(super) fn covers(&self, subject: &Subject) -> bool {
        let is_of_kind = match self.scope {
            Scope::All => true,
            Scope::Users => !subject.is_authority,
            Scope::Authorities => subject.is_authority,
        };
        let (own, other) = (&self.points, &subject.points);
        let is_of_place = own.is_empty() || other.is_empty() || own.iter().any(|point| other.contains(point));
        is_of_kind && is_of_place
    }

    pub(super) fn scope(&self) -> Scope {
        self.scope
    }

    /// Whether two lists of one authority cover the same certificates.
    pub(super) fn is_about_the_same(&self, other: &List) -> bool {
        self.scope == other.scope && self.points == other.points
    }

    /// RFC 5280, 5.2.
    fn read_extensions(&mut self, extensions: Option<Element<'_>>) -> Result<(), Unfit> {
        for extension in read_extensions(extensions)? {
            match extension.id {
                AUTHORITY_KEY_IDENTIFIER => self.key_id = key_id(extension.value)?.map(<[u8]>::to_vec),
                ISSUING_DISTRIBUTION_POINT => self.read_place(extension.value)?,
                DELTA_LIST => {
                    return Err(Unfit::kind(
                        "has only what changed since an earlier one (deltaCRLIndicator): take the whole one",
                    ));
                }
                CRL_NUMBER => {}
                id if extension.is_critical => {
                    let id = Oid::new(id.into()).to_id_string();
                    return Err(Unfit::Kind(format!(
                        "has a critical extension {id}, which is not understood"
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// RFC 5280, 5.2.5: the issuing distribution point.
    fn read_place(&mut self, value: &[u8]) -> Result<(), Unfit> {
        let mut outer = Elements::new(value);
        let mut parts = Elements::new(outer.expect(&[SEQUENCE])?.content);
        outer.end()?;
        if let Some(point) = parts.optional(&[0xa0])? {
            self.points = full_names(point.content)?.ok_or_else(|| {
                Unfit::kind("names its distribution point relative to its issuer, which is not understood")
            })?;
        }
        let mut flag = |tag: u8| -> Result<bool, NotDer> {
            Ok(match parts.optional(&[tag])? {
                Some(flag) => boolean(flag.content)?,
                None => false,
            })
        };
        let (users, authorities) = (flag(0x81)?, flag(0x82)?);
        let some_reasons = parts.optional(&[0x83])?.is_some();
        let mut flag = |tag: u8| -> Result<bool, NotDer> {
            Ok(match parts.optional(&[tag])? {
                Some(flag) => boolean(flag.content)?,
                None => false,
            })
        };
        let (indirect, attributes) = (flag(0x84)?, flag(0x85)?);
        parts.end()?;
        self.scope = match (users, authorities) {
            (false, false) => Scope::All,
            (true, false) => Scope::Users,
            (false, true) => Scope::Authorities,
            (true, true) => {
                return Err(Unfit::kind(
                    "says that it covers nothing (onlyContainsUserCerts and onlyContainsCACerts)",
                ));
            }
        };
        if some_reasons {
            return Err(Unfit::kind(
                "is about some reasons only (onlySomeReasons): take the one that is about all",
            ));
        }
        if indirect {
            return Err(Unfit::kind(
                "is about certificates of several authorities (indirectCRL): take one of each authority",
            ));
        }
        if attributes {
            return Err(Unfit::kind(
                "is about attribute certificates (onlyContainsAttributeCerts), which nobody connects with",
            ));
        }
        Ok(())
    }

    fn read_entries(&mut self, revoked: Option<Element<'_>>) -> Result<(), Unfit> {
        let mut entries = Elements::new(revoked.map_or(&[][..], |revoked| revoked.content));
        // Counted first: a list that grew would be there twice for a while.
        let mut counted = entries;
        let mut count = 0;
        while counted.next()?.is_some() {
            count += 1;
        }
        let mut numbers = Vec::with_capacity(count);
        while let Some(entry) = entries.next()? {
            if entry.tag != SEQUENCE {
                return Err(Unfit::NotDer);
            }
            let mut parts = Elements::new(entry.content);
            let number = canonical(parts.expect(&[INTEGER])?.content);
            if number.is_empty() {
                return Err(Unfit::NotDer);
            }
            parts.expect(&[UTC_TIME, GENERALIZED_TIME])?;
            let extensions = parts.optional(&[SEQUENCE])?;
            parts.end()?;
            if extensions.is_some() {
                self.read_entry_extensions(extensions)?;
            }
            numbers.push(number);
        }
        self.serials = Serials::new(numbers);
        Ok(())
    }

    /// RFC 5280, 5.3. What is on hold is revoked. What only a list of changes may take out is revoked as well: this is no
    /// such list, and the certificate is in it.
    fn read_entry_extensions(&mut self, extensions: Option<Element<'_>>) -> Result<(), Unfit> {
        for extension in read_extensions(extensions)? {
            match extension.id {
                REASON => {
                    let mut value = Elements::new(extension.value);
                    self.removed += usize::from(value.expect(&[ENUMERATED])?.content == [8]);
                    value.end()?;
                }
                CERTIFICATE_ISSUER => {
                    return Err(Unfit::kind(
                        "has entries of other authorities (certificateIssuer): take one of each authority",
                    ));
                }
                id if extension.is_critical => {
                    let id = Oid::new(id.into()).to_id_string();
                    return Err(Unfit::Kind(format!(
                        "has an entry with a critical extension {id}, which is not understood"
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl SignedList {
    pub(super) fn new(der: CertificateRevocationListDer<'static>) -> SignedList {
        SignedList { der }
    }

    /// Whether a key signed it, which is given as SubjectPublicKeyInfo.
    pub(super) fn is_by(&self, algorithms: &WebPkiSupportedAlgorithms, key: &[u8]) -> bool {
        Signed::read(&self.der).is_ok_and(|signed| signature::is_by(algorithms, &signed, key))
    }
}

/// Why a list can't be used.
enum Unfit {
    NotDer,
    Kind(String),
}

impl Unfit {
    fn kind(text: &str) -> Unfit {
        Unfit::Kind(text.to_owned())
    }
}

impl From<NotDer> for Unfit {
    fn from(NotDer: NotDer) -> Unfit {
        Unfit::NotDer
    }
}

/// The parts of a TBSCertList (RFC 5280, 5.1.2).
struct Parts<'a> {
    issuer: Element<'a>,
    next_update: Option<Element<'a>>,
    revoked: Option<Element<'a>>,
    extensions: Option<Element<'a>>,
}

impl<'a> Parts<'a> {
    fn read(signed: &Signed<'a>) -> Result<Parts<'a>, NotDer> {
        let mut parts = Elements::new(signed.tbs.content);
        let version = parts.optional(&[INTEGER])?;
        // Version 1 has no such field, and no extensions; version 2 is written as 1.
        if version.is_some_and(|version| version.content != [1]) {
            return Err(NotDer);
        }
        if parts.expect(&[SEQUENCE])?.content != signed.algorithm {
            return Err(NotDer);
        }
        let issuer = parts.expect(&[SEQUENCE])?;
        seconds(parts.expect(&[UTC_TIME, GENERALIZED_TIME])?)?;
        let next_update = parts.optional(&[UTC_TIME, GENERALIZED_TIME])?;
        let revoked = parts.optional(&[SEQUENCE])?;
        let extensions = parts.optional(&[0xa0])?;
        parts.end()?;
        let extensions = extensions.map(|explicit| {
            let mut explicit = Elements::new(explicit.content);
            let extensions = explicit.expect(&[SEQUENCE])?;
            explicit.end()?;
            Ok(extensions)
        });
        if extensions.is_some() && version.is_none() {
            return Err(NotDer);
        }
        Ok(Parts {
            issuer,
            next_update,
            revoked,
            extensions: extensions.transpose()?,
        })
    }
}

struct Extension<'a> {
    id: &'a [u8],
    is_critical: bool,
    value: &'a [u8],
}

const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
const REASON: &[u8] = &[0x55, 0x1d, 0x15];
const DELTA_LIST: &[u8] = &[0x55, 0x1d, 0x1b];
const ISSUING_DISTRIBUTION_POINT: &[u8] = &[0x55, 0x1d, 0x1c];
const CERTIFICATE_ISSUER: &[u8] = &[0x55, 0x1d, 0x1d];
const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x23];

/// RFC 5280, 4.2: each at most once.
fn read_extensions(extensions: Option<Element<'_>>) -> Result<Vec<Extension<'_>>, NotDer> {
    let mut all: Vec<Extension<'_>> = Vec::new();
    let mut rest = Elements::new(extensions.map_or(&[][..], |extensions| extensions.content));
    while let Some(extension) = rest.next()? {
        let mut parts = Elements::new(extension.content);
        let id = parts.expect(&[OID])?.content;
        let is_critical = match parts.optional(&[BOOLEAN])? {
            Some(critical) => boolean(critical.content)?,
            None => false,
        };
        let value = parts.expect(&[OCTET_STRING])?.content;
        parts.end()?;
        if extension.tag != SEQUENCE || all.iter().any(|other| other.id == id) {
            return Err(NotDer);
        }
        all.push(Extension { id, is_critical, value });
    }
    Ok(all)
}

fn boolean(content: &[u8]) -> Result<bool, NotDer> {
    match content {
        [0] => Ok(false),
        [0xff] => Ok(true),
        _ => Err(NotDer),
    }
}

/// The keyIdentifier of an AuthorityKeyIdentifier (RFC 5280, 4.2.1.1).
fn key_id(value: &[u8]) -> Result<Option<&[u8]>, NotDer> {
    let mut outer = Elements::new(value);
    let mut parts = Elements::new(outer.expect(&[SEQUENCE])?.content);
    outer.end()?;
    Ok(parts.optional(&[0x80])?.map(|id| id.content))
}

/// The names of a DistributionPointName (RFC 5280, 4.2.1.13); `None` where it is relative to the issuer's.
fn full_names(content: &[u8]) -> Result<Option<Vec<Vec<u8>>>, NotDer> {
    let mut choice = Elements::new(content);
    let name = choice.expect(&[0xa0, 0xa1])?;
    choice.end()?;
    if name.tag != 0xa0 {
        return Ok(None);
    }
    let mut names = Elements::new(name.content);
    let mut all = Vec::new();
    while let Some(name) = names.next()? {
        all.push(name.whole.to_vec());
    }
    Ok(Some(all))
}

/// The names of all distribution points of a certificate, by the value of its extension (RFC 5280, 4.2.1.13). What can't be
/// read names no place that a list could cover.
pub(super) fn distribution_points(value: &[u8]) -> Result<Vec<Vec<u8>>, NotDer> {
    let mut outer = Elements::new(value);
    let mut points = Elements::new(outer.expect(&[SEQUENCE])?.content);
    outer.end()?;
    let mut all = Vec::new();
    while let Some(point) = points.next()? {
        if let Some(name) = Elements::new(point.content).optional(&[0xa0])? {
            all.extend(full_names(name.content)?.unwrap_or_default());
        }
    }
    Ok(all)
}

fn seconds(time: Element<'_>) -> Result<i64, NotDer> {
    match ASN1Time::from_der(time.whole) {
        Ok(([], time)) => Ok(time.timestamp()),
        Ok(_) | Err(_) => Err(NotDer),
    }
}
