//! The authorities of `client-ca`, and which of them stands above which.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::certificate::X509Certificate;

use crate::policy::identity::printable;
use crate::tls::der::Signed;
use crate::tls::{identity, signature};

/// The authorities of a listener. One authority is one name and one key: those that it issued can't tell its certificates
/// from each other.
#[derive(Debug, Default)]
pub(super) struct Authorities {
    all: Vec<Authority>,
    by_subject: HashMap<Vec<u8>, Vec<usize>>,
}

#[derive(Debug)]
pub(super) struct Authority {
    /// SubjectPublicKeyInfo.
    pub(super) key: Vec<u8>,
    /// The identifier that its certificates give to the key.
    pub(super) key_id: Option<Vec<u8>>,
    pub(super) certificates: Vec<Root>,
    /// The names of the entries from which one of its certificates comes, over any number of steps.
    pub(super) above: BTreeSet<Arc<str>>,
}

/// A certificate of an authority, from which chains begin.
pub(super) struct Root {
    pub(super) der: CertificateDer<'static>,
    /// The name of its entry.
    pub(super) name: Option<Arc<str>>,
    /// The first and the last second of its validity, in seconds since 1970.
    pub(super) validity: (i64, i64),
    /// For people.
    pub(super) subject: String,
    /// Takes chains that begin with it.
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
}

impl Authorities {
    /// Adds a certificate of an authority.
    ///
    /// # Errors
    /// What is wrong with it; text for people.
    pub(super) fn add(
        &mut self,
        der: &CertificateDer<'static>,
        certificate: &X509Certificate<'_>,
        name: Option<Arc<str>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<(), String> {
        let mut roots = RootCertStore::empty();
        roots.add(der.clone()).map_err(|error| error.to_string())?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|error| error.to_string())?;
        let validity = certificate.validity();
        let root = Root {
            der: der.clone(),
            name,
            validity: (validity.not_before.timestamp(), validity.not_after.timestamp()),
            subject: printable(&certificate.subject().to_string()),
            verifier,
        };
        let (subject, key) = (certificate.subject().as_raw(), certificate.public_key().raw);
        match self.position(subject, key) {
            Some(known) => self.all[known].certificates.push(root),
            None => {
                self.by_subject
                    .entry(subject.to_vec())
                    .or_default()
                    .push(self.all.len());
                self.all.push(Authority {
                    key: key.to_vec(),
                    key_id: identity::key_id(certificate).map(<[u8]>::to_vec),
                    certificates: vec![root],
                    above: BTreeSet::new(),
                });
            }
        }
        Ok(())
    }

    /// Finds out who stands above whom, once all are there.
    pub(super) fn link(&mut self, algorithms: &WebPkiSupportedAlgorithms) {
        let parents: Vec<Vec<usize>> = self.all.iter().map(|one| self.parents(one, algorithms)).collect();
        for index in 0..self.all.len() {
            let (mut seen, mut next) = (BTreeSet::from([index]), vec![index]);
            while let Some(one) = next.pop() {
                next.extend(parents[one].iter().filter(|parent| seen.insert(**parent)));
            }
            seen.remove(&index);
            let names: BTreeSet<_> = seen
                .iter()
                .flat_map(|above| self.all[*above].names().cloned())
                .collect();
            self.all[index].above = names;
        }
    }

    /// Those that signed a certificate of this one.
    fn parents(&self, authority: &Authority, algorithms: &WebPkiSupportedAlgorithms) -> Vec<usize> {
        let mut parents = Vec::new();
        for root in &authority.certificates {
            let (Ok(certificate), Ok(signed)) = (identity::parse(&root.der), Signed::read(&root.der)) else {
                continue;
            };
            let named = self.of_name(certificate.issuer().as_raw());
            parents.extend(
                named
                    .filter(|(_, parent)| signature::is_by(algorithms, &signed, &parent.key))
                    .map(|(index, _)| index),
            );
        }
        parents
    }

    /// The authorities of a name, with their index.
    pub(super) fn of_name<'a>(&'a self, subject: &[u8]) -> impl Iterator<Item = (usize, &'a Authority)> {
        let found = self.by_subject.get(subject).map(Vec::as_slice).unwrap_or_default();
        found.iter().filter_map(|index| Some((*index, self.all.get(*index)?)))
    }

    /// The authority of this name and key.
    pub(super) fn position(&self, subject: &[u8], key: &[u8]) -> Option<usize> {
        self.of_name(subject)
            .find(|(_, one)| one.key == key)
            .map(|(index, _)| index)
    }

    pub(super) fn get(&self, index: usize) -> Option<&Authority> {
        self.all.get(index)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Authority> {
        self.all.iter()
    }

    /// How many could each write any name into a certificate, as far as rules can tell them apart: those of one name are
    /// one.
    pub(super) fn issuers(&self) -> usize {
        let roots = self.all.iter().flat_map(|one| &one.certificates);
        let (mut names, mut others) = (BTreeSet::new(), 0);
        for root in roots {
            match &root.name {
                Some(name) => {
                    names.insert(name);
                }
                None => others += 1,
            }
        }
        names.len() + others
    }

    /// Whether one of them, of this name where there is one, could issue certificates.
    pub(super) fn issues_for(&self, name: Option<&Arc<str>>) -> bool {
        let mut roots = self.all.iter().flat_map(|one| &one.certificates);
        roots.any(|root| name.is_none() || root.name.as_ref() == name)
    }
}

impl Authority {
    /// The names of its entries.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.certificates.iter().filter_map(|root| root.name.as_ref())
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root")
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}
