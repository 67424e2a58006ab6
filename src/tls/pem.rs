//! PEM files (RFC 7468) to DER. Whatever looks like a section and is not read is an error.

mod sections;

use base64ct::{Base64, Encoding};
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::der::{Elements, SEQUENCE};
use crate::policy::identity::printable;
use sections::{Section, sections};

/// All certificates of a file that shows who its owner is, in order. Its private key may stand beside them.
///
/// # Errors
/// When something is broken or of no use here, or there is no certificate; text for people, with the line.
pub fn certificates(file: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    all_certificates(file, true)
}

/// All certificates of a file that says who is trusted, in order.
///
/// # Errors
/// When something is broken or no certificate, or there is none; text for people, with the line.
pub fn trusted_certificates(file: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    all_certificates(file, false)
}

fn all_certificates(file: &[u8], with_key: bool) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut all = Vec::new();
    for section in sections(file)? {
        match Kind::of(&section)? {
            Kind::Certificate => all.push(public(&section)?.into()),
            Kind::Key(_) | Kind::EncryptedKey | Kind::Parameters if with_key => no_odd_line(&section)?,
            kind => return Err(misplaced(&section, kind, "certificates")),
        }
    }
    if all.is_empty() {
        return Err("has no section `BEGIN CERTIFICATE`".to_owned());
    }
    Ok(all)
}

/// The private key of a PEM file: PKCS#8, SEC1 or PKCS#1. Certificates may stand beside it.
///
/// # Errors
/// When there is none or more than one, or it is encrypted; text for people, which never holds a byte of the key.
pub fn private_key(file: &[u8]) -> Result<Zeroizing<PrivateKeyDer<'static>>, String> {
    let mut found: Option<Zeroizing<PrivateKeyDer<'static>>> = None;
    for section in sections(file)? {
        let kind = match Kind::of(&section)? {
            Kind::Key(kind) => kind,
            Kind::Certificate => {
                public(&section)?;
                continue;
            }
            Kind::Parameters => continue,
            Kind::EncryptedKey => return Err(encrypted(&section)),
            Kind::List => return Err(misplaced(&section, Kind::List, "a private key")),
        };
        let key = key(&section, kind)?;
        if found.is_some_and(|found| *found != *key) {
            return Err(format!("line {}: is another private key: keep one", section.line));
        }
        found = Some(key);
    }
    found.ok_or_else(|| "has no private key in PKCS#8, SEC1 or PKCS#1 PEM".to_owned())
}

/// All revocation lists of a PEM file. They may be large: besides the file and the list there is never a third copy.
///
/// # Errors
/// When something is broken or no list, or there is none; text for people, with the line.
pub fn revocation_lists(file: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let mut all = Vec::new();
    for section in sections(file)? {
        match Kind::of(&section)? {
            Kind::List => all.push(public(&section)?.into()),
            kind => return Err(misplaced(&section, kind, "revocation lists")),
        }
    }
    if all.is_empty() {
        return Err("has no section `BEGIN X509 CRL`".to_owned());
    }
    Ok(all)
}

/// What a section is.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Certificate,
    List,
    Key(SectionKind),
    EncryptedKey,
    /// Of an elliptic curve or of Diffie-Hellman, as OpenSSL writes them beside a key: they say nothing that the key does not.
    Parameters,
}

impl Kind {
    fn of(section: &Section<'_>) -> Result<Kind, String> {
        let hint = match section.label {
            "CERTIFICATE" => return Ok(Kind::Certificate),
            "X509 CRL" => return Ok(Kind::List),
            "PRIVATE KEY" => return Ok(Kind::Key(SectionKind::PrivateKey)),
            "RSA PRIVATE KEY" => return Ok(Kind::Key(SectionKind::RsaPrivateKey)),
            "EC PRIVATE KEY" => return Ok(Kind::Key(SectionKind::EcPrivateKey)),
            "ENCRYPTED PRIVATE KEY" => return Ok(Kind::EncryptedKey),
            "EC PARAMETERS" | "DH PARAMETERS" => return Ok(Kind::Parameters),
            "TRUSTED CERTIFICATE" | "X509 CERTIFICATE" => "convert it with `openssl x509 -in FILE -out PLAIN`",
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => {
                "it asks an authority for a certificate: sign it first"
            }
            "PKCS7" | "CMS" => "convert it with `openssl pkcs7 -print_certs -in FILE -out PLAIN`",
            "CRL" => "a revocation list is a section `X509 CRL`",
            label if label.ends_with("PRIVATE KEY") => "convert it with `openssl pkey -in KEY -out PLAIN`",
            _ => "remove it",
        };
        let (line, label) = (section.line, printable(section.label));
        Err(format!(
            "line {line}: section `{label}` is of a kind that is not read: {hint}"
        ))
    }
}

fn misplaced(section: &Section<'_>, kind: Kind, wanted: &str) -> String {
    let what = match kind {
        Kind::Certificate => "a certificate",
        Kind::List => "a revocation list",
        Kind::Key(_) | Kind::EncryptedKey => "a private key",
        Kind::Parameters => "parameters of a key",
    };
    format!(
        "line {}: is {what}, and this file is for {wanted}: move it to another file",
        section.line
    )
}

fn encrypted(section: &Section<'_>) -> String {
    let line = section.line;
    format!("line {line}: is an encrypted key: decrypt it with `openssl pkey -in KEY -out PLAIN`")
}

/// The DER of a section that is no secret.
fn public(section: &Section<'_>) -> Result<Vec<u8>, String> {
    no_odd_line(section)?;
    let der = decode(section.text).ok_or_else(|| no_base64(section))?;
    is_whole(section, &der)?;
    Ok(der)
}

/// The key of a section. Nothing else that held it is left. Keys are not read by a parser that leaves the text behind in memory.
fn key(section: &Section<'_>, kind: SectionKind) -> Result<Zeroizing<PrivateKeyDer<'static>>, String> {
    // RFC 1421, 4.6.1.1: `Proc-Type: 4,ENCRYPTED`.
    if section.text.windows(9).any(|window| window == b"ENCRYPTED") && section.odd_line.is_some() {
        return Err(encrypted(section));
    }
    no_odd_line(section)?;
    // As long as all of it, so that it is never moved.
    let mut digits = Zeroizing::new(Vec::with_capacity(section.text.len()));
    digits.extend(section.text.iter().filter(|byte| !byte.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![0; digits.len()]);
    let length = Base64::decode(&**digits, &mut der)
        .map_err(|_| no_base64(section))?
        .len();
    der.truncate(length);
    is_whole(section, &der)?;
    let key = PrivateKeyDer::from_pem(kind, std::mem::take(&mut *der));
    key.map(Zeroizing::new).ok_or_else(|| no_base64(section))
}

fn no_odd_line(section: &Section<'_>) -> Result<(), String> {
    match section.odd_line {
        Some(line) => Err(format!(
            "line {line}: is no Base64: in a section stand no headers and no other text"
        )),
        None => Ok(()),
    }
}

fn no_base64(section: &Section<'_>) -> String {
    format!(
        "line {}: section `{}` is no Base64",
        section.line,
        printable(section.label)
    )
}

/// Whether this is one sequence of DER, and nothing behind it.
fn is_whole(section: &Section<'_>, der: &[u8]) -> Result<(), String> {
    let mut elements = Elements::new(der);
    let is_sequence = matches!(elements.next(), Ok(Some(element)) if element.tag == SEQUENCE);
    if is_sequence && matches!(elements.next(), Ok(None)) {
        return Ok(());
    }
    let (line, label) = (section.line, printable(section.label));
    Err(format!(
        "line {line}: section `{label}` is not one whole element of DER: it is cut off, or something follows it"
    ))
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
mod tests;
