//! Finds what a store holds when it is opened.

use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use object_store::ObjectStore;

use super::Space;
use crate::store::rarely::Rarely;

/// How often the log hears how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// Takes all objects into the index. The last use of one is when its file was last modified.
///
/// Must be called where no runtime is: only there the object store does all of its work at once.
pub(in crate::store) fn survey(space: &Space, objects: &dyn ObjectStore) {
    let begun = Instant::now();
    let mut told = begun;
    let (mut found, mut bytes) = (0_u64, 0_u64);
    let mut list = objects.list(None);
    while let Some(next) = list.next().now_or_never().flatten() {
        let meta = match next {
            Ok(meta) => meta,
            Err(error) => {
                static SEEN: Rarely = Rarely::new();
                if let Some(times) = SEEN.due() {
                    tracing::warn!(target: "casgate::store", %error, times, "files of the store can't be looked at: they do not count");
                }
                continue;
            }
        };
        let Some(key) = space.places.key(&meta.location) else {
            continue;
        };
        // A clock that was wrong once must not keep a file for ever.
        let modified = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
        let used = modified.min(space.now());
        space.find(key, meta.size, used, super::seconds(used));
        found += 1;
        bytes += meta.size;
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            tracing::info!(target: "casgate::store", found, bytes, "still finding out what the store holds");
        }
    }
    let seconds = begun.elapsed().as_secs_f32();
    tracing::info!(target: "casgate::store", found, bytes, seconds, quota = space.quota(), "what the store holds is known");
}
