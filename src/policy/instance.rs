//! Instance names: the tenants of a REAPI server, compared component by component.

use std::fmt;

/// Words that may not be a component of an instance name, since they begin the rest of a resource name
/// (remote_execution.proto, comment of `ContentAddressableStorage`).
pub const RESERVED: [&str; 7] = [
    "blobs",
    "uploads",
    "actions",
    "actionResults",
    "operations",
    "capabilities",
    "compressed-blobs",
];

/// The longest instance name in bytes. No server in the field comes near it.
pub const MAX_LENGTH: usize = 1024;

/// A checked instance name: empty, or components joined by `/`, none of them empty, reserved, `.` or `..`, and without
/// control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct InstanceName(Box<str>);

/// Why a text is no instance name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInstance {
    /// A component has no character: a leading, trailing or doubled slash.
    #[error("the instance name has an empty component: remove leading, trailing and doubled slashes")]
    EmptyComponent,
    /// A component is a word of the resource name grammar.
    #[error("the instance name has the reserved component `{0}`")]
    Reserved(&'static str),
    /// A component is `.` or `..`.
    #[error("the instance name has a component `.` or `..`")]
    Dots,
    /// It has a control character.
    #[error("the instance name has a control character")]
    ControlCharacter,
    /// It is longer than [`MAX_LENGTH`].
    #[error("the instance name is longer than {MAX_LENGTH} bytes")]
    TooLong,
}

impl InstanceName {
    /// Checks a name.
    ///
    /// # Errors
    /// What is wrong with it; see [`InvalidInstance`].
    pub fn parse(text: &str) -> Result<InstanceName, InvalidInstance> {
        if text.is_empty() {
            return Ok(InstanceName::default());
        }
        if text.len() > MAX_LENGTH {
            return Err(InvalidInstance::TooLong);
        }
        text.split('/').try_for_each(check_component)?;
        Ok(InstanceName(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its components; none for the empty name.
    pub(super) fn components(&self) -> impl Iterator<Item = &str> {
        // "" is the name without components, where `split` would give one that is empty.
        self.0.split('/').filter(|component| !component.is_empty())
    }

    /// Its first component; none for the empty name.
    pub fn first(&self) -> Option<&str> {
        self.components().next()
    }

    /// This name with the components of another one behind it. It may be longer than [`MAX_LENGTH`], by as much as the
    /// other one has.
    pub(super) fn join<'a>(&self, components: impl Iterator<Item = &'a str>) -> InstanceName {
        let mut text = self.0.to_string();
        for component in components {
            if !text.is_empty() {
                text.push('/');
            }
            text.push_str(component);
        }
        InstanceName(text.into())
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_component(component: &str) -> Result<(), InvalidInstance> {
    if component.is_empty() {
        return Err(InvalidInstance::EmptyComponent);
    }
    if component == "." || component == ".." {
        return Err(InvalidInstance::Dots);
    }
    if component.chars().any(char::is_control) {
        return Err(InvalidInstance::ControlCharacter);
    }
    match RESERVED.into_iter().find(|word| *word == component) {
        Some(word) => Err(InvalidInstance::Reserved(word)),
        None => Ok(()),
    }
}

/// A pattern of the configuration: components that must be equal, `*` for any one component, and `**` at the end for
/// all the rest, none included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstancePattern {
    components: Vec<Component>,
    rest: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Component {
    Any,
    Exactly(Box<str>),
}

/// Why a text is no instance pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// `**` stands before the last component.
    #[error("`**` may only be the last component")]
    RestInside,
    /// `*` is only a part of a component.
    #[error("`*` must be a whole component: patterns match component by component")]
    PartialWildcard,
    /// `*` in what an instance is rewritten to.
    #[error("only a last component `**` can be kept: what stood for `*` can't")]
    NotInRewrite,
    /// A component could never be in an instance name.
    #[error(transparent)]
    Component(#[from] InvalidInstance),
}

impl InstancePattern {
    /// Reads a pattern; `""` matches the empty instance name only.
    ///
    /// # Errors
    /// What is wrong with it; see [`InvalidPattern`].
    pub fn parse(text: &str) -> Result<InstancePattern, InvalidPattern> {
        let mut components = Vec::new();
        let mut rest = false;
        if !text.is_empty() {
            for part in text.split('/') {
                if rest {
                    return Err(InvalidPattern::RestInside);
                }
                match part {
                    "**" => rest = true,
                    "*" => components.push(Component::Any),
                    _ if part.contains('*') => return Err(InvalidPattern::PartialWildcard),
                    _ => {
                        check_component(part)?;
                        components.push(Component::Exactly(part.into()));
                    }
                }
            }
        }
        Ok(InstancePattern { components, rest })
    }

    /// The component that every name which it matches begins with; none where a wildcard comes first, or nothing.
    pub fn first(&self) -> Option<&str> {
        match self.components.first()? {
            Component::Any => None,
            Component::Exactly(component) => Some(component),
        }
    }

    /// How many components it has, without `**`.
    pub(super) fn depth(&self) -> usize {
        self.components.len()
    }

    /// Whether it ends in `**`.
    pub fn has_rest(&self) -> bool {
        self.rest
    }

    /// Whether the pattern matches the whole name.
    pub fn matches(&self, name: &InstanceName) -> bool {
        let mut given = name.components();
        for wanted in &self.components {
            match (wanted, given.next()) {
                (Component::Any, Some(_)) => {}
                (Component::Exactly(text), Some(component)) if **text == *component => {}
                _ => return false,
            }
        }
        self.rest || given.next().is_none()
    }
}

impl fmt::Display for InstancePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let components = self.components.iter().map(|component| match component {
            Component::Any => "*",
            Component::Exactly(text) => text,
        });
        for (index, text) in components.chain(self.rest.then_some("**")).enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            f.write_str(text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        InstancePattern::parse(pattern)
            .unwrap()
            .matches(&InstanceName::parse(name).unwrap())
    }

    #[test]
    fn patterns_match_by_component_and_never_by_prefix() {
        assert!(matches("", ""));
        assert!(!matches("", "main"));
        assert!(matches("team-a", "team-a"));
        assert!(!matches("team-a", "team-ab"));
        assert!(!matches("team-a", "team-a/x"));
        assert!(matches("team-a/**", "team-a"));
        assert!(matches("team-a/**", "team-a/x/y"));
        assert!(!matches("team-a/**", "team-ab/x"));
        assert!(matches("*/prod", "x/prod"));
        assert!(!matches("*/prod", "prod"));
        assert!(!matches("*", ""));
        assert!(matches("**", ""));
        assert!(matches("**", "a/b"));
    }

    #[test]
    fn names_that_could_mean_something_else_are_refused() {
        for (text, error) in [
            ("/a", InvalidInstance::EmptyComponent),
            ("a/", InvalidInstance::EmptyComponent),
            ("a//b", InvalidInstance::EmptyComponent),
            ("a/blobs", InvalidInstance::Reserved("blobs")),
            ("a/../b", InvalidInstance::Dots),
            ("a\0b", InvalidInstance::ControlCharacter),
        ] {
            assert_eq!(InstanceName::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(
            InstanceName::parse(&"a".repeat(MAX_LENGTH + 1)),
            Err(InvalidInstance::TooLong)
        );
        assert_eq!(InstancePattern::parse("**/a"), Err(InvalidPattern::RestInside));
        assert_eq!(InstancePattern::parse("team-*"), Err(InvalidPattern::PartialWildcard));
    }
}
