//! Random rules, callers and calls, out of so few names that they often meet.

use casgate::policy::Uris;
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
const PATTERNS: [&str; 10] = ["", "a", "b", "a/b", "*", "a/*", "*/b", "**", "a/**", "*/b/**"];

pub(super) fn any_rule() -> impl Strategy<Value = PlainRule> {
    let pattern = (
        option::weighted(0.4, select(&NAMES[..])),
        option::weighted(0.2, select(&ORGANIZATIONS[..])),
        option::weighted(0.2, select(&URI_PATTERNS[..])),
        option::weighted(0.2, select(&DNS[..])),
    )
        .prop_map(|(name, organization, uri, dns)| PlainPattern {
            name,
            organization,
            uri,
            dns,
        });
    (
        option::weighted(0.8, pattern),
        vec(select(&RIGHTS[..]), 0..4),
        option::weighted(0.3, vec(select(&RIGHTS[..]), 0..3)),
        option::weighted(0.6, vec(select(&PATTERNS[..]), 0..3)),
    )
        .prop_map(|(certificate, allow, deny, instances)| PlainRule {
            certificate,
            allow,
            deny: deny.unwrap_or_default(),
            instances,
        })
}

pub(super) fn any_caller() -> impl Strategy<Value = PlainCaller> {
    let some = |from: &'static [&'static str]| vec(select(from), 0..3);
    let certificate =
        (some(&NAMES), some(&ORGANIZATIONS), some(&URIS), some(&DNS)).prop_map(|(names, organizations, uris, dns)| {
            PlainCertificate {
                names,
                organizations,
                uris,
                dns,
            }
        });
    option::weighted(0.85, certificate)
}

pub(super) fn any_call() -> impl Strategy<Value = PlainCall> {
    let methods: Vec<Method> = Method::ALL
        .iter()
        .copied()
        .filter(|method| !method.rights().is_empty())
        .collect();
    let instance = vec(select(&["a", "b", "c", "A"][..]), 0..4).prop_map(|parts| parts.join("/"));
    (select(methods), instance, any::<(bool, bool)>()).prop_map(|(method, instance, (remote, local))| PlainCall {
        method,
        instance,
        uris: Uris {
            remote,
            local,
            ..Uris::default()
        },
    })
}
