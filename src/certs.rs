//! Makes certificates: an authority, servers and clients, as PEM files ready to use. And revokes them.
//!
//! Keys are ECDSA P-256, which every client of the field can use (BuildStream 1 offers no other curve), in PKCS#8, which
//! Bazel wants, and readable by their owner only. Nothing that lies in the folder is ever overwritten, but for the revocation list.

mod list;
mod pair;

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use time::{Duration, OffsetDateTime};

use crate::tls::{identity, pem};

pub use list::Revoked;
pub(crate) use pair::write_new;

use pair::Pair;

/// Longest commonName (RFC 5280, appendix A.1: ub-common-name).
const LONGEST_NAME: usize = 64;

/// Clocks of clients may be behind by as much.
const CLOCK_SKEW: Duration = Duration::hours(1);

/// Name of the authority's files: `ca.crt` and `ca.key`.
const AUTHORITY: &str = "ca";

/// Name of the server's files: `server.crt` and `server.key`.
const SERVER: &str = "server";

/// A folder with an authority, whose certificates are made there.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

/// The files of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// PEM file with the certificate.
    pub certificate: PathBuf,
    /// PEM file with its key.
    pub key: PathBuf,
    /// Whether they were made now; else they were there before.
    pub is_new: bool,
}

/// Why a certificate was not made. Whatever was in the folder is still there as it was.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A file can't be read or written.
    #[error("`{}`: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// There is no authority in the folder.
    #[error("`{}` has no authority (`ca.crt` and `ca.key`): make one with `casgate certs init {}`", .0.display(), .0.display())]
    NoAuthority(PathBuf),
    /// A file is not what its name says.
    #[error("`{}` {text}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        text: String,
    },
    /// The name can't be the name of a client and of its files.
    #[error(
        "`{0}` can't be the name of a certificate: take 1 to 64 letters, digits, `-`, `_`, `.`, `@`, no `.` in front"
    )]
    Name(String),
    /// A name of a host can't stand in a certificate.
    #[error("`{0}` is no name or IP address of a host")]
    Host(String),
    /// The authority has expired, or is about to.
    #[error("the authority `{}` has expired: make another one in another folder", .0.display())]
    Expired(PathBuf),
    /// The certificate can't be made.
    #[error("the certificate can't be made: {0}")]
    Make(#[from] rcgen::Error),
}

impl Folder {
    /// The folder at this path, which need not be there yet.
    pub fn new(path: impl Into<PathBuf>) -> Folder {
        Folder { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The authority, made unless it is there, with its folder and a revocation list that is empty. `name` is its commonName; it is valid for `days`.
    ///
    /// # Errors
    /// When files can't be read or written, or the name is too long.
    pub fn authority(&self, name: &str, days: u32) -> Result<Made, CertsError> {
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(CertsError::Name(name.to_owned()));
        }
        std::fs::create_dir_all(&self.path).map_err(|error| CertsError::File {
            path: self.path.clone(),
            error,
        })?;
        let made = self.pair(AUTHORITY).make(|key| {
            let mut params = params(name, OffsetDateTime::now_utc() + Duration::days(days.into()));
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            Ok(params.self_signed(key)?)
        })?;
        // An old authority may have its key elsewhere; `casgate certs crl` makes its list.
        if made.is_new {
            self.renew_list(None)?;
        }
        Ok(made)
    }

    /// The server's certificate, made unless it is there: for these names and IP addresses of its host.
    ///
    /// # Errors
    /// When there is no authority, a host's name is none, or files can't be read or written.
    pub fn server(&self, hosts: &[String], days: u32) -> Result<Made, CertsError> {
        self.issue(SERVER, days, |params| {
            // Bazel and rustls look at these names only, never at the commonName (RFC 9525, section 2).
            for host in hosts {
                let name = host
                    .parse()
                    .map(rcgen::SanType::IpAddress)
                    .or_else(|_| host.as_str().try_into().map(rcgen::SanType::DnsName))
                    .ok()
                    .filter(|_| is_host(host))
                    .ok_or_else(|| CertsError::Host(host.clone()))?;
                params.subject_alt_names.push(name);
            }
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            Ok(())
        })
    }

    /// A client's certificate, made unless it is there: `name` is its commonName and the name of its files.
    ///
    /// # Errors
    /// When there is no authority, the name is none, or files can't be read or written.
    pub fn client(&self, name: &str, days: u32) -> Result<Made, CertsError> {
        if !is_name(name) || name == AUTHORITY || name == SERVER {
            return Err(CertsError::Name(name.to_owned()));
        }
        self.issue(name, days, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            Ok(())
        })
    }

    fn issue(
        &self,
        name: &str,
        days: u32,
        complete: impl FnOnce(&mut CertificateParams) -> Result<(), CertsError>,
    ) -> Result<Made, CertsError> {
        self.pair(name).make(|key| {
            let (issuer, end) = self.issuer()?;
            // A certificate that outlives its issuer only looks as if it were valid.
            let mut params = params(name, end.min(OffsetDateTime::now_utc() + Duration::days(days.into())));
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.use_authority_key_identifier_extension = true;
            complete(&mut params)?;
            Ok(params.signed_by(key, &issuer)?)
        })
    }

    /// The authority, and the end of its validity.
    fn issuer(&self) -> Result<(Issuer<'static, KeyPair>, OffsetDateTime), CertsError> {
        let pair = self.pair(AUTHORITY);
        let (Some(certificate), Some(key)) = (pair.read_certificate()?, pair.read_key()?) else {
            return Err(CertsError::NoAuthority(self.path.clone()));
        };
        let broken = |text: String| CertsError::Broken {
            path: pair.certificate.clone(),
            text,
        };
        let chain = pem::certificates(certificate.as_bytes()).map_err(broken)?;
        let leaf = chain.first().ok_or_else(|| broken("has no certificate".to_owned()))?;
        let said = identity::read(leaf).map_err(|error| broken(error.to_string()))?;
        let end = OffsetDateTime::from_unix_timestamp(said.not_after).map_err(|error| broken(error.to_string()))?;
        if end <= OffsetDateTime::now_utc() {
            return Err(CertsError::Expired(pair.certificate));
        }
        let parsed = identity::parse(leaf).map_err(|error| broken(error.to_string()))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(broken("does not belong to `ca.key`".to_owned()));
        }
        let issuer = Issuer::from_ca_cert_der(leaf, key).map_err(|error| broken(error.to_string()))?;
        Ok((issuer, end))
    }

    fn pair(&self, name: &str) -> Pair {
        Pair::new(&self.path, name)
    }
}

/// A commonName for an authority that no other one has: people and programs tell authorities from each other by their names.
pub fn distinct_name(kind: &str) -> String {
    let digits = uuid::Uuid::new_v4().simple().to_string();
    format!("{kind} {}", digits.get(..8).unwrap_or(&digits))
}

fn params(name: &str, end: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::now_utc() - CLOCK_SKEW;
    params.not_after = end;
    params
}

/// Whether a text can be a commonName and a file's name alike.
fn is_name(name: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    !name.is_empty() && name.len() <= LONGEST_NAME && !name.starts_with(['.', '-']) && name.bytes().all(is_fine)
}

/// Whether a text can be a host's name (RFC 1123, section 2.1), perhaps with `*` as its first label, or an address.
fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let name = host.strip_prefix("*.").unwrap_or(host);
    host.parse::<std::net::IpAddr>().is_ok() || (host.len() <= 253 && name.split('.').all(is_label))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn made() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path().join("certs"));
        folder.authority("test", 10).unwrap();
        (dir, folder)
    }

    #[test]
    fn keys_are_for_their_owner_and_nothing_is_overwritten() {
        let (_dir, folder) = made();
        let first = folder.client("ci", 5).unwrap();
        assert!(first.is_new);
        let mode = std::fs::metadata(&first.key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let before = std::fs::read(&first.certificate).unwrap();
        let second = folder.client("ci", 5).unwrap();
        assert!(!second.is_new);
        assert_eq!(std::fs::read(&second.certificate).unwrap(), before);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 5);
    }

    #[test]
    fn a_removed_certificate_is_made_again_for_its_key() {
        let (_dir, folder) = made();
        let made = folder.client("ci", 5).unwrap();
        let key = std::fs::read(&made.key).unwrap();
        std::fs::remove_file(&made.certificate).unwrap();
        assert!(folder.client("ci", 5).unwrap().is_new);
        assert_eq!(std::fs::read(&made.key).unwrap(), key);
    }

    #[test]
    fn no_certificate_outlives_its_authority() {
        let (_dir, folder) = made();
        let read = |made: &Made| {
            let pem = std::fs::read(&made.certificate).unwrap();
            identity::read(&pem::certificates(&pem).unwrap()[0]).unwrap()
        };
        let authority = read(&folder.authority("test", 10).unwrap());
        assert_eq!(read(&folder.client("ci", 5000).unwrap()).not_after, authority.not_after);
        let server = read(&folder.server(&["localhost".into(), "::1".into()], 5).unwrap());
        assert!(server.not_after < authority.not_after);
        assert_eq!(server.dns, ["localhost"]);
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let (_dir, folder) = made();
        for name in [
            "",
            "../ci",
            "a/b",
            ".ci",
            "-rf",
            "ca",
            "server",
            "a\0b",
            "a b",
            &"x".repeat(65),
        ] {
            assert!(matches!(folder.client(name, 5), Err(CertsError::Name(_))), "{name}");
        }
        for host in ["", "a b", "a..b", "-a", "a/b", "*.*.a"] {
            let result = folder.server(&[host.to_owned()], 5);
            assert!(matches!(result, Err(CertsError::Host(_))), "{host}");
        }
    }

    #[test]
    fn without_an_authority_the_error_says_how_to_make_one() {
        let dir = tempfile::tempdir().unwrap();
        let text = Folder::new(dir.path()).client("ci", 5).unwrap_err().to_string();
        assert!(text.contains("casgate certs init"), "{text}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
