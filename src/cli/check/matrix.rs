//! Rules against rights, in a table that fits a terminal of 80 columns.

use std::fmt::Write;

use crate::policy::kindness::DeniedPush;
use crate::policy::rights::Right;
use crate::policy::{Policy, Rule};

/// How wide the names of rules may be.
const NAME: usize = 17;

/// The table; nothing where there are no rules.
pub(super) fn of(policy: &Policy) -> String {
    let mut text = String::new();
    if policy.rules().is_empty() {
        return text;
    }
    // Names with a hyphen take two lines. Writing to a string does not fail.
    let heads = Right::ALL.map(|right| match right.name().split_once('-') {
        Some((first, second)) => (format!("{first}-"), second),
        None => (right.name().to_owned(), ""),
    });
    let widths = heads
        .each_ref()
        .map(|(first, second)| first.len().max(second.len()).max(5));
    let mut line = |name: &str, cells: Vec<&str>| {
        let mut line = format!("{name:NAME$}");
        for (cell, width) in cells.into_iter().zip(widths) {
            let _ = write!(line, " {cell:width$}");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    };
    line("", Vec::new());
    line("", heads.iter().map(|(first, _)| first.as_str()).collect());
    line("", heads.iter().map(|(_, second)| *second).collect());
    for rule in policy.rules() {
        line(&short(&rule.name), Right::ALL.map(|right| cell(rule, right)).to_vec());
    }
    if policy
        .rules()
        .iter()
        .any(|rule| rule.instances.is_some() || rule.uris.is_some())
    {
        text.push_str("part, not*: only on the instances and URIs of the rule\n");
    }
    let discards = |rule: &Rule| rule.kindness.denied_push == Some(DeniedPush::Discard);
    if policy.rules().iter().any(discards) {
        text.push_str("drop: not, but answered with OK and thrown away\n");
    }
    text.push('\n');
    text
}

fn cell(rule: &Rule, right: Right) -> &'static str {
    let limited = rule.instances.is_some() || rule.uris.is_some();
    match (rule.deny.contains(right), rule.allow.contains(right), limited) {
        (true, _, false) => "not",
        (true, _, true) => "not*",
        (false, true, false) => "yes",
        (false, true, true) => "part",
        (false, false, _) if rule.kindness.denied_push == Some(DeniedPush::Discard) && is_discarded(right) => "drop",
        (false, false, _) => ".",
    }
}

/// Whether what needs the right can be discarded.
fn is_discarded(right: Right) -> bool {
    matches!(right, Right::CasPush | Right::ActionPush)
}

fn short(name: &str) -> String {
    if name.chars().count() <= NAME {
        return name.to_owned();
    }
    let head: String = name.chars().take(NAME - 1).collect();
    format!("{head}…")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::kindness::Kindness;
    use crate::policy::pattern::Pattern;
    use crate::policy::rights::Rights;

    #[test]
    fn the_table_fits_a_terminal() {
        let rule = |name: &str, allow, deny, instances| Rule {
            name: name.into(),
            pattern: Pattern::Any,
            allow,
            deny,
            instances,
            uris: None,
            rewrite: None,
            kindness: Kindness::default(),
            quota: crate::policy::quota::Quota::default(),
        };
        let policy = Policy::new(vec![
            rule("all", Rights::ALL, Rights::NONE, None),
            rule(
                "a name that is much too long",
                Rights::PUSH,
                Rights::of(Right::Admin),
                Some(Vec::new()),
            ),
            rule("contractors", Rights::NONE, Rights::PUSH, None),
        ]);
        let expected = "
                  pull  cas-  action- asset- execute worker events fetch- admin
                        push  push    push                         remote
all               yes   yes   yes     yes    yes     yes    yes    yes    yes
a name that is m… .     part  part    part   .       .      .      .      not*
contractors       .     not   not     not    .       .      .      .      .
part, not*: only on the instances and URIs of the rule

";
        let table = of(&policy);
        assert_eq!(table, expected);
        assert!(table.lines().all(|line| line.chars().count() <= 80));
        assert_eq!(of(&Policy::default()), "");
    }
}
