//! The one door by which files of the configuration are read: regular files only, within bounds, and without waiting.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// What a file is for, which says how large it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Certificates or a private key: 4 MiB.
    Pem,
    /// The TOML file: 16 MiB.
    Toml,
    /// Revocation lists: 256 MiB.
    Lists,
}

impl Purpose {
    /// The most bytes of such a file.
    pub fn most(self) -> u64 {
        let mib = match self {
            Purpose::Pem => 4,
            Purpose::Toml => 16,
            Purpose::Lists => 256,
        };
        mib << 20
    }
}

/// The content of a regular file, also by symbolic links. Nobody is waited for, as opening a named pipe would.
///
/// # Errors
/// When it can't be read, is no regular file, is too large, or grows meanwhile.
pub fn read(path: &Path, purpose: Purpose) -> io::Result<Zeroizing<Vec<u8>>> {
    let most = purpose.most();
    // Looked at before it is opened, as opening alone does something to devices and to who writes to a pipe.
    is_regular(&fs::metadata(path)?)?;
    let nonblocking = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(nonblocking.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    // And again: it may be another one by now.
    let metadata = file.metadata()?;
    is_regular(&metadata)?;
    let length = metadata.len();
    if length > most {
        let told = format!("it has {length} bytes, and at most {most} are read");
        return Err(io::Error::new(ErrorKind::FileTooLarge, told));
    }
    read_all(&file, length)
}

/// The file is never moved in memory while it is read: what is left behind would not be wiped.
fn read_all(file: &File, length: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let room = usize::try_from(length).map_err(|_| ErrorKind::FileTooLarge)?;
    let mut bytes = Zeroizing::new(vec![0; room]);
    let mut filled = 0;
    let mut file = file;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    let mut beyond = Zeroizing::new([0; 1]);
    if filled == room && file.read(&mut *beyond)? > 0 {
        return Err(io::Error::other("it grew while it was read: reload when it is written"));
    }
    Ok(bytes)
}

fn is_regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let what = kind(metadata);
    let told = format!("it is {what} and no regular file");
    Err(io::Error::new(ErrorKind::InvalidInput, told))
}

/// Whether lines can be added to such a file, as far as that is seen without touching it: a regular file, or a device such
/// as `/dev/null`. It may be missing, and its folder may not.
///
/// # Errors
/// Why not, as text for people.
pub fn can_grow(path: &Path) -> Result<(), String> {
    let told = |what: &str| Err(format!("`{}` {what}", path.display()));
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() || metadata.file_type().is_char_device() => Ok(()),
        // An open pipe, as standard output may be, has no name that leads to it, and somebody reads it.
        Ok(metadata) if metadata.file_type().is_fifo() && fs::canonicalize(path).is_err() => Ok(()),
        Ok(metadata) => told(&format!("is {}: name a regular file", kind(&metadata))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            if fs::metadata(folder.unwrap_or(Path::new("."))).is_ok_and(|folder| folder.is_dir()) {
                return Ok(());
            }
            told("can't be made: its folder is not there")
        }
        Err(error) => told(&format!("can't be written: {error}")),
    }
}

/// What something in a file system is, for people.
fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "a file"
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, mkfifoat};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    #[test]
    fn regular_files_are_read_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "text").unwrap();
        symlink("file", at("link")).unwrap();
        fs::write(at("empty"), "").unwrap();
        for (name, content) in [("file", "text"), ("link", "text"), ("empty", "")] {
            assert_eq!(&**read(&at(name), Purpose::Pem).unwrap(), content.as_bytes(), "{name}");
        }
        fs::create_dir(at("folder")).unwrap();
        mkfifoat(CWD, at("pipe"), Mode::RWXU).unwrap();
        symlink("pipe", at("link to pipe")).unwrap();
        symlink("gone", at("dangling")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        for (path, expected) in [
            (at("folder"), "it is a folder and no regular file"),
            (at("pipe"), "it is a named pipe and no regular file"),
            (at("link to pipe"), "it is a named pipe and no regular file"),
            (at("socket"), "it is a socket and no regular file"),
            ("/dev/zero".into(), "it is a device and no regular file"),
            (at("dangling"), "No such file"),
        ] {
            let error = read(&path, Purpose::Pem).unwrap_err().to_string();
            assert!(error.contains(expected), "{path:?}: {error}");
        }
    }

    #[test]
    fn lines_are_added_to_files_and_character_devices() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "text").unwrap();
        mkfifoat(CWD, at("pipe"), Mode::RWXU).unwrap();
        for path in [at("file"), at("new"), "/dev/null".into()] {
            assert_eq!(can_grow(&path), Ok(()), "{path:?}");
        }
        for (path, expected) in [
            (folder.path().to_owned(), "is a folder"),
            (at("pipe"), "is a named pipe"),
            (at("gone/audit.jsonl"), "its folder is not there"),
            (at("file/audit.jsonl"), "can't be written"),
        ] {
            let error = can_grow(&path).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn each_purpose_has_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        let file = File::create(&path).unwrap();
        for (purpose, most) in [(Purpose::Pem, 4 << 20), (Purpose::Toml, 16 << 20)] {
            file.set_len(most).unwrap();
            assert_eq!(read(&path, purpose).unwrap().len() as u64, most);
            file.set_len(most + 1).unwrap();
            let error = read(&path, purpose).unwrap_err().to_string();
            assert!(error.contains("at most"), "{error}");
        }
        file.set_len((256 << 20) + 1).unwrap();
        assert!(read(&path, Purpose::Lists).is_err());
    }

    #[test]
    fn a_file_that_grows_is_not_read_by_half() {
        let file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut &file, b"more").unwrap();
        io::Seek::rewind(&mut &file).unwrap();
        let error = read_all(&file, 3).unwrap_err().to_string();
        assert!(error.contains("grew"), "{error}");
    }
}
