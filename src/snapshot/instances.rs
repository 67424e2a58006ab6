//! `instances` and `instance-rewrite`, which rules and routes have.

use crate::config::file::Key;
use crate::policy::instance::InstancePattern;
use crate::policy::rewrite::InstanceRewrite;

use super::report::Report;

/// The patterns of `instances`; `None` where the key is not there.
pub(super) fn patterns(key: &Key<Vec<String>>, at: &str, report: &mut Report) -> Option<Vec<InstancePattern>> {
    let at = format!("{at}.instances");
    let texts = report.value(key, &at)?.iter();
    let patterns = texts.filter_map(|text| {
        let pattern = InstancePattern::parse(text).map_err(|error| format!("`{text}`: {error}"));
        report.ok(pattern, &at)
    });
    Some(patterns.collect())
}

/// What instances of these patterns are rewritten to.
pub(super) fn rewrite(
    key: &Key<String>,
    patterns: Option<&[InstancePattern]>,
    at: &str,
    report: &mut Report,
) -> Option<InstanceRewrite> {
    let at = format!("{at}.instance-rewrite");
    let text = report.value(key, &at)?;
    let rewrite = InstanceRewrite::parse(text).map_err(|error| format!("`{text}`: {error}"));
    let rewrite = report.ok(rewrite, &at)?;
    let without = patterns.into_iter().flatten().find(|pattern| !pattern.has_rest());
    if let Some(pattern) = without
        && rewrite.keeps_rest()
    {
        report.add_with_hint(
            at,
            format!("`{text}` ends in `**`, and the pattern `{pattern}` of `instances` does not"),
            "a name without `**`, or patterns that all end in `**`",
        );
    }
    Some(rewrite)
}
