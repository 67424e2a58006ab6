//! What is wrong with a configuration: every problem of a file in one report.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, such as `rules[1].allow`; empty for the file as a whole.
    pub key: String,
    /// What is wrong with it.
    pub text: String,
    /// What to do, where that is not plain from the text.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem of a key.
    pub fn new(key: impl Into<String>, text: impl Into<String>) -> Problem {
        Problem {
            key: key.into(),
            text: text.into(),
            hint: None,
        }
    }

    /// The same problem with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }
}

/// Everything that is wrong with a configuration file; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    file: PathBuf,
    problems: Vec<Problem>,
}

impl Problems {
    /// The problems of a file.
    pub fn new(file: &Path, problems: Vec<Problem>) -> Problems {
        Problems {
            file: file.to_owned(),
            problems,
        }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}: ", self.file.display())?;
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            f.write_str(&problem.text)?;
            if let Some(hint) = &problem.hint {
                write!(f, " ({hint})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
