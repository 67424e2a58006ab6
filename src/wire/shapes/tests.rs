#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(
    clippy::disallowed_methods,
    reason = "the tables are compared with what the decoder keeps"
)]

use prost::encoding::{WireType, encode_key, encode_varint};

use super::*;
use crate::wire::bound::{Counter, TooMuch};
use crate::wire::decode::measure;
use crate::wire::protobuf::Walk;
use crate::wire::{Bounded, Shape};

const TIMES: usize = 300;
const WIDE: Bound = Bound {
    longest: u64::MAX,
    elements: u64::MAX,
    ratio: 1 << 30,
};

/// `times` fields, within a message for each number of `path`.
fn nested(path: &[u32], times: usize, field: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    (0..times).for_each(|_| field(&mut bytes));
    for number in path.iter().rev() {
        let inner = bytes;
        bytes = Vec::new();
        delimited(*number, &inner, &mut bytes);
    }
    bytes
}

fn delimited(number: u32, content: &[u8], bytes: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, bytes);
    encode_varint(content.len() as u64, bytes);
    bytes.extend_from_slice(content);
}

/// Whatever the decoder keeps of a field has an entry in the table, which counts it.
fn check<M: Bounded>(shape: &'static Shape, path: &mut Vec<u32>) {
    for number in 1..40 {
        let empty = nested(path, TIMES, |bytes| delimited(number, b"", bytes));
        let packed = nested(path, TIMES, |bytes| delimited(number, b"\x01", bytes));
        let numbers = nested(path, TIMES, |bytes| {
            encode_key(number, WireType::Varint, bytes);
            encode_varint(1, bytes);
        });
        for bytes in [empty, packed, numbers] {
            let Ok(message) = M::decode(&*bytes) else { continue };
            let cost = cost::<M>(&bytes);
            if message.encoded_len() >= TIMES {
                assert!(cost.elements >= TIMES as u64, "{path:?} {number}: {cost:?}");
            }
        }
        let long = nested(path, 1, |bytes| delimited(number, &[b'a'; 5000], bytes));
        if M::decode(&*long).is_ok_and(|message| message.encoded_len() >= 5000) {
            let cost = cost::<M>(&long);
            assert!(cost.memory >= 5000, "{path:?} {number}: {cost:?}");
        }
    }
    for (number, kept) in shape.fields {
        if let Message(inner) = kept {
            path.push(*number);
            check::<M>(inner, path);
            path.pop();
        }
    }
}

fn cost<M: Bounded>(bytes: &[u8]) -> crate::wire::Cost {
    let length = bytes.len() as u64;
    let mut counter = Counter::new(M::SHAPE, WIDE, length).unwrap();
    Walk::new(length).push(bytes, &mut counter).unwrap();
    counter.cost()
}

macro_rules! check_all {
    ($($type:ty),* $(,)?) => {$( check::<$type>(<$type>::SHAPE, &mut Vec::new()); )*};
}

#[test]
fn what_the_decoder_keeps_is_counted() {
    check_all!(
        rpc::Status,
        reapi::Directory,
        reapi::Tree,
        reapi::ActionResult,
        reapi::FindMissingBlobsRequest,
        reapi::FindMissingBlobsResponse,
        reapi::BatchUpdateBlobsRequest,
        reapi::BatchReadBlobsRequest,
        reapi::BatchReadBlobsResponse,
        reapi::GetTreeRequest,
        reapi::SplitBlobRequest,
        reapi::SpliceBlobRequest,
        reapi::GetChunkMappingRequest,
        reapi::RegisterChunkMappingRequest,
        reapi::GetActionResultRequest,
        reapi::UpdateActionResultRequest,
        reapi::GetCapabilitiesRequest,
        reapi::CacheCapabilities,
        reapi::RequestMetadata,
        bytestream::ReadRequest,
        bytestream::ReadResponse,
        bytestream::WriteRequest,
        bytestream::QueryWriteStatusRequest,
        asset::FetchBlobRequest,
        asset::FetchDirectoryRequest,
        asset::FetchDirectoryResponse,
        asset::PushBlobRequest,
        asset::PushDirectoryRequest,
        asset::PushDirectoryResponse,
    );
}

fn digest(number: usize) -> reapi::Digest {
    reapi::Digest {
        hash: format!("{number:064x}"),
        size_bytes: 1_000_000,
    }
}

fn passes<M: Bounded + PartialEq>(message: &M) -> u64 {
    let measured = measure::<M>(message.encode_to_vec()).unwrap();
    let cost = measured.cost();
    assert!(measured.decode().unwrap() == *message);
    cost.memory
}

#[test]
fn what_honest_clients_send_is_taken() {
    let blob_digests = (0..200_000).map(digest).collect();
    let memory = passes(&reapi::FindMissingBlobsRequest {
        blob_digests,
        ..Default::default()
    });
    assert!(memory < 64 << 20, "{memory}");
    let files = (0..200_000).map(|number| reapi::FileNode {
        name: number.to_string(),
        digest: Some(digest(number)),
        ..Default::default()
    });
    let symlinks = (0..100_000).map(|number| reapi::SymlinkNode {
        name: number.to_string(),
        target: format!("../{number}"),
        ..Default::default()
    });
    let directory = reapi::Directory {
        files: files.collect(),
        symlinks: symlinks.collect(),
        ..Default::default()
    };
    passes(&directory);
    passes(&reapi::Tree {
        root: None,
        children: (0..100_000)
            .map(|number| reapi::Directory {
                directories: vec![reapi::DirectoryNode {
                    name: "a".to_owned(),
                    digest: Some(digest(number)),
                }],
                ..Default::default()
            })
            .collect(),
    });
    let output_files = (0..30_000).map(|number| reapi::OutputFile {
        path: format!("out/{number}"),
        digest: Some(digest(number)),
        ..Default::default()
    });
    passes(&reapi::ActionResult {
        output_files: output_files.collect(),
        ..Default::default()
    });
}

#[test]
fn what_would_take_many_times_its_size_is_refused() {
    let refused = |number, times| {
        let bytes = nested(&[], times, |bytes| delimited(number, b"", bytes));
        measure::<reapi::BatchReadBlobsRequest>(bytes).err()
    };
    assert_eq!(refused(2, 8_380_000), Some(TooMuch::Elements(MANY.elements)));
    assert_eq!(refused(2, 500_000), Some(TooMuch::Memory));
    assert_eq!(refused(2, 100), None);
    let names = nested(&[], 12 << 20, |bytes| delimited(1, b"", bytes));
    assert_eq!(measure::<reapi::Directory>(names).err(), Some(TooMuch::Memory));
    let long = vec![0; (16 << 20) + 1];
    assert_eq!(
        measure::<reapi::ActionResult>(long).err(),
        Some(TooMuch::Long(16 << 20))
    );
    let broken = measure::<reapi::Digest>(&b"\x0b"[..]).err();
    assert!(matches!(broken, Some(TooMuch::Malformed(_))), "{broken:?}");
    // Another type than the decoder takes.
    assert!(crate::wire::decode::<reapi::Digest>(&b"\x08\x01"[..]).is_err());
}
