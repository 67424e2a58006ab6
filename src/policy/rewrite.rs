//! Instances under another name behind the gate: how tenants are kept apart on one server, and how untrusted writers get
//! a place of their own.

use std::fmt;

use super::instance::{InstanceName, InstancePattern, InvalidInstance, InvalidPattern};

/// What an instance is called instead: a name, or a name with `**` at its end for what `**` of the pattern stood for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceRewrite {
    name: InstanceName,
    rest: bool,
}

impl InstanceRewrite {
    /// Reads `NAME`, `NAME/**` or `**`; `""` is the empty name.
    ///
    /// # Errors
    /// What is wrong with it; see [`InvalidPattern`]. A `*` stands for nothing here.
    pub fn parse(text: &str) -> Result<InstanceRewrite, InvalidPattern> {
        let (name, rest) = match text.strip_suffix("**") {
            Some("") => ("", true),
            Some("/") => return Err(InvalidInstance::EmptyComponent.into()),
            Some(name) => match name.strip_suffix('/') {
                Some(name) => (name, true),
                None => return Err(InvalidPattern::PartialWildcard),
            },
            None => (text, false),
        };
        if name.contains('*') {
            return Err(InvalidPattern::NotInRewrite);
        }
        Ok(InstanceRewrite {
            name: InstanceName::parse(name)?,
            rest,
        })
    }

    /// Whether it ends in `**`, so that only patterns that do so too can be rewritten by it.
    pub fn keeps_rest(&self) -> bool {
        self.rest
    }

    /// What an instance is called that a pattern matched; without a pattern, as if `**` had.
    pub fn apply(&self, pattern: Option<&InstancePattern>, name: &InstanceName) -> InstanceName {
        if !self.rest {
            return self.name.clone();
        }
        let taken = pattern.map_or(0, InstancePattern::depth);
        self.name.join(name.components().skip(taken))
    }
}

impl fmt::Display for InstanceRewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.rest && !self.name.as_str().is_empty() {
            "/"
        } else {
            ""
        };
        write!(f, "{}{slash}{}", self.name, if self.rest { "**" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn apply(rewrite: &str, pattern: &str, name: &str) -> String {
        let pattern = InstancePattern::parse(pattern).unwrap();
        let name = InstanceName::parse(name).unwrap();
        assert!(pattern.matches(&name));
        let rewrite = InstanceRewrite::parse(rewrite).unwrap();
        rewrite.apply(Some(&pattern), &name).to_string()
    }

    #[test]
    fn the_rest_is_kept_where_it_is_asked_for() {
        assert_eq!(apply("", "team-a", "team-a"), "");
        assert_eq!(apply("prod/team-a", "team-a", "team-a"), "prod/team-a");
        assert_eq!(apply("fixed", "**", "a/b"), "fixed");
        assert_eq!(apply("untrusted/**", "**", ""), "untrusted");
        assert_eq!(apply("untrusted/**", "**", "a/b"), "untrusted/a/b");
        assert_eq!(apply("prod/**", "team-a/**", "team-a/x/y"), "prod/x/y");
        assert_eq!(apply("prod/**", "*/b/**", "a/b"), "prod");
        assert_eq!(apply("**", "team-a/**", "team-a"), "");
        assert_eq!(apply("**", "team-a/**", "team-a/x"), "x");
        let rewrite = InstanceRewrite::parse("x/**").unwrap();
        assert_eq!(rewrite.apply(None, &InstanceName::parse("a").unwrap()).as_str(), "x/a");
    }

    #[test]
    fn what_is_no_name_is_refused_and_the_rest_reads_back() {
        for (text, error) in [
            ("a*", InvalidPattern::NotInRewrite),
            ("*/a", InvalidPattern::NotInRewrite),
            ("**/a", InvalidPattern::NotInRewrite),
            ("a**", InvalidPattern::PartialWildcard),
            ("a/blobs", InvalidInstance::Reserved("blobs").into()),
            ("/a", InvalidInstance::EmptyComponent.into()),
            ("/**", InvalidInstance::EmptyComponent.into()),
            ("a/", InvalidInstance::EmptyComponent.into()),
        ] {
            assert_eq!(InstanceRewrite::parse(text), Err(error), "{text}");
        }
        for text in ["", "a", "a/b", "**", "a/**"] {
            assert_eq!(InstanceRewrite::parse(text).unwrap().to_string(), text);
        }
    }
}
