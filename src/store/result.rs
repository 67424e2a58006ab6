//! What an ActionResult must be to be stored: something that a client can use.
//!
//! A result that names an output without a digest, or a link to nowhere, would be a miss for ever, or fail the build of
//! whoever takes it. Whoever pushes it hears so instead (remote_execution.proto, `UpdateActionResult`: INVALID_ARGUMENT).

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;

use super::digest::{BlobDigest, Hasher};
use super::fault::Fault;

/// Checks every digest, every path and every link of a result. What it names need not be here: that is looked for when
/// the result is asked for.
///
/// # Errors
/// [`Fault::ActionResult`], for the first output that is wrong.
pub(super) fn check(result: &reapi::ActionResult) -> Result<(), Fault> {
    for (index, file) in result.output_files.iter().enumerate() {
        let place = Place("output_files", index, &file.path);
        place.path(&file.path, Empty::Refused)?;
        let digest = place.required("digest", file.digest.as_ref())?;
        place.inline("contents", &file.contents, &digest)?;
    }
    for (index, directory) in result.output_directories.iter().enumerate() {
        let place = Place("output_directories", index, &directory.path);
        // The empty path is the whole working directory.
        place.path(&directory.path, Empty::Allowed)?;
        let (tree, root) = (&directory.tree_digest, &directory.root_directory_digest);
        if tree.is_none() && root.is_none() {
            return Err(place.fault("tree_digest and root_directory_digest are missing: give one of them"));
        }
        for (field, digest) in [("tree_digest", tree), ("root_directory_digest", root)] {
            digest
                .iter()
                .try_for_each(|digest| place.digest(field, digest).map(drop))?;
        }
    }
    for (list, links) in links(result) {
        for (index, link) in links.iter().enumerate() {
            let place = Place(list, index, &link.path);
            place.path(&link.path, Empty::Refused)?;
            if link.target.is_empty() {
                return Err(place.fault("target is missing"));
            }
            if link.target.contains('\0') {
                return Err(place.fault("target has a NUL byte"));
            }
        }
    }
    for (field, digest, raw) in [
        ("stdout", &result.stdout_digest, &result.stdout_raw),
        ("stderr", &result.stderr_digest, &result.stderr_raw),
    ] {
        // Some clients send an empty message where there is none.
        if let Some(digest) = digest.as_ref().filter(|digest| **digest != reapi::Digest::default()) {
            let place = Place(field, 0, "");
            let digest = place.digest("digest", digest)?;
            place.inline("raw", raw, &digest)?;
        }
    }
    Ok(())
}

#[expect(deprecated, reason = "clients of API 2.0 send these lists")]
fn links(result: &reapi::ActionResult) -> [(&'static str, &[reapi::OutputSymlink]); 3] {
    [
        ("output_symlinks", &result.output_symlinks),
        ("output_file_symlinks", &result.output_file_symlinks),
        ("output_directory_symlinks", &result.output_directory_symlinks),
    ]
}

/// Whether a path may be empty.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Empty {
    Allowed,
    Refused,
}

/// One output: its list, its place there, and its path.
#[derive(Clone, Copy)]
struct Place<'a>(&'static str, usize, &'a str);

impl Place<'_> {
    fn fault(&self, reason: impl Into<String>) -> Fault {
        let Place(list, index, path) = *self;
        Fault::ActionResult {
            output: format!("{list}[{index}]"),
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    /// Paths are relative to the working directory. `..` is allowed: recc and compilers write beside it.
    fn path(&self, path: &str, empty: Empty) -> Result<(), Fault> {
        if path.is_empty() && empty == Empty::Refused {
            return Err(self.fault("path is missing"));
        }
        if path.starts_with('/') {
            return Err(self.fault("path begins with `/`: it must be relative to the working directory"));
        }
        if path.contains('\0') {
            return Err(self.fault("path has a NUL byte"));
        }
        Ok(())
    }

    fn required(&self, field: &str, digest: Option<&reapi::Digest>) -> Result<BlobDigest, Fault> {
        let digest = digest.ok_or_else(|| self.fault(format!("{field} is missing")))?;
        self.digest(field, digest)
    }

    fn digest(&self, field: &str, digest: &reapi::Digest) -> Result<BlobDigest, Fault> {
        if *digest == reapi::Digest::default() {
            return Err(self.fault(format!("{field} is empty")));
        }
        let parsed = BlobDigest::parse(digest, "digest").map_err(|fault| self.fault(fault.to_string()))?;
        // Only the empty blob has the hash of no bytes, and no bytes.
        if (parsed.size() == 0) != (parsed.hash() == BlobDigest::EMPTY.hash()) {
            return Err(self.fault(format!("{field} {parsed}: no blob of this size has this hash")));
        }
        Ok(parsed)
    }

    /// Content within the message, which is optional, must be that of the digest: clients use it unseen.
    fn inline(&self, field: &str, content: &[u8], digest: &BlobDigest) -> Result<(), Fault> {
        if content.is_empty() {
            return Ok(());
        }
        let mut hasher = Hasher::new();
        hasher.update(content);
        match hasher.finish() == *digest {
            true => Ok(()),
            false => Err(self.fault(format!("{field} is not the content of {digest}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, deprecated, reason = "tests")]
    use super::*;

    fn digest(hash: &str, size: i64) -> Option<reapi::Digest> {
        Some(reapi::Digest {
            hash: hash.to_owned(),
            size_bytes: size,
        })
    }

    fn hello() -> Option<reapi::Digest> {
        Some(BlobDigest::of(b"hello").to_proto())
    }

    fn file(path: &str, digest: Option<reapi::Digest>, contents: &[u8]) -> reapi::ActionResult {
        reapi::ActionResult {
            output_files: vec![reapi::OutputFile {
                path: path.to_owned(),
                digest,
                contents: contents.to_vec(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn directory(path: &str, tree: Option<reapi::Digest>, root: Option<reapi::Digest>) -> reapi::ActionResult {
        reapi::ActionResult {
            output_directories: vec![reapi::OutputDirectory {
                path: path.to_owned(),
                tree_digest: tree,
                root_directory_digest: root,
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn link(path: &str, target: &str) -> Vec<reapi::OutputSymlink> {
        vec![reapi::OutputSymlink {
            path: path.to_owned(),
            target: target.to_owned(),
            ..Default::default()
        }]
    }

    /// What Bazel, BuildStream and recc send, and what the proto allows.
    #[test]
    fn results_of_real_clients_are_taken() {
        let empty = Some(BlobDigest::EMPTY.to_proto());
        let good = [
            reapi::ActionResult::default(),
            file("a/b.o", hello(), b""),
            file("a/b.o", hello(), b"hello"),
            file("../b.o", hello(), b""),
            file("empty", empty.clone(), b""),
            directory("", hello(), None),
            directory("out", None, hello()),
            directory("out", hello(), hello()),
            reapi::ActionResult {
                output_symlinks: link("a", "/usr/bin/b"),
                output_file_symlinks: link("a", "../b"),
                output_directory_symlinks: link("a", "."),
                stdout_digest: Some(reapi::Digest::default()),
                stderr_digest: empty,
                stderr_raw: Vec::new(),
                exit_code: -1,
                ..Default::default()
            },
            reapi::ActionResult {
                stdout_raw: b"said without a digest".to_vec(),
                stderr_raw: b"hello".to_vec(),
                stderr_digest: hello(),
                ..Default::default()
            },
        ];
        for result in good {
            assert!(check(&result).is_ok(), "{result:?}: {:?}", check(&result));
        }
    }

    #[test]
    fn what_no_client_could_use_is_refused_with_its_place() {
        let hash = BlobDigest::of(b"hello").hex();
        let upper = hash.to_uppercase();
        let none = BlobDigest::EMPTY.hex();
        let bad_digests = [
            digest("", 0),
            digest("", 5),
            digest(&hash[1..], 5),
            digest(&format!("{hash}0"), 5),
            digest(&hash[..40], 5),
            digest(&upper, 5),
            digest(&hash.replacen('2', "g", 1), 5),
            digest(&format!("../{}", &hash[3..]), 5),
            digest(&hash, -1),
            digest(&hash, i64::MIN),
            digest(&hash, 0),
            digest(&none, 1),
        ];
        let mut bad = vec![
            (file("a", None, b""), "output_files[0] `a`: digest is missing"),
            (file("a", None, b"hello"), "digest is missing"),
            (file("", hello(), b""), "path is missing"),
            (file("/a", hello(), b""), "begins with `/`"),
            (file("a\0b", hello(), b""), "NUL"),
            (file("a", hello(), b"hullo"), "contents is not the content"),
            (directory("d", None, None), "give one of them"),
            (directory("/d", hello(), None), "begins with `/`"),
        ];
        for digest in bad_digests {
            bad.push((file("a", digest.clone(), b""), "output_files[0] `a`"));
            bad.push((directory("d", digest.clone(), hello()), "output_directories[0] `d`"));
            bad.push((directory("d", hello(), digest.clone()), "output_directories[0] `d`"));
            // The empty message stands for none.
            if digest != Some(reapi::Digest::default()) {
                let stdout_digest = digest.clone();
                let stdout = reapi::ActionResult {
                    stdout_digest,
                    ..Default::default()
                };
                bad.push((stdout, "stdout[0]"));
                let stderr = reapi::ActionResult {
                    stderr_digest: digest,
                    ..Default::default()
                };
                bad.push((stderr, "stderr[0]"));
            }
        }
        for (path, target, told) in [
            ("", "b", "path is missing"),
            ("a", "", "target is missing"),
            ("/a", "b", "begins with `/`"),
            ("a", "b\0", "NUL"),
        ] {
            let links = || link(path, target);
            let with = |change: &dyn Fn(&mut reapi::ActionResult)| {
                let mut result = reapi::ActionResult::default();
                change(&mut result);
                result
            };
            bad.push((with(&|result| result.output_symlinks = links()), told));
            bad.push((with(&|result| result.output_file_symlinks = links()), told));
            bad.push((with(&|result| result.output_directory_symlinks = links()), told));
        }
        let raw = reapi::ActionResult {
            stdout_raw: b"hullo".to_vec(),
            stdout_digest: hello(),
            ..Default::default()
        };
        bad.push((raw, "raw is not the content"));
        for (result, told) in bad {
            let fault = check(&result).unwrap_err();
            assert_eq!(fault.code(), tonic::Code::InvalidArgument);
            assert!(fault.to_string().contains(told), "{fault}, not {told}: {result:?}");
            // The second output is found like the first one.
            let mut second = file("good", hello(), b"");
            second.output_files.extend(result.output_files.clone());
            if !result.output_files.is_empty() {
                assert!(check(&second).unwrap_err().to_string().contains("output_files[1]"));
            }
        }
    }
}
