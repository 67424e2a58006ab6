//! Chains of certificates: how much work they may be, and who vouches for what comes over them.

use casgate::policy::method::Method;
use casgate::tls::lists::Terms;
use casgate::tls::provider;
use casgate::tls::verifier::{Accepted, ClientVerifier, Trusted, reason};
use rcgen::CustomExtension;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::version::{TLS12, TLS13};

use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::pki::{Authority, Credentials};
use crate::harness::until;
use crate::harness::wire::{Client, with_credentials};

fn verifier(trust: &[(&Credentials, Option<&str>)]) -> ClientVerifier {
    let trusted = trust.iter().map(|(credentials, name)| Trusted {
        der: credentials.der.clone(),
        role: None,
        name: name.map(Into::into),
    });
    let verifier = ClientVerifier::new(&trusted.collect::<Vec<_>>(), true, &|_| false).unwrap();
    verifier.with_lists(&[], Terms::default()).unwrap()
}

fn verdict(verifier: &ClientVerifier, leaf: &Credentials, others: &[CertificateDer<'_>]) -> Result<Accepted, String> {
    let accepted = verifier.verify(&leaf.der, others, UnixTime::now());
    accepted.map_err(|error| reason(&error))
}

/// The names that vouch, and those that count where rights are taken away.
fn names(accepted: &Accepted) -> (Vec<&str>, Vec<&str>) {
    let of = |vouches| {
        let issuers = accepted.issuers.iter().filter(move |issuer| issuer.vouches == vouches);
        issuers.map(|issuer| &*issuer.name).collect()
    };
    (of(true), of(false))
}

#[test]
fn a_chain_of_eight_is_taken_and_one_of_nine_is_not_read() {
    let root = Authority::new("root");
    let mut line = vec![root.subordinate("1")];
    for name in ["2", "3", "4", "5", "6"] {
        line.push(line.last().unwrap().subordinate(name));
    }
    let verifier = verifier(&[(root.own(), None)]);
    let ci = line[5].client("ci");
    let mut shown: Vec<_> = line.iter().rev().map(Authority::der).collect();
    shown.push(root.der());
    assert!(verdict(&verifier, &ci, &shown).is_ok());
    shown.push(root.der());
    let error = verdict(&verifier, &ci, &shown).unwrap_err();
    assert!(
        error.contains("9 certificates") && error.contains("at most 8"),
        "{error}"
    );
    // It is not read at all: what is no certificate is counted like one.
    let junk = [(); 8].map(|()| CertificateDer::from(vec![0]));
    let error = verdict(&verifier, &root.client("ci"), &junk).unwrap_err();
    assert!(error.contains("9 certificates"), "{error}");
    assert!(verdict(&verifier, &root.client("ci"), &junk[1..]).is_ok());
}

#[test]
fn a_chain_of_more_than_32_kib_is_not_read() {
    let root = Authority::new("root");
    let verifier = verifier(&[(root.own(), None)]);
    let padded = |bytes: usize| {
        root.client_with("ci", |params| {
            let padding = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5; bytes]);
            params.custom_extensions.push(padding);
        })
    };
    assert!(verdict(&verifier, &padded(31 << 10), &[]).is_ok());
    let error = verdict(&verifier, &padded(32 << 10), &[]).unwrap_err();
    assert!(error.contains("at most 8 of 32768 bytes"), "{error}");
    let error = verdict(&verifier, &padded(16 << 10), &[padded(16 << 10).der]).unwrap_err();
    assert!(error.contains("2 certificates"), "{error}");
}

#[test]
fn who_is_not_known_makes_few_signatures_be_looked_at() {
    // As many authorities of one name as nobody has, and somebody who says to come from them.
    let all = [(); 16].map(|()| Authority::new("one name"));
    let stranger = Authority::new("one name");
    let trust: Vec<_> = all.iter().map(|authority| (authority.own(), None)).collect();
    let verifier = verifier(&trust);
    let junk: Vec<_> = (0..7).map(|_| stranger.subordinate("one name").der()).collect();
    let error = verdict(&verifier, &stranger.client("ci"), &junk).unwrap_err();
    assert!(error.contains("after 12 tries"), "{error}");
    // Who says which key it was is found at once, also behind them all.
    let honest = all[15].client_with("ci", |params| params.use_authority_key_identifier_extension = true);
    assert!(verdict(&verifier, &honest, &[]).is_ok());
    assert!(verdict(&verifier, &all[11].client("ci"), &[]).is_ok());
    assert!(verdict(&verifier, &all[12].client("ci"), &[]).is_err());
}

#[test]
fn certificates_that_lead_nowhere_change_nothing() {
    let (root, stranger) = (Authority::new("root"), Authority::new("stranger"));
    let between = root.subordinate("between");
    let verifier = verifier(&[(root.own(), Some("root"))]);
    let leaf = between.client("ci");
    let junk = [
        stranger.der(),
        stranger.subordinate("between").der(),
        CertificateDer::from(vec![0x30, 0]),
        leaf.der.clone(),
        between.der(),
        between.der(),
        root.der(),
    ];
    let accepted = verdict(&verifier, &leaf, &junk).unwrap();
    assert_eq!(names(&accepted), (vec!["root"], vec![]));
    let error = verdict(&verifier, &leaf, &junk[..4]).unwrap_err();
    assert_eq!(error, "neither it nor its issuer stands in `client-ca`");
}

#[test]
fn every_way_to_an_authority_vouches_and_every_other_way_counts_where_rights_are_taken() {
    let (a, b) = (Authority::new("a"), Authority::new("b"));
    let issuing = a.subordinate("issuing");
    let by_b = b.own().cross_sign(issuing.own(), |_| {});
    let leaf = issuing.client("ci");
    let roots = [(a.own(), Some("a")), (b.own(), Some("b"))];
    let seen = |verifier: &ClientVerifier, shown: &[CertificateDer<'_>]| {
        let accepted = verdict(verifier, &leaf, shown).unwrap();
        let (vouching, others) = names(&accepted);
        (vouching.join(" "), others.join(" "))
    };
    let plain = verifier(&roots);
    for (shown, expected) in [
        (vec![issuing.der()], ("a", "")),
        (vec![by_b.der.clone()], ("b", "")),
        (vec![issuing.der(), by_b.der.clone()], ("a b", "")),
        (vec![by_b.der.clone(), issuing.der()], ("a b", "")),
    ] {
        let (vouching, others) = seen(&plain, &shown);
        assert_eq!((vouching.as_str(), others.as_str()), expected);
    }
    // One of its certificates is known, whatever is shown.
    let known = verifier(&[roots[0], roots[1], (issuing.own(), Some("issuing"))]);
    assert_eq!(seen(&known, &[]), ("issuing".to_owned(), "a".to_owned()));
    assert_eq!(
        seen(&known, std::slice::from_ref(&by_b.der)),
        ("issuing".to_owned(), "a b".to_owned())
    );
    // Over a root that another one has signed.
    let a_by_b = b.own().cross_sign(a.own(), |_| {});
    let (vouching, others) = seen(&plain, &[issuing.der(), a_by_b.der.clone()]);
    assert_eq!((vouching.as_str(), others.as_str()), ("a", "b"));
    let known = verifier(&[roots[0], roots[1], (&a_by_b, None)]);
    assert_eq!(seen(&known, &[issuing.der()]), ("a".to_owned(), "b".to_owned()));
}

#[tokio::test]
async fn a_deny_by_issuer_is_not_dodged_by_what_is_shown() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    let (laptops, build) = (Authority::new("laptops"), Authority::new("build"));
    let issuing = laptops.subordinate("issuing");
    let by_build = build.own().cross_sign(issuing.own(), |_| {});
    for (file, pem) in [
        ("laptops.crt", laptops.pem()),
        ("build.crt", build.pem()),
        ("issuing.crt", issuing.pem()),
    ] {
        config.files.insert(file, pem);
    }
    config.client_ca = "\"ca.crt\", { name = \"laptops\", file = \"laptops.crt\" }, { name = \"build\", file = \"build.crt\" }, \"issuing.crt\"".to_owned();
    config.rule("everybody", "\"any\"", &["pull"], None);
    config
        .rules
        .push_str("\n[[rules]]\nname = \"no laptops\"\ncertificate = { issued-by = \"laptops\" }\ndeny = [\"pull\"]\n");
    let gate = Gate::start(config).await;
    let ask = async |who: &Credentials| gate.client_with(who).await.ask(Method::Read, "").await.code();
    let leaf = issuing.client("ci");
    for shown in [
        vec![],
        vec![by_build.der.clone()],
        vec![issuing.der(), by_build.der.clone()],
    ] {
        assert_eq!(ask(&leaf.copy().shown_with(&shown)).await, Some(7), "{}", shown.len());
    }
    assert_eq!(backend.streams(), 0);
    assert_eq!(ask(&build.client("ci")).await, Some(0));
}

#[tokio::test]
async fn what_is_shown_in_a_handshake_is_counted_before_it_is_read() {
    let backend = Backend::start(unary);
    let gate = Gate::start(Config::to(&backend)).await;
    let reader = gate.config.authority.client("reader");
    let junk = |count: usize, bytes: usize| vec![CertificateDer::from(vec![0; bytes]); count];
    for (shown, reason) in [
        (junk(7, 4000), None),
        (junk(8, 100), Some("chain-too-long")),
        (junk(4, 8200), Some("chain-too-long")),
        // What is put around a chain counts as well, and before all of it is there.
        (junk(4, 15_000), Some("too-long")),
    ] {
        let credentials = reader.copy().shown_with(&shown);
        for version in [&TLS12, &TLS13] {
            let config = ClientConfig::builder_with_provider(provider());
            let config = config.with_protocol_versions(&[version]).unwrap();
            let config = with_credentials(config, &gate, Some(&credentials));
            let label = reason.map(|reason| format!("reason=\"{reason}\"")).unwrap_or_default();
            let count = || gate.metric("casgate_tls_handshakes_total", &["result=\"failure\"", &label]);
            let before = count();
            let client = Client::try_connect(&gate, config).await;
            assert_eq!(client.is_ok(), reason.is_none(), "{version:?} {reason:?}");
            if reason.is_some() {
                until("it is counted", || count() > before).await;
            }
        }
    }
    assert_eq!(backend.streams(), 0);
}
