//! Which client certificates are accepted.
//!
//! Two ways lead in: a chain to an authority of `client-ca`, checked by webpki; or the certificate itself stands in
//! `client-ca`, byte for byte. The second exists because BuildStream's documentation tells users to make self-signed
//! certificates which webpki refuses as end entities (CA:TRUE), and because X.509 v1 certificates are still around.
//! Both ways check the validity dates, the revocation lists and the signature of the handshake.
//!
//! Entries of `client-ca` may have names, and rules may ask which of them vouch for a certificate: whether `ci` vouches for
//! it depends on the keys of `ci` alone, and not on the order of entries. A chain ends at the first authority of `client-ca`
//! in it: where `dev` is an authority below `ci` and both are named, `ci` does not vouch for what `dev` issued, whatever a
//! client shows beside its certificate. What takes rights away asks for more: each entry from which the certificate comes by
//! any way, so that nobody gets round it by what it shows.

mod authorities;
mod paths;

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::chains::Chains;
use super::der::{NotDer, Signed};
use super::head::Head;
use super::identity::{self, Usage};
use super::lists::{Lists, ReadList, SignedBy, Signer, Subject, Terms};
use super::refusal::Refusal;
use super::{seconds, signature};
use crate::config::file::{ExpiredAuthorities, Role};
use crate::policy::identity::printable;
use crate::policy::pattern::Issuer;
use authorities::Authorities;
use paths::{Path, Shown};

/// As many certificates are taken of a client, its own among them.
pub const MOST_CERTIFICATES: usize = 8;

/// As many bytes may they have together.
pub const MOST_BYTES: usize = 32 << 10;

/// A certificate of `client-ca`.
#[derive(Clone, Debug)]
pub struct Trusted {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// What the configuration says it is for, where it does.
    pub role: Option<Role>,
    /// What rules call it, where they may.
    pub name: Option<Arc<str>>,
}

/// A chain that is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The entries of `client-ca` that the certificate comes from.
    pub issuers: Vec<Issuer>,
    /// The last second in which all of this holds, in seconds since 1970: then it must be asked again.
    pub until: i64,
    /// The last second in which the chain is accepted at all, in seconds since 1970, if nothing else changes.
    pub end: i64,
}

impl Accepted {
    /// For callers without a certificate, where they may be.
    pub const ANONYMOUS: Accepted = Accepted {
        issuers: Vec::new(),
        until: i64::MAX,
        end: i64::MAX,
    };
}

/// A certificate that is trusted itself.
struct Pinned {
    /// The names of its entries.
    names: Vec<Arc<str>>,
    /// Its first and its last second, in seconds since 1970.
    validity: (i64, i64),
    subject: Subject,
    signer: PinnedSigner,
}

/// Who signed a certificate that is trusted itself.
enum PinnedSigner {
    /// Its own key, if anybody: nobody else could revoke it.
    Itself(Vec<u8>),
    /// Another key of `client-ca`.
    Known(Vec<u8>),
    /// Somebody of whom nothing is known but what the certificate says: the name in DER, and the identifier of the key.
    Named(Vec<u8>, Option<Vec<u8>>),
}

/// The verifier of client certificates of one snapshot.
pub struct ClientVerifier {
    provider: Arc<CryptoProvider>,
    mandatory: bool,
    pinned: HashMap<CertificateDer<'static>, Pinned>,
    /// Subjects of certificates that are trusted themselves and look like authorities, for a better word when one of
    /// them turns out to have issued a certificate.
    held_back: Vec<Vec<u8>>,
    authorities: Authorities,
    expired_authorities: ExpiredAuthorities,
    /// The keys of `client-ca`, each of which may have signed lists.
    signers: Vec<Signer>,
    lists: Lists,
    /// What was accepted so far.
    chains: Chains,
    warnings: Vec<String>,
}

impl ClientVerifier {
    /// The verifier that trusts these certificates, and knows no revocation list yet. `named` tells whether a rule of the
    /// policy is about this very certificate.
    ///
    /// A certificate with CA:TRUE and no keyUsage may be an authority or a client's own, and nothing in it tells which.
    /// It is taken for an authority only when it stands alone and no rule names it: beside others, the holder of one
    /// client's key could issue certificates with the name of another. `role` overrides.
    ///
    /// # Errors
    /// Text for people: a certificate that can't be used.
    pub fn new(
        trusted: &[Trusted],
        mandatory: bool,
        named: &dyn Fn(&Trusted) -> bool,
    ) -> Result<ClientVerifier, String> {
        let is_alone = trusted
            .iter()
            .all(|entry| Some(&entry.der) == trusted.first().map(|first| &first.der));
        let provider = super::provider();
        let algorithms = provider.signature_verification_algorithms;
        let mut authorities = Authorities::default();
        let mut pinned: HashMap<CertificateDer<'static>, Vec<Arc<str>>> = HashMap::new();
        let mut held_back = Vec::new();
        let mut signers = Vec::new();
        let mut warnings = Vec::new();
        for entry in trusted {
            let certificate = identity::parse(&entry.der).map_err(|error| error.to_string())?;
            let issues = match (entry.role, identity::usage(&certificate)) {
                (Some(role), _) => role == Role::Authority,
                (None, Usage::Authority) => true,
                (None, Usage::EndEntity) => false,
                (None, Usage::Either) => is_alone && !named(entry),
            };
            let is_guessed = entry.role.is_none() && identity::usage(&certificate) == Usage::Either;
            let subject = printable(&certificate.subject().to_string());
            if is_guessed && issues {
                warnings.push(format!(
                    "`{subject}` of client-ca does not say whether it is an authority or a client's own certificate, and is taken for both: write {{ file = \"..\", role = \"authority\" }}, or \"client\""
                ));
            } else if is_guessed && !named(entry) {
                warnings.push(format!(
                    "`{subject}` of client-ca does not say whether it is an authority or a client's own certificate, and is taken for a client's own: if it issues certificates, write {{ file = \"..\", role = \"authority\" }}"
                ));
            } else if issues && entry.role.is_none() && named(entry) {
                warnings.push(format!(
                    "a rule is about `{subject}` of client-ca, which may also issue certificates: if it is a client's own, write {{ file = \"..\", role = \"client\" }}"
                ));
            }
            let name = certificate.subject().as_raw();
            let is_its_own = certificate.issuer().as_raw() == name;
            signers.push(Signer {
                key: certificate.public_key().raw.to_vec(),
                key_id: identity::key_id(&certificate).map(<[u8]>::to_vec),
                subject: name.to_vec(),
                is_authority: issues || is_its_own,
                issues,
            });
            if issues {
                authorities
                    .add(&entry.der, &certificate, entry.name.clone(), &provider)
                    .map_err(|error| format!("`{subject}` can't be used as an authority: {error}"))?;
            } else {
                held_back.push(name.to_vec());
            }
            if entry.role != Some(Role::Authority) {
                pinned.entry(entry.der.clone()).or_default().extend(entry.name.clone());
            }
        }
        authorities.link(&algorithms);
        let pinned = pinned.into_iter().map(|(der, names)| {
            let pinned = Pinned::new(&der, names, &signers, &algorithms)?;
            Ok((der, pinned))
        });
        Ok(ClientVerifier {
            pinned: pinned
                .collect::<Result<_, identity::NotX509>>()
                .map_err(|error| error.to_string())?,
            lists: Lists::default(),
            provider,
            mandatory,
            held_back,
            authorities,
            expired_authorities: ExpiredAuthorities::default(),
            signers,
            chains: Chains::new(),
            warnings,
        })
    }

    /// The same with these revocation lists.
    ///
    /// # Errors
    /// Text for people, for each list that can't be used.
    pub fn with_lists(mut self, lists: &[ReadList], terms: Terms) -> Result<ClientVerifier, Vec<String>> {
        self.lists = Lists::new(lists, &self.signers, terms)?;
        let is_named = |issuer: &[u8]| {
            let mut pinned = self.pinned.values();
            pinned.any(|pinned| matches!(&pinned.signer, PinnedSigner::Named(name, _) if name == issuer))
        };
        self.warnings.extend(self.lists.warnings(&is_named));
        Ok(self)
    }

    /// The same, with what becomes of the certificates of an authority that is not valid any more.
    pub fn with_expired_authorities(mut self, expired: ExpiredAuthorities) -> ClientVerifier {
        let now = crate::live::now();
        let roots = self.authorities.iter().flat_map(|authority| &authority.certificates);
        for root in roots.filter(|root| root.validity.1 < now) {
            let subject = &root.subject;
            self.warnings.push(match expired {
                ExpiredAuthorities::Refuse => format!(
                    "the authority `{subject}` of client-ca has expired, and every certificate that it issued is refused: get the next one, or write `client-ca-expired = \"tolerate\"`"
                ),
                ExpiredAuthorities::Tolerate => format!(
                    "the authority `{subject}` of client-ca has expired, and what it issued goes on being accepted (`client-ca-expired`)"
                ),
            });
        }
        self.expired_authorities = expired;
        self
    }

    /// The revocation lists.
    pub fn lists(&self) -> &Lists {
        &self.lists
    }

    /// Verifies a chain as it was shown, leaf first: in the handshake, and again after a reload.
    ///
    /// # Errors
    /// Why it is not accepted, as rustls names it.
    pub fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Accepted, Error> {
        // Before anything else is done for somebody who is not known.
        let (certificates, bytes) = (
            intermediates.len() + 1,
            intermediates.iter().map(|der| der.len()).sum::<usize>() + end_entity.len(),
        );
        if certificates > MOST_CERTIFICATES || bytes > MOST_BYTES {
            return Err(Refusal::TooLong { certificates, bytes }.into());
        }
        let key = Chains::key(end_entity, intermediates);
        if let Some(accepted) = self.chains.find(&key, now) {
            return Ok(accepted);
        }
        let accepted = self.verify_chain(end_entity, intermediates, now)?;
        self.chains.note(key, &accepted, now);
        Ok(accepted)
    }

    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Accepted, Error> {
        let mut vouching: Vec<Arc<str>> = Vec::new();
        let mut ends = Vec::new();
        let pinned = self.pinned.get(end_entity);
        if let Some(pinned) = pinned {
            ends.push(self.check_pinned(pinned, now)?);
            vouching.extend(pinned.names.iter().cloned());
        }
        let mut others = BTreeSet::new();
        match Shown::read(end_entity, intermediates, &self.authorities) {
            Ok(mut shown) => {
                shown.find_signers(&self.provider.signature_verification_algorithms)?;
                let mut error = None;
                for path in shown.paths() {
                    match self.check_path(&shown, &path, now) {
                        Ok((names, end)) => {
                            ends.push(end);
                            vouching.extend(names);
                        }
                        Err(reason) => error = error.or(Some(reason)),
                    }
                }
                if ends.is_empty() {
                    return Err(error.unwrap_or_else(|| self.unknown_issuer(&shown)));
                }
                others = shown.leads_to();
            }
            // Odd ones are trusted themselves or not at all.
            Err(NotDer) if pinned.is_some() => {}
            Err(NotDer) => return Err(CertificateError::BadEncoding.into()),
        }
        let (Some(until), Some(end)) = (ends.iter().copied().min(), ends.iter().copied().max()) else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        // What can't be read later, when a rule asks for a name, is not let in now.
        identity::read(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        Ok(Accepted {
            issuers: issuers(vouching, others),
            until,
            end,
        })
    }

    /// Whether a certificate that is trusted itself is good, and its last second.
    fn check_pinned(&self, pinned: &Pinned, now: UnixTime) -> Result<i64, Error> {
        let by = match &pinned.signer {
            PinnedSigner::Itself(key) if self.lists.are_of(key) => SignedBy::Known(key),
            PinnedSigner::Itself(_) => return check_dates(pinned.validity, now),
            PinnedSigner::Known(key) => SignedBy::Known(key),
            PinnedSigner::Named(name, key_id) => SignedBy::Named {
                name,
                key_id: key_id.as_deref(),
            },
        };
        let list = self.lists.check(&pinned.subject, by, now)?;
        Ok(earlier(check_dates(pinned.validity, now)?, list))
    }

    /// Whether all of a path is good: the names of the entries that vouch for it, and its last second.
    fn check_path(&self, shown: &Shown<'_>, path: &Path, now: UnixTime) -> Result<(Vec<Arc<str>>, i64), Error> {
        let Some(authority) = shown.authority(path.authority) else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        let (leaf, between) = (shown.node(0), path.nodes.get(1..).unwrap_or_default());
        let between: Vec<CertificateDer<'_>> = between
            .iter()
            .map(|index| CertificateDer::from(&**shown.node(*index).der))
            .collect();
        let (mut names, mut ends) = (Vec::new(), Vec::new());
        let mut error = None;
        for root in &authority.certificates {
            let verified = root.verifier.verify_client_cert(leaf.der, &between, now);
            match verified.and_then(|_| self.check_root(root, now)) {
                Ok(end) => {
                    names.extend(root.name.clone());
                    ends.push(end);
                }
                Err(reason) => error = error.or(Some(reason)),
            }
        }
        // Of several certificates of one authority the last to end.
        let Some(mut end) = ends.into_iter().max() else {
            return Err(error.unwrap_or(CertificateError::UnknownIssuer.into()));
        };
        for (place, index) in path.nodes.iter().enumerate() {
            let certificate = shown.node(*index).certificate()?;
            let by = match path.nodes.get(place + 1) {
                Some(above) => {
                    let above = &shown.node(*above).head;
                    SignedBy::Shown {
                        key: above.key,
                        key_id: above.key_id,
                    }
                }
                None => SignedBy::Known(&authority.key),
            };
            let list = self.lists.check(&Subject::of(certificate), by, now);
            let list = list.map_err(|error| match (place, error) {
                (1.., Error::InvalidCertificate(CertificateError::Revoked)) => {
                    Refusal::AuthorityRevoked(printable(&certificate.subject().to_string())).into()
                }
                (_, error) => error,
            })?;
            end = earlier(end.min(certificate.validity().not_after.timestamp()), list);
        }
        Ok((names, end))
    }

    /// Whether a certificate of an authority is valid, as far as it must be, and its last second.
    fn check_root(&self, root: &authorities::Root, now: UnixTime) -> Result<i64, Error> {
        if self.expired_authorities == ExpiredAuthorities::Tolerate {
            return Ok(i64::MAX);
        }
        let (begin, end) = root.validity;
        match seconds(now) {
            now if now < begin => Err(Refusal::AuthorityNotYetValid(root.subject.clone()).into()),
            now if now > end => Err(Refusal::AuthorityExpired(root.subject.clone()).into()),
            _ => Ok(end),
        }
    }

    /// Why nobody is known who issued a certificate.
    fn unknown_issuer(&self, shown: &Shown<'_>) -> Error {
        let issuer = shown.node(0).head.issuer;
        if shown.is_forged {
            CertificateError::BadSignature.into()
        } else if self.held_back.iter().any(|subject| subject == issuer) {
            Refusal::IssuerIsClient.into()
        } else {
            CertificateError::UnknownIssuer.into()
        }
    }

    /// What an administrator should look at.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether a handshake without a client certificate fails.
    pub fn is_mandatory(&self) -> bool {
        self.mandatory
    }

    /// How many authorities could each write any name into a certificate, as far as rules can tell them apart: those of
    /// one name are one.
    pub fn issuers(&self) -> usize {
        self.authorities.issuers()
    }

    /// Whether an authority, of this name where there is one, could issue certificates.
    pub fn issues_for(&self, name: Option<&Arc<str>>) -> bool {
        self.authorities.issues_for(name)
    }

    /// The certificates that are trusted themselves, with the names of their entries.
    pub fn pinned(&self) -> impl Iterator<Item = (&CertificateDer<'static>, &[Arc<str>])> {
        self.pinned.iter().map(|(der, pinned)| (der, pinned.names.as_slice()))
    }

    fn public_key<'a>(&self, certificate: &'a CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'a>, Error> {
        let parsed = identity::parse(certificate).map_err(|_| CertificateError::BadEncoding)?;
        Ok(SubjectPublicKeyInfoDer::from(parsed.tbs_certificate.subject_pki.raw))
    }
}

impl Pinned {
    fn new(
        der: &CertificateDer<'_>,
        names: Vec<Arc<str>>,
        signers: &[Signer],
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<Pinned, identity::NotX509> {
        let certificate = identity::parse(der)?;
        let (key, issuer) = (certificate.public_key().raw, certificate.issuer().as_raw());
        let is_by = |key: &[u8]| Signed::read(der).is_ok_and(|signed| signature::is_by(algorithms, &signed, key));
        let signer = if certificate.subject().as_raw() == issuer && is_by(key) {
            PinnedSigner::Itself(key.to_vec())
        } else if let Some(signer) = signers
            .iter()
            .find(|signer| signer.subject == issuer && is_by(&signer.key))
        {
            PinnedSigner::Known(signer.key.clone())
        } else {
            let key_id = identity::issuer_key_id(&certificate);
            PinnedSigner::Named(issuer.to_vec(), key_id.map(<[u8]>::to_vec))
        };
        let validity = certificate.validity();
        Ok(Pinned {
            names,
            validity: (validity.not_before.timestamp(), validity.not_after.timestamp()),
            subject: Subject::of(&certificate),
            signer,
        })
    }
}

/// The entries that vouch for a certificate, and those from which it comes by other ways.
fn issuers(mut vouching: Vec<Arc<str>>, others: BTreeSet<Arc<str>>) -> Vec<Issuer> {
    vouching.sort_unstable();
    vouching.dedup();
    let others = others.into_iter();
    let others: Vec<_> = others
        .filter(|name| !vouching.contains(name))
        .map(|name| Issuer { name, vouches: false })
        .collect();
    let vouching = vouching.into_iter().map(|name| Issuer { name, vouches: true });
    vouching.chain(others).collect()
}

fn earlier(end: i64, other: Option<i64>) -> i64 {
    other.map_or(end, |other| end.min(other))
}

/// A client certificate that was refused in a handshake, printable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Empty where it can't be read, as the next two are.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// As `casgate certs revoke` takes it.
    pub serial: String,
    /// Why, for people.
    pub reason: String,
}

impl Refused {
    /// Of who is not known nothing is read that is longer than anybody needs.
    fn of(end_entity: &CertificateDer<'_>, error: &Error) -> Refused {
        let Ok(head) = Head::read(end_entity) else {
            return Refused {
                reason: "it can't be read".to_owned(),
                ..Refused::default()
            };
        };
        let name = |der: &[u8]| match X509Name::from_der(der.get(..LONGEST_NAME.min(der.len())).unwrap_or_default()) {
            Ok((_, name)) => printable(&name.to_string()),
            Err(_) if der.len() > LONGEST_NAME => format!("a name of {} bytes", der.len()),
            Err(_) => String::new(),
        };
        let serial = head.serial.iter().take(LONGEST_SERIAL);
        Refused {
            subject: name(head.subject),
            issuer: name(head.issuer),
            serial: serial.map(|byte| format!("{byte:02x}")).collect(),
            reason: reason(error),
        }
    }
}

/// Longest name of a certificate that is refused, in bytes of DER, that is printed.
const LONGEST_NAME: usize = 1024;

/// As many bytes of its serial number are printed; RFC 5280, 4.1.2.2, allows 20.
const LONGEST_SERIAL: usize = 32;

thread_local! {
    /// What rustls does not pass on of its verifier: taken by whoever drives the handshake, on the same thread and in the
    /// same step.
    static REFUSED: Cell<Option<Refused>> = const { Cell::new(None) };
}

/// The client certificate for which the last handshake of this thread failed, once.
pub fn take_refused() -> Option<Refused> {
    REFUSED.take()
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    // No hints: clients show the certificate that they were given, also where it is its own issuer.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.verify(end_entity, intermediates, now) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(error) => {
                let refused = Refused::of(end_entity, &error);
                REFUSED.set(Some(refused));
                Err(error)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        if !self.pinned.contains_key(certificate) {
            return verify_tls12_signature(message, certificate, signature, algorithms);
        }
        // webpki reads no X.509 v1, so the signature is checked with the bare key.
        let key = self.public_key(certificate)?;
        let key = webpki::RawPublicKeyEntity::try_from(&key).map_err(|_| CertificateError::BadEncoding)?;
        let (_, candidates) = algorithms
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == signature.scheme)
            .ok_or(CertificateError::BadSignature)?;
        let valid = candidates
            .iter()
            .any(|algorithm| key.verify_signature(*algorithm, message, signature.signature()).is_ok());
        if valid {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        if !self.pinned.contains_key(certificate) {
            return verify_tls13_signature(message, certificate, signature, algorithms);
        }
        verify_tls13_signature_with_raw_key(message, &self.public_key(certificate)?, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier")
            .field("pinned", &self.pinned.len())
            .finish_non_exhaustive()
    }
}

/// A refusal in words, without the wrapping of rustls.
pub fn reason(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => other.to_string(),
        Error::InvalidCertificate(CertificateError::UnknownRevocationStatus) => {
            "no revocation list of its issuer covers it, and one must (`client-crl-missing`)".to_owned()
        }
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "it has expired".to_owned()
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            "it is not valid yet".to_owned()
        }
        Error::InvalidCertificate(CertificateError::Revoked) => "it is revoked".to_owned(),
        Error::InvalidCertificate(CertificateError::ExpiredRevocationList) => {
            "the revocation list of its issuer has ended, and nobody knows whether it is revoked".to_owned()
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "neither it nor its issuer stands in `client-ca`".to_owned()
        }
        Error::InvalidCertificate(CertificateError::BadSignature) => {
            "it was signed by another key than that of the issuer of this name in `client-ca`".to_owned()
        }
        other => other.to_string(),
    }
}

/// Why a handshake failed, as a label of metrics: a closed set.
pub fn label(error: &Error) -> &'static str {
    match error {
        Error::NoCertificatesPresented => "no-certificate",
        Error::NoApplicationProtocol => "no-alpn",
        Error::PeerIncompatible(_) => "incompatible",
        Error::AlertReceived(_) => "alert",
        Error::InvalidCertificate(error) => match error {
            CertificateError::UnknownRevocationStatus => "list-missing",
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "not-yet-valid",
            CertificateError::Revoked => "revoked",
            CertificateError::ExpiredRevocationList => "list-expired",
            CertificateError::UnknownIssuer => "unknown-issuer",
            CertificateError::Other(_) => Refusal::of(error).map_or("unknown-issuer", Refusal::label),
            CertificateError::BadSignature => "bad-signature",
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => "wrong-purpose",
            _ => "invalid-certificate",
        },
        _ => "protocol-error",
    }
}

/// The last second of a certificate that is valid now. RFC 5280, 4.1.2.5: both dates belong to the period.
fn check_dates((begin, end): (i64, i64), now: UnixTime) -> Result<i64, Error> {
    match seconds(now) {
        now if now < begin => Err(CertificateError::NotValidYet.into()),
        now if now > end => Err(CertificateError::Expired.into()),
        _ => Ok(end),
    }
}
