//! Random rules, callers and calls, out of so few names that they often meet.

use casgate::policy::method::Method;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::naive::{PlainCall, PlainCaller, PlainCertificate, PlainPattern, PlainRule};

const NAMES: [&str; 3] = ["ci", "dev", "CI"];
const ORGANIZATIONS: [&str; 2] = ["team", "other"];
const URIS: [&str; 5] = [
    "spiffe://x/ci",
    "spiffe://x/ci/a",
    "spiffe://x/dev",
    "https://x",
    "urn:x",
];
const URI_PATTERNS: [&str; 6] = [
    "spiffe://x/ci",
    "spiffe://x/*",
    "spiffe://x/ci/**",
    "spiffe://x/*/a",
    "https://x",
    "urn:x",
];
const DNS: [&str; 3] = ["ci.example", "CI.example", "dev.example"];
const EMAILS: [&str; 3] = ["ci@example.org", "CI@example.org", "ci@Example.org"];
const SERIALS: [&str; 4] = ["0a", "A", "00:0A", "0a00"];
const AUTHORITIES: [&str; 2] = ["build", "laptops"];
const RIGHTS: [&str; 10] = [
    "pull",
    "cas-push",
    "action-push",
    "asset-push",
    "push",
    "execute",
    "worker",
    "events",
    "fetch-remote",
    "admin",
];
const PREFIXES: [&str; 5] = ["urn:a:", "urn:", "https://x/", "https://x/a", "git@x:"];
const ASKED: [&str; 9] = [
    "urn:a:1",
    "urn:b:/../1",
    "URN:a:1",
    "https://x/a/b",
    "https://x/../a",
    "https://x/a/%2e%2e/b",
    "https://x.y/",
    "git@x:y",
    "",
];
const PATTERNS: [&str; 10] = ["", "a", "b", "a/b", "*", "a/*", "*/b", "**", "a/**", "*/b/**"];

const REWRITES: [&str; 5] = ["", "t", "t/u", "**", "t/**"];

pub(super) fn any_rule() -> impl Strategy<Value = PlainRule> {
    let pattern = (
        option::weighted(0.4, select(&NAMES[..])),
        option::weighted(0.2, select(&ORGANIZATIONS[..])),
        option::weighted(0.2, select(&URI_PATTERNS[..])),
        option::weighted(0.2, select(&DNS[..])),
        option::weighted(0.2, select(&ORGANIZATIONS[..])),
        option::weighted(0.1, select(&EMAILS[..])),
        option::weighted(0.1, select(&SERIALS[..])),
        option::weighted(0.1, 0..2u8),
        option::weighted(0.1, 0..2u8),
        option::weighted(0.3, select(&AUTHORITIES[..])),
    )
        .prop_map(
            |(name, organization, uri, dns, unit, email, serial, sha256, key, issuer)| PlainPattern {
                name,
                organization,
                uri,
                dns,
                unit,
                email,
                serial,
                sha256,
                key,
                issuer,
            },
        );
    (
        option::weighted(0.8, pattern),
        vec(select(&RIGHTS[..]), 0..4),
        option::weighted(0.3, vec(select(&RIGHTS[..]), 0..3)),
        option::weighted(0.6, vec(select(&PATTERNS[..]), 0..3)),
        option::weighted(0.3, vec(select(&PREFIXES[..]), 0..3)),
        option::weighted(0.1, select(&REWRITES[..])),
    )
        .prop_map(|(certificate, allow, deny, instances, uris, rewrite)| PlainRule {
            // A configuration may not keep the rest of a pattern that has none.
            rewrite: rewrite.filter(|rewrite| {
                let mut patterns = instances.iter().flatten();
                !rewrite.ends_with("**") || patterns.all(|pattern: &&str| pattern.ends_with("**"))
            }),
            uris,
            certificate,
            allow,
            deny: deny.unwrap_or_default(),
            instances,
        })
}

pub(super) fn any_caller() -> impl Strategy<Value = PlainCaller> {
    let some = |from: &'static [&'static str]| vec(select(from), 0..3);
    let certificate = (
        some(&NAMES),
        some(&ORGANIZATIONS),
        some(&URIS),
        some(&DNS),
        some(&ORGANIZATIONS),
        some(&EMAILS),
        select(&SERIALS[..]),
        0..2u8,
        0..2u8,
        some(&AUTHORITIES),
    )
        .prop_map(
            |(names, organizations, uris, dns, units, emails, serial, sha256, key, issuers)| PlainCertificate {
                names,
                organizations,
                uris,
                dns,
                units,
                emails,
                serial,
                sha256,
                key,
                issuers,
            },
        );
    option::weighted(0.85, certificate)
}

pub(super) fn any_call() -> impl Strategy<Value = PlainCall> {
    let methods: Vec<Method> = Method::ALL
        .iter()
        .copied()
        .filter(|method| !method.rights().is_empty())
        .collect();
    let instance = vec(select(&["a", "b", "c", "A"][..]), 0..4).prop_map(|parts| parts.join("/"));
    let asset = methods.iter().copied().filter(|method| method.uris_in().is_some());
    let method = prop_oneof![select(methods.clone()), select(asset.collect::<Vec<_>>())];
    let uris = vec(select(&ASKED[..]), 0..4);
    (method, instance, uris).prop_map(|(method, instance, uris)| PlainCall { method, instance, uris })
}
