//! How long revocation lists hold, and what becomes of an authority's certificates when its list has ended.

use std::collections::BTreeMap;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::{CertificateError, Error};

use super::verifier::read_list;
use super::{identity, seconds};
use crate::config::file::ExpiredLists;
use crate::policy::identity::printable;

/// The revocation lists of a listener, by the name of their authority in DER.
#[derive(Debug, Default)]
pub struct Lists {
    by_issuer: BTreeMap<Vec<u8>, List>,
    expired: ExpiredLists,
}

/// What is known of the lists of one authority.
#[derive(Debug)]
struct List {
    issuer: String,
    /// Last second of the newest of them (RFC 5280, 5.1.2.5: nextUpdate), in seconds since 1970; `None` for never.
    end: Option<i64>,
}

impl Lists {
    /// The lists, and what an expired one does.
    ///
    /// # Errors
    /// Text for people: a list that can't be read.
    pub(super) fn new(crls: &[CertificateRevocationListDer<'static>], expired: ExpiredLists) -> Result<Lists, String> {
        let mut by_issuer = BTreeMap::<Vec<u8>, List>::new();
        for crl in crls {
            let list = read_list(crl)?;
            let end = list.next_update().map(|end| end.timestamp());
            by_issuer
                .entry(list.issuer().as_raw().to_vec())
                // The next list may lie beside the one that it follows.
                .and_modify(|known| known.end = known.end.zip(end).map(|(one, other)| one.max(other)))
                .or_insert_with(|| List {
                    issuer: printable(&list.issuer().to_string()),
                    end,
                });
        }
        Ok(Lists { by_issuer, expired })
    }

    /// The name of each authority with the end of its newest list, in seconds since 1970.
    pub fn ends(&self) -> impl Iterator<Item = (&str, i64)> {
        self.by_issuer
            .values()
            .filter_map(|list| Some((&*list.issuer, list.end?)))
    }

    /// When the first of those lists ends that must not, for a chain to be accepted; `None` for never.
    pub(super) fn end_for(&self, chain: &[&CertificateDer<'_>]) -> Option<i64> {
        if self.expired == ExpiredLists::Tolerate {
            return None;
        }
        let of = |certificate: &&CertificateDer<'_>| {
            let certificate = identity::parse(certificate).ok()?;
            self.by_issuer.get(certificate.issuer().as_raw())?.end
        };
        chain.iter().filter_map(of).min()
    }

    /// Whether the lists of all issuers of a chain still hold, where they must.
    ///
    /// # Errors
    /// When one does not.
    pub(super) fn check(&self, chain: &[&CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let now = seconds(now);
        match self.end_for(chain) {
            Some(end) if end < now => Err(CertificateError::ExpiredRevocationList.into()),
            _ => Ok(()),
        }
    }

    /// Lists that have ended.
    pub(super) fn warnings(&self) -> Vec<String> {
        let now = crate::live::now();
        let ended = self.ends().filter(|(_, end)| *end < now);
        ended
            .map(|(issuer, _)| match self.expired {
                ExpiredLists::Tolerate => format!(
                    "the revocation list of `{issuer}` is out of date, and goes on being applied: get the next one from its authority"
                ),
                ExpiredLists::Refuse => format!(
                    "the revocation list of `{issuer}` is out of date, and every certificate of this authority is refused: get the next one from it"
                ),
            })
            .collect()
    }
}
