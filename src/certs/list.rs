//! The authority's revocation list: `ca.crl`.

use std::fs::File;
use std::path::{Path, PathBuf};

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::pair::{read, replace};
use super::{AUTHORITY, CLOCK_SKEW, CertsError, Folder, is_name};
use crate::tls::{identity, pem};

/// Name of the list.
const LIST: &str = "ca.crl";

/// A certificate that stands in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Its file.
    pub certificate: PathBuf,
    /// Its serial number, as `openssl x509 -serial` prints it, with colons.
    pub serial: String,
    /// Whether it was put there now; else it stood there before.
    pub is_new: bool,
}

/// What a list says.
#[derive(Debug, Default)]
struct Content {
    entries: Vec<RevokedCertParams>,
    /// RFC 5280, 5.2.3: each list has a higher one than the list before. No list, no number.
    number: Vec<u8>,
}

impl Folder {
    /// Where the list is.
    pub fn list_path(&self) -> PathBuf {
        self.path.join(LIST)
    }

    /// Renews the list with what stands in it, or makes an empty one. It holds for `days`, at most as long as the
    /// authority, and as long as that without `days`.
    ///
    /// # Errors
    /// When there is no authority, or files can't be read or written; then the list is as it was.
    pub fn renew_list(&self, days: Option<u32>) -> Result<(), CertsError> {
        let _one_at_a_time = self.lock()?;
        self.sign(self.read_list()?, days)
    }

    /// Puts certificates into the list, and renews it: all of them or none. Each is the name of a client, or with a `/` in
    /// it the path of a certificate, as for one whose file was moved away.
    ///
    /// # Errors
    /// When a certificate can't be read or is of another authority, and see [`Folder::renew_list`].
    pub fn revoke(&self, certificates: &[String], days: Option<u32>) -> Result<Vec<Revoked>, CertsError> {
        // Two who revoke at once would each write a list without the certificate of the other.
        let _one_at_a_time = self.lock()?;
        let mut content = self.read_list()?;
        let now = OffsetDateTime::now_utc();
        let mut revoked = Vec::new();
        for given in certificates {
            let certificate = self.find(given)?;
            let serial = self.serial(&certificate)?;
            let is_new = !content
                .entries
                .iter()
                .any(|entry| trimmed(&entry.serial_number) == trimmed(&serial));
            let bytes: Vec<_> = trimmed(&serial).iter().map(|byte| format!("{byte:02X}")).collect();
            if is_new {
                content.entries.push(RevokedCertParams {
                    serial_number: serial,
                    revocation_time: now,
                    reason_code: None,
                    invalidity_date: None,
                });
            }
            revoked.push(Revoked {
                certificate,
                serial: bytes.join(":"),
                is_new,
            });
        }
        self.sign(content, days)?;
        Ok(revoked)
    }

    fn find(&self, given: &str) -> Result<PathBuf, CertsError> {
        if given.contains('/') {
            Ok(PathBuf::from(given))
        } else if is_name(given) && given != AUTHORITY {
            Ok(self.pair(given).certificate)
        } else {
            Err(CertsError::Name(given.to_owned()))
        }
    }

    /// The serial number of a certificate that the authority made.
    fn serial(&self, path: &Path) -> Result<SerialNumber, CertsError> {
        let broken = |text: &str| CertsError::Broken {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let certificate = first(path)?;
        let certificate = identity::parse(&certificate).map_err(|error| broken(&error.to_string()))?;
        let authority = first(&self.pair(AUTHORITY).certificate)?;
        let authority = identity::parse(&authority).map_err(|error| broken(&error.to_string()))?;
        let is_issuer = certificate.issuer().as_raw() == authority.subject().as_raw()
            // Many authorities have the same name; their keys differ.
            && identity::issuer_key_id(&certificate) == identity::key_id(&authority);
        if !is_issuer {
            return Err(broken("was not made by this authority"));
        }
        Ok(SerialNumber::from_slice(certificate.raw_serial()))
    }

    fn read_list(&self) -> Result<Content, CertsError> {
        let path = self.list_path();
        let Some(text) = read(&path)? else {
            return Ok(Content::default());
        };
        let broken = |text: String| CertsError::Broken {
            path: path.clone(),
            text,
        };
        let lists = pem::revocation_lists(text.as_bytes()).map_err(broken)?;
        let [list] = &*lists else {
            return Err(broken("has several lists".to_owned()));
        };
        let (_, list) = CertificateRevocationList::from_der(list)
            .map_err(|_| broken("has a list that can't be read".to_owned()))?;
        let entry = |entry: &x509_parser::revocation_list::RevokedCertificate<'_>| {
            Ok::<_, CertsError>(RevokedCertParams {
                serial_number: SerialNumber::from_slice(entry.raw_serial()),
                revocation_time: OffsetDateTime::from_unix_timestamp(entry.revocation_date.timestamp())
                    .map_err(|error| broken(error.to_string()))?,
                reason_code: None,
                invalidity_date: None,
            })
        };
        Ok(Content {
            entries: list.iter_revoked_certificates().map(entry).collect::<Result<_, _>>()?,
            number: list.crl_number().map(|number| number.to_bytes_be()).unwrap_or_default(),
        })
    }

    fn sign(&self, content: Content, days: Option<u32>) -> Result<(), CertsError> {
        let (issuer, end) = self.issuer()?;
        let now = OffsetDateTime::now_utc();
        let list = CertificateRevocationListParams {
            this_update: now - CLOCK_SKEW,
            next_update: days.map_or(end, |days| end.min(now + Duration::days(days.into()))),
            crl_number: SerialNumber::from_slice(&next(content.number)),
            issuing_distribution_point: None,
            revoked_certs: content.entries,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&issuer)?.pem()?;
        replace(&self.list_path(), list.as_bytes(), 0o644)
    }

    /// Held while the list is changed.
    fn lock(&self) -> Result<File, CertsError> {
        let lock = || {
            let folder = File::open(&self.path)?;
            folder.lock()?;
            Ok(folder)
        };
        lock().map_err(|error| CertsError::File {
            path: self.path.clone(),
            error,
        })
    }
}

/// The number after this one, in bytes with the highest first.
fn next(mut number: Vec<u8>) -> Vec<u8> {
    for byte in number.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return number;
        }
    }
    number.insert(0, 1);
    number
}

fn trimmed(serial: &SerialNumber) -> &[u8] {
    let bytes = serial.as_ref();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

fn first(path: &Path) -> Result<rustls::pki_types::CertificateDer<'static>, CertsError> {
    let broken = |text: String| CertsError::Broken {
        path: path.to_owned(),
        text,
    };
    let bytes = std::fs::read(path).map_err(|error| CertsError::File {
        path: path.to_owned(),
        error,
    })?;
    let mut chain = pem::certificates(&bytes).map_err(broken)?;
    // There is at least one.
    Ok(chain.swap_remove(0))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::config::file::{ExpiredLists, MissingLists};
    use crate::tls::lists::{ReadList, Terms};
    use crate::tls::verifier::{self, ClientVerifier, Trusted};
    use rustls::pki_types::UnixTime;

    fn made(dir: &Path) -> Folder {
        let folder = Folder::new(dir);
        folder.authority("test", 10).unwrap();
        for client in ["ci", "dev", "third"] {
            folder.client(client, 5).unwrap();
        }
        folder
    }

    /// What a gate with this list says of a client.
    fn verdict(folder: &Folder, client: &str) -> Result<(), String> {
        let file = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        let trusted = Trusted {
            name: None,
            der: pem::certificates(&file("ca.crt")).unwrap().remove(0),
            role: None,
        };
        let lists = pem::revocation_lists(&file(LIST)).unwrap().into_iter();
        let lists: Vec<_> = lists.map(|list| ReadList::new(list, LIST).unwrap()).collect();
        let terms = Terms {
            expired: ExpiredLists::Refuse,
            missing: MissingLists::Refuse,
        };
        let verifier = ClientVerifier::new(&[trusted], true, &|_| false).unwrap();
        let verifier = verifier.with_lists(&lists, terms).unwrap();
        let client = pem::certificates(&file(&format!("{client}.crt"))).unwrap().remove(0);
        verifier
            .verify(&client, &[], UnixTime::now())
            .map(drop)
            .map_err(|error| verifier::reason(&error))
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn revoked_certificates_add_up_and_the_others_stay_good() {
        let dir = tempfile::tempdir().unwrap();
        let folder = made(dir.path());
        for client in ["ci", "dev", "third"] {
            assert_eq!(verdict(&folder, client), Ok(()));
        }
        let first = folder.revoke(&names(&["ci"]), None).unwrap();
        assert!(first[0].is_new && first[0].certificate.ends_with("ci.crt"), "{first:?}");
        folder.renew_list(Some(1)).unwrap();
        let both = folder.revoke(&names(&["ci", "dev", "dev"]), None).unwrap();
        let is_new: Vec<_> = both.iter().map(|revoked| revoked.is_new).collect();
        assert_eq!(is_new, [false, true, false]);
        assert_eq!(both[0].serial, first[0].serial);
        for client in ["ci", "dev"] {
            assert_eq!(verdict(&folder, client), Err("it is revoked".to_owned()), "{client}");
        }
        assert_eq!(verdict(&folder, "third"), Ok(()));
        let content = folder.read_list().unwrap();
        // Empty, ci, renewed, dev.
        assert_eq!((content.entries.len(), content.number), (2, vec![4]));
    }

    #[test]
    fn what_can_not_be_revoked_leaves_the_list_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let folder = made(&dir.path().join("one"));
        let other = made(&dir.path().join("other"));
        let before = std::fs::read(folder.list_path()).unwrap();
        let foreign = other.path().join("ci.crt").display().to_string();
        for bad in ["nobody", "ca", "..", "-x", &foreign] {
            assert!(folder.revoke(&names(&["ci", bad]), None).is_err(), "{bad}");
            assert_eq!(std::fs::read(folder.list_path()).unwrap(), before, "{bad}");
        }
        std::fs::write(folder.list_path(), "no list").unwrap();
        assert!(folder.revoke(&names(&["ci"]), None).is_err());
        assert_eq!(std::fs::read(folder.list_path()).unwrap(), b"no list");
        let moved = dir.path().join("old.crt");
        std::fs::rename(other.path().join("ci.crt"), &moved).unwrap();
        assert!(other.revoke(&[moved.display().to_string()], None).unwrap()[0].is_new);
    }

    #[test]
    fn readers_see_whole_lists_and_writers_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folder = made(dir.path());
        std::thread::scope(|scope| {
            let writers = ["ci", "dev", "third"].map(|client| {
                let folder = folder.clone();
                scope.spawn(move || folder.revoke(&names(&[client]), None).unwrap())
            });
            while writers.iter().any(|writer| !writer.is_finished()) {
                assert!(pem::revocation_lists(&std::fs::read(folder.list_path()).unwrap()).is_ok());
            }
        });
        assert_eq!(folder.read_list().unwrap().entries.len(), 3);
        // Nothing else is left behind: four pairs and the list.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 9);
    }

    #[test]
    fn numbers_of_lists_count_on() {
        assert_eq!(next(Vec::new()), [1]);
        assert_eq!(next(vec![1]), [2]);
        assert_eq!(next(vec![1, 255]), [2, 0]);
        assert_eq!(next(vec![255, 255]), [1, 0, 0]);
    }
}
