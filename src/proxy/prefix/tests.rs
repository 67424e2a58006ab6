//! The reader against messages of every kind, on every split.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::disallowed_methods, reason = "it reads what it wrote")]
use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::bytestream::{ReadRequest, WriteRequest};
use proptest::prelude::*;
use prost::Message;

use super::*;

fn framed(message: &[u8]) -> Vec<u8> {
    crate::proxy::message::frame(message).to_vec()
}

fn read(method: Method, bytes: &[u8]) -> Result<(String, Uris), Refusal> {
    let mut reader = Reader::new(method);
    let _ = reader.push(bytes)?;
    reader.finish()?;
    Ok((reader.name()?.to_owned(), reader.take_uris()))
}

fn update(instance: &str, data: usize) -> Vec<u8> {
    reapi::BatchUpdateBlobsRequest {
        instance_name: instance.into(),
        requests: vec![reapi::batch_update_blobs_request::Request {
            data: vec![0x0a; data],
            ..Default::default()
        }],
        ..Default::default()
    }
    .encode_to_vec()
}

#[test]
fn the_name_is_found_wherever_it_stands_and_absence_is_the_empty_name() {
    assert_eq!(read(Method::FindMissingBlobs, &framed(&[])).unwrap().0, "");
    assert_eq!(
        read(Method::BatchUpdateBlobs, &framed(&update("main", 10))).unwrap().0,
        "main"
    );
    // field 2 first, then the name
    assert_eq!(
        read(Method::FindMissingBlobs, &framed(b"\x12\x00\x0a\x01x")).unwrap().0,
        "x"
    );
}

#[test]
fn whatever_could_be_read_in_two_ways_is_refused() {
    let refuse = |method, message: &[u8]| read(method, &framed(message)).unwrap_err();
    let twice = b"\x0a\x01a\x0a\x01b";
    assert!(matches!(refuse(Method::FindMissingBlobs, twice), Refusal::Ambiguous(_)));
    let same_twice = b"\x0a\x01a\x0a\x01a";
    assert!(matches!(
        refuse(Method::FindMissingBlobs, same_twice),
        Refusal::Ambiguous(_)
    ));
    let as_number = b"\x08\x01";
    assert!(matches!(
        refuse(Method::FindMissingBlobs, as_number),
        Refusal::Ambiguous(_)
    ));
    for malformed in [
        &b"\x8a\x00\x01a"[..],                               // an overlong tag
        b"\x0a\x81\x00a",                                    // an overlong length
        b"\x0a\x05a",                                        // a length beyond the message
        b"\x13\x14",                                         // a group
        b"\x00\x00",                                         // field 0
        b"\x12",                                             // a field without its length
        b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // a number of eleven bytes
        b"\x0a\x01\xff",                                     // not UTF-8
    ] {
        assert!(
            matches!(refuse(Method::FindMissingBlobs, malformed), Refusal::Malformed(_)),
            "{malformed:?}"
        );
    }
    let mut two = framed(&[]);
    two.extend(framed(b"\x0a\x01a"));
    assert!(matches!(
        read(Method::FindMissingBlobs, &two),
        Err(Refusal::Ambiguous(_))
    ));
    assert_eq!(
        read(Method::FindMissingBlobs, &[1, 0, 0, 0, 0]),
        Err(Refusal::Compressed)
    );
    assert!(matches!(
        read(Method::FindMissingBlobs, &[2, 0, 0, 0, 0]),
        Err(Refusal::Malformed(_))
    ));
    assert!(matches!(
        read(Method::FindMissingBlobs, &[]),
        Err(Refusal::Malformed(_))
    ));
    assert!(matches!(
        read(Method::FindMissingBlobs, &[0, 0, 0, 0, 9, 1]),
        Err(Refusal::Malformed(_))
    ));
}

#[test]
fn where_no_name_is_read_only_the_bounds_of_messages_are() {
    let mut reader = Reader::new(Method::WaitExecution);
    let message = framed(b"\xff\xff anything");
    let (head, tail) = message.split_at(8);
    assert_eq!(reader.push(head), Ok(Progress::Settled));
    assert!(!reader.is_between_messages() && reader.finish().is_err());
    assert_eq!(reader.push(tail), Ok(Progress::Settled));
    assert!(reader.is_between_messages() && reader.finish().is_ok());
    assert!(reader.push(&message).is_err(), "one message is all");
    assert!(Reader::new(Method::PublishBuildToolEventStream).finish().is_ok());
}

#[test]
fn a_long_message_is_settled_early_and_a_late_name_still_refused() {
    let long = update("", 1 << 20);
    let mut reader = Reader::new(Method::BatchUpdateBlobs);
    let bytes = framed(&[long.as_slice(), b"\x0a\x01x"].concat());
    let (early, late) = bytes.split_at(100_000);
    assert_eq!(reader.push(early), Ok(Progress::Settled));
    assert!(matches!(reader.push(late), Err(Refusal::Ambiguous(_))));
}

#[test]
fn later_messages_of_a_write_name_the_same_resource_or_none() {
    let message = |name: &str| {
        framed(
            &WriteRequest {
                resource_name: name.into(),
                data: vec![1; 100],
                ..Default::default()
            }
            .encode_to_vec(),
        )
    };
    let all = |names: &[&str]| {
        let bytes: Vec<u8> = names.iter().flat_map(|name| message(name)).collect();
        read(Method::Write, &bytes).map(|(name, _)| name)
    };
    assert_eq!(all(&["a", "", "a"]), Ok("a".into()));
    assert!(matches!(all(&["a", "b"]), Err(Refusal::Ambiguous(_))));
    assert!(matches!(all(&["", "b"]), Err(Refusal::Ambiguous(_))));
}

#[test]
fn uris_are_read_as_they_are_in_whatever_pieces() {
    let uris = ["urn:a", "", "https://b/%2e", "URN:c"].map(str::to_owned).to_vec();
    let fetch = asset::FetchBlobRequest {
        uris: uris.clone(),
        ..Default::default()
    };
    let push = asset::PushDirectoryRequest {
        uris: uris.clone(),
        ..Default::default()
    };
    for (method, message) in [
        (Method::FetchBlob, fetch.encode_to_vec()),
        (Method::PushDirectory, push.encode_to_vec()),
    ] {
        let mut reader = Reader::new(method);
        for byte in framed(&message) {
            reader.push(&[byte]).unwrap();
        }
        assert_eq!(reader.take_uris(), Uris::of(uris.iter().map(String::as_str)));
    }
    assert_eq!(read(Method::PushBlob, &framed(&[])).unwrap().1, Uris::default());
}

#[test]
fn the_uris_of_a_request_are_bounded() {
    let push = |uris: Vec<String>, references| {
        framed(
            &asset::PushBlobRequest {
                uris,
                references_blobs: vec![
                    reapi::Digest {
                        hash: "ab".repeat(32),
                        size_bytes: 7
                    };
                    references
                ],
                ..Default::default()
            }
            .encode_to_vec(),
        )
    };
    let many = |count| vec!["urn:x".to_owned(); count];
    assert_eq!(
        read(Method::PushBlob, &push(many(MOST_URIS), 0)).unwrap().1.len(),
        MOST_URIS
    );
    assert!(matches!(
        read(Method::PushBlob, &push(many(MOST_URIS + 1), 0)),
        Err(Refusal::TooLong(_))
    ));
    let long = vec!["x".repeat(70_000)];
    assert!(matches!(
        read(Method::PushBlob, &push(long, 0)),
        Err(Refusal::TooLong(_))
    ));
    // The references come behind the URIs, and are not held.
    let mut reader = Reader::new(Method::PushBlob);
    let bytes = push(many(2), 10_000);
    let (early, late) = bytes.split_at(20_000);
    assert_eq!(reader.push(early), Ok(Progress::Settled));
    assert_eq!(reader.take_uris().len(), 2);
    assert_eq!(reader.push(late), Ok(Progress::Settled));
    // A URI behind them would be one that nobody has judged.
    let mut reader = Reader::new(Method::PushBlob);
    let mut message = bytes[5..].to_vec();
    message.extend_from_slice(b"\x12\x05urn:y");
    assert!(matches!(
        reader
            .push(&framed(&message)[..20_000])
            .and_then(|_| reader.push(&framed(&message)[20_000..])),
        Err(Refusal::Ambiguous(_))
    ));
}

proptest! {
    #[test]
    fn agrees_with_prost_on_every_split(name in "[a-z/]{0,40}", digests in 0usize..20, cut in 0usize..2000) {
        let request = reapi::FindMissingBlobsRequest {
            instance_name: name.clone(),
            blob_digests: vec![reapi::Digest { hash: "ab".repeat(32), size_bytes: 7 }; digests],
            ..Default::default()
        };
        let bytes = framed(&request.encode_to_vec());
        let mut reader = Reader::new(Method::FindMissingBlobs);
        let (a, b) = bytes.split_at(cut.min(bytes.len()));
        for part in a.chunks(3).chain(b.chunks(7)) {
            reader.push(part).unwrap();
        }
        reader.finish().unwrap();
        prop_assert_eq!(reader.name().unwrap(), name);
    }

    #[test]
    fn never_panics_and_never_accepts_what_prost_reads_otherwise(message in proptest::collection::vec(any::<u8>(), 0..64)) {
        let bytes = framed(&message);
        let Ok((name, _)) = read(Method::Read, &bytes) else { return Ok(()) };
        // Accepted: then prost, where it accepts too, must read the same name.
        if let Ok(request) = ReadRequest::decode(message.as_slice()) {
            prop_assert_eq!(request.resource_name, name);
        }
    }
}
