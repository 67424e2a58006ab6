//! Signatures over certificates and revocation lists, outside of a handshake.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use webpki::RawPublicKeyEntity;
use x509_parser::der_parser::Oid;

use super::der::{Elements, OID, Signed};

/// Whether a signature is that of a key, which is given as SubjectPublicKeyInfo (RFC 5280, 4.1): with an algorithm that is
/// good enough for a handshake, so not with SHA-1.
pub(super) fn is_by(algorithms: &WebPkiSupportedAlgorithms, signed: &Signed<'_>, key: &[u8]) -> bool {
    let key = SubjectPublicKeyInfoDer::from(key);
    let Ok(key) = RawPublicKeyEntity::try_from(&key) else {
        return false;
    };
    candidates(algorithms, signed.algorithm).any(|algorithm| {
        let verified = key.verify_signature(algorithm, signed.tbs.whole, signed.signature);
        verified.is_ok()
    })
}

/// Whether there is an algorithm for a signature at all.
///
/// # Errors
/// Which one it is that there is not.
pub(super) fn check_algorithm(algorithms: &WebPkiSupportedAlgorithms, signed: &Signed<'_>) -> Result<(), String> {
    if candidates(algorithms, signed.algorithm).next().is_some() {
        return Ok(());
    }
    let oid = Elements::new(signed.algorithm).expect(&[OID]);
    let oid = oid.map(|oid| Oid::new(oid.content.into()).to_id_string());
    Err(match oid.as_deref() {
        Ok("1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" | "1.3.14.3.2.29") => "SHA-1".to_owned(),
        Ok("1.2.840.113549.1.1.4") => "MD5".to_owned(),
        Ok(oid) => format!("the algorithm {oid}"),
        Err(_) => "an algorithm that can't be read".to_owned(),
    })
}

fn candidates(
    algorithms: &WebPkiSupportedAlgorithms,
    id: &[u8],
) -> impl Iterator<Item = &'static dyn rustls::pki_types::SignatureVerificationAlgorithm> {
    let all = algorithms.all.iter().copied();
    all.filter(move |algorithm| algorithm.signature_alg_id().as_ref() == id)
}
