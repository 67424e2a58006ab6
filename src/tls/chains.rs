//! Chains that were accepted before: clients connect again and again, and each connection asks twice.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use moka::sync::Cache;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::seconds;

/// Chains that are remembered. The least used goes first.
const MOST: u64 = 4096;

/// SHA-256 of all that was shown.
pub(super) type Key = [u8; 32];

/// What one verifier has accepted: another one, with other authorities and lists, begins anew.
pub(super) struct Chains(Cache<Key, Known>);

#[derive(Clone)]
struct Known {
    names: Arc<[Arc<str>]>,
    /// The first second in which it was found good, and the last in which that holds.
    from: i64,
    until: i64,
}

impl Chains {
    pub(super) fn new() -> Chains {
        Chains(Cache::new(MOST))
    }

    /// What tells a chain from all others: every byte of it, and where each certificate ends.
    pub(super) fn key(chain: &[&CertificateDer<'_>]) -> Key {
        let mut context = Context::new(&SHA256);
        for certificate in chain {
            context.update(&certificate.len().to_le_bytes());
            context.update(certificate);
        }
        let mut key = Key::default();
        key.copy_from_slice(context.finish().as_ref());
        key
    }

    /// Who vouches for a chain that was accepted, where that holds still; the clock may have been set back.
    pub(super) fn find(&self, key: &Key, now: UnixTime) -> Option<Vec<Arc<str>>> {
        let known = self.0.get(key)?;
        let now = seconds(now);
        (known.from <= now && now < known.until).then(|| known.names.to_vec())
    }

    /// Notes that a chain is accepted, which is so until `until`, in seconds since 1970.
    pub(super) fn note(&self, key: Key, names: &[Arc<str>], now: UnixTime, until: i64) {
        let known = Known {
            names: names.into(),
            from: seconds(now),
            until,
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
        let key = Chains::key(&[&one, &two]);
        chains.note(key, &["ci".into()], at(100), 200);
        assert_eq!(chains.find(&key, at(100)), Some(vec!["ci".into()]));
        assert!(chains.find(&key, at(199)).is_some());
        assert!(chains.find(&key, at(200)).is_none());
        assert!(chains.find(&key, at(99)).is_none());
        for other in [&[&both][..], &[&one], &[&two, &one], &[&one, &two, &two]] {
            assert!(chains.find(&Chains::key(other), at(100)).is_none());
        }
    }
}
