//! A certificate and its key as two files.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{Certificate, KeyPair, PKCS_ECDSA_P256_SHA256};
use tempfile::NamedTempFile;

use super::{CertsError, Made};

/// `NAME.crt` and `NAME.key` in one folder.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) certificate: PathBuf,
    key: PathBuf,
}

impl Pair {
    pub(super) fn new(folder: &Path, name: &str) -> Pair {
        Pair {
            certificate: folder.join(format!("{name}.crt")),
            key: folder.join(format!("{name}.key")),
        }
    }

    /// Makes what is missing. The key comes first, so that being stopped in between leaves a key for the next try; a
    /// certificate without a key is left alone, since its key may be kept elsewhere.
    pub(super) fn make(
        self,
        certify: impl FnOnce(&KeyPair) -> Result<Certificate, CertsError>,
    ) -> Result<Made, CertsError> {
        let made = |pair: Pair, is_new| Made {
            certificate: pair.certificate,
            key: pair.key,
            is_new,
        };
        if self.read_certificate()?.is_some() {
            return Ok(made(self, false));
        }
        let (key, is_saved) = match self.read_key()? {
            Some(key) => (key, true),
            None => (KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?, false),
        };
        let certificate = certify(&key)?;
        if !is_saved {
            write_new(&self.key, key.serialize_pem().as_bytes(), 0o600)?;
        }
        write_new(&self.certificate, certificate.pem().as_bytes(), 0o644)?;
        Ok(made(self, true))
    }

    pub(super) fn read_certificate(&self) -> Result<Option<String>, CertsError> {
        read(&self.certificate)
    }

    pub(super) fn read_key(&self) -> Result<Option<KeyPair>, CertsError> {
        let Some(text) = read(&self.key)? else { return Ok(None) };
        let key = KeyPair::from_pem(&text).map_err(|_| CertsError::Broken {
            path: self.key.clone(),
            text: "has no PKCS#8 key".to_owned(),
        })?;
        Ok(Some(key))
    }
}

pub(super) fn read(path: &Path) -> Result<Option<String>, CertsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, error)),
    }
}

/// Writes a file that is not there yet: it appears whole, or not at all.
///
/// # Errors
/// When it is there, or can't be written.
pub(crate) fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), CertsError> {
    write(path, content, mode, |file| {
        file.persist_noclobber(path).map(drop).map_err(|error| error.error)
    })
}

/// Writes a file that may be there: who reads it sees the old content or the new one, never a part.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), CertsError> {
    write(path, content, mode, |file| {
        file.persist(path).map(drop).map_err(|error| error.error)
    })
}

fn write(
    path: &Path,
    content: &[u8],
    mode: u32,
    give_name: impl FnOnce(NamedTempFile) -> std::io::Result<()>,
) -> Result<(), CertsError> {
    // The folder of a bare name is the empty path, which nothing opens.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let write = || {
        let mut file = tempfile::Builder::new()
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(folder)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        give_name(file)?;
        // The name lies in the folder.
        std::fs::File::open(folder)?.sync_all()
    };
    write().map_err(|error| failed(path, error))
}

fn failed(path: &Path, error: std::io::Error) -> CertsError {
    CertsError::File {
        path: path.to_owned(),
        error,
    }
}
