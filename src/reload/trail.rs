//! The names through which a path leads: where something must be changed to put another content behind it.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// More links than that lead nowhere (Linux: `MAXSYMLINKS` is 40).
const MOST_LINKS: usize = 40;

/// Each symbolic link on the way to a file, and the file itself or the first name on the way that is not there. Their
/// folders are real ones.
///
/// Kubernetes changes the files of a volume by moving the link `..data` to another folder: the names of the files and
/// their targets stay as they are, and a watch on them alone would see nothing.
pub(super) fn of(path: &Path) -> BTreeSet<PathBuf> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut names = BTreeSet::new();
    let mut links = 0;
    let mut at = PathBuf::from("/");
    let mut rest = steps(&path);
    while let Some(step) = rest.pop_front() {
        if step == ".." {
            at.pop();
            continue;
        }
        let name = at.join(&step);
        if let Ok(target) = name.read_link() {
            names.insert(name);
            links += 1;
            if links > MOST_LINKS {
                break;
            }
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            for step in steps(&target).into_iter().rev() {
                rest.push_front(step);
            }
        } else if rest.is_empty() || !name.exists() {
            names.insert(name);
            break;
        } else {
            at = name;
        }
    }
    names
}

fn steps(path: &Path) -> VecDeque<OsString> {
    let step = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    path.components().filter_map(step).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_link_on_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("volume/..2026")).unwrap();
        fs::write(root.join("volume/..2026/tls.crt"), "").unwrap();
        symlink("..2026", root.join("volume/..data")).unwrap();
        symlink("..data/tls.crt", root.join("volume/tls.crt")).unwrap();
        symlink(root.join("volume"), root.join("current")).unwrap();
        let names = of(&root.join("current/../current/tls.crt"));
        let expected = ["current", "volume/tls.crt", "volume/..data", "volume/..2026/tls.crt"];
        // `..` behind a link leaves the folder that the link leads to.
        assert_eq!(names, expected.map(|name| root.join(name)).into());
    }

    #[test]
    fn what_is_missing_and_what_goes_in_a_circle_ends() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        assert_eq!(of(&root.join("a/b/c")), [root.join("a")].into());
        symlink("y", root.join("x")).unwrap();
        symlink("x", root.join("y")).unwrap();
        assert_eq!(of(&root.join("x/file")), [root.join("x"), root.join("y")].into());
    }
}
