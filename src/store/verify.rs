//! Reads all of a store that is in a folder, and compares it with what its names say.
//!
//! Others may use the folder meanwhile: a file that was replaced or removed since it was opened is not touched.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use object_store::path::Path as ObjectPath;

use super::digest::{BlobDigest, Hasher};
use super::records;

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Blobs that are as they were written.
    pub blobs: u64,
    /// Action results and assets that are.
    pub records: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// What is not as it was written.
    pub damaged: u64,
    /// What of that was removed.
    pub removed: u64,
    /// Files that a store does not write.
    pub foreign: u64,
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// Something was read.
    Read {
        /// Bytes so far.
        bytes: u64,
        /// Bytes that were there in the beginning.
        of: u64,
    },
    /// Something is damaged.
    Damaged {
        /// The file.
        file: &'a Path,
        /// What is wrong with it.
        damage: Damage,
        /// Whether it was removed.
        removed: bool,
    },
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Its bytes are others.
    Content,
    /// It is longer or shorter than it was.
    Size,
    /// The disk can't read it.
    Unreadable,
}

/// Reads every file of the store in `folder`; with `repair`, removes those that are damaged. Takes as long as the disk needs to
/// read all of it, and 256 KiB of memory, besides the names of one folder and the largest record.
///
/// # Errors
/// When the folder is none, or can't be read.
pub fn verify(folder: &Path, repair: bool, mut progress: impl FnMut(Progress<'_>)) -> io::Result<Report> {
    fs::read_dir(folder)?;
    let mut of = 0;
    walk(folder, &mut |_, metadata| {
        of += metadata.len();
        Ok(())
    })?;
    let mut report = Report::default();
    let mut read = 0;
    walk(folder, &mut |file, metadata| {
        let begun = read;
        let checked = check(folder, file, |bytes| {
            read += bytes;
            progress(Progress::Read { bytes: read, of });
        })?;
        // Not all of it is read of each.
        read = begun + metadata.len();
        match checked {
            Checked::Blob => report.blobs += 1,
            Checked::Record => report.records += 1,
            Checked::Foreign => report.foreign += 1,
            Checked::Unfinished | Checked::Gone => {}
            Checked::Damaged(damage, was) => {
                let removed = repair && remove(file, &was)?;
                report.damaged += 1;
                report.removed += u64::from(removed);
                progress(Progress::Damaged { file, damage, removed });
            }
        }
        if matches!(checked, Checked::Blob | Checked::Record) {
            report.bytes += metadata.len();
        }
        progress(Progress::Read { bytes: read, of });
        Ok(())
    })?;
    Ok(report)
}

/// What became of a file.
enum Checked {
    Blob,
    Record,
    /// Not yet of the store.
    Unfinished,
    Foreign,
    /// It has left meanwhile.
    Gone,
    /// And which file it was.
    Damaged(Damage, (u64, u64)),
}

/// Visits every regular file of the kinds that a store has, folder by folder.
fn walk(root: &Path, visit: &mut impl FnMut(&Path, &Metadata) -> io::Result<()>) -> io::Result<()> {
    let mut folders = super::location::KINDS.map(|kind| root.join(kind)).to_vec();
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            // Folders go with their last object.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(io::Error::new(error.kind(), format!("`{}`: {error}", folder.display()))),
        };
        for entry in entries {
            let path = entry?.path();
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.is_file() {
                visit(&path, &metadata)?;
            }
        }
    }
    Ok(())
}

fn check(root: &Path, path: &Path, piece_read: impl FnMut(u64)) -> io::Result<Checked> {
    let name = path.strip_prefix(root).ok().and_then(Path::to_str);
    let Some(name) = name else {
        return Ok(Checked::Foreign);
    };
    if name.contains('#') {
        return Ok(Checked::Unfinished);
    }
    let object = ObjectPath::from(name);
    if !super::space::is_object(&object) {
        return Ok(Checked::Foreign);
    }
    // Who may not open it can't say that it is damaged.
    let (metadata, mut file) = match File::open(path).and_then(|file| Ok((file.metadata()?, file))) {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Checked::Gone),
        Err(error) => return Err(io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))),
    };
    let was = (metadata.dev(), metadata.ino());
    let blob = name.strip_prefix("cas/").and_then(|name| {
        let (hash, size) = name.rsplit_once('/')?.1.split_once('-')?;
        BlobDigest::from_segments(hash, size)
    });
    Ok(match blob {
        Some(digest) if digest.size() != metadata.len() => Checked::Damaged(Damage::Size, was),
        Some(digest) => match Hasher::of_file(&mut file, piece_read) {
            Ok(actual) if actual == digest => Checked::Blob,
            Ok(_) => Checked::Damaged(Damage::Content, was),
            Err(_) => Checked::Damaged(Damage::Unreadable, was),
        },
        None if name.starts_with("cas/") => Checked::Foreign,
        None if metadata.len() > records::LARGEST => Checked::Damaged(Damage::Size, was),
        None => {
            let mut bytes = Vec::new();
            match file.take(records::LARGEST).read_to_end(&mut bytes) {
                Ok(_) if records::open(&object, bytes.into()).is_some() => Checked::Record,
                Ok(_) => Checked::Damaged(Damage::Content, was),
                Err(_) => Checked::Damaged(Damage::Unreadable, was),
            }
        }
    })
}

/// Removes the file if it is still the one that was looked at. It is taken out by another name first, so that one that was
/// pushed in its place meanwhile is noticed, and put back. A crash in between leaves an unfinished file, which is swept away.
fn remove(path: &Path, was: &(u64, u64)) -> io::Result<bool> {
    let identity = |path: &Path| fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    if identity(path).ok() != Some(*was) {
        return Ok(false);
    }
    let mut out = path.as_os_str().to_owned();
    // No upload has so many before it.
    out.push(format!("#{}", 1_000_000_000 + u64::from(std::process::id())));
    let out = Path::new(&out);
    match fs::rename(path, out) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))),
    }
    let is_it = identity(out)? == *was;
    if !is_it {
        // Where there is a newer one already, that one stays.
        let _there = fs::hard_link(out, path);
    }
    fs::remove_file(out)?;
    Ok(is_it)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_file_that_was_replaced_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, b"bad").unwrap();
        let metadata = fs::metadata(&path).unwrap();
        let was = (metadata.dev(), metadata.ino());
        fs::write(folder.path().join("new"), b"good").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert!(!remove(&path, &was).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"good");
        let metadata = fs::metadata(&path).unwrap();
        assert!(remove(&path, &(metadata.dev(), metadata.ino())).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
