//! The table as a picture for the README: a group of bars for each row that has a goal, shorter is better.

use std::fmt::Write;

use crate::contestants::Contestant;
use crate::report::value;
use crate::run::Outcome;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 90.0;
const BAR: f64 = 14.0;
const TITLE: f64 = 24.0;
const GAP: f64 = 12.0;

/// An SVG file.
pub(crate) fn svg(outcome: &Outcome) -> String {
    let mut body = String::new();
    let mut y = 8.0;
    for (workload, arms) in &outcome.outcomes {
        if workload.is_of_each_alone() || workload.is_far() {
            continue;
        }
        let Some((quantity, _)) = workload.quantities().into_iter().next() else {
            continue;
        };
        let values: Vec<(Contestant, f64)> = Contestant::ALL
            .into_iter()
            .filter_map(|one| Some((one, value(arms, one, quantity)?)))
            .collect();
        let most = values.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        let _infallible = writeln!(
            body,
            r#"<text x="8" y="{:.0}" font-weight="bold">{workload}: {}</text>"#,
            y + 14.0,
            quantity.unit()
        );
        y += TITLE;
        for (contestant, value) in values {
            let length = value / most * (WIDTH - LEFT - 80.0);
            let _infallible = writeln!(
                body,
                r#"<text x="8" y="{:.0}">{contestant}</text><rect x="{LEFT}" y="{y:.0}" width="{length:.1}" height="{:.0}" fill="{}"/><text x="{:.1}" y="{:.0}">{value:.2}</text>"#,
                y + 11.0,
                BAR - 2.0,
                color(contestant),
                LEFT + length + 6.0,
                y + 11.0,
            );
            y += BAR;
        }
        y += GAP;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

fn color(contestant: Contestant) -> &'static str {
    match contestant {
        Contestant::Casgate => "#1f6feb",
        Contestant::Floor => "#c9d1d9",
        Contestant::Haproxy | Contestant::Nginx | Contestant::Envoy | Contestant::Before => "#8b949e",
    }
}
