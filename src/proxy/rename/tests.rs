//! Renamed requests, on every split.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::disallowed_methods, reason = "it reads what it wrote")]

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::bytestream::WriteRequest;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::policy::method::Method;
use crate::proxy::message::{frame, framed};
use crate::proxy::prefix::SETTLE_EARLY;

/// The request with its name changed, when it arrives in pieces of this size.
fn renamed(method: Method, request: &[u8], split: usize, name: &str) -> Result<Vec<u8>, Refusal> {
    let mut reader = Reader::with_cuts(method);
    let mut rename = Rename::to(name, 1);
    let mut out = Vec::new();
    for piece in request.chunks(split.max(1)) {
        reader.push(piece)?;
        rename.push(Bytes::copy_from_slice(piece), &mut reader, |piece| {
            out.extend_from_slice(&piece);
        })?;
    }
    reader.finish()?;
    assert!(!rename.holds());
    Ok(out)
}

fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    prost::encoding::bytes::encode(number, &bytes.to_vec(), &mut field);
    field
}

fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(5) {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (message, rest) = rest.split_at(length);
        messages.push(message);
        bytes = rest;
    }
    messages
}

#[test]
fn only_the_name_and_the_length_change() {
    // A field that nobody knows, the name between others, and a number.
    let message = [
        field(99, b"unknown"),
        field(1, b"team-a"),
        vec![0x50, 0x96, 0x01],
        field(2, b"digest"),
    ]
    .concat();
    for split in 1..message.len() + 6 {
        let out = renamed(Method::FindMissingBlobs, &frame(&message), split, "prod/team-a").unwrap();
        let expected = [
            field(1, b"prod/team-a"),
            field(99, b"unknown"),
            vec![0x50, 0x96, 0x01],
            field(2, b"digest"),
        ]
        .concat();
        assert_eq!(out, frame(&expected), "{split}");
        let out = renamed(Method::FindMissingBlobs, &frame(&message), split, "").unwrap();
        assert_eq!(out, frame(&expected[field(1, b"prod/team-a").len()..]), "{split}");
    }
    // A request without a name gets one, also when it has nothing at all.
    let out = renamed(Method::FindMissingBlobs, &frame(b""), 1, "x").unwrap();
    assert_eq!(out, frame(&field(1, b"x")));
    let out = renamed(Method::FindMissingBlobs, &frame(&field(1, b"")), 1, "x").unwrap();
    assert_eq!(out, frame(&field(1, b"x")));
}

#[test]
fn a_name_behind_the_place_where_the_new_one_went_is_refused() {
    let long = field(10, &vec![0; usize::try_from(SETTLE_EARLY).unwrap() * 3]);
    let is_ambiguous = |out: Result<Vec<u8>, Refusal>| matches!(out, Err(Refusal::Ambiguous(_)));
    for late in [&b""[..], b"blobs/x/1"] {
        // The last name counts, and it would be the caller's.
        let first = frame(&[long.clone(), field(1, late)].concat());
        for split in [1, 7, 8192, 16_400] {
            let out = renamed(Method::Write, &first, split, "untrusted/blobs/x/1");
            assert!(is_ambiguous(out), "{late:?} {split}");
        }
        // In one piece it is found in time.
        let out = renamed(Method::Write, &first, first.len(), "new").unwrap();
        assert_eq!(WriteRequest::decode(messages(&out)[0]).unwrap().resource_name, "new");
    }
    let first = frame(&field(1, b"blobs/x/1"));
    let later = |name: &[u8]| frame(&[long.clone(), field(1, name)].concat());
    let stream = [first.clone(), later(b"blobs/x/1")].concat();
    assert!(is_ambiguous(renamed(
        Method::Write,
        &stream,
        8192,
        "untrusted/blobs/x/1"
    )));
    // An empty one says nothing, wherever it stands.
    let stream = [first, later(b"")].concat();
    let out = renamed(Method::Write, &stream, 8192, "x").unwrap();
    assert!(out == [frame(&field(1, b"x")), later(b"")].concat());
}

fn write(name: &str, data: usize) -> WriteRequest {
    WriteRequest {
        resource_name: name.to_owned(),
        write_offset: 7,
        data: vec![0x0a; data],
        ..Default::default()
    }
}

proptest! {
    #[test]
    fn every_message_of_an_upload_is_renamed_on_every_split(
        later in proptest::collection::vec((any::<bool>(), prop_oneof![0usize..40, 16_000usize..17_000]), 0..6),
        split in prop_oneof![1usize..40, 1000usize..20_000],
        name in prop_oneof![Just(""), Just("a"), Just("untrusted/a/uploads/u/blobs/x/1")],
    ) {
        let later = later.iter().map(|(named, data)| write(if *named { "old" } else { "" }, *data));
        let requests: Vec<_> = std::iter::once(write("old", 3)).chain(later).collect();
        let stream: Vec<u8> = requests.iter().flat_map(|request| framed(request).to_vec()).collect();
        let out = renamed(Method::Write, &stream, split, name).unwrap();
        let read = messages(&out);
        prop_assert_eq!(read.len(), requests.len());
        for (message, request) in read.iter().zip(&requests) {
            let expected = WriteRequest {
                resource_name: if request.resource_name.is_empty() { String::new() } else { name.to_owned() },
                ..request.clone()
            };
            prop_assert_eq!(WriteRequest::decode(*message).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_not_renamed_is_not_touched(count in 0usize..300, split in 1usize..400) {
        let request = reapi::FindMissingBlobsRequest {
            instance_name: "team-a".to_owned(),
            blob_digests: vec![reapi::Digest { hash: "0".repeat(64), size_bytes: 9 }; count],
            ..Default::default()
        };
        let out = renamed(Method::FindMissingBlobs, &framed(&request), split, "b").unwrap();
        let expected = reapi::FindMissingBlobsRequest { instance_name: "b".to_owned(), ..request };
        // Field 1 comes first as prost writes it.
        prop_assert_eq!(out, framed(&expected).to_vec());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), split in 1usize..20) {
        let framed = frame(&bytes);
        for request in [&bytes[..], &framed] {
            for method in [Method::Write, Method::PushBlob, Method::Execute] {
                // Either way: what counts is that a renamed request has no other name than the new one.
                if let Ok(out) = renamed(method, request, split, "new") {
                    let first = messages(&out).first().copied().unwrap_or_default();
                    let read = reapi::GetCapabilitiesRequest::decode(first);
                    prop_assert!(read.is_ok_and(|read| read.instance_name == "new"));
                }
            }
        }
    }
}
