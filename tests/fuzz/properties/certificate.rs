//! Client certificates.

use std::sync::OnceLock;

use casgate::policy::identity::Identity;
use casgate::tls::identity;
use casgate::tls::verifier::{ClientVerifier, Trusted};
use rustls::pki_types::{CertificateDer, UnixTime};

/// The authority of the seeds, whose key nobody has kept.
const AUTHORITY: &[u8] = include_bytes!("../corpus/certificate/authority.der");
/// What it issued.
const ISSUED: [&[u8]; 3] = [
    include_bytes!("../corpus/certificate/client.der"),
    include_bytes!("../corpus/certificate/names.der"),
    include_bytes!("../corpus/certificate/intermediate.der"),
];
/// A time at which all of them are valid, in seconds since 1970.
const THEN: u64 = 1_800_000_000;

/// A certificate in DER: what can be read of it is the same for each reader, and nobody is let in for a signature over
/// something else.
pub fn certificate(bytes: &[u8]) -> String {
    let read = identity::read(bytes);
    assert_eq!(read, identity::read(bytes));
    let accepted = verifier().verify(
        &CertificateDer::from(bytes),
        &[],
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(THEN)),
    );
    let Ok(certificate) = read else {
        assert!(accepted.is_err(), "let in, though it can't be read");
        return "unreadable".to_owned();
    };
    if accepted.is_ok() {
        let signed: Vec<_> = ISSUED.into_iter().chain([AUTHORITY]).map(signed).collect();
        assert!(signed.contains(&self::signed(bytes)), "let in, though nobody signed it");
    }
    // webpki checks what it checks on its own reading of the bytes.
    if let Ok(other) = webpki::EndEntityCert::try_from(&CertificateDer::from(bytes)) {
        for name in other.valid_dns_names() {
            assert!(certificate.dns.iter().any(|dns| dns == name), "{name} is missing");
        }
        for uri in other.valid_uri_names() {
            assert!(certificate.uris.iter().any(|given| given == uri), "{uri} is missing");
        }
    }
    let kinds = [
        certificate.common_names.len(),
        certificate.organizations.len(),
        certificate.organizational_units.len(),
        certificate.uris.len(),
        certificate.dns.len(),
        certificate.emails.len(),
    ]
    .map(|count| count.min(2));
    let identity = Identity::Certificate(Box::new(certificate));
    let label = identity.label();
    assert!(label.chars().count() <= 101 && !label.contains('`'), "{label}");
    assert!(!label.chars().any(char::is_control), "{label:?}");
    let reason = accepted.err().map(|error| casgate::tls::verifier::reason(&error));
    format!("{kinds:?} {reason:?}")
}

/// What a signature is over (RFC 5280, 4.1.1.1).
fn signed(der: &[u8]) -> Vec<u8> {
    identity::parse(der).unwrap().tbs_certificate.as_ref().to_vec()
}

fn verifier() -> &'static ClientVerifier {
    static VERIFIER: OnceLock<ClientVerifier> = OnceLock::new();
    VERIFIER.get_or_init(|| {
        let authority = Trusted {
            der: CertificateDer::from(AUTHORITY),
            role: None,
            name: None,
        };
        ClientVerifier::new(&[authority], true, &|_| false).unwrap()
    })
}
