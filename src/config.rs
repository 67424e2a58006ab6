//! Reads a configuration: the TOML file, and every file that it names. What they mean is decided in
//! [`crate::snapshot`], which touches no disk.

pub mod file;
pub mod problem;
pub mod regular;
pub mod size;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use aws_lc_rs::digest::{Context, SHA256};
use file::{Audit, File, Key, Listen, Tables};
pub use problem::{Problem, Problems};
use regular::Purpose;
use zeroize::Zeroizing;

/// What a file says, or why it can't be read.
type Content = Result<Zeroizing<Vec<u8>>, Arc<io::Error>>;

/// A configuration as it lies on the disk.
#[derive(Debug)]
pub struct Loaded {
    /// The path of the TOML file.
    pub path: PathBuf,
    /// The TOML file.
    pub file: File,
    /// The content of every file that it names, by absolute path, or why it could not be read. It is wiped when this is
    /// dropped: there are keys among them.
    pub contents: BTreeMap<PathBuf, Content>,
    /// Which of them every user of the machine may read, by their mode.
    pub open_to_all: BTreeSet<PathBuf>,
    /// Why no lines can be added to the audit log, as far as that is seen without touching it.
    pub audit_problem: Option<String>,
    /// Where all of it comes from.
    pub source: Source,
}

/// The files of a configuration, and what they said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The TOML file, and every file that it names as far as it can be read.
    pub files: Vec<PathBuf>,
    /// What each of them is for.
    purposes: Vec<Purpose>,
    /// SHA-256 over the content of all of them: where it is the same, reading them again leads to the same.
    pub fingerprint: [u8; 32],
}

/// Reads the TOML file and all that it names.
///
/// # Errors
/// When the TOML file can't be read, or is no TOML. Whatever else is wrong is kept in [`Loaded`] and reported when it
/// is compiled.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    read(path).1
}

/// The same, and what was read, be it good or not.
pub fn read(path: &Path) -> (Source, Result<Loaded, Problems>) {
    let text = content(path, Purpose::Toml);
    let file = parse(path, &text);
    match file {
        Ok(file) => {
            let (mut loaded, purposes) = collect(path, file);
            let named = loaded.contents.iter().map(|(path, content)| {
                let purpose = purposes.get(path).copied().unwrap_or(Purpose::Pem);
                (&**path, purpose, content)
            });
            loaded.source = Source::of([(path, Purpose::Toml, &text)].into_iter().chain(named));
            (loaded.source.clone(), Ok(loaded))
        }
        Err(problems) => (Source::of([(path, Purpose::Toml, &text)]), Err(problems)),
    }
}

fn content(path: &Path, purpose: Purpose) -> Content {
    regular::read(path, purpose).map_err(Arc::new)
}

fn parse(path: &Path, text: &Content) -> Result<File, Problems> {
    let one = |problem| Problems::new(path, vec![problem]);
    let unreadable = |error: &str| {
        one(Problem::new("", format!("can't be read: {error}")).hint("give the file with `--config FILE`"))
    };
    let text = text.as_ref().map_err(|error| unreadable(&error.to_string()))?;
    let text = str::from_utf8(text).map_err(|error| unreadable(&error.to_string()))?;
    toml::from_str(text).map_err(|error| one(Problem::new("", format!("is not TOML: {}", error.to_string().trim()))))
}

/// What it names, and what each of those files is for: the largest of its purposes.
fn collect(path: &Path, file: File) -> (Loaded, BTreeMap<PathBuf, Purpose>) {
    let mut loaded = Loaded {
        path: path.to_owned(),
        file,
        contents: BTreeMap::new(),
        audit_problem: None,
        source: Source::default(),
        open_to_all: BTreeSet::new(),
    };
    if let Key::Good(Audit {
        file: Key::Good(name), ..
    }) = &loaded.file.audit
    {
        loaded.audit_problem = regular::can_grow(&loaded.resolve(name)).err();
    }
    let mut purposes = BTreeMap::new();
    for (name, purpose) in loaded.named_files() {
        let path = loaded.resolve(&name);
        let known = purposes.entry(path).or_insert(purpose);
        *known = purpose.max(*known);
    }
    for (path, purpose) in &purposes {
        if fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0) {
            loaded.open_to_all.insert(path.clone());
        }
        loaded.contents.insert(path.clone(), content(path, *purpose));
    }
    (loaded, purposes)
}

impl Source {
    /// Whether one of the files says something else by now. They are read, but not parsed: as long as none has changed,
    /// they name the same files.
    pub fn has_changed(&self) -> bool {
        let files = self.files.iter().zip(&self.purposes);
        let contents: Vec<(&Path, Purpose, Content)> = files
            .map(|(path, purpose)| (&**path, *purpose, content(path, *purpose)))
            .collect();
        let now = Source::of(
            contents
                .iter()
                .map(|(path, purpose, content)| (*path, *purpose, content)),
        );
        now.fingerprint != self.fingerprint
    }

    fn of<'a>(files: impl IntoIterator<Item = (&'a Path, Purpose, &'a Content)>) -> Source {
        let mut source = Source::default();
        let mut hash = Context::new(&SHA256);
        for (path, purpose, content) in files {
            // Lengths in front keep one file's end and the next one's begin apart.
            match content {
                Ok(bytes) => {
                    hash.update(format!("{path:?} {}\n", bytes.len()).as_bytes());
                    hash.update(bytes);
                }
                Err(error) => hash.update(format!("{path:?} {:?}\n", error.kind()).as_bytes()),
            }
            source.files.push(path.to_owned());
            source.purposes.push(purpose);
        }
        source.fingerprint.copy_from_slice(hash.finish().as_ref());
        source
    }
}

impl Loaded {
    /// A path of the file, which is relative to the folder of the file.
    pub fn resolve(&self, name: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(name)
    }

    /// The content of a file that the configuration names.
    ///
    /// # Errors
    /// Why it can't be read, as text for people.
    pub fn content(&self, name: &str) -> Result<&[u8], String> {
        let path = self.resolve(name);
        match self.contents.get(&path) {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(error)) => Err(format!("`{}` can't be read: {error}", path.display())),
            None => Err(format!("`{}` was not read", path.display())),
        }
    }

    /// The files with private keys.
    pub fn named_keys(&self) -> Vec<&str> {
        let listeners = self.listeners().map(|listen| &listen.key);
        let backends = match &self.file.backends {
            Key::Good(backends) => backends.values().collect(),
            Key::Absent | Key::Bad(_) => Vec::new(),
        };
        let backends = backends.into_iter().filter_map(|backend| match backend {
            Key::Good(backend) => Some(&backend.key),
            Key::Absent | Key::Bad(_) => None,
        });
        let names = listeners.chain(backends).filter_map(|key| match key {
            Key::Good(name) => Some(name.as_str()),
            Key::Absent | Key::Bad(_) => None,
        });
        names.collect()
    }

    fn named_files(&self) -> Vec<(String, Purpose)> {
        let mut names = Vec::new();
        let mut add = |key: &Key<String>| {
            if let Key::Good(name) = key {
                names.push((name.clone(), Purpose::Pem));
            }
        };
        for listen in self.listeners() {
            add(&listen.certificate);
            add(&listen.key);
        }
        if let Key::Good(backends) = &self.file.backends {
            for backend in backends.values() {
                if let Key::Good(backend) = backend {
                    add(&backend.ca);
                    add(&backend.certificate);
                    add(&backend.key);
                }
            }
        }
        for listen in self.listeners() {
            if let Key::Good(entries) = &listen.client_ca {
                for entry in entries {
                    if let Key::Good(entry) = entry {
                        names.extend(entry.file().map(|name| (name.to_owned(), Purpose::Pem)));
                    }
                }
            }
            if let Key::Good(files) = &listen.client_crl {
                names.extend(files.iter().map(|name| (name.clone(), Purpose::Lists)));
            }
        }
        names
    }

    /// The tables of listeners that could be read.
    pub fn listeners(&self) -> impl Iterator<Item = &Listen> {
        let tables = match &self.file.listen {
            Key::Good(Tables::One(table)) => std::slice::from_ref(&**table),
            Key::Good(Tables::Many(tables)) => tables,
            Key::Absent | Key::Bad(_) => &[],
        };
        tables.iter().filter_map(|table| match table {
            Key::Good(listen) => Some(listen),
            Key::Absent | Key::Bad(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn a_configuration_has_changed_when_one_of_its_files_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("casgate.toml");
        let text = "[listen]\ncertificate = \"server.crt\"\nkey = \"missing.key\"\n";
        for write in [
            &|| fs::write(&path, text.replace("missing", "other")).unwrap(),
            &|| fs::write(dir.path().join("server.crt"), "another").unwrap(),
            &|| fs::write(dir.path().join("missing.key"), "").unwrap(),
            &|| fs::remove_file(dir.path().join("server.crt")).unwrap(),
            &|| fs::remove_file(&path).unwrap(),
        ] as [&dyn Fn(); 5]
        {
            fs::write(&path, text).unwrap();
            fs::write(dir.path().join("server.crt"), "one").unwrap();
            let _absent = fs::remove_file(dir.path().join("missing.key"));
            let source = load(&path).unwrap().source;
            assert!(!source.has_changed());
            fs::write(dir.path().join("beside"), text).unwrap();
            assert!(!source.has_changed());
            write();
            assert!(source.has_changed());
        }
    }
}
