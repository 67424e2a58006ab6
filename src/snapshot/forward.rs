//! `forward-identity` of a backend.

use http::HeaderName;

use crate::config::file::{self, Key};
use crate::forward::{Forward, Said, XFCC, plain_value};
use crate::policy::Policy;
use crate::policy::pattern::Part;
use crate::proxy::headers::{is_hop_by_hop, is_same_name};

use super::report::Report;

/// Names that mean something to gRPC, to HTTP or to servers, besides those that end at the gate.
const TAKEN: [&str; 8] = [
    "content-type",
    "content-length",
    "host",
    "expect",
    "user-agent",
    "authorization",
    "date",
    XFCC,
];

/// Compiles the table of a backend.
pub(super) fn compile(table: &file::ForwardIdentity, at: &str, policy: &Policy, report: &mut Report) -> Forward {
    let parts: [(&str, &Key<String>, Said); 11] = [
        ("subject", &table.subject, Said::Subject),
        ("common-name", &table.common_name, Said::Part(Part::CommonName)),
        ("organization", &table.organization, Said::Part(Part::Organization)),
        (
            "organizational-unit",
            &table.organizational_unit,
            Said::Part(Part::OrganizationalUnit),
        ),
        ("uri", &table.uri, Said::Part(Part::Uri)),
        ("dns", &table.dns, Said::Part(Part::Dns)),
        ("email", &table.email, Said::Part(Part::Email)),
        ("serial", &table.serial, Said::Part(Part::Serial)),
        ("sha256", &table.sha256, Said::Part(Part::Sha256)),
        ("spki-sha256", &table.spki_sha256, Said::Part(Part::SpkiSha256)),
        ("issued-by", &table.issued_by, Said::Part(Part::IssuedBy)),
    ];
    let known = parts.iter().map(|(key, ..)| *key);
    let known: Vec<_> = known.chain([XFCC, "rule"]).collect();
    report.unknown(&table.unknown, &format!("{at}."), &known);
    let mut forward = Forward {
        xfcc: report.value(&table.x_forwarded_client_cert, &format!("{at}.{XFCC}")) == Some(&true),
        ..Forward::default()
    };
    for (key, value, said) in parts {
        if let Some(name) = name(value, &format!("{at}.{key}"), &forward, report) {
            forward.plain.push((said, name));
        }
    }
    forward.rule = name(&table.rule, &format!("{at}.rule"), &forward, report).map(|name| {
        let rules = policy.rules().iter();
        (name, rules.map(|rule| plain_value(&rule.name)).collect())
    });
    if forward.is_empty() && report.problems.is_empty() {
        report.add_with_hint(
            at,
            "forwards nothing",
            "such as { x-forwarded-client-cert = true, common-name = \"x-client-cn\" }",
        );
    }
    forward
}

fn name(value: &Key<String>, key: &str, before: &Forward, report: &mut Report) -> Option<HeaderName> {
    let text = report.value(value, key)?;
    let name = report.ok(parse(text), key)?;
    if before.names().any(|other| is_same_name(other.as_str(), name.as_str())) {
        report.add(key, format!("`{text}` is the name of another header here"));
    }
    Some(name)
}

/// A name that gRPC allows for metadata in ASCII (grpc PROTOCOL-HTTP2, "Custom-Metadata").
fn parse(text: &str) -> Result<HeaderName, String> {
    let lower = text.to_ascii_lowercase();
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let parsed = HeaderName::from_bytes(lower.as_bytes()).ok();
    let Some(name) = parsed.filter(|_| lower.bytes().all(is_letter)) else {
        return Err(format!(
            "`{text}` is no name of a header: letters, digits, `-`, `_` and `.`"
        ));
    };
    if lower.ends_with("-bin") {
        return Err(format!("`{text}` ends in `-bin`, which gRPC takes for base64"));
    }
    let is_taken = |name: &str| {
        let mut taken = TAKEN.into_iter();
        name.starts_with("grpc-")
            || name.starts_with("build.bazel.")
            || is_hop_by_hop(name)
            || taken.any(|taken| is_same_name(taken, name))
    };
    if is_taken(&lower) {
        return Err(format!("`{text}` has a meaning of its own: take another name"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_metadata_and_not_taken() {
        for (text, name) in [("x-client-cn", "x-client-cn"), ("X-Casgate_Rule.1", "x-casgate_rule.1")] {
            assert_eq!(parse(text).as_ref().map(HeaderName::as_str), Ok(name));
        }
        for bad in [
            "",
            ":path",
            "x y",
            "x\n",
            "x!",
            "ü",
            "te",
            "TE",
            "connection",
            "keep-alive",
            "grpc-timeout",
            "grpc-anything",
            "content-type",
            "content_type",
            "host",
            "user-agent",
            "authorization",
            "x-cn-bin",
            "x-forwarded-client-cert",
            "build.bazel.remote.execution.v2.requestmetadata",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
