//! `[[rules]]` to a policy.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use crate::config::file::{self, Key};
use crate::policy::kindness::Kindness;
use crate::policy::pattern::{CertificatePattern, Part, Pattern, Serial};
use crate::policy::rights::{Right, Rights};
use crate::policy::spiffe::UriPattern;
use crate::policy::uris::UriPrefix;
use crate::policy::{Policy, Rule};

use super::instances;
use super::quota;
use super::report::Report;

/// Compiles the rules.
pub(super) fn compile(rules: &Key<Vec<Key<file::Rule>>>, authorities: &BTreeSet<&str>, report: &mut Report) -> Policy {
    let mut compiled: Vec<Rule> = Vec::new();
    let mut names = HashSet::new();
    for (index, rule) in report.value(rules, "rules").into_iter().flatten().enumerate() {
        let at = format!("rules[{index}]");
        let Some(rule) = report.value(rule, &at) else { continue };
        if let Some(rule) = compile_one(rule, &at, authorities, report) {
            if !names.insert(Arc::clone(&rule.name)) {
                report.add(
                    format!("{at}.name"),
                    format!("another rule is called `{}` too", rule.name),
                );
            }
            compiled.push(rule);
        }
    }
    Policy::new(compiled)
}

fn compile_one(rule: &file::Rule, at: &str, authorities: &BTreeSet<&str>, report: &mut Report) -> Option<Rule> {
    report.unknown(
        &rule.unknown,
        &format!("{at}."),
        &[
            "name",
            "certificate",
            "allow",
            "deny",
            "instances",
            "uris",
            "instance-rewrite",
            "on-denied-push",
            "push-probe",
            "rate",
            "rate-burst",
            "bandwidth",
            "bandwidth-burst",
            "max-calls",
        ],
    );
    let name = report
        .value(&rule.name, &format!("{at}.name"))
        .cloned()
        .unwrap_or_else(|| at.to_owned());
    let certificate = report.required(
        &rule.certificate,
        &format!("{at}.certificate"),
        "\"any\", \"anonymous\" or a table such as { common-name = \"ci\" }",
    );
    let pattern = certificate.and_then(|value| pattern(value, &format!("{at}.certificate"), authorities, report));
    let kindness = Kindness {
        denied_push: report
            .value(&rule.on_denied_push, &format!("{at}.on-denied-push"))
            .copied(),
        push_probe: report.value(&rule.push_probe, &format!("{at}.push-probe")).copied(),
    };
    if rule.allow == Key::Absent && rule.deny == Key::Absent && kindness.is_empty() {
        report.add_with_hint(
            format!("{at}.allow"),
            "is missing, and so is `deny`",
            "a list of rights such as [\"pull\"]",
        );
    }
    let mut rights = |names: &Key<Vec<String>>, key: &str| {
        let key = format!("{at}.{key}");
        let names = report.value(names, &key)?;
        Some(rights(names, &key, report))
    };
    let (allow, deny) = (rights(&rule.allow, "allow"), rights(&rule.deny, "deny"));
    let instances = instances::patterns(&rule.instances, at, report);
    let rewrite = instances::rewrite(&rule.instance_rewrite, instances.as_deref(), at, report);
    let uris = report.value(&rule.uris, &format!("{at}.uris")).map(|texts| {
        let key = format!("{at}.uris");
        if rule.deny != Key::Absent {
            report.add(
                &*key,
                "is not for a rule with `deny`: the same URI can be written in several ways, and prefixes know only one",
            );
        }
        let prefixes = texts.iter().filter_map(|text| {
            let prefix = UriPrefix::parse(text).map_err(|error| format!("`{text}` {error}"));
            report.ok(prefix, &key)
        });
        prefixes.collect()
    });
    let quota = quota::compile(rule, at, report);
    Some(Rule {
        name: name.into(),
        pattern: pattern?,
        allow: allow.unwrap_or_default(),
        deny: deny.unwrap_or_default(),
        instances,
        uris,
        rewrite,
        kindness,
        quota,
    })
}

fn rights(names: &[String], key: &str, report: &mut Report) -> Rights {
    let mut rights = Rights::NONE;
    for name in names {
        match Rights::from_name(name) {
            Some(more) => rights = rights.union(more),
            None => {
                let known: Vec<_> = Right::ALL.iter().map(|right| right.name()).collect();
                report.add_with_hint(
                    key,
                    format!("`{name}` is no right"),
                    format!("rights: push, {}", known.join(", ")),
                );
            }
        }
    }
    rights
}

fn pattern(value: &toml::Value, key: &str, authorities: &BTreeSet<&str>, report: &mut Report) -> Option<Pattern> {
    const FORMS: &str = "\"any\", \"anonymous\" or a table such as { common-name = \"ci\" }";
    let table = match value {
        toml::Value::String(text) if text == "any" => return Some(Pattern::Any),
        toml::Value::String(text) if text == "anonymous" => return Some(Pattern::Anonymous),
        toml::Value::Table(table) => table.clone(),
        _ => {
            report.add_with_hint(key, format!("`{value}` names no certificate"), FORMS);
            return None;
        }
    };
    let table: file::CertificatePattern = report.ok(table.try_into().map_err(|error: toml::de::Error| error), key)?;
    report.unknown(&table.unknown, &format!("{key}."), &Part::ALL.map(Part::name));
    let before = report.problems.len();
    let pattern = CertificatePattern {
        common_name: text(&table.common_name, key, Part::CommonName, report),
        organization: text(&table.organization, key, Part::Organization, report),
        organizational_unit: text(&table.organizational_unit, key, Part::OrganizationalUnit, report),
        uri: text(&table.uri, key, Part::Uri, report).and_then(|text| {
            let pattern = UriPattern::parse(&text).map_err(|error| format!("`{text}`: {error}"));
            report.ok(pattern, &format!("{key}.uri"))
        }),
        dns: text(&table.dns, key, Part::Dns, report),
        email: text(&table.email, key, Part::Email, report),
        serial: text(&table.serial, key, Part::Serial, report).and_then(|text| {
            let serial = Serial::parse(&text).ok_or_else(|| {
                format!("`{text}` is no serial number: hexadecimal digits, as `openssl x509 -noout -serial -in FILE` prints them")
            });
            report.ok(serial, &format!("{key}.serial"))
        }),
        sha256: fingerprint(
            &table.sha256,
            key,
            Part::Sha256,
            "64 hexadecimal digits, as `openssl x509 -noout -fingerprint -sha256 -in FILE` prints them",
            report,
        ),
        spki_sha256: fingerprint(
            &table.spki_sha256,
            key,
            Part::SpkiSha256,
            "64 hexadecimal digits, as `casgate explain` prints them",
            report,
        ),
        issued_by: text(&table.issued_by, key, Part::IssuedBy, report).map(Into::into),
    };
    if let Some(email) = &pattern.email
        && !email.contains('@')
    {
        report.add(format!("{key}.email"), format!("`{email}` is no mail address"));
    }
    if let Some(name) = &pattern.issued_by
        && !authorities.contains(&**name)
    {
        let known: Vec<_> = authorities.iter().copied().collect();
        report.add_with_hint(
            format!("{key}.issued-by"),
            format!("no entry of `listen.client-ca` has the name `{name}`"),
            if known.is_empty() {
                "give it one: client-ca = [{ name = \"ci\", file = \"ci-ca.crt\" }]".to_owned()
            } else {
                format!("names: {}", known.join(", "))
            },
        );
    }
    // A part that could not be read must not leave a pattern that is wider than what was written.
    if report.problems.len() > before {
        return None;
    }
    if pattern.is_empty() {
        report.add_with_hint(key, "names nothing, and would match every certificate", FORMS);
        return None;
    }
    Some(Pattern::Certificate(Box::new(pattern)))
}

fn text(value: &Key<String>, key: &str, part: Part, report: &mut Report) -> Option<String> {
    let key = format!("{key}.{}", part.name());
    let text = report.value(value, &key).cloned();
    if text.as_deref() == Some("") {
        report.add(key, "is empty, and an empty name is no identity");
        return None;
    }
    text
}

fn fingerprint(value: &Key<String>, key: &str, part: Part, hint: &str, report: &mut Report) -> Option<[u8; 32]> {
    let text = text(value, key, part, report)?;
    let parsed = parse_fingerprint(&text);
    if parsed.is_none() {
        report.add_with_hint(
            format!("{key}.{}", part.name()),
            format!("`{text}` is no SHA-256 fingerprint"),
            hint,
        );
    }
    parsed
}

/// 64 hexadecimal digits, with or without colons between the bytes.
fn parse_fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    let mut fingerprint = [0; 32];
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (place, pair) in fingerprint.iter_mut().zip(digits.chunks(2)) {
        *place = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_openssl_prints_them() {
        let plain = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        assert_eq!(parse_fingerprint(&plain), Some([0xab; 32]));
        assert_eq!(parse_fingerprint(&colons), Some([0xab; 32]));
        for bad in ["", "ab", &"zz".repeat(32), &"ab".repeat(33), &"é".repeat(32)] {
            assert_eq!(parse_fingerprint(bad), None, "{bad}");
        }
    }
}
