//! Reads a configuration: the TOML file, and every file that it names. What they mean is decided in
//! [`crate::snapshot`], which touches no disk.

pub mod file;
pub mod problem;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use file::{File, Key, Listen, Tables};
pub use problem::{Problem, Problems};

/// A configuration as it lies on the disk.
#[derive(Debug)]
pub struct Loaded {
    /// The path of the TOML file.
    pub path: PathBuf,
    /// The TOML file.
    pub file: File,
    /// The content of every file that it names, by absolute path, or why it could not be read.
    pub contents: BTreeMap<PathBuf, Result<Vec<u8>, Arc<io::Error>>>,
}

/// Reads the TOML file and all that it names.
///
/// # Errors
/// When the TOML file can't be read, or is no TOML. Whatever else is wrong is kept in [`Loaded`] and reported when it
/// is compiled.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    let one = |problem| Problems::new(path, vec![problem]);
    let text = fs::read_to_string(path).map_err(|error| {
        one(Problem::new("", format!("can't be read: {error}")).hint("give the file with `--config FILE`"))
    })?;
    let file: File = toml::from_str(&text)
        .map_err(|error| one(Problem::new("", format!("is not TOML: {}", error.to_string().trim()))))?;
    let mut loaded = Loaded {
        path: path.to_owned(),
        file,
        contents: BTreeMap::new(),
    };
    for name in loaded.named_files() {
        let path = loaded.resolve(&name);
        loaded
            .contents
            .entry(path)
            .or_insert_with_key(|path| fs::read(path).map_err(Arc::new));
    }
    Ok(loaded)
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

    fn named_files(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut add = |key: &Key<String>| {
            if let Key::Good(name) = key {
                names.push(name.clone());
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
                        names.extend(entry.file().map(str::to_owned));
                    }
                }
            }
            if let Key::Good(files) = &listen.client_crl {
                names.extend(files.iter().cloned());
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
