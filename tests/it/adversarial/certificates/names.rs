//! Names of certificates as DER, the odd ones included.
//!
//! Attributes are written `TYPE=text` or `TYPE:KIND=text` with the kind of string; those with `+` in front stand in one
//! RelativeDistinguishedName with the one before. Alternative names are `dns=text` and so on. A text that begins with
//! `0x` is bytes.

use crate::adversarial::notation::hex;
use crate::harness::pki::tlv;

/// Name (RFC 5280, 4.1.2.4).
pub(super) fn distinguished_name(attributes: &[String]) -> Vec<u8> {
    let mut sets: Vec<Vec<u8>> = Vec::new();
    for text in attributes {
        let (what, value) = text.split_once('=').unwrap();
        let (what, joins) = match what.strip_prefix('+') {
            Some(what) => (what, true),
            None => (what, false),
        };
        let (kind, form) = what.split_once(':').unwrap_or((what, "utf8"));
        let oid: &[u8] = match kind {
            "CN" => &[0x55, 4, 3],
            "SURNAME" => &[0x55, 4, 4],
            "O" => &[0x55, 4, 10],
            "OU" => &[0x55, 4, 11],
            "UID" => &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1],
            "EMAIL" => &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1],
            other => panic!("what is the attribute `{other}`?"),
        };
        let attribute = tlv(0x30, &[tlv(6, oid), string(form, value)].concat());
        match sets.last_mut() {
            Some(last) if joins => last.extend(attribute),
            _ => sets.push(attribute),
        }
    }
    tlv(0x30, &sets.iter().flat_map(|set| tlv(0x31, set)).collect::<Vec<_>>())
}

/// A string of one of the kinds of X.520.
fn string(form: &str, text: &str) -> Vec<u8> {
    let bytes = |text: &str| hex(text).unwrap_or_else(|| text.as_bytes().to_vec());
    match form {
        "utf8" => tlv(0x0c, &bytes(text)),
        "printable" => tlv(0x13, &bytes(text)),
        "t61" => tlv(0x14, &bytes(text)),
        "ia5" => tlv(0x16, &bytes(text)),
        "octets" => tlv(0x04, &bytes(text)),
        "universal" => tlv(
            0x1c,
            &text
                .chars()
                .flat_map(|c| u32::from(c).to_be_bytes())
                .collect::<Vec<_>>(),
        ),
        "bmp" => tlv(
            0x1e,
            &hex(text).unwrap_or_else(|| text.encode_utf16().flat_map(u16::to_be_bytes).collect()),
        ),
        other => panic!("what is the kind of string `{other}`?"),
    }
}

/// GeneralName (RFC 5280, 4.2.1.6).
pub(super) fn general_name(text: &str) -> Vec<u8> {
    let (kind, value) = text.split_once('=').unwrap();
    let bytes = hex(value).unwrap_or_else(|| value.as_bytes().to_vec());
    match kind {
        "email" => tlv(0x81, &bytes),
        "dns" => tlv(0x82, &bytes),
        "directory" => tlv(0xa4, &distinguished_name(&[value.to_owned()])),
        "uri" => tlv(0x86, &bytes),
        "ip" => tlv(0x87, &bytes),
        // The name of a user, as Active Directory writes it.
        "upn" => {
            let oid = tlv(6, &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 0x14, 2, 3]);
            tlv(0xa0, &[oid, tlv(0xa0, &tlv(0x0c, &bytes))].concat())
        }
        other => panic!("what is the name `{other}`?"),
    }
}
