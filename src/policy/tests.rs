//! Decisions, one by one.

use super::*;

fn rule(pattern: Pattern, allow: Rights, instances: Option<&[&str]>) -> Rule {
    Rule {
        name: "rule".into(),
        pattern,
        allow,
        deny: Rights::NONE,
        instances: instances.map(|texts| {
            texts
                .iter()
                .filter_map(|text| InstancePattern::parse(text).ok())
                .collect()
        }),
        uris: None,
        rewrite: None,
        kindness: Kindness::default(),
        quota: Quota::default(),
    }
}

fn at(name: &str) -> Scope {
    InstanceName::parse(name).map_or(Scope::Unknown, Scope::Instance)
}

#[test]
fn an_empty_policy_denies_every_method() {
    let policy = Policy::default();
    let standing = policy.standing(&Identity::Anonymous, &[]);
    for method in Method::ALL {
        assert!(
            policy.decide(&standing, *method, at(""), Uris::default()).is_err(),
            "{method:?}"
        );
    }
}

#[test]
fn rights_add_up_but_each_only_where_its_rule_reaches() {
    let policy = Policy::new(vec![
        rule(Pattern::Anonymous, Rights::PUSH, Some(&["team-a"])),
        rule(Pattern::Anonymous, Rights::of(Right::Pull), None),
    ]);
    let standing = policy.standing(&Identity::Anonymous, &[]);
    let decide = |method, scope| policy.decide(&standing, method, scope, Uris::default());
    assert!(decide(Method::Write, at("team-a")).is_ok());
    assert!(decide(Method::Read, at("team-b")).is_ok());
    assert_eq!(
        decide(Method::Write, at("team-b")).map(|_| ()).map_err(|d| d.because),
        Err(Because::NotOnInstance(
            InstanceName::parse("team-b").unwrap_or_default()
        ))
    );
    assert_eq!(
        decide(Method::Execute, at("team-a")).map(|_| ()).map_err(|d| d.because),
        Err(Because::NoRight)
    );
}

#[test]
fn a_right_for_some_instances_does_not_reach_names_that_only_the_server_reads() {
    let limited = Policy::new(vec![rule(Pattern::Anonymous, Rights::ALL, Some(&["a"]))]);
    let standing = limited.standing(&Identity::Anonymous, &[]);
    assert_eq!(
        limited
            .decide(&standing, Method::WaitExecution, Scope::Unknown, Uris::default())
            .map(|_| ())
            .map_err(|denial| denial.because),
        Err(Because::InstanceUnknown)
    );
}

fn denying(pattern: Pattern, deny: Rights, instances: Option<&[&str]>) -> Rule {
    Rule {
        deny,
        ..rule(pattern, Rights::NONE, instances)
    }
}

#[test]
fn a_deny_wins_wherever_its_rule_stands() {
    let push = Rights::of(Right::CasPush);
    let mut rules = vec![
        rule(Pattern::Anonymous, Rights::ALL, None),
        denying(Pattern::Anonymous, push, None),
    ];
    for _ in 0..2 {
        let policy = Policy::new(rules.clone());
        let standing = policy.standing(&Identity::Anonymous, &[]);
        let denial = standing.may_ever(push).map_err(|denial| denial.because);
        assert!(matches!(denial, Err(Because::Forbidden(_))), "{denial:?}");
        // Either right will do for this one.
        let permit = policy.decide(&standing, Method::FindMissingBlobs, at(""), Uris::default());
        assert_eq!(permit.map(|permit| permit.right()), Ok(Right::Pull));
        rules.reverse();
    }
}

#[test]
fn a_deny_for_some_instances_hits_these_and_calls_that_do_not_tell() {
    let policy = Policy::new(vec![
        rule(Pattern::Anonymous, Rights::ALL, None),
        denying(Pattern::Anonymous, Rights::of(Right::Execute), Some(&["a/**"])),
    ]);
    let standing = policy.standing(&Identity::Anonymous, &[]);
    let decide = |method, scope| {
        let decided = policy.decide(&standing, method, scope, Uris::default());
        decided.map(|_| ()).map_err(|denial| denial.because)
    };
    let forbidden = Err(Because::Forbidden(RuleId(1)));
    assert_eq!(decide(Method::Execute, at("b")), Ok(()));
    assert_eq!(decide(Method::Execute, at("a/x")), forbidden);
    assert_eq!(decide(Method::WaitExecution, Scope::Unknown), forbidden);
    assert_eq!(decide(Method::Read, at("a/x")), Ok(()));
}

#[test]
fn who_is_ambiguous_for_a_rule_loses_what_it_denies_and_gets_nothing() {
    let ci = || {
        Pattern::Certificate(Box::new(pattern::CertificatePattern {
            common_name: Some("ci".into()),
            ..pattern::CertificatePattern::default()
        }))
    };
    let policy = Policy::new(vec![
        rule(Pattern::Any, Rights::PUSH, None),
        rule(ci(), Rights::of(Right::Pull), None),
        denying(ci(), Rights::of(Right::AssetPush), None),
    ]);
    let caller = |names: &[&str]| {
        Identity::Certificate(Box::new(identity::Certificate {
            common_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..identity::Certificate::default()
        }))
    };
    let ever = |names: &[&str]| policy.standing(&caller(names), &[]).ever();
    let blobs_and_actions = Rights::PUSH.without(Rights::of(Right::AssetPush));
    assert_eq!(ever(&["ci"]), blobs_and_actions.with(Right::Pull));
    assert_eq!(ever(&["ci", "x"]), blobs_and_actions);
    assert_eq!(ever(&["x"]), Rights::PUSH);
}

#[test]
fn uris_that_lead_out_need_a_right_of_their_own() {
    let reader = Policy::new(vec![rule(Pattern::Anonymous, Rights::of(Right::Pull), None)]);
    let standing = reader.standing(&Identity::Anonymous, &[]);
    let ask = |uris: &[&str]| {
        reader
            .decide(&standing, Method::FetchBlob, at(""), Uris::of(uris.iter().copied()))
            .map(|permit| permit.right())
            .map_err(|denial| denial.right)
    };
    assert_eq!(ask(&["urn:a"]), Ok(Right::Pull));
    assert_eq!(ask(&[]), Ok(Right::Pull));
    assert_eq!(ask(&["https://a"]), Err(Right::FetchRemote));
    assert_eq!(ask(&["urn:a", ""]), Err(Right::FetchRemote));
}

#[test]
fn each_uri_must_be_allowed_by_some_rule() {
    let limited = |rights, prefix: &str| Rule {
        uris: UriPrefix::parse(prefix).ok().map(|one| vec![one]),
        ..rule(Pattern::Anonymous, rights, None)
    };
    let policy = Policy::new(vec![
        limited(Rights::of(Right::AssetPush), "urn:a:"),
        limited(Rights::of(Right::AssetPush).with(Right::Pull), "urn:b:"),
        limited(Rights::of(Right::FetchRemote), "https://x/"),
    ]);
    let standing = policy.standing(&Identity::Anonymous, &[]);
    let ask = |method, uris: &[&str]| {
        let decided = policy.decide(&standing, method, at(""), Uris::of(uris.iter().copied()));
        decided.map(|permit| permit.right()).map_err(|denial| denial.because)
    };
    let not_for = |uri: &str| Err(Because::NotForUri(uri.to_owned()));
    assert_eq!(ask(Method::PushBlob, &["urn:a:1", "urn:b:1"]), Ok(Right::AssetPush));
    assert_eq!(
        ask(Method::PushBlob, &["urn:a:1", "urn:c:1", "urn:b:1"]),
        not_for("urn:c:1")
    );
    assert_eq!(ask(Method::PushBlob, &[]), Ok(Right::AssetPush));
    assert_eq!(ask(Method::PushBlob, &["https://x/y"]), not_for("https://x/y"));
    assert_eq!(ask(Method::FetchBlob, &["urn:a:1"]), not_for("urn:a:1"));
    assert_eq!(
        ask(Method::FetchBlob, &["https://x/y", "urn:b:1"]),
        Ok(Right::FetchRemote)
    );
    assert_eq!(ask(Method::FetchBlob, &["https://x/../y"]), not_for("https://x/../y"));
    // Calls without URIs are not limited.
    assert_eq!(ask(Method::Read, &[]), Ok(Right::Pull));
}

#[test]
fn any_means_a_certificate_and_not_its_absence() {
    let policy = Policy::new(vec![rule(Pattern::Any, Rights::ALL, None)]);
    let standing = policy.standing(&Identity::Anonymous, &[]);
    assert_eq!(
        standing.may_ever(Rights::ALL).map_err(|denial| denial.because),
        Err(Because::NoRule)
    );
}
