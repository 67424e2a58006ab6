//! `[[routes]]`.

use crate::config::file::{self, Key};
use crate::policy::method::Service;
use crate::route::{BackendId, Instances, Route, Routes};

use super::backends::BackendPlan;
use super::instances;
use super::report::Report;

/// Compiles the routes to these backends; `names` also has those that could not be compiled.
pub(super) fn compile(
    tables: &Key<Vec<Key<file::Route>>>,
    plans: &[BackendPlan],
    names: &[&str],
    report: &mut Report,
) -> Routes {
    let given = report.value(tables, "routes");
    let Some(tables) = given else {
        if names.len() > 1 {
            report.add_with_hint(
                "routes",
                "is missing, and there are several backends",
                "[[routes]] with `services = [\"cas\"]` and `backend = \"NAME\"`",
            );
        }
        return if plans.is_empty() {
            Routes::default()
        } else {
            Routes::all_to(BackendId::new(0))
        };
    };
    let mut routes = Routes::default();
    for (index, table) in tables.iter().enumerate() {
        let at = format!("routes[{index}]");
        let Some(table) = report.value(table, &at) else {
            continue;
        };
        report.unknown(
            &table.unknown,
            &format!("{at}."),
            &[
                "services",
                "backend",
                "instances",
                "instance-rewrite",
                "asset-completeness",
                "max-batch-total-size",
            ],
        );
        let completeness = report.value(&table.asset_completeness, &format!("{at}.asset-completeness"));
        let max_batch = report.value(&table.max_batch_total_size, &format!("{at}.max-batch-total-size"));
        if max_batch == Some(&0) {
            report.add(
                format!("{at}.max-batch-total-size"),
                "is 0, which means no limit to clients",
            );
        }
        let backend_key = format!("{at}.backend");
        let name = report
            .required(&table.backend, &backend_key, "the name of a backend")
            .cloned();
        if let Some(name) = &name
            && !names.contains(&name.as_str())
        {
            report.add_with_hint(
                backend_key,
                format!("`{name}` is no backend"),
                format!("backends: {}", names.join(", ")),
            );
        }
        let backend = name.and_then(|name| plans.iter().position(|plan| *plan.name == *name));
        let route = backend.map(|index| {
            let usual = Route::to(BackendId::new(index));
            Route {
                completeness: completeness.copied().unwrap_or(usual.completeness),
                max_batch_total_size: max_batch.copied().unwrap_or(usual.max_batch_total_size),
                ..usual
            }
        });
        let only = instances::patterns(&table.instances, &at, report);
        let rewrite = instances::rewrite(&table.instance_rewrite, only.as_deref(), &at, report);
        let instances = Instances { only, rewrite };
        let services_key = format!("{at}.services");
        let known = Service::ROUTED.map(Service::name).join(", ");
        let services = report.required(&table.services, &services_key, &known);
        for service in services.into_iter().flatten() {
            let found = Service::ROUTED.into_iter().find(|known| known.name() == service);
            match (found, route) {
                (None, _) => report.add_with_hint(
                    &*services_key,
                    format!("`{service}` is no service"),
                    format!("services: {known}"),
                ),
                (Some(service), Some(route)) => {
                    if routes.add(service, instances.clone(), route) {
                        let name = service.name();
                        report.add(
                            &*services_key,
                            format!("`{name}` has a route for these instances already"),
                        );
                    }
                }
                (Some(_), None) => {}
            }
        }
    }
    routes
}
