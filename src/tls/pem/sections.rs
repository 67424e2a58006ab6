//! The sections of a PEM file (RFC 7468), strictly: a line that looks like the begin or the end of a section either is one, or
//! is an error. A certificate that is passed over in silence is an authority or a revocation that does not count.

use crate::policy::identity::printable;

/// A section.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section<'a> {
    /// What stands behind BEGIN: capital letters, digits and single spaces.
    pub(super) label: &'a str,
    /// The line with BEGIN, counted from 1.
    pub(super) line: usize,
    /// Base64 and white space, or headers and Base64.
    pub(super) text: &'a [u8],
    /// The first line that is neither Base64 nor empty: of headers (RFC 1421), or rubbish.
    pub(super) odd_line: Option<usize>,
}

/// All sections of a file, in order. Other text may stand between them. Lines end in LF, CR LF or CR.
///
/// # Errors
/// Text for people with the line, and without a byte of what stands in a section.
pub(super) fn sections(file: &[u8]) -> Result<Vec<Section<'_>>, String> {
    if let [0x30, 0x80..=0x84, ..] = file {
        return Err(
            "is binary (DER or PKCS#12) and not PEM: convert it, as with `openssl x509 -inform DER`".to_owned(),
        );
    }
    if file.contains(&0) {
        return Err("is no PEM file: it has NUL bytes. Is it UTF-16, or binary? Save it as plain text".to_owned());
    }
    let mut found = Vec::new();
    let mut open: Option<(Section<'_>, usize)> = None;
    let mut at = 0;
    let mut number = 0;
    while let Some(rest) = file.get(at..).filter(|rest| !rest.is_empty()) {
        number += 1;
        let (line, length) = first_line(rest);
        let mut line = line.trim_ascii_end();
        if let Some((section, start)) = &mut open {
            if line.iter().all(|byte| is_base64(*byte)) {
                at += length;
                continue;
            }
            match boundary(line, b"-----END ") {
                Some((label, behind)) if label == section.label => {
                    section.text = file.get(*start..at).unwrap_or_default();
                    found.push(*section);
                    open = None;
                    line = behind;
                }
                None if !looks_like_boundary(line) => {
                    section.odd_line.get_or_insert(number);
                    at += length;
                    continue;
                }
                _ => {
                    let Section { label, line, .. } = section;
                    return Err(format!(
                        "line {number}: a section begins or ends before section `{}` of line {line} does; \
                         its last line must be `-----END {0}-----`",
                        printable(label)
                    ));
                }
            }
        }
        match boundary(line, b"-----BEGIN ") {
            Some((label, b"")) => {
                let section = Section {
                    label,
                    line: number,
                    text: b"",
                    odd_line: None,
                };
                open = Some((section, at + length));
            }
            _ if looks_like_boundary(line) => {
                return Err(format!(
                    "line {number}: looks like the begin or the end of a section, but isn't one: such a line is exactly \
                     `-----BEGIN LABEL-----`, and each section has its END"
                ));
            }
            _ => {}
        }
        at += length;
    }
    match open {
        Some((section, _)) => Err(format!(
            "line {}: section `{}` has no end: is the file cut off?",
            section.line,
            printable(section.label)
        )),
        None => Ok(found),
    }
}

/// The line without its end, and its length with it.
fn first_line(rest: &[u8]) -> (&[u8], usize) {
    let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
        return (rest, rest.len());
    };
    let (line, ending) = rest.split_at(end);
    (line, end + if ending.starts_with(b"\r\n") { 2 } else { 1 })
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b' ' | b'\t')
}

/// The label of a line that starts with a boundary, and what follows it.
fn boundary<'a>(line: &'a [u8], mark: &[u8]) -> Option<(&'a str, &'a [u8])> {
    let rest = line.strip_prefix(mark)?;
    let end = rest.windows(5).position(|window| window == b"-----")?;
    let label = str::from_utf8(rest.get(..end)?).ok()?;
    let is_word = |word: &str| {
        let mut bytes = word.bytes();
        !word.is_empty() && bytes.all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
    };
    (label.len() <= 40 && label.split(' ').all(is_word)).then_some(())?;
    Some((label, rest.get(end + 5..)?))
}

/// Whether somebody may have meant a boundary: with other or fewer dashes, indented, in small letters, in a comment.
fn looks_like_boundary(line: &[u8]) -> bool {
    // Dashes of typography: those of Unicode, and those of Windows-1252, which UTF-8 does not have.
    let text = String::from_utf8_lossy(line).to_uppercase();
    let is_dash = |c: char| {
        matches!(
            c,
            '-' | '_' | '\u{ad}' | '\u{2010}'
                ..='\u{2015}' | '\u{2212}' | '\u{2500}' | '\u{fe58}' | '\u{fe63}' | '\u{ff0d}' | '\u{fffd}'
        )
    };
    let text: String = text
        .chars()
        .map(|c| if is_dash(c) { '-' } else { c })
        .filter(|c| c.is_ascii() && !c.is_ascii_whitespace())
        .collect();
    let bare = text.trim_start_matches('-');
    ["BEGIN", "END"].iter().any(|word| {
        let of_what = bare.strip_prefix(word).map(|what| what.trim_start_matches('-'));
        text.contains(&format!("--{word}"))
            || of_what.is_some_and(|what| LABELS.iter().any(|label| what.starts_with(label)))
    })
}

/// How labels begin, without spaces.
const LABELS: [&str; 9] = [
    "CERTIFICATE",
    "X509",
    "TRUSTEDCERT",
    "PRIVATEKEY",
    "ENCRYPTEDPRIV",
    "RSAPRIV",
    "ECPRIV",
    "PKCS7",
    "CRL",
];

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";

    #[test]
    fn lines_and_labels_are_told_whatever_ends_a_line() {
        for end in ["\n", "\r\n", "\r"] {
            let file =
                format!("some text\n\n{ONE}Bag Attributes: -\n  friendlyName: front-end\n{ONE}").replace('\n', end);
            let found = sections(file.as_bytes()).unwrap();
            let found: Vec<_> = found.iter().map(|section| (section.label, section.line)).collect();
            assert_eq!(found, [("CERTIFICATE", 3), ("CERTIFICATE", 8)], "{end:?}");
        }
        let joined = format!("{}{ONE}", ONE.trim_end());
        let found = sections(joined.as_bytes()).unwrap();
        assert_eq!(found.iter().map(|section| section.line).collect::<Vec<_>>(), [1, 3]);
        assert!(found.iter().all(|section| section.text == b"MAMCAQE=\n"));
    }

    proptest! {
        /// Whatever becomes of the lines of BEGIN and END of one of three sections: it is found, or the file is an error.
        #[test]
        fn no_section_is_passed_over(
            which in 0usize..3,
            line in 0usize..2,
            at in 0usize..24,
            change in prop_oneof![
                Just(""), Just(" "), Just("-"), Just("\u{2013}"), Just("x"), Just("\t"), Just("\u{feff}"), Just("\n"),
                Just("#"), Just("\r"), Just("\\n"), Just("\u{a0}"),
            ],
            replace in any::<bool>(),
            end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r"), Just("")],
        ) {
            let mut lines: Vec<String> = ONE.lines().map(str::to_owned).collect();
            let marked = &mut lines[line * 2];
            let at = at.min(marked.len() - 1);
            marked.replace_range(at..at + usize::from(replace), change);
            let changed = lines.join("\n") + end;
            let file: String = (0..3).map(|index| if index == which { changed.as_str() } else { ONE }).collect();
            if let Ok(found) = sections(file.as_bytes()) {
                prop_assert_eq!(found.len(), 3, "{}", file);
            }
        }
    }
}
