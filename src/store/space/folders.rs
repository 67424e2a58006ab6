//! The folders that objects lie in: each takes a block of the disk, and more where it has many entries.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::BLOCK;
use super::key::Key;

/// Entries of a folder that fit into one block. A name takes about 90 bytes, and blocks are not filled to the end.
const ENTRIES: u32 = 32;

/// How many objects each folder has.
#[derive(Debug, Default)]
pub(super) struct Folders(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// By the place and the first byte of the hash.
    objects: HashMap<(u32, u8), u32>,
    /// Folders in each place.
    folders: HashMap<u32, u32>,
}

impl Folders {
    /// Counts an object in; gives the bytes that its folders take more by that.
    pub(super) fn enter(&self, key: &Key) -> u64 {
        let mut counts = self.0.lock();
        let objects = counts.objects.entry(key.folder()).or_default();
        *objects += 1;
        let mut blocks = u64::from(*objects % ENTRIES == 1);
        if *objects == 1 {
            let folders = counts.folders.entry(key.place()).or_default();
            *folders += 1;
            // The folder of the instance.
            blocks += u64::from(*folders % ENTRIES == 1);
        }
        blocks * BLOCK
    }

    /// Counts an object out; gives the bytes that are free by that.
    pub(super) fn leave(&self, key: &Key) -> u64 {
        let mut counts = self.0.lock();
        let Some(objects) = counts.objects.get_mut(&key.folder()) else {
            return 0;
        };
        let mut blocks = u64::from(*objects % ENTRIES == 1);
        *objects = objects.saturating_sub(1);
        if *objects == 0 {
            counts.objects.remove(&key.folder());
            if let Some(folders) = counts.folders.get_mut(&key.place()) {
                blocks += u64::from(*folders % ENTRIES == 1);
                *folders = folders.saturating_sub(1);
                if *folders == 0 {
                    counts.folders.remove(&key.place());
                }
            }
        }
        blocks * BLOCK
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use object_store::path::Path;

    use super::*;
    use crate::store::space::key::Places;

    #[test]
    fn what_enters_takes_what_it_gives_back_when_it_leaves() {
        let (places, folders) = (Places::default(), Folders::default());
        let key = |instance: usize, number: usize| {
            let path = format!("cas/i{instance}/{:02x}/{:02x}{number:062x}-5", number % 3, number % 3);
            places.key(&Path::from(path)).unwrap()
        };
        let keys: Vec<_> = (0..1000).map(|number| key(number % 7, number)).collect();
        let taken: u64 = keys.iter().map(|key| folders.enter(key)).sum();
        // Seven instances with three folders of about 48 objects.
        assert_eq!(taken, (7 + 7 * 3 * 2) * BLOCK);
        let given: u64 = keys.iter().rev().map(|key| folders.leave(key)).sum();
        assert_eq!(given, taken);
        let counts = folders.0.lock();
        assert!(counts.objects.is_empty() && counts.folders.is_empty());
    }
}
