//! What an object is known by in the index: its path in a tenth of the memory.

use std::collections::HashMap;

use object_store::path::Path;
use parking_lot::RwLock;

use crate::store::digest::{hex, unhex};

/// An object: the hash and the size in its name, and the folder that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    hash: [u8; 32],
    /// What stands behind the hash; none for assets.
    size: Option<u64>,
    place: u32,
}

impl Key {
    /// The folder in its place: there are 256.
    pub(super) fn folder(&self) -> (u32, u8) {
        (self.place, self.hash[0])
    }

    /// The number of its place.
    pub(super) fn place(&self) -> u32 {
        self.place
    }

    /// Bytes of a blob or the action of a result; None for assets.
    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// A byte that is spread evenly.
    pub(super) fn spread(&self) -> usize {
        usize::from(self.hash[31])
    }
}

/// The folders, by number: `cas/INSTANCE`, `ac/INSTANCE`, `asset/INSTANCE/KIND`.
#[derive(Debug, Default)]
pub(super) struct Places(RwLock<Table>);

#[derive(Debug, Default)]
struct Table {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

impl Places {
    /// The key of a path; None for what is no object of the store. Its folder gets a number where it has none.
    pub(super) fn key(&self, path: &Path) -> Option<Key> {
        let (place, hash, size) = split(path)?;
        let known = self.0.read().numbers.get(place).copied();
        let place = match known {
            Some(number) => number,
            None => {
                let mut table = self.0.write();
                let next = u32::try_from(table.names.len()).ok()?;
                let number = *table.numbers.entry(place.to_owned()).or_insert(next);
                if number == next {
                    table.names.push(place.to_owned());
                }
                number
            }
        };
        Some(Key { hash, size, place })
    }

    /// The key of a path, unless nothing was ever stored in its folder.
    pub(super) fn known(&self, path: &Path) -> Option<Key> {
        let (place, hash, size) = split(path)?;
        let place = self.0.read().numbers.get(place).copied()?;
        Some(Key { hash, size, place })
    }

    /// The path of a key.
    pub(super) fn path(&self, key: &Key) -> Path {
        let table = self.0.read();
        let place = table.names.get(key.place as usize).map_or("", String::as_str);
        let hex = hex(&key.hash);
        let size = key.size.map(|size| format!("-{size}")).unwrap_or_default();
        Path::from(format!("{place}/{}/{hex}{size}", &hex[..2]))
    }
}

/// Whether a path is that of an object of a store.
pub(in crate::store) fn is_object(path: &Path) -> bool {
    split(path).is_some()
}

/// `PLACE/<2 hex>/<hash>[-<size>]`
fn split(path: &Path) -> Option<(&str, [u8; 32], Option<u64>)> {
    let (rest, name) = path.as_ref().rsplit_once('/')?;
    let (place, folder) = rest.rsplit_once('/')?;
    let (hash, size) = match name.split_once('-') {
        Some((hash, size)) => (hash, Some(size.parse().ok()?)),
        None => (name, None),
    };
    let is_kind = ["cas/", "ac/", "asset/"].iter().any(|kind| place.starts_with(kind));
    let good = is_kind && hash.starts_with(folder) && folder.len() == 2;
    Some((place, unhex(hash).filter(|_| good)?, size))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn keys_and_paths_go_both_ways_and_nothing_else_has_a_key() {
        let places = Places::default();
        let hash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let paths = [
            format!("cas/_/2c/{hash}-5"),
            format!("cas/_/2c/{hash}-6"),
            format!("cas/main/2c/{hash}-5"),
            format!("ac/_/2c/{hash}-5"),
            format!("asset/_/blob/2c/{hash}"),
            format!("asset/_/directory/2c/{hash}"),
        ];
        let mut seen = std::collections::HashSet::new();
        for path in &paths {
            let path = Path::from(path.as_str());
            let key = places.key(&path).unwrap();
            assert_eq!(places.known(&path), Some(key));
            assert_eq!(places.path(&key), path);
            assert!(seen.insert(key), "{path}");
        }
        assert_eq!(places.known(&Path::from(format!("cas/other/2c/{hash}-5"))), None);
        for other in [
            "casgate.lock".to_owned(),
            format!("cas/_/2d/{hash}-5"),
            format!("cas/_/2c/{hash}-x"),
            format!("other/_/2c/{hash}-5"),
            format!("cas/_/2c/{}-5", &hash[1..]),
        ] {
            assert_eq!(places.key(&Path::from(other.as_str())), None, "{other}");
        }
    }
}
