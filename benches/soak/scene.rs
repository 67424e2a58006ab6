//! What all parts of the run share: what is tried, and what came of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::catalogue::Catalogue;
use crate::outages::Outages;
use crate::stage::Stage;
use crate::tally::Tally;

pub(crate) struct Scene {
    pub(crate) stage: Stage,
    pub(crate) tally: Tally,
    pub(crate) outages: Outages,
    /// Of the replicas, and of the embedded store.
    pub(crate) catalogues: [Catalogue; 2],
    /// How often the configuration was changed: each says something else than the one before.
    pub(crate) reloads: AtomicU64,
    over: AtomicBool,
}

/// The instance of the embedded store; that of the replicas has no name.
pub(crate) const STORE: &str = "store";
/// For how long the embedded store keeps what was pushed, in any case. The README says a minute; reads begin and end in it.
const KEEPS: Duration = Duration::from_secs(30);

impl Scene {
    pub(crate) fn new(stage: Stage) -> Scene {
        Scene {
            stage,
            tally: Tally::new(),
            outages: Outages::new(),
            catalogues: [Catalogue::new("", None), Catalogue::new(STORE, Some(KEEPS))],
            reloads: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// Whether everybody is to end what is under way and begin nothing.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(crate) fn set_over(&self, over: bool) {
        self.over.store(over, Ordering::Relaxed);
    }

    /// Sleeps, but not beyond the end; false if it is over.
    pub(crate) async fn pause(&self, length: Duration) -> bool {
        let end = Instant::now() + length;
        while !self.is_over() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        !self.is_over()
    }
}
