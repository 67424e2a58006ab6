//! An account for people, and as JSON.

use std::fmt::Write;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::account::{Account, Allowed, Bearing, Kind, Refused, needs};
use crate::policy::identity::{Certificate, Identity, printable};
use crate::policy::instance::InstanceName;
use crate::policy::kindness::Kindly;
use crate::policy::method::Service;
use crate::policy::pattern::{Fit, Part};
use crate::status::{CODE_NAMES, Code, Rejection, encode_message};

/// For people.
pub(super) fn text(account: &Account<'_>) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    match &account.identity {
        Identity::Anonymous => text.push_str("caller without a certificate\n"),
        Identity::Certificate(certificate) => {
            let _ = writeln!(text, "certificate {}", printable(&certificate.subject));
            for (name, values) in parts(certificate, account) {
                let values: Vec<_> = values.iter().map(|value| printable(value)).collect();
                let _ = writeln!(text, "  {name:<19} {}", values.join(", "));
            }
        }
    }
    let listen = account.listen;
    let number = account.call.listener + 1;
    let _ = write!(text, "listener {number}, {}://{}: ", listen.scheme(), listen.id.address);
    match &account.accepted {
        Ok(_) => text.push_str("accepted\n"),
        Err(reason) => {
            let _ = writeln!(text, "refused: {reason}");
        }
    }
    let _ = write!(text, "call {}", account.call.method.path());
    if let Some(instance) = account.call.told_instance() {
        let _ = write!(text, " on instance \"{}\"", printable(instance));
    }
    for uri in account.call.uris {
        let _ = write!(text, " of {}", printable(uri));
    }
    let _ = writeln!(text, ", which needs {}", needs(account.call.method));
    for (rule, Bearing { fit, reasons }) in &account.rules {
        let colon = if reasons.is_empty() { "" } else { ": " };
        let _ = writeln!(
            text,
            "rule \"{}\" {}{colon}{}",
            rule.name,
            matches(*fit),
            reasons.join("; ")
        );
    }
    match &account.outcome {
        Ok(Allowed { rule, backend, renamed }) => {
            match rule {
                Some((rule, right)) => {
                    let _ = writeln!(text, "allowed by rule \"{rule}\" with {}", right.name());
                }
                None => text.push_str("allowed to everybody\n"),
            }
            let as_name = |name: &InstanceName| format!(" as instance \"{}\"", printable(name.as_str()));
            let renamed = renamed.as_ref().map(as_name).unwrap_or_default();
            let _ = match backend {
                Some(backend) => writeln!(text, "answered by backend {backend}{renamed}"),
                None => writeln!(text, "answered by casgate"),
            };
        }
        Err(Refused::Handshake) => text.push_str("refused: there is no connection, and no answer\n"),
        Err(Refused::Answer(rejection, rule, kind)) => {
            let by = rule
                .as_ref()
                .map(|rule| format!(" by rule \"{rule}\""))
                .unwrap_or_default();
            let _ = writeln!(text, "refused{by}: {}", rejection.label());
            let (code, name) = code(rejection.code());
            let denial = format!("answer {name} ({code}): {}", rejection.grpc_message("ID"));
            text.push_str(&match kind {
                Some(kind) => kindly(kind, &denial),
                None => denial + "\n",
            });
        }
    }
    text
}

/// The answer to a denied call for which a rule has another one.
fn kindly(kind: &Kind, denial: &str) -> String {
    let Kind { rule, message, .. } = kind;
    let what = match kind.kindly {
        Kindly::Discard => "it is discarded, and nothing is stored",
        Kindly::Probe => "it is a probe, and is accepted",
    };
    let (code, name) = code(kind.code);
    let colon = if message.is_empty() { "" } else { ": " };
    let answer = format!("answer {name} ({code}){colon}{message}");
    if kind.only_empty {
        format!("{denial}\nbut by rule \"{rule}\", of an empty request: {what}\n{answer}\n")
    } else {
        format!("by rule \"{rule}\": {what}\n{answer}\n")
    }
}

/// For programs.
pub(super) fn json(account: &Account<'_>) -> Value {
    let mut identity = Map::new();
    identity.insert("label".into(), account.identity.label().into());
    if let Identity::Certificate(certificate) = &account.identity {
        for (name, values) in parts(certificate, account) {
            identity.insert(name.into(), values.into());
        }
    }
    let rules: Vec<Value> = account
        .rules
        .iter()
        .map(|(rule, bearing)| json!({ "name": *rule.name, "fit": matches(bearing.fit), "reasons": bearing.reasons }))
        .collect();
    let (mut rule, mut right, mut backend, mut reason, mut answer, mut if_empty) = (
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
    );
    let mut renamed = Value::Null;
    match &account.outcome {
        Ok(allowed) => {
            if let Some((name, with)) = &allowed.rule {
                (rule, right) = ((**name).into(), with.name().into());
            }
            backend = allowed.backend.as_deref().into();
            renamed = allowed.renamed.as_ref().map(InstanceName::as_str).into();
        }
        Err(Refused::Handshake) => reason = "handshake".into(),
        Err(Refused::Answer(rejection, by, kind)) => {
            rule = by.as_deref().into();
            if let Rejection::Denied(_, denial) = rejection {
                right = denial.right.name().into();
            }
            reason = rejection.label().into();
            let (code, name) = code(rejection.code());
            answer = json!({
                "code": code,
                "name": name,
                "message": rejection.to_string(),
                "grpc-message": rejection.grpc_message("ID"),
                "answered": Value::Null,
                "by-rule": Value::Null,
            });
            match kind {
                Some(kind) if kind.only_empty => if_empty = kind_answer(kind),
                Some(kind) => answer = kind_answer(kind),
                None => {}
            }
        }
    }
    json!({
        "identity": identity,
        "listener": {
            "number": account.call.listener + 1,
            "address": account.listen.id.address.to_string(),
            "accepted": account.accepted.is_ok(),
            "reason": account.accepted.as_ref().err(),
        },
        "call": {
            "method": account.call.method.path(),
            "instance": account.call.told_instance(),
            "uris": account.call.uris,
            "needs": needs(account.call.method),
        },
        "rules": rules,
        "allowed": account.outcome.is_ok(),
        "rule": rule,
        "right": right,
        "reason": reason,
        "backend": backend,
        "instance-at-backend": renamed,
        "answered-by-casgate": answer != Value::Null || account.call.method.service() == Service::Health,
        "answer": answer,
        "answer-if-empty": if_empty,
    })
}

fn kind_answer(kind: &Kind) -> Value {
    let (code, name) = code(kind.code);
    json!({
        "code": code,
        "name": name,
        "message": kind.message,
        "grpc-message": encode_message(kind.message),
        "answered": kind.kindly.name(),
        "by-rule": *kind.rule,
    })
}

/// Everything that a rule could name, and when it is valid.
fn parts(certificate: &Certificate, account: &Account<'_>) -> Vec<(&'static str, Vec<String>)> {
    let issuers = account
        .accepted
        .as_ref()
        .map(|accepted| accepted.issuers.clone())
        .unwrap_or_default();
    let named = Part::ALL
        .into_iter()
        .map(|part| (part.name(), part.given(certificate, &issuers)));
    let others = [
        ("issuer", certificate.issuer.clone()),
        ("not-before", date(certificate.not_before)),
        ("not-after", date(certificate.not_after)),
    ];
    named
        .filter(|(_, values)| !values.is_empty())
        .chain(others.map(|(name, value)| (name, vec![value])))
        .collect()
}

fn date(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|date| date.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} s since 1970"))
}

fn matches(fit: Fit) -> &'static str {
    match fit {
        Fit::Equal => "matches",
        Fit::Ambiguous => "is ambiguous",
        Fit::Different => "does not match",
    }
}

fn code(code: Code) -> (u8, &'static str) {
    let code = code as u8;
    (code, CODE_NAMES.get(usize::from(code)).copied().unwrap_or_default())
}
