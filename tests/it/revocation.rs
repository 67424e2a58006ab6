//! Which certificates are revoked: by every list of the authority that signed them, by its key and not by its name.

mod random;

use casgate::config::file::{ExpiredAuthorities, ExpiredLists, MissingLists};
use casgate::tls::lists::{ReadList, Terms};
use casgate::tls::verifier::{Accepted, ClientVerifier, Trusted, reason};
use rcgen::{CertificateParams, DnType, SerialNumber};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateRevocationListDer, UnixTime};
use time::Duration;

use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::pki::{Authority, Credentials, add_extension, build_stream, expired, not_yet_valid, tlv};
use crate::harness::wire::{Client, tls_config};

const REFUSE: Terms = Terms {
    expired: ExpiredLists::Refuse,
    missing: MissingLists::Refuse,
};
const LENIENT: Terms = Terms {
    expired: ExpiredLists::Tolerate,
    missing: MissingLists::Accept,
};

fn trusted(credentials: &Credentials) -> Trusted {
    Trusted {
        der: credentials.der.clone(),
        role: None,
        name: None,
    }
}

fn der(pem: &str) -> CertificateRevocationListDer<'static> {
    CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// A verifier with these authorities and lists, which all lie in `the.crl`.
fn verifier(
    trust: &[&Credentials],
    lists: &[CertificateRevocationListDer<'static>],
    terms: Terms,
) -> Result<ClientVerifier, String> {
    let trusted: Vec<_> = trust.iter().map(|credentials| trusted(credentials)).collect();
    let verifier = ClientVerifier::new(&trusted, true, &|_| false).unwrap();
    let lists: Result<Vec<_>, _> = lists
        .iter()
        .map(|list| ReadList::new(list.clone(), "the.crl"))
        .collect();
    verifier.with_lists(&lists?, terms).map_err(|errors| errors.join("\n"))
}

fn verdict(verifier: &ClientVerifier, credentials: &Credentials) -> Result<Accepted, String> {
    let chain = credentials.chain();
    let accepted = verifier.verify(&chain[0], &chain[1..], UnixTime::now());
    accepted.map_err(|error| reason(&error))
}

fn assert_good(verifier: &ClientVerifier, credentials: &Credentials) {
    verdict(verifier, credentials).unwrap();
}

fn assert_refused(verifier: &ClientVerifier, credentials: &Credentials, part: &str) {
    let reason = verdict(verifier, credentials).expect_err(part);
    assert!(reason.contains(part), "{reason}, expected: {part}");
}

/// What somebody below an authority shows.
fn below(between: &Authority, name: &str) -> Credentials {
    between.client(name).shown_with(&[between.der()])
}

#[test]
fn an_intermediate_is_looked_up_in_every_list_of_its_authority_in_whatever_order_they_stand() {
    let root = Authority::new("root");
    let (lost, kept) = (root.subordinate("lost"), root.subordinate("kept"));
    let (old, new) = (der(&root.revoke(&[])), der(&root.revoke(&[lost.own()])));
    for lists in [
        vec![new.clone()],
        vec![old.clone(), new.clone()],
        vec![new.clone(), old.clone()],
    ] {
        let verifier = verifier(&[root.own()], &lists, LENIENT).unwrap();
        assert_refused(&verifier, &below(&lost, "ci"), "the authority `CN=lost`, between it");
        assert_good(&verifier, &below(&kept, "ci"));
    }
}

#[test]
fn two_authorities_of_one_name_have_each_their_own_lists() {
    let (old, new) = (Authority::new("one name"), Authority::new("one name"));
    let serial = |params: &mut CertificateParams| params.serial_number = Some(SerialNumber::from_slice(&[0x10, 1]));
    let (of_old, of_new) = (old.client_with("ci", serial), new.client_with("ci", serial));
    let both = [old.own(), new.own()];
    // Neither is refused for the list that the other one has.
    let only_old = verifier(&both, &[der(&old.revoke(&[]))], LENIENT).unwrap();
    assert_good(&only_old, &of_old);
    assert_good(&only_old, &of_new);
    // A serial number that one revoked is good with the other.
    for lists in [
        [der(&old.revoke(&[&of_old])), der(&new.revoke(&[]))],
        [der(&new.revoke(&[])), der(&old.revoke(&[&of_old]))],
    ] {
        let verifier = verifier(&both, &lists, LENIENT).unwrap();
        assert_refused(&verifier, &of_old, "it is revoked");
        assert_good(&verifier, &of_new);
    }
    // A list that has ended is not hidden by that of the other one.
    let lists = [der(&old.revoke_for(-Duration::HOUR, &[])), der(&new.revoke(&[]))];
    let verifier = verifier(&both, &lists, REFUSE).unwrap();
    assert_refused(&verifier, &of_old, "revocation list of its issuer has ended");
    assert_good(&verifier, &of_new);
    let ends: Vec<_> = verifier.lists().ends().collect();
    assert_eq!(ends.len(), 2, "{ends:?}");
    assert!(
        ends.iter().all(|(name, _)| name.starts_with("CN=one name, key ")),
        "{ends:?}"
    );
    assert_eq!(
        verifier
            .warnings()
            .iter()
            .filter(|text| text.contains("is out of date"))
            .count(),
        1
    );
}

#[test]
fn the_list_of_an_authority_that_only_clients_show_is_applied_and_locks_out_nobody_else() {
    let root = Authority::new("root");
    let (issuing, namesake) = (root.subordinate("issuing"), root.subordinate("issuing"));
    let (lost, kept) = (below(&issuing, "lost"), below(&issuing, "kept"));
    let list = der(&issuing.revoke(&[&lost]));
    let known = verifier(&[root.own()], std::slice::from_ref(&list), LENIENT).unwrap();
    assert!(
        known
            .warnings()
            .iter()
            .any(|text| text.contains("`CN=issuing`") && text.contains("the.crl"))
    );
    for _ in 0..2 {
        assert_good(&known, &below(&namesake, "ci"));
        assert_good(&known, &kept);
        assert_refused(&known, &lost, "it is revoked");
    }
    // It covers what its key signed, and nothing else.
    let strict = verifier(&[root.own()], &[der(&root.revoke(&[])), list.clone()], REFUSE).unwrap();
    assert_good(&strict, &kept);
    assert_refused(
        &strict,
        &below(&namesake, "ci"),
        "no revocation list of its issuer covers it",
    );
    // Damaged, it says nothing any more, but it says whose it was.
    let mut damaged = list.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let damaged = verifier(&[root.own()], &[damaged.into()], LENIENT).unwrap();
    assert_refused(&damaged, &kept, "in `the.crl` is damaged");
    assert_good(&damaged, &below(&namesake, "ci"));
}

const IDP: &[u8] = &[0x55, 0x1d, 0x1c];

/// A list with one more extension.
fn extended(
    authority: &Authority,
    revoked: &[&Credentials],
    oid: &[u8],
    is_critical: bool,
    value: &[u8],
) -> CertificateRevocationListDer<'static> {
    authority.revoke_odd(revoked, |fields| {
        add_extension(fields.last_mut().unwrap(), oid, is_critical, value);
    })
}

fn flag(tag: u8) -> Vec<u8> {
    tlv(0x30, &[tag, 1, 0xff])
}

#[test]
fn a_list_that_is_not_understood_is_an_error_that_names_it() {
    let ca = Authority::new("ca");
    let lost = ca.client("lost");
    let idp = |value: &[u8]| extended(&ca, &[&lost], IDP, true, value);
    let signed_with = |oid: &[u8]| {
        let list = der(&ca.revoke(&[])).to_vec();
        let algorithm = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
        let replaced: Vec<u8> = {
            let mut list = list;
            while let Some(at) = list.windows(8).position(|window| window == algorithm) {
                list[at..at + 8].copy_from_slice(oid);
            }
            list
        };
        CertificateRevocationListDer::from(replaced)
    };
    let cases = [
        (
            extended(&ca, &[], &[0x55, 0x1d, 0x1b], true, &[2, 1, 1]),
            "deltaCRLIndicator",
        ),
        (
            extended(&ca, &[], &[0x55, 0x1d, 0x1b], false, &[2, 1, 1]),
            "deltaCRLIndicator",
        ),
        (
            extended(&ca, &[], &[0x2a, 3, 4], true, &[5, 0]),
            "critical extension 1.2.3.4",
        ),
        (idp(&flag(0x84)), "indirectCRL"),
        (idp(&flag(0x85)), "onlyContainsAttributeCerts"),
        (idp(&tlv(0x30, &[0x83, 2, 6, 0x40])), "onlySomeReasons"),
        (idp(&tlv(0x30, &[0x81, 1, 0xff, 0x82, 1, 0xff])), "covers nothing"),
        (idp(&tlv(0x30, &tlv(0xa0, &tlv(0xa1, &[])))), "relative to its issuer"),
        (idp(&[0x30, 3, 0x81, 1]), "can't be read"),
        (idp(&[0x30, 3, 0x81, 1, 7]), "can't be read"),
        // ecdsa-with-SHA1, with a parameter that nobody reads, as the identifier is shorter.
        (
            signed_with(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 1]),
            "1.2.840.10045.4.3.1",
        ),
        (
            ca.revoke_odd(&[&lost], |fields| {
                let entry = [
                    &tlv(2, &[5])[..],
                    &tlv(0x17, b"260101000000Z"),
                    &tlv(
                        0x30,
                        &tlv(
                            0x30,
                            &[&tlv(6, &[0x55, 0x1d, 0x1d])[..], &[1, 1, 0xff], &tlv(4, &[0x30, 0])].concat(),
                        ),
                    ),
                ];
                fields[5] = tlv(0x30, &tlv(0x30, &entry.concat()));
            }),
            "certificateIssuer",
        ),
        (
            ca.revoke_odd(&[&lost], |fields| fields[0] = vec![2, 1, 2]),
            "can't be read",
        ),
        (
            ca.revoke_odd(&[&lost], |fields| fields[5].truncate(20)),
            "can't be read",
        ),
        (CertificateRevocationListDer::from(vec![0x30, 0]), "can't be read"),
        (CertificateRevocationListDer::from(Vec::new()), "can't be read"),
    ];
    for (list, expected) in cases {
        let error = ReadList::new(list, "the.crl").expect_err(expected);
        assert!(error.contains(expected), "{error}, expected: {expected}");
    }
}

#[test]
fn a_list_that_its_authority_did_not_sign_is_an_error_that_names_its_file() {
    let (ca, namesake) = (Authority::new("ca"), Authority::new("ca"));
    let mut damaged = der(&ca.revoke(&[])).to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    for list in [der(&namesake.revoke(&[])), damaged.into()] {
        let error = verifier(&[ca.own()], &[list], LENIENT).err().unwrap();
        assert!(error.contains("`the.crl` has a revocation list of `CN=ca`"), "{error}");
    }
    // With its key in client-ca it is good.
    assert!(verifier(&[ca.own(), namesake.own()], &[der(&namesake.revoke(&[]))], LENIENT).is_ok());
}

#[test]
fn the_oldest_form_of_lists_revokes_as_well() {
    let ca = Authority::new("ca");
    let (lost, kept) = (ca.client("lost"), ca.client("kept"));
    let version_1 = ca.revoke_odd(&[&lost], |fields| {
        fields.retain(|field| field[0] != 2 && field[0] != 0xa0);
    });
    let verifier = verifier(&[ca.own()], &[version_1], REFUSE).unwrap();
    assert_refused(&verifier, &lost, "it is revoked");
    assert_good(&verifier, &kept);
}

#[test]
fn a_list_about_clients_only_says_nothing_of_authorities_but_what_it_names() {
    let root = Authority::new("root");
    let (lost, between) = (root.subordinate("lost"), root.subordinate("between"));
    let leaf = root.client("ci");
    let of_between = der(&between.revoke(&[]));
    let list = |scope| extended(&root, &[lost.own()], IDP, true, &flag(scope));
    let lists = [list(0x81), of_between.clone(), der(&lost.revoke(&[]))];
    let lenient = verifier(&[root.own()], &lists, LENIENT).unwrap();
    let said = |text: &String| text.contains("does not say which authorities below it are revoked");
    assert!(lenient.warnings().iter().any(said), "{:?}", lenient.warnings());
    assert_good(&lenient, &leaf);
    assert_good(&lenient, &below(&between, "ci"));
    assert_refused(&lenient, &below(&lost, "ci"), "is revoked");
    let strict = verifier(&[root.own()], &lists, REFUSE).unwrap();
    assert_good(&strict, &leaf);
    assert_refused(&strict, &below(&between, "ci"), "no revocation list");
    // The other half of what it has issued.
    let strict = verifier(&[root.own()], &[list(0x82), of_between.clone()], REFUSE).unwrap();
    assert_refused(&strict, &leaf, "no revocation list");
    assert_good(&strict, &below(&between, "ci"));
    let strict = verifier(&[root.own()], &[list(0x81), list(0x82), of_between], REFUSE).unwrap();
    assert_good(&strict, &leaf);
    assert_good(&strict, &below(&between, "ci"));
}

#[test]
fn a_part_of_what_was_issued_is_covered_by_the_list_of_its_place_alone() {
    let ca = Authority::new("ca");
    let name = |uri: &str| tlv(0xa0, &tlv(0xa0, &tlv(0x86, uri.as_bytes())));
    let at = |uri: &str| {
        ca.client_with("ci", |params| {
            params.crl_distribution_points = vec![rcgen::CrlDistributionPoint {
                uris: vec![uri.to_owned()],
            }];
        })
    };
    let (one, other, nowhere) = (at("http://ca/1"), at("http://ca/2"), ca.client("ci"));
    let list = extended(&ca, &[], IDP, true, &tlv(0x30, &name("http://ca/1")));
    let strict = verifier(&[ca.own()], &[list], REFUSE).unwrap();
    assert_good(&strict, &one);
    assert_good(&strict, &nowhere);
    assert_refused(&strict, &other, "no revocation list");
    // What it names is revoked all the same.
    let list = extended(&ca, &[&other], IDP, true, &tlv(0x30, &name("http://ca/1")));
    assert_refused(
        &verifier(&[ca.own()], &[list], LENIENT).unwrap(),
        &other,
        "it is revoked",
    );
}

#[test]
fn minus_one_is_not_255_and_zeros_in_front_are_nothing() {
    let ca = Authority::new("ca");
    let with = |serial: &[u8]| ca.own().issue_odd(|_| {}, |fields| fields[1] = tlv(2, serial));
    let list = |serial: &[u8]| {
        ca.revoke_odd(&[&ca.client("any")], |fields| {
            fields[5] = tlv(
                0x30,
                &tlv(0x30, &[tlv(2, serial), tlv(0x17, b"260101000000Z")].concat()),
            );
        })
    };
    for (revoked, lost, kept) in [
        (&[0, 0xff][..], &[0, 0xff][..], &[0xff][..]),
        (&[0xff], &[0xff], &[0, 0xff]),
        (&[0, 0, 5], &[5], &[0x50]),
    ] {
        let verifier = verifier(&[ca.own()], &[list(revoked)], LENIENT).unwrap();
        assert_refused(&verifier, &with(lost), "it is revoked");
        let kept = verdict(&verifier, &with(kept));
        assert!(
            kept.as_ref().err().is_none_or(|reason| reason != "it is revoked"),
            "{kept:?}"
        );
    }
}

#[test]
fn what_a_whole_list_takes_back_is_revoked_still_and_warned_of() {
    let ca = Authority::new("ca");
    let lost = ca.own().issue_odd(
        |params| params.distinguished_name.push(DnType::CommonName, "lost"),
        |fields| fields[1] = tlv(2, &[5]),
    );
    let list = ca.revoke_odd(&[&ca.client("any")], |fields| {
        let reason = tlv(
            0x30,
            &tlv(
                0x30,
                &[&tlv(6, &[0x55, 0x1d, 0x15])[..], &tlv(4, &[0x0a, 1, 8])].concat(),
            ),
        );
        fields[5] = tlv(
            0x30,
            &tlv(0x30, &[tlv(2, &[5]), tlv(0x17, b"260101000000Z"), reason].concat()),
        );
    });
    let verifier = verifier(&[ca.own()], &[list], LENIENT).unwrap();
    assert_refused(&verifier, &lost, "it is revoked");
    assert!(verifier.warnings().iter().any(|text| text.contains("removeFromCRL")));
}

#[test]
fn where_lists_must_be_there_each_certificate_of_a_chain_needs_one() {
    let root = Authority::new("root");
    let between = root.subordinate("between");
    let (of_root, of_between) = (der(&root.revoke(&[])), der(&between.revoke(&[])));
    let ci = below(&between, "ci");
    for (lists, is_good) in [
        (vec![], false),
        (vec![of_root.clone()], false),
        (vec![of_between.clone()], false),
        (vec![of_root, of_between], true),
    ] {
        assert_good(&verifier(&[root.own()], &lists, LENIENT).unwrap(), &ci);
        let strict = verifier(&[root.own()], &lists, REFUSE).unwrap();
        match is_good {
            true => assert_good(&strict, &ci),
            false => assert_refused(&strict, &ci, "no revocation list of its issuer covers it"),
        }
    }
}

#[test]
fn a_certificate_of_client_ca_itself_is_looked_up_by_whoever_signed_it() {
    let (own, stranger, ca) = (
        build_stream("own"),
        Authority::new("not trusted itself"),
        Authority::new("ca"),
    );
    let all = [build_stream("other"), stranger.client("lost"), ca.client("lost")];
    let [_, by_stranger, by_ca] = &all;
    let mut trust = vec![&own];
    trust.extend(&all);
    // Nobody else could revoke a certificate that signed itself.
    let strict = verifier(&trust, &[], REFUSE).unwrap();
    assert_good(&strict, &own);
    assert_refused(&strict, by_stranger, "no revocation list");
    let lists = [der(&own.revoke(&[&own])), der(&stranger.revoke(&[by_stranger]))];
    let revoked = verifier(&trust, &lists, LENIENT).unwrap();
    assert_refused(&revoked, &own, "it is revoked");
    assert_refused(&revoked, by_stranger, "it is revoked");
    // Of two strangers of one name, the one that says which key it has is believed.
    let namesake = Authority::new("not trusted itself");
    let serial = by_stranger.serial.clone();
    let other = namesake.client_with("other", |params| {
        params.serial_number = Some(serial);
        params.use_authority_key_identifier_extension = true;
    });
    let apart = verifier(&[by_stranger, &other], &lists[1..], LENIENT).unwrap();
    assert_refused(&apart, by_stranger, "it is revoked");
    assert_good(&apart, &other);
    // Its authority is in client-ca as well.
    trust.push(ca.own());
    let by_key = verifier(&trust, &[der(&ca.revoke(&[by_ca]))], LENIENT).unwrap();
    assert_refused(&by_key, by_ca, "it is revoked");
}

#[test]
fn an_authority_that_has_expired_vouches_for_nobody_unless_it_is_said() {
    for (change, text) in [
        (
            expired as fn(&mut CertificateParams),
            "its authority `CN=old` has expired",
        ),
        (not_yet_valid, "its authority `CN=old` is not valid yet"),
    ] {
        let old = Authority::with("old", change);
        let (new, ci) = (old.renewed(), old.client("ci"));
        let trust = |trust: &[&Credentials], terms| {
            let trusted: Vec<_> = trust.iter().map(|credentials| trusted(credentials)).collect();
            ClientVerifier::new(&trusted, true, &|_| false)
                .unwrap()
                .with_expired_authorities(terms)
        };
        assert_refused(&trust(&[old.own()], ExpiredAuthorities::Refuse), &ci, text);
        assert_good(&trust(&[old.own()], ExpiredAuthorities::Tolerate), &ci);
        // Another certificate of the same authority is valid.
        assert_good(&trust(&[old.own(), new.own()], ExpiredAuthorities::Refuse), &ci);
        assert_good(&trust(&[new.own(), old.own()], ExpiredAuthorities::Refuse), &ci);
        let told = trust(&[old.own()], ExpiredAuthorities::Refuse).warnings().len();
        assert_eq!(told, usize::from(text.contains("expired")));
    }
}

#[test]
fn what_is_accepted_ends_with_the_first_that_it_needs() {
    let root = Authority::new("root");
    let soon = |hours| time::OffsetDateTime::now_utc() + Duration::hours(hours);
    let between = root
        .own()
        .cross_sign(root.subordinate("between").own(), |params| params.not_after = soon(2));
    let leaf = between.issue(|params| params.distinguished_name.push(DnType::CommonName, "ci"));
    let leaf = leaf.shown_with(std::slice::from_ref(&between.der));
    let list = der(&root.revoke_for(Duration::hours(1), &[]));
    let end = |terms, lists: &[_]| {
        verdict(&verifier(&[root.own()], lists, terms).unwrap(), &leaf)
            .unwrap()
            .end
    };
    let in_hours = |end: i64| (end - casgate::live::now() + 1800) / 3600;
    assert_eq!(in_hours(end(LENIENT, std::slice::from_ref(&list))), 2);
    let refuse_ended = Terms {
        expired: ExpiredLists::Refuse,
        ..LENIENT
    };
    assert_eq!(in_hours(end(refuse_ended, &[list])), 1);
}

#[tokio::test]
async fn a_reload_with_a_list_that_can_not_be_used_changes_nothing_and_names_the_file() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    let (lost, kept) = (config.authority.client("reader"), config.authority.client("reader"));
    config.files.insert("lists.pem", config.authority.revoke(&[&lost]));
    config.listen.push_str("client-crl = [\"lists.pem\"]\n");
    let mut gate = Gate::start(config).await;
    let is_let_in =
        async |gate: &Gate, who: &Credentials| Client::try_connect(gate, tls_config(gate, Some(who))).await.is_ok();
    let namesake = Authority::new("test authority");
    let good = gate.config.files["lists.pem"].clone();
    for bad in [namesake.revoke(&[]), [good.clone(), namesake.revoke(&[])].concat()] {
        gate.config.files.insert("lists.pem", bad);
        let error = gate.reload().await.unwrap_err().to_string();
        assert!(error.contains("client-crl") && error.contains("`lists.pem`"), "{error}");
        assert!(is_let_in(&gate, &kept).await);
        assert!(!is_let_in(&gate, &lost).await);
    }
}
