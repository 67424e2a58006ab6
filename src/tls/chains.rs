//! Chains that were accepted before: clients connect again and again, and each connection asks twice.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use moka::sync::Cache;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::seconds;
use super::verifier::Accepted;

/// Chains that are remembered. The least used goes first.
const MOST: u64 = 4096;

/// SHA-256 of all that was shown.
pub(super) type Key = [u8; 32];

/// What one verifier has accepted: another one, with other authorities and lists, begins anew.
pub(super) struct Chains(Cache<Key, Known>);

#[derive(Clone)]
struct Known {
    accepted: Arc<Accepted>,
    /// The first second in which it was found good.
    from: i64,
}

impl Chains {
    pub(super) fn new() -> Chains {
        Chains(Cache::new(MOST))
    }

    /// What tells a chain from all others: every byte of it, and where each certificate ends. The order of what stands beside
    /// the leaf does not matter: else one chain could be verified anew in each of many orders.
    pub(super) fn key(leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Key {
        let mut others: Vec<_> = others.iter().collect();
        others.sort_unstable_by(|one, other| one.as_ref().cmp(other.as_ref()));
        let mut context = Context::new(&SHA256);
        for certificate in [leaf].into_iter().chain(others) {
            context.update(&certificate.len().to_le_bytes());
            context.update(certificate);
        }
        let mut key = Key::default();
        key.copy_from_slice(context.finish().as_ref());
        key
    }

    /// What is known of a chain that was accepted, where that holds still; the clock may have been set back.
    pub(super) fn find(&self, key: &Key, now: UnixTime) -> Option<Accepted> {
        let known = self.0.get(key)?;
        let now = seconds(now);
        (known.from <= now && now < known.accepted.until).then(|| (*known.accepted).clone())
    }

    /// Notes that a chain is accepted.
    pub(super) fn note(&self, key: Key, accepted: &Accepted, now: UnixTime) {
        let known = Known {
            accepted: Arc::new(accepted.clone()),
            from: seconds(now),
        };
        self.0.insert(key, known);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_chain_is_known_by_all_of_it_and_for_its_time() {
        let [one, two, both] = [&b"ab"[..], b"c", b"abc"].map(CertificateDer::from);
        let chains = Chains::new();
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let key = Chains::key(&one, std::slice::from_ref(&two));
        let accepted = Accepted {
            issuers: vec!["ci".into()],
            until: 200,
            end: 300,
        };
        chains.note(key, &accepted, at(100));
        assert_eq!(chains.find(&key, at(100)), Some(accepted));
        assert!(chains.find(&key, at(199)).is_some());
        assert!(chains.find(&key, at(200)).is_none());
        assert!(chains.find(&key, at(99)).is_none());
        for (leaf, others) in [
            (&both, vec![]),
            (&one, vec![]),
            (&two, vec![one.clone()]),
            (&one, vec![two.clone(), two.clone()]),
        ] {
            assert!(chains.find(&Chains::key(leaf, &others), at(100)).is_none());
        }
        let (there, back) = ([two.clone(), both.clone()], [both, two]);
        assert_eq!(Chains::key(&one, &there), Chains::key(&one, &back));
    }
}
