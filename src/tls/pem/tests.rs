#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::*;

/// A section with an element of DER: SEQUENCE { INTEGER 1 }.
fn section(label: &str) -> String {
    format!("-----BEGIN {label}-----\nMAMCAQE=\n-----END {label}-----\n")
}

fn new_key() -> String {
    rcgen::KeyPair::generate().unwrap().serialize_pem()
}

#[test]
fn a_key_is_found_in_whatever_stands_around_it() {
    let key = rcgen::KeyPair::generate().unwrap();
    let (pem, der) = (key.serialize_pem(), key.serialize_der());
    let other = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    for text in [
        pem.clone(),
        pem.replace('\n', "\r\n"),
        pem.replace('\n', "\r"),
        format!("Bag Attributes: <none>\n{other}{pem}{other}"),
        format!("{pem}{pem}"),
        format!("{}{pem}", section("CERTIFICATE")),
    ] {
        let found = private_key(text.as_bytes()).unwrap();
        assert_eq!(found.secret_der(), der, "{text}");
        assert_eq!(*found, PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap());
    }
}

#[test]
fn what_is_no_key_is_told_without_a_byte_of_it() {
    let pem = new_key();
    let (cut, _) = pem.split_at(100);
    let secret: Vec<&str> = pem.lines().filter(|line| !line.starts_with('-')).collect();
    for (text, expected) in [
        ("", "has no private key in PKCS#8, SEC1 or PKCS#1 PEM"),
        (&*section("CERTIFICATE"), "has no private key"),
        ("-----BEGIN ", "line 1: looks like"),
        (cut, "line 1: section `PRIVATE KEY` has no end"),
        (&pem.replace("-----END", "-----EMD"), "has no end"),
        (&pem.replace("-----\nM", "-----M"), "line 1: looks like"),
        (&pem.replace("-----END", " -----END"), "a section begins or ends before"),
        (&pem.replace('M', "!"), "line 2: is no Base64"),
        (
            &pem.replace("KEY-----\nMI", "KEY-----\nComment: x\nMI"),
            "line 2: is no Base64",
        ),
        (
            &pem.replace("KEY-----\nM", "KEY-----\n=M"),
            "line 1: section `PRIVATE KEY` is no Base64",
        ),
        (
            &pem.replace("KEY-----\nMI", "KEY-----\nMAMCAQEA\nMI"),
            "is not one whole element",
        ),
        (
            &pem.replace(" PRIVATE", ""),
            "section `KEY` is of a kind that is not read",
        ),
        (&pem.replace("PRIVATE", "OPENSSH PRIVATE"), "openssl pkey"),
        (&pem.replace("PRIVATE", "PUBLIC"), "is of a kind that is not read"),
        (
            &pem.replace("PRIVATE", "ENCRYPTED PRIVATE"),
            "line 1: is an encrypted key",
        ),
        (
            &pem.replace("KEY-----\nMI", "KEY-----\nProc-Type: 4,ENCRYPTED\n\nMI"),
            "line 1: is an encrypted key",
        ),
        (&format!("{pem}{}", new_key()), "is another private key: keep one"),
        (&format!("{pem}{}", section("X509 CRL")), "is a revocation list"),
        (&format!("{pem}{}", section("TRUSTED CERTIFICATE")), "openssl x509"),
    ] {
        let error = private_key(text.as_bytes()).unwrap_err();
        assert!(error.contains(expected), "{text}\n{error}");
        assert!(!secret.iter().any(|line| error.contains(&line[..8])), "{error}");
    }
}

#[test]
fn every_section_of_a_file_is_read() {
    type Read = fn(&[u8]) -> Result<usize, String>;
    let readers: [(&str, Read); 3] = [
        ("CERTIFICATE", |file| Ok(certificates(file)?.len())),
        ("CERTIFICATE", |file| Ok(trusted_certificates(file)?.len())),
        ("X509 CRL", |file| Ok(revocation_lists(file)?.len())),
    ];
    for (label, read) in readers {
        let one = section(label);
        let joined = format!("{}{one}", one.trim_end());
        for file in [
            format!("{one}{one}"),
            joined.clone(),
            joined.replace('\n', "\r\n"),
            joined.replace('\n', "\r"),
            format!("{one}\r\n\r\n{one}").trim_end().to_owned(),
            format!(
                "Certificate:\n    Version: 3\n  Public-Key: (256 bit)\n{one}Bag Attributes\n friendlyName: end\n{one}"
            ),
            format!("# --- Vendor's root certificates ---\n{one}- the vendor's key\n{one}# caf\u{e9} \u{2014} end\n"),
            format!("{one}{}", one.replace("MAMC", " MA\nMC ")),
        ] {
            assert_eq!(read(file.as_bytes()), Ok(2), "{file}");
        }
    }
    let with_key = format!("{}{}{}", section("CERTIFICATE"), new_key(), section("EC PARAMETERS"));
    assert_eq!(certificates(with_key.as_bytes()).unwrap().len(), 1);
    assert!(private_key(with_key.as_bytes()).is_ok());
}

/// What becomes of the second of two sections, and of which line the error is.
#[test]
fn what_looks_like_a_section_and_is_not_read_is_an_error() {
    for label in ["CERTIFICATE", "X509 CRL"] {
        let one = section(label);
        let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
        let labelled = |other: &str| one.replace(label, other);
        let forms = [
            (labelled("TRUSTED CERTIFICATE"), 4),
            (labelled("X509 CERTIFICATE"), 4),
            (labelled("CRL"), 4),
            (labelled("CERTIFICATE REQUEST"), 4),
            (labelled("NEW CERTIFICATE REQUEST"), 4),
            (labelled("ATTRIBUTE CERTIFICATE"), 4),
            (labelled("CERTIFICATE CHAIN"), 4),
            (labelled("PKCS7"), 4),
            (labelled("CMS"), 4),
            (labelled("PUBLIC KEY"), 4),
            (labelled("DATA"), 4),
            (labelled("Certificate"), 4),
            (labelled("certificate"), 4),
            (one.to_lowercase(), 4),
            (format!(" {one}"), 4),
            (format!("\t{one}"), 4),
            (one.replace('\n', "\n  "), 6),
            (format!("\u{feff}{one}"), 4),
            (format!("# {one}"), 4),
            (format!("\"{one}"), 4),
            (format!("\u{a0}{one}"), 4),
            (one.replace("-----", "----"), 4),
            (one.replace("-----", "------"), 4),
            (one.replace("-----", "--"), 4),
            (one.replace("-----", "\u{2013}\u{2013}"), 4),
            (one.replace("-----", "\u{2014}\u{2014}-"), 4),
            (one.replace("-----", ""), 4),
            (one.replace("-----BEGIN", "----- BEGIN"), 4),
            (one.replace(&begin, &begin.replacen("-----", "", 1)), 4),
            (one.replace(&begin, begin.trim_end_matches('-')), 4),
            (one.replace("BEGIN ", "BEGIN"), 4),
            (one.replace("BEGIN ", "BEGIN  "), 4),
            (one.replace("BEGIN ", "BEGIN-"), 4),
            (one.replace(&begin, &format!("{begin} # second")), 4),
            (one.replace(&format!("{begin}\n"), &begin), 4),
            (one.replace('\n', "\\n"), 4),
            (one.replace(&begin, ""), 6),
            (one.replace(&end, ""), 4),
            (one.replace(&end, &end[1..]), 6),
            (one.replace(&end, &format!(" {end}")), 6),
            (one.replace(&end, end.trim_end_matches('-')), 6),
            (one.replace(&end, "-----END X-----"), 6),
            (one.replace(&format!("\n{end}"), &end), 5),
            (format!("{begin}\n"), 4),
            (format!("{begin}\nMAMC"), 4),
            (format!("{begin}\nMAMC\n{one}"), 6),
            (format!("{end}\n"), 4),
            (one.replace("MAMC", "MA*C"), 5),
            (one.replace("MAMC", "MA-C"), 5),
            (one.replace("MAMC", "MA\u{2013}C"), 5),
            (one.replace("MAMC", "MAM"), 4),
            (one.replace("AQE=", "AQE"), 4),
            (one.replace("AQE=", "AQE=AQE="), 4),
            (one.replace("MAMCAQE=", ""), 4),
            (one.replace("MAMCAQE=", "MAMCAQEA"), 4),
            (one.replace("MAMCAQE=", "MAMC"), 4),
            (one.replace("MAMCAQE=", "AgEB"), 4),
            (one.replace("MAMC", "Comment: x\n\nMAMC"), 5),
            (one.replace("MAMC", "# x\nMAMC"), 5),
        ];
        for (form, line) in forms {
            let file = format!("{}{form}", section(label));
            let errors = match label {
                "X509 CRL" => vec![revocation_lists(file.as_bytes()).map(|_| ())],
                _ => vec![
                    certificates(file.as_bytes()).map(|_| ()),
                    trusted_certificates(file.as_bytes()).map(|_| ()),
                ],
            };
            for error in errors {
                let error = error.err().unwrap_or_else(|| panic!("{file}"));
                assert!(error.starts_with(&format!("line {line}: ")), "{file}\n{error}");
            }
        }
    }
}

#[test]
fn what_lies_in_the_wrong_file_is_an_error() {
    let [certificate, list] = ["CERTIFICATE", "X509 CRL"].map(section);
    let key = new_key();
    let error = |result: Result<(), String>| result.unwrap_err();
    for (file, expected) in [
        (&list, "line 4: is a revocation list, and this file is for certificates"),
        (&key, "line 4: is a private key, and this file is for certificates"),
        (&section("ENCRYPTED PRIVATE KEY"), "line 4: is a private key"),
    ] {
        let file = format!("{certificate}{file}");
        let told = error(trusted_certificates(file.as_bytes()).map(|_| ()));
        assert!(told.starts_with(expected), "{told}");
    }
    for (file, expected) in [
        (
            &certificate,
            "line 4: is a certificate, and this file is for revocation lists",
        ),
        (&key, "line 4: is a private key, and this file is for revocation lists"),
    ] {
        let told = error(revocation_lists(format!("{list}{file}").as_bytes()).map(|_| ()));
        assert!(told.starts_with(expected), "{told}");
    }
    assert!(error(certificates(list.as_bytes()).map(|_| ())).contains("is a revocation list"));
    assert_eq!(
        error(certificates(b"text").map(|_| ())),
        "has no section `BEGIN CERTIFICATE`"
    );
    assert_eq!(
        error(revocation_lists(b"").map(|_| ())),
        "has no section `BEGIN X509 CRL`"
    );
}

#[test]
fn what_is_no_text_is_told() {
    let utf16: Vec<u8> = section("CERTIFICATE")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (file, expected) in [
        (&utf16[..], "UTF-16"),
        (b"text\0", "NUL"),
        (&[0x30, 3, 2, 1, 1], "has no section"),
        (&[0x30, 0x82, 1, 2], "is binary (DER or PKCS#12)"),
    ] {
        for error in [
            certificates(file).map(|_| ()),
            trusted_certificates(file).map(|_| ()),
            private_key(file).map(|_| ()),
            revocation_lists(file).map(|_| ()),
        ] {
            let error = error.unwrap_err();
            let is_small = expected == "has no section";
            assert!(
                error.contains(expected) || is_small && error.contains("has no private key"),
                "{error}"
            );
        }
    }
}
