//! Which client certificates are accepted.
//!
//! Two ways lead in: a chain to an authority of `client-ca`, checked by webpki; or the certificate itself stands in
//! `client-ca`, byte for byte. The second exists because BuildStream's documentation tells users to make self-signed
//! certificates which webpki refuses as end entities (CA:TRUE), and because X.509 v1 certificates are still around.
//! Both ways check the validity dates, the revocation lists and the signature of the handshake.
//!
//! Entries of `client-ca` may have names, and rules may ask which of them vouch for a certificate. The authorities of
//! each name are a set of roots of their own, and a chain is verified against every set: whether `ci` vouches for a
//! certificate depends on the keys of `ci` alone, and not on the order of entries. A chain ends at the first authority
//! of `client-ca` in it: where `dev` is an authority below `ci` and both are named, `ci` does not vouch for what `dev`
//! issued, whatever a client shows beside its certificate.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::chains::Chains;
use super::identity::{self, Usage};
use super::lists::Lists;
use super::seconds;
use crate::config::file::{ExpiredLists, Role};
use crate::policy::identity::printable;

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

/// The authorities that share a name, or have none.
struct Named {
    name: Option<Arc<str>>,
    roots: Arc<dyn ClientCertVerifier>,
}

/// The issuer's name in DER, and the serial number without leading zeros.
type IssuerAndSerial = (Vec<u8>, Vec<u8>);

/// The verifier of client certificates of one snapshot.
pub struct ClientVerifier {
    provider: Arc<CryptoProvider>,
    mandatory: bool,
    /// With the names of their entries.
    pinned: HashMap<CertificateDer<'static>, Vec<Arc<str>>>,
    /// Subjects of certificates that are trusted themselves and look like authorities, for a better word when one of
    /// them turns out to have issued a certificate.
    held_back: Vec<Vec<u8>>,
    authorities: Vec<Named>,
    /// Name and key of each of them.
    anchors: HashSet<(Vec<u8>, Vec<u8>)>,
    issuers: usize,
    revoked: HashSet<IssuerAndSerial>,
    lists: Lists,
    /// What was accepted so far.
    chains: Chains,
    warnings: Vec<String>,
}

impl ClientVerifier {
    /// The verifier that trusts these certificates and applies these lists. `named` tells whether a rule of the policy
    /// is about this very certificate.
    ///
    /// A certificate with CA:TRUE and no keyUsage may be an authority or a client's own, and nothing in it tells which.
    /// It is taken for an authority only when it stands alone and no rule names it: beside others, the holder of one
    /// client's key could issue certificates with the name of another. `role` overrides.
    ///
    /// # Errors
    /// Text for people: a certificate or a list that can't be used.
    pub fn new(
        trusted: &[Trusted],
        crls: &[CertificateRevocationListDer<'static>],
        mandatory: bool,
        named: &dyn Fn(&Trusted) -> bool,
    ) -> Result<ClientVerifier, String> {
        let is_alone = trusted
            .iter()
            .all(|entry| Some(&entry.der) == trusted.first().map(|first| &first.der));
        let mut roots: BTreeMap<Option<Arc<str>>, RootCertStore> = BTreeMap::new();
        let mut pinned: HashMap<_, Vec<Arc<str>>> = HashMap::new();
        let mut held_back = Vec::new();
        let mut anchors = HashSet::new();
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
            if issues {
                anchors.insert(name_and_key(&certificate));
                roots
                    .entry(entry.name.clone())
                    .or_insert_with(RootCertStore::empty)
                    .add(entry.der.clone())
                    .map_err(|error| format!("`{subject}` can't be used as an authority: {error}"))?;
            } else {
                held_back.push(certificate.subject().as_raw().to_vec());
            }
            if entry.role != Some(Role::Authority) {
                pinned.entry(entry.der.clone()).or_default().extend(entry.name.clone());
            }
        }
        let provider = super::provider();
        let mut authorities = Vec::new();
        let mut issuers = 0;
        for (name, roots) in roots {
            issuers += if name.is_some() { 1 } else { roots.len() };
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .with_crls(crls.iter().cloned())
                // A list of one authority says nothing about the certificates of another.
                .allow_unknown_revocation_status();
            authorities.push(Named {
                name,
                roots: builder.build().map_err(|error| error.to_string())?,
            });
        }
        Ok(ClientVerifier {
            provider,
            mandatory,
            pinned,
            held_back,
            authorities,
            anchors,
            issuers,
            revoked: revoked_serials(crls)?,
            lists: Lists::default(),
            chains: Chains::new(),
            warnings: [warnings, crl_warnings(trusted, crls)?].concat(),
        })
    }

    /// What becomes of the certificates of an authority whose lists have ended.
    ///
    /// # Errors
    /// Text for people: a list that can't be used.
    pub fn expired_lists(
        mut self,
        crls: &[CertificateRevocationListDer<'static>],
        expired: ExpiredLists,
    ) -> Result<ClientVerifier, String> {
        self.lists = Lists::new(crls, expired)?;
        self.warnings.extend(self.lists.warnings());
        Ok(self)
    }

    /// The revocation lists.
    pub fn lists(&self) -> &Lists {
        &self.lists
    }

    /// When a chain that is accepted now ends to be because a revocation list ends, in seconds since 1970.
    pub fn list_end_for(&self, chain: &[CertificateDer<'_>]) -> Option<i64> {
        self.lists.end_for(&chain.iter().collect::<Vec<_>>())
    }

    /// Verifies a chain as it was shown, leaf first: in the handshake, and again after a reload. Gives the names of the
    /// entries of `client-ca` that vouch for it: those of its authority, and those of the certificate itself.
    ///
    /// # Errors
    /// Why it is not accepted, as rustls names it.
    pub fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Vec<Arc<str>>, Error> {
        let chain: Vec<_> = [end_entity].into_iter().chain(intermediates).collect();
        let key = Chains::key(&chain);
        if let Some(names) = self.chains.find(&key, now) {
            return Ok(names);
        }
        let names = self.verify_chain(end_entity, intermediates, now)?;
        self.lists.check(&chain, now)?;
        self.chains.note(key, &names, now, self.end(&chain));
        Ok(names)
    }

    /// The last second in which all of a chain holds that holds now, with the lists that it needs.
    fn end(&self, chain: &[&CertificateDer<'_>]) -> i64 {
        let not_after = |der: &&CertificateDer<'_>| match identity::parse(der) {
            Ok(certificate) => certificate.validity().not_after.timestamp(),
            Err(_) => i64::MIN,
        };
        let ends = chain.iter().map(not_after).chain(self.lists.end_for(chain));
        ends.min().unwrap_or(i64::MIN)
    }

    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Vec<Arc<str>>, Error> {
        let certificate = identity::parse(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        // What can't be read later, when a rule asks for a name, is not let in now.
        identity::read(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let key = (certificate.issuer().as_raw().to_vec(), serial(certificate.raw_serial()));
        if self.revoked.contains(&key) {
            return Err(CertificateError::Revoked.into());
        }
        let mut vouch = Vec::new();
        let mut accepted = false;
        let mut error = Error::from(CertificateError::UnknownIssuer);
        if let Some(names) = self.pinned.get(end_entity) {
            check_dates(&certificate, now)?;
            accepted = true;
            vouch.extend(names.iter().cloned());
        }
        let between: Vec<_> = intermediates
            .iter()
            .filter(|der| !self.is_anchor(der) && may_issue(der))
            .cloned()
            .collect();
        for authority in &self.authorities {
            match authority.roots.verify_client_cert(end_entity, &between, now) {
                Ok(_) => {
                    accepted = true;
                    vouch.extend(authority.name.clone());
                }
                // What an authority says that knows it is more than that another one does not.
                Err(reason) if error == CertificateError::UnknownIssuer.into() => error = reason,
                Err(_) => {}
            }
        }
        if accepted {
            return Ok(vouch);
        }
        let issuer = certificate.issuer().as_raw();
        if error == CertificateError::UnknownIssuer.into() && self.held_back.iter().any(|subject| subject == issuer) {
            return Err(CertificateError::Other(OtherError(Arc::new(IssuerIsClient))).into());
        }
        Err(error)
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
        self.issuers
    }

    /// Whether an authority, of this name where there is one, could issue certificates.
    pub fn issues_for(&self, name: Option<&Arc<str>>) -> bool {
        let mut authorities = self.authorities.iter();
        authorities.any(|authority| name.is_none() || authority.name.as_ref() == name)
    }

    /// The certificates that are trusted themselves, with the names of their entries.
    pub fn pinned(&self) -> impl Iterator<Item = (&CertificateDer<'static>, &[Arc<str>])> {
        self.pinned.iter().map(|(der, names)| (der, names.as_slice()))
    }

    fn is_anchor(&self, der: &CertificateDer<'_>) -> bool {
        identity::parse(der).is_ok_and(|certificate| self.anchors.contains(&name_and_key(&certificate)))
    }

    fn public_key<'a>(&self, certificate: &'a CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'a>, Error> {
        let parsed = identity::parse(certificate).map_err(|_| CertificateError::BadEncoding)?;
        Ok(SubjectPublicKeyInfoDer::from(parsed.tbs_certificate.subject_pki.raw))
    }
}

/// Whether a certificate between a leaf and its root may issue, as far as it says so itself. webpki does not look at
/// keyUsage there (RFC 5280, 6.1.4 (n)): the holder of one that is only for signatures could name anybody.
fn may_issue(der: &CertificateDer<'_>) -> bool {
    identity::parse(der).is_ok_and(|certificate| identity::usage(&certificate) != Usage::EndEntity)
}

/// A certificate whose issuer stands in `client-ca` as a client's own certificate.
#[derive(Debug, thiserror::Error)]
#[error(
    "its issuer stands in `client-ca` as a client's own certificate; if it is an authority, write {{ file = \"..\", role = \"authority\" }}"
)]
struct IssuerIsClient;

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
                // The span of the connection adds the address.
                match identity::read(end_entity) {
                    Ok(certificate) => tracing::warn!(
                        target: "casgate::tls",
                        subject = printable(&certificate.subject),
                        issuer = printable(&certificate.issuer),
                        serial = certificate.serial,
                        reason = %reason(&error),
                        "client certificate refused"
                    ),
                    Err(_) => tracing::warn!(target: "casgate::tls", "client certificate refused: it can't be read"),
                }
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
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "not-yet-valid",
            CertificateError::Revoked => "revoked",
            CertificateError::ExpiredRevocationList => "list-expired",
            CertificateError::UnknownIssuer | CertificateError::Other(_) => "unknown-issuer",
            CertificateError::BadSignature => "bad-signature",
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => "wrong-purpose",
            _ => "invalid-certificate",
        },
        _ => "protocol-error",
    }
}

/// RFC 5280, 4.1.2.5: both dates belong to the period.
fn check_dates(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let now = seconds(now);
    let validity = certificate.validity();
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

pub(super) fn read_list<'a>(
    crl: &'a CertificateRevocationListDer<'_>,
) -> Result<CertificateRevocationList<'a>, String> {
    match CertificateRevocationList::from_der(crl) {
        Ok((_, list)) => Ok(list),
        Err(_) => Err("has a revocation list that can't be read".to_owned()),
    }
}

/// Lists that do not do what their administrator thinks.
fn crl_warnings(trusted: &[Trusted], crls: &[CertificateRevocationListDer<'static>]) -> Result<Vec<String>, String> {
    let mut warnings = Vec::new();
    for crl in crls {
        let list = read_list(crl)?;
        let issuer = printable(&list.issuer().to_string());
        let is_issuer = |entry: &Trusted| {
            identity::parse(&entry.der)
                .is_ok_and(|certificate| certificate.subject().as_raw() == list.issuer().as_raw())
        };
        if !trusted.iter().any(is_issuer) {
            warnings.push(format!(
                "the revocation list of `{issuer}` has no effect on what client-ca names: no certificate there has this name, byte for byte"
            ));
        }
    }
    Ok(warnings)
}

fn revoked_serials(crls: &[CertificateRevocationListDer<'static>]) -> Result<HashSet<IssuerAndSerial>, String> {
    let mut revoked = HashSet::new();
    for crl in crls {
        let list = read_list(crl)?;
        let issuer = list.issuer().as_raw();
        for entry in list.iter_revoked_certificates() {
            revoked.insert((issuer.to_vec(), serial(entry.raw_serial())));
        }
    }
    Ok(revoked)
}

/// What makes two certificates of an authority the same to those that it issued.
fn name_and_key(certificate: &X509Certificate<'_>) -> (Vec<u8>, Vec<u8>) {
    let key = certificate.public_key().raw;
    (certificate.subject().as_raw().to_vec(), key.to_vec())
}

/// A serial number without the leading zeros that DER or a sloppy issuer put before it.
fn serial(raw: &[u8]) -> Vec<u8> {
    raw.iter().copied().skip_while(|byte| *byte == 0).collect()
}
