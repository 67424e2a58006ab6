//! PEM files (RFC 7468) to DER.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// All certificates of a PEM file, in order.
///
/// # Errors
/// When a section is broken, or there is no certificate; text for people.
pub fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is no PEM file: {error}"))?;
    if all.is_empty() {
        return Err("has no section `BEGIN CERTIFICATE`".to_owned());
    }
    Ok(all)
}

/// The first private key of a PEM file: PKCS#8, SEC1 or PKCS#1.
///
/// # Errors
/// When there is none, or it is encrypted; text for people, which never holds a byte of the key.
pub fn private_key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|_| {
        let encrypted = bytes.windows(9).any(|window| window == b"ENCRYPTED");
        if encrypted {
            "is an encrypted key: decrypt it with `openssl pkey -in KEY -out PLAIN`".to_owned()
        } else {
            "has no private key in PKCS#8, SEC1 or PKCS#1 PEM".to_owned()
        }
    })
}

/// All revocation lists of a PEM file.
///
/// # Errors
/// When a section is broken, or there is no list; text for people.
pub fn revocation_lists(bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let all: Vec<_> = CertificateRevocationListDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is no PEM file: {error}"))?;
    if all.is_empty() {
        return Err("has no section `BEGIN X509 CRL`".to_owned());
    }
    Ok(all)
}
