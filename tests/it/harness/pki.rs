//! Certificates, made anew for each test: good ones, and all the odd ones of the field.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, RevokedCertParams,
    SerialNumber, SigningKey,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

/// A certificate with its key.
pub(crate) struct Credentials {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) serial: SerialNumber,
    params: CertificateParams,
    key: KeyPair,
    /// What is shown beside the certificate.
    beside: Vec<CertificateDer<'static>>,
}

/// An authority.
pub(crate) struct Authority {
    own: Credentials,
}

impl Credentials {
    fn self_signed(params: CertificateParams, key: KeyPair) -> Credentials {
        let der = params.self_signed(&key).unwrap().der().clone();
        Credentials {
            der,
            serial: params.serial_number.clone().unwrap(),
            params,
            key,
            beside: Vec::new(),
        }
    }

    /// The certificate as a PEM section.
    pub(crate) fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    /// The key as a PEM section.
    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The DER of its SubjectPublicKeyInfo.
    pub(crate) fn public_key(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }

    /// What is shown in a handshake.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        [std::slice::from_ref(&self.der), self.beside.as_slice()].concat()
    }

    pub(crate) fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// The DER of its subject.
    pub(crate) fn subject(&self) -> Vec<u8> {
        let parts = children(content(&self.der).0);
        children(content(parts[0]).0)[5].to_vec()
    }

    /// The same certificate and key.
    pub(crate) fn copy(&self) -> Credentials {
        Credentials {
            der: self.der.clone(),
            serial: self.serial.clone(),
            params: self.params.clone(),
            key: KeyPair::try_from(self.key.serialize_der()).unwrap(),
            beside: self.beside.clone(),
        }
    }

    /// The certificate with a key that is not its own: what somebody has who saw the certificate go by.
    pub(crate) fn with_wrong_key(&self) -> Credentials {
        Credentials {
            key: KeyPair::generate().unwrap(),
            ..self.copy()
        }
    }

    /// The same certificate, shown with these beside it.
    pub(crate) fn shown_with(mut self, others: &[CertificateDer<'static>]) -> Credentials {
        self.beside = others.to_vec();
        self
    }

    /// A certificate that this one's key signs, whether it may or not.
    pub(crate) fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Credentials {
        self.issue_for(KeyPair::generate().unwrap(), change)
    }

    /// The same for a key that is there already.
    pub(crate) fn issue_for(&self, key: KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Credentials {
        let mut params = params("");
        change(&mut params);
        let issuer = Issuer::from_params(&self.params, &self.key);
        let der = params.signed_by(&key, &issuer).unwrap().der().clone();
        Credentials {
            der,
            serial: params.serial_number.clone().unwrap(),
            params,
            key,
            beside: Vec::new(),
        }
    }

    /// The same with fields that no library writes; see [`signed_again`].
    pub(crate) fn issue_odd(
        &self,
        change: impl FnOnce(&mut CertificateParams),
        fields: impl FnOnce(&mut Vec<Vec<u8>>),
    ) -> Credentials {
        let mut made = self.issue(change);
        made.der = signed_again(&made.der, &self.key, fields);
        made
    }

    /// The same certificate with one bit of its signature turned over.
    pub(crate) fn with_broken_signature(mut self) -> Credentials {
        let mut der = self.der.to_vec();
        *der.last_mut().unwrap() ^= 1;
        self.der = der.into();
        self
    }

    /// A certificate of the same name and key as another one, which this one signs.
    pub(crate) fn cross_sign(&self, other: &Credentials, change: impl FnOnce(&mut CertificateParams)) -> Credentials {
        let key = other.copy().key;
        self.issue_for(key, |params| {
            params.distinguished_name = other.params.distinguished_name.clone();
            params.is_ca = other.params.is_ca;
            params.key_usages.clone_from(&other.params.key_usages);
            change(params);
        })
    }

    /// A revocation list with these certificates, as PEM.
    pub(crate) fn revoke(&self, certificates: &[&Credentials]) -> String {
        self.revoke_until(OffsetDateTime::now_utc() + Duration::days(1), certificates)
    }

    /// A revocation list with these certificates and fields that no library writes (RFC 5280, 5.1: version, signature
    /// algorithm, issuer, thisUpdate, nextUpdate, revoked certificates, extensions).
    pub(crate) fn revoke_odd(
        &self,
        certificates: &[&Credentials],
        fields: impl FnOnce(&mut Vec<Vec<u8>>),
    ) -> CertificateRevocationListDer<'static> {
        let pem = self.revoke(certificates);
        let list = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap();
        signed_again(&list, &self.key, fields).to_vec().into()
    }

    /// The same, that ends at some time.
    fn revoke_until(&self, end: OffsetDateTime, certificates: &[&Credentials]) -> String {
        let now = OffsetDateTime::now_utc();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let revoked = |certificate: &&Credentials| RevokedCertParams {
            serial_number: certificate.serial.clone(),
            revocation_time: now - Duration::minutes(1),
            reason_code: None,
            invalidity_date: None,
        };
        CertificateRevocationListParams {
            this_update: now - Duration::hours(2),
            next_update: end,
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: certificates.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&issuer)
        .unwrap()
        .pem()
        .unwrap()
    }
}

impl Authority {
    /// An authority with keyUsage keyCertSign and cRLSign.
    pub(crate) fn new(name: &str) -> Authority {
        Authority::with(name, |_| {})
    }

    /// The same, with something else about it.
    pub(crate) fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Authority {
        let mut params = params(name);
        change(&mut params);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Authority {
            own: Credentials::self_signed(params, KeyPair::generate().unwrap()),
        }
    }

    /// An authority below this one.
    pub(crate) fn subordinate(&self, name: &str) -> Authority {
        let own = self.own.issue(|params| {
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        });
        Authority { own }
    }

    /// The same authority with a certificate that is valid now.
    pub(crate) fn renewed(&self) -> Authority {
        let mut params = self.own.params.clone();
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - Duration::days(2), now + Duration::days(2));
        Authority {
            own: Credentials::self_signed(params, self.own.copy().key),
        }
    }

    /// Its own certificate and key.
    pub(crate) fn own(&self) -> &Credentials {
        &self.own
    }

    pub(crate) fn into_own(self) -> Credentials {
        self.own
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.own.der.clone()
    }

    pub(crate) fn pem(&self) -> String {
        self.own.pem()
    }

    /// A server on the loopback interface.
    pub(crate) fn server(&self) -> Credentials {
        self.server_for(&["localhost", "127.0.0.1"])
    }

    pub(crate) fn server_for(&self, hosts: &[&str]) -> Credentials {
        self.server_with(KeyPair::generate().unwrap(), hosts)
    }

    pub(crate) fn server_with(&self, key: KeyPair, hosts: &[&str]) -> Credentials {
        self.own.issue_for(key, |params| {
            params.distinguished_name.push(DnType::CommonName, "server");
            params.subject_alt_names = hosts
                .iter()
                .map(|host| match host.parse() {
                    Ok(address) => rcgen::SanType::IpAddress(address),
                    Err(_) => rcgen::SanType::DnsName((*host).try_into().unwrap()),
                })
                .collect();
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })
    }

    /// A client with this one commonName.
    pub(crate) fn client(&self, name: &str) -> Credentials {
        self.client_with(name, |_| {})
    }

    /// The same, with something else about it.
    pub(crate) fn client_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Credentials {
        self.own.issue(|params| {
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            change(params);
        })
    }

    /// A revocation list with these certificates, as PEM.
    pub(crate) fn revoke(&self, certificates: &[&Credentials]) -> String {
        self.own.revoke(certificates)
    }

    /// A revocation list with fields that no library writes.
    pub(crate) fn revoke_odd(
        &self,
        certificates: &[&Credentials],
        fields: impl FnOnce(&mut Vec<Vec<u8>>),
    ) -> CertificateRevocationListDer<'static> {
        self.own.revoke_odd(certificates, fields)
    }

    /// A revocation list that ends in so long, or did so long ago.
    pub(crate) fn revoke_for(&self, left: Duration, certificates: &[&Credentials]) -> String {
        self.own.revoke_until(OffsetDateTime::now_utc() + left, certificates)
    }
}

/// What BuildStream's documentation makes: `openssl req -x509` gives CA:TRUE, and neither keyUsage nor names.
pub(crate) fn build_stream(name: &str) -> Credentials {
    self_signed(name, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))
}

/// A self-signed certificate with something about it.
pub(crate) fn self_signed(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Credentials {
    let mut params = params(name);
    change(&mut params);
    Credentials::self_signed(params, KeyPair::generate().unwrap())
}

/// A self-signed certificate with fields that no library writes.
pub(crate) fn self_signed_odd(
    change: impl FnOnce(&mut CertificateParams),
    fields: impl FnOnce(&mut Vec<Vec<u8>>),
) -> Credentials {
    let mut made = self_signed("", change);
    made.der = signed_again(&made.der, &made.key, fields);
    made
}

/// A self-signed X.509 v1 certificate, as `openssl x509 -req -signkey` makes: no version field and no extensions
/// (RFC 5280, 4.1.2.1).
pub(crate) fn version_1(name: &str) -> Credentials {
    let mut made = self_signed(name, |_| {});
    made.der = signed_again(&made.der, &made.key, |fields| {
        fields.retain(|field| !matches!(field[0], 0xa0 | 0xa3));
    });
    made
}

/// The same certificate with other fields (RFC 5280, 4.1: version, serial number, signature algorithm, issuer, validity,
/// subject, key, extensions), signed by a key.
fn signed_again(der: &[u8], by: &KeyPair, change: impl FnOnce(&mut Vec<Vec<u8>>)) -> CertificateDer<'static> {
    let parts = children(content(der).0);
    let mut fields: Vec<_> = children(content(parts[0]).0).into_iter().map(<[u8]>::to_vec).collect();
    change(&mut fields);
    let tbs = tlv(0x30, &fields.concat());
    let signature = [&[0][..], &by.sign(&tbs).unwrap()].concat();
    tlv(0x30, &[&tbs[..], parts[1], &tlv(0x03, &signature)].concat()).into()
}

/// Makes a certificate that ended an hour ago.
pub(crate) fn expired(params: &mut CertificateParams) {
    params.not_after = OffsetDateTime::now_utc() - Duration::hours(1);
}

/// Makes a certificate that begins in an hour.
pub(crate) fn not_yet_valid(params: &mut CertificateParams) {
    params.not_before = OffsetDateTime::now_utc() + Duration::hours(1);
}

/// Any PEM section.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if !name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    let serial = uuid::Uuid::new_v4();
    params.serial_number = Some(SerialNumber::from_slice(&serial.as_bytes()[..15]));
    params.not_before = OffsetDateTime::now_utc() - Duration::days(2);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(2);
    params
}

/// An extension more, in the field that has them all. `oid` is the content of its identifier.
pub(crate) fn add_extension(field: &mut Vec<u8>, oid: &[u8], is_critical: bool, value: &[u8]) {
    let all = content(content(field).0).0;
    let critical: &[u8] = if is_critical { &[1, 1, 0xff] } else { &[] };
    let extension = tlv(0x30, &[&tlv(0x06, oid)[..], critical, &tlv(0x04, value)].concat());
    *field = tlv(0xa0, &tlv(0x30, &[all, &extension].concat()));
}

/// An element of DER.
pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..0x80 => vec![tag, length as u8],
        0x80..0x100 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [&head[..], content].concat()
}

/// The content of the first element, and how long the element is in all.
fn content(der: &[u8]) -> (&[u8], usize) {
    let (start, length) = match der[1] {
        0x81 => (3, usize::from(der[2])),
        0x82 => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
        short => (2, usize::from(short)),
    };
    (&der[start..start + length], start + length)
}

/// The elements of a sequence's content, each with its head.
fn children(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (element, behind) = rest.split_at(content(rest).1);
        found.push(element);
        rest = behind;
    }
    found
}
