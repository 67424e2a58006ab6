//! The directories that this process has open: each is one store, by whatever name it is opened.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::location::{Identity, Location, OpenError};
use super::{Cache, Store, routes};

static OPEN: Mutex<Vec<(Identity, Weak<Cache>)>> = Mutex::new(Vec::new());

/// Opens a store, or gives the one that is open. Blocks on the file system.
///
/// # Errors
/// Those of [`Location::prepare`] and [`Location::open`].
pub(super) fn open(url: &str) -> Result<Store, OpenError> {
    let Some((path, identity)) = Location::prepare(url)? else {
        return Ok(Store::at(Location::memory()));
    };
    // To the end: of two who open it at once, one comes second.
    let mut open = OPEN.lock();
    open.retain(|(_, cache)| cache.strong_count() > 0);
    let same = open.iter().find(|(known, _)| *known == identity);
    if let Some(cache) = same.and_then(|(_, cache)| cache.upgrade()) {
        let routes = routes(&cache);
        return Ok(Store { cache, routes });
    }
    let store = Store::at(Location::open(path)?);
    open.push((identity, Arc::downgrade(&store.cache)));
    Ok(store)
}
