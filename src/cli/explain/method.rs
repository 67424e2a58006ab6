//! Methods by the names that people use.

use crate::cli::Failure;
use crate::policy::method::Method;

/// How many names are proposed.
const PROPOSALS: usize = 4;

/// The method of a name: `Write`, `ByteStream/Write`, or the path with or without its first slash.
pub(super) fn find(name: &str) -> Result<Method, Failure> {
    let wanted = name.strip_prefix('/').unwrap_or(name);
    let is_meant = |method: &Method| {
        let path = method.path().trim_start_matches('/');
        method.name() == wanted
            || path
                .strip_suffix(wanted)
                .is_some_and(|head| wanted.contains('/') && (head.is_empty() || head.ends_with('.')))
    };
    let found: Vec<Method> = Method::ALL.iter().copied().filter(is_meant).collect();
    match found.as_slice() {
        [method] => Ok(*method),
        [] => Err(Failure(format!(
            "`{name}` is no method that casgate knows, and calls of it are answered with UNIMPLEMENTED; near it: {}",
            list(&near(wanted))
        ))),
        several => Err(Failure(format!("`{name}` may be one of {}", list(several)))),
    }
}

fn list(methods: &[Method]) -> String {
    let names: Vec<_> = methods.iter().map(|method| short(*method)).collect();
    names.join(", ")
}

/// `ByteStream/Write`
pub(super) fn short(method: Method) -> String {
    let service = method.grpc_service();
    let service = service.rsplit('.').next().unwrap_or(service);
    format!("{service}/{}", method.name())
}

fn near(wanted: &str) -> Vec<Method> {
    let wanted = wanted.to_lowercase();
    let name = wanted.rsplit('/').next().unwrap_or(&wanted);
    let mut all = Method::ALL.to_vec();
    all.sort_by_key(|method| distance(name, &method.name().to_lowercase()));
    all.truncate(PROPOSALS);
    all
}

/// How many letters must be put in, taken out or changed (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (number, letter) in one.chars().enumerate() {
        let mut before = number;
        let mut left = number + 1;
        for (place, wanted) in row.iter_mut().skip(1).zip(&other) {
            let changed = before + usize::from(letter != *wanted);
            before = *place;
            left = changed.min(before + 1).min(left + 1);
            *place = left;
        }
        if let Some(first) = row.first_mut() {
            *first = number + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_found_by_short_and_long_names() {
        let found = |name: &str| find(name).map_err(|failure| failure.0);
        for name in [
            "Write",
            "ByteStream/Write",
            "google.bytestream.ByteStream/Write",
            "/google.bytestream.ByteStream/Write",
        ] {
            assert_eq!(found(name), Ok(Method::Write), "{name}");
        }
        for method in Method::ALL {
            assert_eq!(found(&short(*method)), Ok(*method));
            assert_eq!(found(method.path()), Ok(*method));
        }
        for (wrong, near) in [
            ("ByteStream/Wirte", "ByteStream/Write"),
            ("fetchblobs", "Fetch/FetchBlob"),
            ("Stream/Write", "ByteStream/Write"),
        ] {
            let failure = found(wrong).err().unwrap_or_default();
            assert!(failure.contains("is no method") && failure.contains(near), "{failure}");
        }
    }

    #[test]
    fn distances_are_counted_in_letters() {
        for (one, other, expected) in [
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("ab", "ab", 0),
            ("ab", "ba", 2),
        ] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
        }
    }
}
