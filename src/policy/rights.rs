//! What a caller may do: the closed set of rights.

use std::fmt;

/// One right. The names are those of the configuration file and of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Right {
    /// Read blobs, action results and assets.
    Pull,
    /// Write blobs: they are checked by digest, so they cost space and nothing else.
    CasPush,
    /// Write action results: decides what others take for the result of an action.
    ActionPush,
    /// Write Remote Asset names: decides what others fetch under a name.
    AssetPush,
    /// Run actions, and follow or cancel them.
    Execute,
    /// Take work from a scheduler and answer with results.
    Worker,
    /// Publish build events.
    Events,
    /// Let the server fetch http(s), git and other URIs that lead out of it.
    FetchRemote,
    /// See and delete everybody's operations.
    Admin,
}

impl Right {
    /// Every right, in the order in which they are printed.
    pub const ALL: [Right; 9] = [
        Right::Pull,
        Right::CasPush,
        Right::ActionPush,
        Right::AssetPush,
        Right::Execute,
        Right::Worker,
        Right::Events,
        Right::FetchRemote,
        Right::Admin,
    ];

    /// The name in configuration, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Right::Pull => "pull",
            Right::CasPush => "cas-push",
            Right::ActionPush => "action-push",
            Right::AssetPush => "asset-push",
            Right::Execute => "execute",
            Right::Worker => "worker",
            Right::Events => "events",
            Right::FetchRemote => "fetch-remote",
            Right::Admin => "admin",
        }
    }
}

/// A set of rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rights(u16);

impl Rights {
    /// No right at all.
    pub const NONE: Rights = Rights(0);
    /// Every right there is.
    pub const ALL: Rights = Rights((1 << Right::ALL.len()) - 1);
    /// What `push` stands for: blobs, action results and assets.
    pub const PUSH: Rights = Rights::of(Right::CasPush)
        .with(Right::ActionPush)
        .with(Right::AssetPush);

    /// The set of this one right.
    pub const fn of(right: Right) -> Rights {
        Rights(1 << right as u8)
    }

    /// This set and one right more.
    pub const fn with(self, right: Right) -> Rights {
        Rights(self.0 | 1 << right as u8)
    }

    /// All that is in either set.
    pub const fn union(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }

    /// All that is in both sets.
    pub const fn intersection(self, other: Rights) -> Rights {
        Rights(self.0 & other.0)
    }

    /// All that is in this set and not in the other.
    pub const fn without(self, other: Rights) -> Rights {
        Rights(self.0 & !other.0)
    }

    /// Whether the set has no right.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the set has this right.
    pub const fn contains(self, right: Right) -> bool {
        self.0 & 1 << right as u8 != 0
    }

    /// The rights in it, in the order of [`Right::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.contains(*right))
    }

    /// Reads a name of the configuration: a right, or `push` for the three of them.
    pub fn from_name(name: &str) -> Option<Rights> {
        if name == "push" {
            return Some(Rights::PUSH);
        }
        Right::ALL
            .into_iter()
            .find(|right| right.name() == name)
            .map(Rights::of)
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, right) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            f.write_str(right.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_right_is_found_by_its_name_and_push_is_three() {
        for right in Right::ALL {
            assert_eq!(Rights::from_name(right.name()), Some(Rights::of(right)));
        }
        assert_eq!(Rights::from_name("push"), Some(Rights::PUSH));
        assert_eq!(Rights::PUSH.to_string(), "cas-push, action-push, asset-push");
        assert_eq!(Rights::from_name("Push"), None);
        assert_eq!(Rights::ALL.iter().count(), Right::ALL.len());
    }
}
