//! Revocation lists.

use casgate::tls::lists::ReadList;
use rustls::pki_types::CertificateRevocationListDer;

/// A revocation list in DER: it is read, or refused in plain words, and what webpki reads in it is revoked.
pub fn revocation_list(bytes: &[u8]) -> String {
    let list = match ReadList::new(CertificateRevocationListDer::from(bytes.to_vec()), "ca.crl") {
        Ok(list) => list,
        Err(error) => {
            assert!(error.len() < 4096, "{error}");
            assert!(!error.chars().any(char::is_control), "{error:?}");
            // Without the name of the issuer, which is whatever it is.
            let (begin, end) = (error.find('`'), error.rfind('`'));
            return match (begin, end) {
                (Some(_), Some(end)) => error[end..].to_owned(),
                _ => error,
            };
        }
    };
    let mut revoked = 0usize;
    if let Ok(other) = webpki::BorrowedCertRevocationList::from_der(bytes) {
        for entry in &other {
            let Ok(entry) = entry else { continue };
            assert!(list.names(entry.serial_number), "{:?} is missing", entry.serial_number);
            revoked += 1;
        }
    }
    format!("read, {}", revoked.min(2))
}
