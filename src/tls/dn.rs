//! A distinguished name as text that other programs may read: RFC 2253, in visible ASCII.
//!
//! What is special there, or no visible letter, is written as a backslash and two hexadecimal digits, which RFC 2253 allows for
//! every byte. So a quotation mark or the end of a line in a certificate can't end anything that this text is put into, and no
//! name can look like two.

use std::fmt::Write;

use x509_parser::der_parser::asn1_rs::ToDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::identity::text;

/// The name, with the most specific part first (RFC 2253, 2.1).
pub(super) fn rfc2253(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+"))
        .collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let id = attribute.attr_type().to_id_string();
    if let (Some(name), Ok(text)) = (short(&id), text(attribute)) {
        return format!("{name}={}", escape(&text));
    }
    // RFC 2253, 2.4: the DER of a value whose type has no name.
    let der = attribute.attr_value().to_der_vec().unwrap_or_default();
    let mut written = format!("{id}=#");
    for byte in der {
        // Writing to a string does not fail.
        let _ = write!(written, "{byte:02x}");
    }
    written
}

/// The names of RFC 2253, 2.3, and those that OpenSSL, and with it Envoy, prints beside them.
fn short(id: &str) -> Option<&'static str> {
    Some(match id {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.42" => "GN",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let last = text.len().saturating_sub(1);
    for (place, byte) in text.bytes().enumerate() {
        let is_plain = match byte {
            b' ' => place != 0 && place != last,
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' | b'=' | b'#' => false,
            _ => byte.is_ascii_graphic(),
        };
        if is_plain {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "\\{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_special_is_written_in_digits() {
        assert_eq!(escape("Example Inc."), "Example Inc.");
        assert_eq!(escape(" a  b "), r"\20a  b\20");
        assert_eq!(escape(" "), r"\20");
        assert_eq!(escape("a,O=b+c;\"d\"\\<>#"), r"a\2CO\3Db\2Bc\3B\22d\22\5C\3C\3E\23");
        assert_eq!(escape("ü\n\0"), r"\C3\BC\0A\00");
        assert_eq!(escape(""), "");
    }
}
