//! How a certificate that a client shows leads to authorities of `client-ca`, over those that it shows beside it.
//!
//! Who is not known yet decides what is shown, so the work is bounded by what is known: signatures are verified from the
//! authorities of `client-ca` down, never with a key that nobody who is trusted has signed, each with a key once, and only so
//! many in all. What is then a path is verified as a whole by webpki, one path at a time, which leaves it nothing to search.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, Error};
use x509_parser::certificate::X509Certificate;

use super::authorities::{Authorities, Authority};
use crate::tls::der::NotDer;
use crate::tls::head::Head;
use crate::tls::identity::{self, Usage};
use crate::tls::refusal::Refusal;
use crate::tls::signature;

/// As many signatures of certificates are looked at in one handshake, the wrong ones included. Honest chains take one for each
/// certificate.
pub(super) const MOST_SIGNATURES: usize = 12;

/// A client's certificate, and what it shows beside it.
pub(super) struct Shown<'a> {
    authorities: &'a Authorities,
    /// The client's own first.
    nodes: Vec<Node<'a>>,
    /// Whether a signature on the way to an authority was wrong.
    pub(super) is_forged: bool,
}

/// A certificate that is shown.
pub(super) struct Node<'a> {
    pub(super) der: &'a CertificateDer<'a>,
    pub(super) head: Head<'a>,
    /// All of it, once it is known that somebody who is trusted has signed it, and what it may be used for.
    certificate: Option<X509Certificate<'a>>,
    /// Who it is, if it may be an authority.
    own: Option<Key>,
    /// Who signed it, once that is known.
    signer: Option<Key>,
}

/// A name and a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// An authority of `client-ca`, by its index.
    Known(usize),
    /// The authority of a certificate that is shown, by the index of the first one with this name and key.
    Shown(usize),
}

/// A way from the client's certificate to an authority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Path {
    /// The certificates on it, by their index, the client's first.
    pub(super) nodes: Vec<usize>,
    /// The authority, by its index.
    pub(super) authority: usize,
}

impl<'a> Shown<'a> {
    /// Looks at what is shown. What can't be read is left out, but for the client's own.
    ///
    /// # Errors
    /// When the client's own certificate can't be read.
    pub(super) fn read(
        end_entity: &'a CertificateDer<'a>,
        others: &'a [CertificateDer<'a>],
        authorities: &'a Authorities,
    ) -> Result<Shown<'a>, NotDer> {
        let mut nodes = vec![Node::new(end_entity, Head::read(end_entity)?)];
        for der in others {
            let Ok(head) = Head::read(der) else { continue };
            let mut named = authorities.of_name(head.subject);
            let is_known = named.any(|(_, authority)| authority.certificates.iter().any(|root| root.der == *der));
            if !is_known && nodes.iter().all(|node| node.der != der) {
                nodes.push(Node::new(der, head));
            }
        }
        let mut shown = Shown {
            authorities,
            nodes,
            is_forged: false,
        };
        for index in 1..shown.nodes.len() {
            shown.nodes[index].own = Some(shown.key_of(index));
        }
        Ok(shown)
    }

    fn key_of(&self, index: usize) -> Key {
        let (subject, key) = self.nodes[index].name_and_key();
        let first = (1..index).find(|other| self.nodes[*other].name_and_key() == (subject, key));
        match self.authorities.position(subject, key) {
            Some(known) => Key::Known(known),
            None => Key::Shown(first.unwrap_or(index)),
        }
    }

    pub(super) fn node(&self, index: usize) -> &Node<'a> {
        &self.nodes[index]
    }

    pub(super) fn authority(&self, index: usize) -> Option<&'a Authority> {
        self.authorities.get(index)
    }

    /// Finds out who signed what.
    ///
    /// # Errors
    /// When that takes more signatures than any honest chain does.
    pub(super) fn find_signers(&mut self, algorithms: &WebPkiSupportedAlgorithms) -> Result<(), Error> {
        let needed = self.needed();
        let mut tried: Vec<(usize, Key)> = Vec::new();
        loop {
            let before = tried.len();
            for index in needed.iter().copied() {
                if self.nodes[index].signer.is_some() {
                    continue;
                }
                for key in self.candidates(index) {
                    if tried.contains(&(index, key)) {
                        continue;
                    }
                    if tried.len() >= MOST_SIGNATURES {
                        return Err(Refusal::TooManySignatures(MOST_SIGNATURES).into());
                    }
                    tried.push((index, key));
                    if self.is_by(index, key, algorithms) {
                        self.nodes[index].is_signed_by(key);
                        // The client's own must be readable.
                        self.nodes[0]
                            .signer
                            .map_or(Ok(()), |_| self.nodes[0].certificate().map(drop))?;
                        break;
                    }
                    self.is_forged = true;
                }
            }
            if tried.len() == before {
                return Ok(());
            }
        }
    }

    /// The certificates that may be on a way up by their names.
    fn needed(&self) -> Vec<usize> {
        let mut needed = vec![0];
        let mut at = 0;
        while let Some(index) = needed.get(at).copied() {
            let issuer = self.nodes[index].head.issuer;
            for other in 1..self.nodes.len() {
                if !needed.contains(&other) && self.nodes[other].head.subject == issuer {
                    needed.push(other);
                }
            }
            at += 1;
        }
        needed
    }

    /// The keys that are known to be those of authorities and have the name of a certificate's issuer, the most likely first.
    fn candidates(&self, index: usize) -> Vec<Key> {
        let node = &self.nodes[index];
        let issuer = node.head.issuer;
        let known = self.authorities.of_name(issuer).map(|(known, _)| Key::Known(known));
        let shown = self.nodes.iter().filter_map(|other| match (other.own, other.signer) {
            (Some(key @ Key::Shown(_)), Some(_)) if other.head.subject == issuer => Some(key),
            _ => None,
        });
        let mut all: Vec<_> = known.chain(shown).collect();
        all.dedup();
        let wanted = node.head.issuer_key_id;
        all.sort_by_key(|key| match (wanted, self.key_id(*key)) {
            (Some(wanted), Some(id)) if wanted == id => 0,
            (Some(_), Some(_)) => 2,
            _ => 1,
        });
        all
    }

    fn key_id(&self, key: Key) -> Option<&[u8]> {
        match key {
            Key::Known(known) => self.authorities.get(known)?.key_id.as_deref(),
            Key::Shown(shown) => self.nodes.get(shown)?.head.key_id,
        }
    }

    fn is_by(&self, index: usize, key: Key, algorithms: &WebPkiSupportedAlgorithms) -> bool {
        let key = match key {
            Key::Known(known) => self.authorities.get(known).map(|authority| authority.key.as_slice()),
            Key::Shown(shown) => self.nodes.get(shown).map(|node| node.head.key),
        };
        let signed = &self.nodes[index].head.signed;
        key.is_some_and(|key| signature::is_by(algorithms, signed, key))
    }

    /// Every way to an authority, each ending at the first one of `client-ca` that it comes to.
    pub(super) fn paths(&self) -> Vec<Path> {
        let mut found = Vec::new();
        self.climb(&mut vec![0], &mut Vec::new(), &mut found);
        found
    }

    fn climb(&self, nodes: &mut Vec<usize>, keys: &mut Vec<Key>, found: &mut Vec<Path>) {
        let top = nodes.last().map(|top| &self.nodes[*top]);
        match top.and_then(|top| top.signer) {
            Some(Key::Known(authority)) => found.push(Path {
                nodes: nodes.clone(),
                authority,
            }),
            // A key has few certificates, and is on a way once: with the few that are taken there are not many ways.
            Some(key @ Key::Shown(_)) if !keys.contains(&key) => {
                keys.push(key);
                for next in self.certificates_of(key) {
                    nodes.push(next);
                    self.climb(nodes, keys, found);
                    nodes.pop();
                }
                keys.pop();
            }
            Some(Key::Shown(_)) | None => {}
        }
    }

    fn certificates_of(&self, key: Key) -> impl Iterator<Item = usize> {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .filter(move |(_, node)| node.own == Some(key))
            .map(|(index, _)| index)
    }

    /// The names of all entries of `client-ca` to which signatures lead from the client's certificate: also over authorities
    /// that have a name of their own, and over what `client-ca` knows beside what is shown.
    pub(super) fn leads_to(&self) -> BTreeSet<Arc<str>> {
        let mut names = BTreeSet::new();
        let (mut next, mut seen) = (vec![self.nodes[0].signer], BTreeSet::new());
        while let Some(key) = next.pop() {
            let Some(key) = key.filter(|key| seen.insert(*key)) else {
                continue;
            };
            if let Key::Known(known) = key
                && let Some(authority) = self.authorities.get(known)
            {
                names.extend(authority.names().chain(&authority.above).cloned());
            }
            next.extend(self.certificates_of(key).map(|index| self.nodes[index].signer));
        }
        names
    }
}

impl<'a> Node<'a> {
    fn new(der: &'a CertificateDer<'a>, head: Head<'a>) -> Node<'a> {
        Node {
            der,
            head,
            certificate: None,
            own: None,
            signer: None,
        }
    }

    fn is_signed_by(&mut self, key: Key) {
        let certificate = identity::parse(self.der).ok();
        // webpki does not look at keyUsage there (RFC 5280, 6.1.4 (n)): the holder of one that is only for signatures could
        // name anybody.
        let may_issue = |certificate: &X509Certificate<'_>| identity::usage(certificate) != Usage::EndEntity;
        self.certificate = certificate.filter(|certificate| self.own.is_none() || may_issue(certificate));
        if self.certificate.is_none() {
            self.own = None;
        }
        self.signer = Some(key);
    }

    /// All of a certificate that is on a path.
    pub(super) fn certificate(&self) -> Result<&X509Certificate<'a>, Error> {
        self.certificate
            .as_ref()
            .ok_or_else(|| CertificateError::BadEncoding.into())
    }

    fn name_and_key(&self) -> (&[u8], &[u8]) {
        (self.head.subject, self.head.key)
    }
}
