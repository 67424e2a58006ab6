//! DER to what a certificate says: attributes decoded one by one.

use aws_lc_rs::digest::{SHA256, digest};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME, OID_X509_ORGANIZATIONAL_UNIT, Oid};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name, X509Version};

use super::dn;
use crate::policy::identity::Certificate;

/// A certificate that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no X.509 certificate")]
pub struct NotX509;

/// What a certificate may be used for, as far as it says so itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// CA:TRUE and keyCertSign.
    Authority,
    /// CA:FALSE, no basicConstraints (X.509 v1 has none), or a keyUsage without keyCertSign.
    EndEntity,
    /// CA:TRUE without keyUsage: `openssl req -x509` makes authorities and self-signed client certificates alike so.
    Either,
}

/// Parses DER; nothing may follow the certificate.
///
/// # Errors
/// When it is no certificate.
pub fn parse(der: &[u8]) -> Result<X509Certificate<'_>, NotX509> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(NotX509),
    }
}

/// What a certificate says of its holder.
///
/// # Errors
/// When it is no certificate, or its names can't be decoded.
pub fn read(der: &[u8]) -> Result<Certificate, NotX509> {
    let certificate = parse(der)?;
    let mut read = Certificate {
        common_names: attributes(certificate.subject(), &OID_X509_COMMON_NAME)?,
        organizations: attributes(certificate.subject(), &OID_X509_ORGANIZATION_NAME)?,
        organizational_units: attributes(certificate.subject(), &OID_X509_ORGANIZATIONAL_UNIT)?,
        subject: certificate.subject().to_string(),
        distinguished_name: dn::rfc2253(certificate.subject()),
        issuer: certificate.issuer().to_string(),
        serial: certificate.raw_serial_as_string().replace(':', ""),
        sha256: sha256(der),
        spki_sha256: sha256(certificate.public_key().raw),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        ..Certificate::default()
    };
    // Only version 3 has extensions (RFC 5280, 4.1.2.1).
    if certificate.version() == X509Version::V3 {
        let names = certificate.subject_alternative_name().map_err(|_| NotX509)?;
        for name in names.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::URI(uri) => read.uris.push((*uri).to_owned()),
                GeneralName::DNSName(dns) => read.dns.push((*dns).to_owned()),
                GeneralName::RFC822Name(email) => read.emails.push((*email).to_owned()),
                // One left out could turn two identities into one, as with attributes.
                GeneralName::Invalid(Tag(1 | 2 | 6), _) => return Err(NotX509),
                _ => {}
            }
        }
    }
    Ok(read)
}

/// What a certificate may be used for, as far as it says so itself.
pub fn usage(certificate: &X509Certificate<'_>) -> Usage {
    if certificate.version() != X509Version::V3 || !certificate.is_ca() {
        return Usage::EndEntity;
    }
    let key_usage = certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::KeyUsage(usage) => Some(usage.key_cert_sign()),
            _ => None,
        });
    match key_usage {
        Some(true) => Usage::Authority,
        Some(false) => Usage::EndEntity,
        None => Usage::Either,
    }
}

/// The identifier of a certificate's own key (RFC 5280, 4.2.1.2).
pub(crate) fn key_id<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    let mut extensions = certificate.iter_extensions();
    extensions.find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0),
        _ => None,
    })
}

/// The identifier of the key that signed a certificate, as it says so itself (RFC 5280, 4.2.1.1).
pub(crate) fn issuer_key_id<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    let mut extensions = certificate.iter_extensions();
    extensions.find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(authority) => authority.key_identifier.as_ref().map(|key| key.0),
        _ => None,
    })
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sum
}

/// All values of an attribute. One that can't be decoded makes the certificate unreadable: an attribute left out could
/// turn an ambiguous name into a plain one.
fn attributes(name: &X509Name<'_>, oid: &Oid<'_>) -> Result<Vec<String>, NotX509> {
    name.iter_by_oid(oid).map(text).collect()
}

/// The text of an attribute.
///
/// # Errors
/// When it is none, or in an encoding that is not known.
pub(super) fn text(attribute: &AttributeTypeAndValue<'_>) -> Result<String, NotX509> {
    let value = attribute.attr_value();
    let bytes = value.data;
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            str::from_utf8(bytes).map(str::to_owned).map_err(|_| NotX509)
        }
        // TeletexString is Latin-1 in the field.
        Tag::T61String => Ok(bytes.iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString => {
            let units: Vec<u16> = bytes
                .chunks(2)
                .map(|pair| pair.iter().fold(0, |n, b| n << 8 | u16::from(*b)))
                .collect();
            if bytes.len() % 2 == 0 {
                String::from_utf16(&units).map_err(|_| NotX509)
            } else {
                Err(NotX509)
            }
        }
        _ => Err(NotX509),
    }
}
