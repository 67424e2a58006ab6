//! What is counted of a message before it is decoded, against prost, which decodes it.

use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use casgate::wire::tree::{self, Entry, Kind};
use casgate::wire::{Bounded, TooMuch, measure};
use prost::Message;

/// A message: the first byte chooses its type.
///
/// What is let through is decoded to no more than was counted, and a tree names what its decoded form does. What prost
/// writes itself is let through.
pub fn message(bytes: &[u8]) -> String {
    let [kind, bytes @ ..] = bytes else {
        return "too short".to_owned();
    };
    match kind % 8 {
        0 => counted::<reapi::FindMissingBlobsRequest>(bytes, |found| found.blob_digests.len()),
        1 => counted::<reapi::BatchUpdateBlobsRequest>(bytes, |batch| {
            let digests = batch.requests.iter().filter(|request| request.digest.is_some());
            batch.requests.len() + digests.count()
        }),
        2 => counted::<reapi::BatchReadBlobsRequest>(bytes, |batch| {
            batch.digests.len() + batch.acceptable_compressors.len()
        }),
        3 => counted::<reapi::ActionResult>(bytes, |result| {
            result.output_files.len() + result.output_directories.len() + result.output_symlinks.len()
        }),
        4 => counted::<asset::PushBlobRequest>(bytes, |push| {
            push.uris.len() + push.qualifiers.len() + push.references_blobs.len()
        }),
        5 => counted::<reapi::GetActionResultRequest>(bytes, |get| get.inline_output_files.len()),
        6 => {
            named(Kind::Directory, bytes, |directory: reapi::Directory| vec![directory]);
            counted::<reapi::Directory>(bytes, |directory| {
                directory.files.len() + directory.directories.len() + directory.symlinks.len()
            })
        }
        _ => {
            named(Kind::Tree, bytes, |tree: reapi::Tree| {
                tree.root.into_iter().chain(tree.children).collect()
            });
            counted::<reapi::Tree>(bytes, |tree| tree.children.len())
        }
    }
}

/// How many entries a message has at least.
fn counted<M: Bounded>(bytes: &[u8], entries: impl Fn(&M) -> usize) -> String {
    let decoded = M::decode(bytes);
    if let Ok(decoded) = &decoded {
        let again = measure::<M>(decoded.encode_to_vec());
        let is_malformed = matches!(again, Err(TooMuch::Malformed(_)));
        assert!(!is_malformed, "what prost writes is not taken");
    }
    let measured = match measure::<M>(bytes.to_vec()) {
        Ok(measured) => measured,
        Err(error) => return format!("{error:?}, {}", decoded.is_ok()),
    };
    let cost = measured.cost();
    let Ok(decoded) = measured.decode() else {
        return "another type".to_owned();
    };
    let entries = entries(&decoded) as u64;
    assert!(
        entries <= cost.elements,
        "{entries} entries, {} were counted",
        cost.elements
    );
    let length = decoded.encoded_len() as u64;
    // All that is in it has been in the message: at most ten bytes a number that is not counted, and there are few.
    assert!(
        length <= cost.memory + 1024,
        "{length} bytes, {} were counted",
        cost.memory
    );
    format!("{} entries, {}", entries.min(3), cost.memory.ilog2())
}

/// The same files and directories, in any order: decoded, their lists are apart.
fn named<M: Message + Default>(kind: Kind, bytes: &[u8], directories: impl Fn(M) -> Vec<reapi::Directory>) {
    let mut read = Vec::new();
    let ended = tree::read(kind, bytes, |entry: Entry<'_>| {
        let digest = entry.digest.map(|digest| (digest.hash.to_owned(), digest.size_bytes));
        read.push((entry.is_directory, digest));
        Ok::<(), TooMuch>(())
    });
    let (Ok(()), Ok(decoded)) = (ended, M::decode(bytes)) else {
        return;
    };
    // A root that comes twice is one whose lists are joined, so that a tree has the same entries in any case.
    let of = |digest: Option<reapi::Digest>| digest.map(|digest| (digest.hash, digest.size_bytes));
    let mut expected = Vec::new();
    for directory in directories(decoded) {
        expected.extend(directory.files.into_iter().map(|file| (false, of(file.digest))));
        expected.extend(
            directory
                .directories
                .into_iter()
                .map(|directory| (true, of(directory.digest))),
        );
    }
    read.sort();
    expected.sort();
    assert_eq!(read, expected);
}
