//! Assets in an embedded store whose blobs are in another one.

use crate::policy::method::Service;
use crate::route::{BackendId, Completeness};
use crate::snapshot::Snapshot;
use crate::snapshot::backends::Target;

/// Where an embedded store looks for the blobs of its assets, and can't have them.
pub(super) fn warnings(snapshot: &Snapshot) -> Vec<String> {
    let has_blobs = |id: BackendId| {
        let mut routes = snapshot.routes.of(Service::Cas).iter();
        routes.any(|(_, route)| route.backend == id)
    };
    let assets = snapshot.routes.of(Service::Asset).iter();
    assets
        .filter(|(_, route)| route.completeness == Completeness::Check && !has_blobs(route.backend))
        .filter_map(|(_, route)| snapshot.backends.get(route.backend.index()))
        .filter(|plan| matches!(&*plan.endpoints, [Target::Store(_)]))
        .map(|plan| {
            format!(
                "`asset` goes to the embedded store of backend `{}`, and `cas` does not: it gives out no asset whose blobs it does not have; write `asset-completeness = \"trust\"` for the route where they are in another store",
                plan.name
            )
        })
        .collect()
}
