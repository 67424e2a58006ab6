//! `rate`, `bandwidth` and `max-calls` of a rule.

use std::num::NonZeroU32;

use crate::config::file::{self, Key};
use crate::policy::quota::{self, Bandwidth, LARGEST_BURST, MOST_CALLS, Quota, Rate, SMALLEST_BURST};

use super::report::Report;

/// Compiles what each caller of a rule may take.
pub(super) fn compile(rule: &file::Rule, at: &str, report: &mut Report) -> Quota {
    let quota = Quota {
        rate: rate(rule, at, report),
        bandwidth: bandwidth(rule, at, report),
        max_calls: count(&rule.max_calls, &format!("{at}.max-calls"), report),
    };
    if rule.allow == Key::Absent {
        let keys = [
            ("rate", rule.rate != Key::Absent),
            ("bandwidth", rule.bandwidth != Key::Absent),
            ("max-calls", rule.max_calls != Key::Absent),
        ];
        for (key, _) in keys.into_iter().filter(|(_, is_there)| *is_there) {
            report.add(
                format!("{at}.{key}"),
                "limits what the rule allows, and it allows nothing: put it into the rule that gives the right",
            );
        }
    }
    quota
}

fn rate(rule: &file::Rule, at: &str, report: &mut Report) -> Option<Rate> {
    let (key, burst_key) = (format!("{at}.rate"), format!("{at}.rate-burst"));
    let burst = count(&rule.rate_burst, &burst_key, report);
    if rule.rate == Key::Absent && rule.rate_burst != Key::Absent {
        report.add(burst_key, "means nothing without `rate`");
    }
    let text = report.value(&rule.rate, &key)?;
    report.ok(Rate::parse(text, burst), &key)
}

fn bandwidth(rule: &file::Rule, at: &str, report: &mut Report) -> Option<Bandwidth> {
    let (key, burst_key) = (format!("{at}.bandwidth"), format!("{at}.bandwidth-burst"));
    let burst = report.value(&rule.bandwidth_burst, &burst_key).and_then(|text| {
        let bytes = quota::bytes(text).filter(|bytes| (SMALLEST_BURST..=LARGEST_BURST).contains(bytes));
        report.ok(
            bytes.ok_or_else(|| format!("`{text}` is no size from 64KiB to 256GiB, such as \"100MiB\"")),
            &burst_key,
        )
    });
    if rule.bandwidth == Key::Absent && rule.bandwidth_burst != Key::Absent {
        report.add(burst_key, "means nothing without `bandwidth`");
    }
    let text = report.value(&rule.bandwidth, &key)?;
    report.ok(Bandwidth::parse(text, burst), &key)
}

fn count(key: &Key<NonZeroU32>, name: &str, report: &mut Report) -> Option<NonZeroU32> {
    let count = *report.value(key, name)?;
    if count.get() > MOST_CALLS {
        report.add(name, format!("is not between 1 and {MOST_CALLS}"));
    }
    Some(count)
}
