//! Random authorities, lists and chains, and an evaluator that knows who signed what because it was there.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use casgate::config::file::{ExpiredLists, MissingLists};
use casgate::tls::lists::{ReadList, Terms};
use casgate::tls::verifier::{ClientVerifier, Trusted};
use proptest::prelude::*;
use rcgen::{DnType, SerialNumber};
use rustls::pki_types::UnixTime;

use super::der;
use crate::harness::pki::{Authority, Credentials};

/// Two authorities of each of two names, who do not change.
const NAMES: [&str; 4] = ["one", "one", "two", "two"];

/// Who signed whom, by their places, and the serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cross {
    issuer: usize,
    subject: usize,
    serial: u8,
}

#[derive(Clone, Debug)]
struct Case {
    /// The entries of `client-ca`: certificates of authorities, each with a name of its own.
    trusted: Vec<Cross>,
    /// Who signed a list, and what it names.
    lists: Vec<(usize, BTreeSet<u8>)>,
    missing: MissingLists,
    /// Who signed the client's certificate, and its serial number.
    leaf: (usize, u8),
    shown: Vec<Cross>,
}

/// The names that vouch, and those that count where rights are taken away; `None` where it is refused.
type Verdict = Option<(BTreeSet<String>, BTreeSet<String>)>;

fn authorities() -> &'static [Authority; 4] {
    static AUTHORITIES: OnceLock<[Authority; 4]> = OnceLock::new();
    AUTHORITIES.get_or_init(|| NAMES.map(Authority::new))
}

fn cross() -> impl Strategy<Value = Cross> {
    (0..4usize, 0..4usize, 1..5u8).prop_map(|(issuer, subject, serial)| Cross {
        issuer,
        subject,
        serial,
    })
}

fn cases() -> impl Strategy<Value = Case> {
    let lists = proptest::collection::vec((0..4usize, proptest::collection::btree_set(1..5u8, 0..3)), 0..5);
    let missing = prop_oneof![3 => Just(MissingLists::Accept), 1 => Just(MissingLists::Refuse)];
    (
        proptest::collection::vec(cross(), 1..4),
        lists,
        missing,
        (0..4usize, 1..5u8),
        proptest::collection::vec(cross(), 0..5),
    )
        .prop_map(|(trusted, lists, missing, leaf, shown)| Case {
            trusted,
            lists,
            missing,
            leaf,
            shown,
        })
}

impl Case {
    fn is_trusted(&self, authority: usize) -> bool {
        self.trusted.iter().any(|entry| entry.subject == authority)
    }

    /// A list with the name of an authority that is trusted, by another key.
    fn has_foreign_list(&self) -> bool {
        self.lists.iter().any(|(signer, _)| {
            let mut trusted = self.trusted.iter();
            !self.is_trusted(*signer) && trusted.any(|entry| NAMES[entry.subject] == NAMES[*signer])
        })
    }

    fn is_good(&self, issuer: usize, serial: u8) -> bool {
        let mut of_issuer = self.lists.iter().filter(|(signer, _)| *signer == issuer).peekable();
        let has_list = of_issuer.peek().is_some();
        (has_list || self.missing == MissingLists::Accept) && of_issuer.all(|(_, revoked)| !revoked.contains(&serial))
    }

    fn names(&self, authority: usize) -> impl Iterator<Item = String> {
        let entries = self.trusted.iter().enumerate();
        entries
            .filter(move |(_, entry)| entry.subject == authority)
            .map(|(place, _)| place.to_string())
    }

    /// The names at the ends of all good ways up from a certificate of this authority.
    fn climb(&self, (issuer, serial): (usize, u8), seen: &mut Vec<usize>, found: &mut Option<BTreeSet<String>>) {
        if !self.is_good(issuer, serial) || seen.contains(&issuer) {
            return;
        }
        if self.is_trusted(issuer) {
            found.get_or_insert_default().extend(self.names(issuer));
            return;
        }
        seen.push(issuer);
        for above in self.shown.iter().filter(|above| above.subject == issuer) {
            self.climb((above.issuer, above.serial), seen, found);
        }
        seen.pop();
    }

    /// The names at the ends of all ways up, revoked or not, over what is shown and what is trusted.
    fn reach(&self) -> BTreeSet<String> {
        let (mut next, mut seen, mut found) = (vec![self.leaf.0], BTreeSet::new(), BTreeSet::new());
        // Nothing counts that does not come down from an authority that is trusted.
        let mut proved: BTreeSet<usize> = self.trusted.iter().map(|entry| entry.subject).collect();
        for _ in 0..self.shown.len() {
            let known = proved.clone();
            let new = self.shown.iter().filter(|cross| known.contains(&cross.issuer));
            proved.extend(new.map(|cross| cross.subject));
        }
        while let Some(authority) = next.pop() {
            if !proved.contains(&authority) || !seen.insert(authority) {
                continue;
            }
            let above = self.shown.iter().filter(|cross| cross.subject == authority);
            next.extend(above.map(|cross| cross.issuer));
            // What `client-ca` names leads to what it names.
            let (mut known, mut seen) = (vec![authority], BTreeSet::new());
            while let Some(authority) = known.pop() {
                if self.is_trusted(authority) && seen.insert(authority) {
                    found.extend(self.names(authority));
                    let above = self.trusted.iter().filter(|cross| cross.subject == authority);
                    known.extend(above.map(|cross| cross.issuer));
                }
            }
        }
        found
    }

    fn expected(&self) -> Verdict {
        let mut found = None;
        self.climb(self.leaf, &mut Vec::new(), &mut found);
        found.map(|vouching| {
            let reached = self.reach().difference(&vouching).cloned().collect();
            (vouching, reached)
        })
    }

    /// What the verifier says; an error where the lists can't be used.
    fn actual(&self) -> Result<Verdict, Vec<String>> {
        let trusted = self.trusted.iter().enumerate().map(|(place, cross)| Trusted {
            der: cross.make().der,
            role: None,
            name: Some(place.to_string().into()),
        });
        let verifier = ClientVerifier::new(&trusted.collect::<Vec<_>>(), true, &|_| false).unwrap();
        let lists = self.lists.iter().map(|(signer, revoked)| {
            let revoked: Vec<Credentials> = revoked.iter().map(|serial| leaf(*signer, *serial)).collect();
            let list = authorities()[*signer].revoke(&revoked.iter().collect::<Vec<_>>());
            ReadList::new(der(&list), "the.crl").unwrap()
        });
        let terms = Terms {
            expired: ExpiredLists::Refuse,
            missing: self.missing,
        };
        let verifier = verifier.with_lists(&lists.collect::<Vec<_>>(), terms)?;
        let shown: Vec<_> = self.shown.iter().map(|cross| cross.make().der).collect();
        let leaf = leaf(self.leaf.0, self.leaf.1);
        let accepted = verifier.verify(&leaf.der, &shown, UnixTime::now());
        Ok(accepted.ok().map(|accepted| {
            let (vouching, others): (Vec<_>, Vec<_>) = accepted.issuers.into_iter().partition(|issuer| issuer.vouches);
            let names = |issuers: Vec<casgate::policy::pattern::Issuer>| {
                issuers.into_iter().map(|issuer| issuer.name.to_string()).collect()
            };
            (names(vouching), names(others))
        }))
    }
}

impl Cross {
    fn make(self) -> Credentials {
        let [issuer, subject] = [self.issuer, self.subject].map(|place| authorities()[place].own());
        issuer.cross_sign(subject, |params| {
            params.serial_number = Some(SerialNumber::from_slice(&[self.serial]));
        })
    }
}

fn leaf(issuer: usize, serial: u8) -> Credentials {
    authorities()[issuer].own().issue(|params| {
        params.distinguished_name.push(DnType::CommonName, "ci");
        params.serial_number = Some(SerialNumber::from_slice(&[serial]));
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_chain_is_good_if_every_certificate_is_by_every_list_of_the_key_that_signed_it(case in cases()) {
        match case.actual() {
            Ok(actual) => {
                prop_assert!(!case.has_foreign_list());
                prop_assert_eq!(actual, case.expected());
            }
            Err(errors) => prop_assert!(case.has_foreign_list(), "{:?}", errors),
        }
    }
}
