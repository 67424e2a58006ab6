//! Collects what is wrong while a configuration is compiled, so that nothing ends the run before all of it is known.

use crate::config::Problem;
use crate::config::file::{Key, Unknown};

/// The problems found so far.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order in which they were found.
    pub problems: Vec<Problem>,
    /// What an administrator should look at, though it is no problem.
    pub warnings: Vec<String>,
}

impl Report {
    /// Notes a problem of a key.
    pub fn add(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.problems.push(Problem::new(key, text));
    }

    /// Notes a problem of a key, with advice.
    pub fn add_with_hint(&mut self, key: impl Into<String>, text: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem::new(key, text).hint(hint));
    }

    /// The value of a key, where it is there and of the right type.
    pub fn value<'a, T>(&mut self, key: &'a Key<T>, name: &str) -> Option<&'a T> {
        match key {
            Key::Good(value) => Some(value),
            Key::Absent => None,
            Key::Bad(error) => {
                self.add(name, error.clone());
                None
            }
        }
    }

    /// The value of a key that must be there.
    pub fn required<'a, T>(&mut self, key: &'a Key<T>, name: &str, hint: &str) -> Option<&'a T> {
        if matches!(key, Key::Absent) {
            self.add_with_hint(name, "is missing", hint);
        }
        self.value(key, name)
    }

    /// Notes each unknown key of a table. `prefix` is empty or ends in a dot.
    pub fn unknown(&mut self, unknown: &Unknown, prefix: &str, known: &[&str]) {
        for name in unknown.keys() {
            self.add_with_hint(
                format!("{prefix}{}", spelled(name)),
                "is no known key",
                format!("known here: {}", known.join(", ")),
            );
        }
    }

    /// Takes the good half of a result and notes the bad one under a key.
    pub fn ok<T>(&mut self, result: Result<T, impl ToString>, key: &str) -> Option<T> {
        result.map_err(|error| self.add(key, error.to_string())).ok()
    }
}

/// A key as the file spells it: quoted, where it is no bare key (TOML 1.0, "Keys").
pub(super) fn spelled(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if !name.is_empty() && name.bytes().all(is_bare) {
        name.to_owned()
    } else {
        // A string of JSON is one of TOML as well, on one line.
        serde_json::Value::from(name).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_spelled_as_in_the_file() {
        for (name, expected) in [
            ("max-connections", "max-connections"),
            ("", "\"\""),
            ("a.b", "\"a.b\""),
            ("a\nb", "\"a\\nb\""),
        ] {
            let spelled = spelled(name);
            let table = format!("{spelled} = 1").parse::<toml::Table>();
            assert!(table.is_ok_and(|table| table.contains_key(name)), "{spelled}");
            assert_eq!(spelled, expected);
        }
    }
}
