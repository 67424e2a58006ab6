//! ByteStream resource names: where the instance ends and the blob begins.
//!
//! Grammar: remote_execution.proto, comment of `service ContentAddressableStorage`. The name is split at the first
//! keyword, as the proto says; whatever does not follow the grammar is refused, since the gate and a backend that read
//! it differently would let a caller show one instance to the one and another to the other.

use super::instance::{InstanceName, InvalidInstance};
use super::method::ResourceKind;

/// Why a resource name can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidResource {
    /// It is `HASH/SIZE`, as only BuildStream 1.1 wrote it.
    #[error("resource names of BuildStream 1.1 (`HASH/SIZE`) are not served: use BuildStream 1.2 or newer")]
    Legacy,
    /// A keyword stands where it has another meaning.
    #[error(
        "the resource name has `blobs`, `compressed-blobs` or `uploads` in a place where servers could read it differently"
    )]
    Keyword,
    /// None of the keywords of the grammar is in it.
    #[error("the resource name has no `blobs`, `compressed-blobs` or `uploads` component")]
    NoKeyword,
    /// Its keyword belongs to another method.
    #[error(
        "the resource name is of the wrong kind: reads name `[INSTANCE/]blobs/HASH/SIZE`, writes `[INSTANCE/]uploads/UUID/blobs/HASH/SIZE`"
    )]
    WrongKind,
    /// The instance before the keyword is not valid.
    #[error(transparent)]
    Instance(#[from] InvalidInstance),
    /// What follows the keyword is not `[FUNCTION/]HASH/SIZE`.
    #[error("the resource name does not end in `HASH/SIZE`")]
    Digest,
    /// The component after `uploads` is missing or empty.
    #[error("the resource name has no UUID after `uploads`")]
    NoUpload,
    /// Components follow the size of a blob that is read.
    #[error("the resource name goes on after the size")]
    Trailing,
    /// It has a control character.
    #[error("the resource name has a control character")]
    ControlCharacter,
}

/// What a resource name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The instance.
    pub instance: InstanceName,
    /// How many bytes the blob has, uncompressed.
    pub size: i64,
    /// Whether it travels compressed.
    pub is_compressed: bool,
}

/// The instance of a resource name of the given kind.
///
/// # Errors
/// What is wrong with the name; see [`InvalidResource`].
pub fn instance_of(name: &str, kind: ResourceKind) -> Result<InstanceName, InvalidResource> {
    read(name, kind).map(|resource| resource.instance)
}

/// Reads a resource name of the given kind.
///
/// # Errors
/// What is wrong with the name; see [`InvalidResource`].
pub fn read(name: &str, kind: ResourceKind) -> Result<Resource, InvalidResource> {
    if name.chars().any(char::is_control) {
        return Err(InvalidResource::ControlCharacter);
    }
    let (instance, keyword, rest) = split_at_keyword(name).ok_or_else(|| without_keyword(name))?;
    let mut rest = rest.split('/');
    let blobs = match (kind, keyword) {
        (ResourceKind::Read, _) => keyword,
        (ResourceKind::Write, "uploads") => {
            match rest.next() {
                None | Some("") => return Err(InvalidResource::NoUpload),
                Some(word) if is_keyword(word) => return Err(InvalidResource::Keyword),
                Some(_) => {}
            }
            rest.next().ok_or(InvalidResource::Digest)?
        }
        (ResourceKind::Write, _) => return Err(InvalidResource::WrongKind),
    };
    match blobs {
        "blobs" => {}
        "compressed-blobs" => match rest.next() {
            None | Some("") => return Err(InvalidResource::Digest),
            Some(word) if is_keyword(word) => return Err(InvalidResource::Keyword),
            Some(_) => {}
        },
        _ => return Err(InvalidResource::WrongKind),
    }
    let size = digest_size(&mut rest)?;
    // Only an upload may carry metadata behind the size.
    match rest.next() {
        None => {}
        Some(_) if kind == ResourceKind::Read => return Err(InvalidResource::Trailing),
        Some(word) if is_keyword(word) || rest.any(is_keyword) => return Err(InvalidResource::Keyword),
        Some(_) => {}
    }
    Ok(Resource {
        instance: InstanceName::parse(instance)?,
        size,
        is_compressed: blobs == "compressed-blobs",
    })
}

/// The resource name of the same blob on another instance; the name must be one that [`instance_of`] takes.
pub fn with_instance(name: &str, instance: &InstanceName) -> String {
    let rest = split_at_keyword(name).map_or(name, |(old, ..)| {
        let rest = name.get(old.len()..).unwrap_or_default();
        rest.strip_prefix('/').unwrap_or(rest)
    });
    let slash = if instance.as_str().is_empty() { "" } else { "/" };
    format!("{instance}{slash}{rest}")
}

/// The text before the first keyword, the keyword, and the text after its slash.
fn split_at_keyword(name: &str) -> Option<(&str, &str, &str)> {
    let mut start = 0;
    for component in name.split('/') {
        let end = start + component.len();
        if is_keyword(component) {
            // `/blobs/..` keeps its empty component, so that the instance is refused and not taken for "".
            let instance = match start {
                0 => "",
                1 => "/",
                _ => &name[..start - 1],
            };
            return Some((instance, component, name.get(end + 1..).unwrap_or("")));
        }
        start = end + 1;
    }
    None
}

fn is_keyword(component: &str) -> bool {
    matches!(component, "blobs" | "compressed-blobs" | "uploads")
}

fn without_keyword(name: &str) -> InvalidResource {
    let mut parts = name.split('/');
    match (digest_size(&mut parts), parts.next()) {
        (Ok(_), None) => InvalidResource::Legacy,
        _ => InvalidResource::NoKeyword,
    }
}

/// Takes a digest off, and gives its size.
fn digest_size<'a>(parts: &mut impl Iterator<Item = &'a str>) -> Result<i64, InvalidResource> {
    let mut hash = parts.next().ok_or(InvalidResource::Digest)?;
    if matches!(
        hash,
        "blake3" | "gitsha1" | "sha256tree" | "md5" | "murmur3" | "sha1" | "sha256" | "sha384" | "sha512" | "vso"
    ) {
        hash = parts.next().ok_or(InvalidResource::Digest)?;
    }
    let size = parts.next().ok_or(InvalidResource::Digest)?;
    let is_hash = (32..=128).contains(&hash.len()) && hash.bytes().all(|b| b.is_ascii_hexdigit());
    let is_number = size.bytes().all(|b| b.is_ascii_digit());
    let size = size.parse().ok().filter(|_| is_hash && is_number);
    size.ok_or(InvalidResource::Digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn pulled(name: &str) -> Result<String, InvalidResource> {
        instance_of(&name.replace("HASH", HASH), ResourceKind::Read).map(|name| name.to_string())
    }

    fn write(name: &str) -> Result<String, InvalidResource> {
        instance_of(&name.replace("HASH", HASH), ResourceKind::Write).map(|name| name.to_string())
    }

    #[test]
    fn names_of_the_grammar_give_their_instance() {
        assert_eq!(pulled("blobs/HASH/0"), Ok(String::new()));
        assert_eq!(pulled("main/blobs/HASH/12"), Ok("main".into()));
        assert_eq!(pulled("a/b/c/blobs/sha256/HASH/12"), Ok("a/b/c".into()));
        assert_eq!(pulled("a/compressed-blobs/zstd/HASH/12"), Ok("a".into()));
        assert_eq!(write("uploads/some-uuid/blobs/HASH/1"), Ok(String::new()));
        assert_eq!(write("a/uploads/u/compressed-blobs/zstd/HASH/1"), Ok("a".into()));
        assert_eq!(write("a/uploads/u/blobs/HASH/1/meta/data"), Ok("a".into()));
    }

    #[test]
    fn the_instance_can_be_exchanged() {
        let names = ["", "a", "a/b"].map(|name| InstanceName::parse(name).unwrap_or_default());
        for from in &names {
            for to in &names {
                for rest in ["blobs/HASH/1", "uploads/u/compressed-blobs/zstd/HASH/1/meta/data"] {
                    let on = |name: &InstanceName| match name.as_str() {
                        "" => rest.to_owned(),
                        name => format!("{name}/{rest}"),
                    };
                    assert_eq!(with_instance(&on(from), to), on(to));
                }
            }
        }
    }

    #[test]
    fn the_size_and_the_form_are_read() {
        for (name, size, is_compressed) in [
            ("uploads/u/blobs/HASH/12", 12, false),
            ("a/uploads/u/blobs/blake3/HASH/0/meta", 0, false),
            (
                "a/uploads/u/compressed-blobs/zstd/sha256/HASH/9223372036854775807",
                i64::MAX,
                true,
            ),
        ] {
            let resource = read(&name.replace("HASH", HASH), ResourceKind::Write);
            let found = resource.map(|resource| (resource.size, resource.is_compressed));
            assert_eq!(found, Ok((size, is_compressed)), "{name}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        use InvalidResource::{ControlCharacter, Digest, Instance, NoKeyword, NoUpload, Trailing, WrongKind};
        assert_eq!(pulled(""), Err(NoKeyword));
        assert_eq!(pulled("HASH/1"), Err(InvalidResource::Legacy));
        assert_eq!(pulled("HASH/1/x"), Err(NoKeyword));
        assert_eq!(pulled("/blobs/HASH/12"), Err(Instance(InvalidInstance::EmptyComponent)));
        assert_eq!(
            pulled("a//blobs/HASH/12"),
            Err(Instance(InvalidInstance::EmptyComponent))
        );
        assert_eq!(pulled("a/../blobs/HASH/12"), Err(Instance(InvalidInstance::Dots)));
        assert_eq!(pulled("blobs/HASH/12/x"), Err(Trailing));
        assert_eq!(pulled("blobs/HASH"), Err(Digest));
        assert_eq!(pulled("blobs/HASH/-1"), Err(Digest));
        assert_eq!(pulled("blobs/HASH/99999999999999999999"), Err(Digest));
        assert_eq!(pulled("blobs/HASH/+1"), Err(Digest));
        assert_eq!(pulled("blobs/short/1"), Err(Digest));
        assert_eq!(pulled("blobs\n/HASH/1"), Err(ControlCharacter));
        assert_eq!(pulled("uploads/u/blobs/HASH/1"), Err(WrongKind));
        // The first keyword splits: the second is not an instance.
        assert_eq!(pulled("blobs/x/blobs/HASH/1"), Err(Digest));
        assert_eq!(write("blobs/HASH/1"), Err(WrongKind));
        assert_eq!(write("uploads//blobs/HASH/1"), Err(NoUpload));
        assert_eq!(write("uploads/u"), Err(Digest));
        // A server that splits at the last keyword would see another instance.
        for name in [
            "uploads/uploads/blobs/HASH/1",
            "uploads/blobs/blobs/HASH/1",
            "uploads/u/compressed-blobs/uploads/HASH/1",
            "uploads/u/blobs/HASH/1/uploads/u/blobs/HASH/1",
        ] {
            assert_eq!(write(name), Err(InvalidResource::Keyword), "{name}");
        }
        assert_eq!(pulled("compressed-blobs/blobs/HASH/1"), Err(InvalidResource::Keyword));
        assert_eq!(write("uploads/u/uploads/HASH/1"), Err(WrongKind));
    }
}
