//! PEM files (RFC 7468) to DER.

use base64ct::{Base64, Encoding};
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::policy::identity::printable;

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
pub fn private_key(bytes: &[u8]) -> Result<Zeroizing<PrivateKeyDer<'static>>, String> {
    sections(bytes).find_map(key).ok_or_else(|| {
        let encrypted = bytes.windows(9).any(|window| window == b"ENCRYPTED");
        if encrypted {
            "is an encrypted key: decrypt it with `openssl pkey -in KEY -out PLAIN`".to_owned()
        } else {
            "has no private key in PKCS#8, SEC1 or PKCS#1 PEM".to_owned()
        }
    })
}

/// The sections of a PEM file: label and text.
///
/// Keys are not read by the parser that reads certificates, which leaves the text behind in memory.
fn sections(mut rest: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        rest = behind(rest, b"-----BEGIN ")?.1;
        let (label, text) = behind(rest, b"-----")?;
        let (text, behind) = behind(text, b"-----END ")?;
        rest = behind;
        Some((label, text))
    })
}

/// What stands before and behind the first `mark`.
fn behind<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes.windows(mark.len()).position(|window| window == mark)?;
    Some((bytes.get(..at)?, bytes.get(at + mark.len()..)?))
}

/// The key of a section, if it is one. Nothing else that held it is left.
fn key((label, text): (&[u8], &[u8])) -> Option<Zeroizing<PrivateKeyDer<'static>>> {
    use SectionKind::{EcPrivateKey, PrivateKey, RsaPrivateKey};
    let kind = SectionKind::try_from(label).ok()?;
    matches!(kind, PrivateKey | RsaPrivateKey | EcPrivateKey).then_some(())?;
    // As long as all of it, so that it is never moved.
    let mut digits = Zeroizing::new(Vec::with_capacity(text.len()));
    digits.extend(text.iter().filter(|byte| !byte.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![0; digits.len()]);
    let length = Base64::decode(&**digits, &mut der).ok()?.len();
    der.truncate(length);
    PrivateKeyDer::from_pem(kind, std::mem::take(&mut *der)).map(Zeroizing::new)
}

/// All revocation lists of a PEM file. They may be large: besides the file and the list there is never a third copy.
///
/// # Errors
/// When a section is broken, or there is no list; text for people.
pub fn revocation_lists(bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let mut all = Vec::new();
    let mut rest = bytes;
    while let Some((_, begun)) = behind(rest, b"-----BEGIN ") {
        let (label, text) = behind(begun, b"-----").ok_or("is no PEM file: a section has no name")?;
        let mark = [b"-----END ", label, b"-----"].concat();
        let shown = String::from_utf8_lossy(label.get(..label.len().min(64)).unwrap_or_default()).into_owned();
        let (text, behind) =
            behind(text, &mark).ok_or_else(|| format!("is no PEM file: section `{}` has no end", printable(&shown)))?;
        rest = behind;
        if label == b"X509 CRL" {
            let list = decode(text).ok_or("is no PEM file: a section `X509 CRL` is no Base64")?;
            all.push(list.into());
        }
    }
    if all.is_empty() {
        return Err("has no section `BEGIN X509 CRL`".to_owned());
    }
    Ok(all)
}

/// The bytes of Base64 on several lines, where they are decoded.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut digits = Vec::with_capacity(text.len());
    digits.extend(text.iter().filter(|byte| !byte.is_ascii_whitespace()));
    let length = Base64::decode_in_place(&mut digits).ok()?.len();
    digits.truncate(length);
    digits.shrink_to_fit();
    Some(digits)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_whatever_stands_around_it() {
        let key = rcgen::KeyPair::generate().unwrap();
        let (pem, der) = (key.serialize_pem(), key.serialize_der());
        let other = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        for text in [
            pem.clone(),
            pem.replace('\n', "\r\n"),
            format!("Bag Attributes: <none>\n{other}{pem}{other}"),
            format!("{pem}{}", rcgen::KeyPair::generate().unwrap().serialize_pem()),
        ] {
            let found = private_key(text.as_bytes()).unwrap();
            assert_eq!(found.secret_der(), der, "{text}");
            assert_eq!(*found, PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap());
        }
    }

    #[test]
    fn what_is_no_key_is_told_without_a_byte_of_it() {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let (cut, _) = pem.split_at(100);
        for text in [
            "",
            "-----BEGIN ",
            cut,
            &pem.replace("-----END", "-----EMD"),
            &pem.replace('A', "!"),
            &pem.replace(" PRIVATE", ""),
        ] {
            let error = private_key(text.as_bytes()).unwrap_err();
            assert_eq!(error, "has no private key in PKCS#8, SEC1 or PKCS#1 PEM", "{text}");
        }
        let old = pem.replace("KEY-----\nMI", "KEY-----\nProc-Type: 4,ENCRYPTED\n\nMI");
        for text in [old, pem.replace("PRIVATE", "ENCRYPTED PRIVATE")] {
            let error = private_key(text.as_bytes()).unwrap_err();
            assert!(error.starts_with("is an encrypted key"), "{error}");
        }
    }

    #[test]
    fn every_list_of_a_file_is_read_and_a_broken_one_is_told() {
        let section = |text: &str| format!("-----BEGIN X509 CRL-----\n{text}\n-----END X509 CRL-----");
        let [one, two] = [section("AQID"), section("BAUG\r\nBw==")];
        for file in [
            format!("text\n{one}\n{two}\n"),
            format!("{one}{two}"),
            format!("{one}\r\n\r\n{two}"),
        ] {
            let lists = revocation_lists(file.as_bytes()).unwrap();
            let lists: Vec<_> = lists.iter().map(AsRef::as_ref).collect();
            assert_eq!(lists, [&[1, 2, 3][..], &[4, 5, 6, 7]]);
        }
        for (file, expected) in [
            (String::new(), "has no section"),
            (one.replace("X509 CRL", "CERTIFICATE"), "has no section"),
            (format!("{one}\n{}", two.replace("-----END", "----END")), "has no end"),
            (format!("{one}\n{}", two.replace("END X509", "END Y509")), "has no end"),
            (format!("{}\n{two}", one.replace("-----END", "---END")), "no Base64"),
            (section("AQI*"), "no Base64"),
            (section("AQI"), "no Base64"),
            ("-----BEGIN X509 CRL".to_owned(), "has no name"),
        ] {
            let error = revocation_lists(file.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{file}: {error}");
        }
    }
}
