//! The reader of requests against prost, which reads them as a backend does.

use std::fmt::Debug;

use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::bytestream;
use casgate::policy::Uris;
use casgate::policy::method::{Method, Requests};
use casgate::proxy::prefix::{Progress, Reader, Refusal, SETTLE_EARLY};
use casgate::reference_storage::{GetReferenceRequest, UpdateReferenceRequest};
use prost::Message;

/// How a request was read: what the decision was made on, and what was read to its end.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    decided: (String, Uris),
    messages: usize,
}

/// A request stream: the first byte chooses the method, the second how the rest arrives.
///
/// What the reader accepts, prost reads with the name and the URIs that were decided about, however it arrives.
pub fn first_message(bytes: &[u8]) -> String {
    let [method, split, stream @ ..] = bytes else {
        return "too short".to_owned();
    };
    let method = Method::ALL[usize::from(*method) % Method::ALL.len()];
    let whole = read(method, stream, stream.len().max(1));
    let split = read(method, stream, usize::from(*split).max(1));
    if (stream.len() as u64) < SETTLE_EARLY {
        // Which of several faults is met first may depend on them, and whether there is one may not.
        for other in [&split, &read(method, stream, 1)] {
            assert_eq!(
                whole.as_ref().ok(),
                other.as_ref().ok(),
                "{method:?}: it depends on the pieces"
            );
        }
    }
    for reading in [&whole, &split].into_iter().flatten() {
        check(method, stream, reading);
    }
    match whole {
        Ok(reading) => format!(
            "{method:?} {} {}",
            reading.messages.min(3),
            reading.decided.1.len().min(3)
        ),
        Err(refusal) => format!("{method:?} {refusal}"),
    }
}

/// Reads as the gate does: decides at the first moment when it can, and goes on to read.
fn read(method: Method, stream: &[u8], size: usize) -> Result<Reading, Refusal> {
    let mut reader = Reader::new(method);
    let mut decided = None;
    for piece in stream.chunks(size) {
        if reader.push(piece)? == Progress::Settled && decided.is_none() {
            decided = Some((reader.name()?.to_owned(), reader.take_uris()));
        }
    }
    reader.finish()?;
    assert!(reader.is_between_messages(), "{method:?}: it ends within a message");
    let decided = match decided {
        Some(decided) => decided,
        None => (reader.name()?.to_owned(), reader.take_uris()),
    };
    let messages = messages(stream).map_or_else(|| panic!("{method:?}: no gRPC"), |all| all.len());
    Ok(Reading { decided, messages })
}

/// The messages of a stream, read without the reader; `None` where it ends within one.
fn messages(mut stream: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut found = Vec::new();
    while let Some((head, rest)) = stream.split_at_checked(5) {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let (message, behind) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        found.push((head[0], message));
        stream = behind;
    }
    stream.is_empty().then_some(found)
}

/// What prost reads in each message is what was decided about.
fn check(method: Method, stream: &[u8], reading: &Reading) {
    let all = messages(stream).unwrap();
    if method.requests() == Requests::One {
        assert!(all.len() <= 1, "{method:?}: {} messages", all.len());
    }
    let (name, uris) = &reading.decided;
    for (number, (flag, message)) in all.into_iter().enumerate() {
        let Some(decode) = decoder(method) else { continue };
        assert_eq!(flag, 0, "{method:?}: a compressed message can't have been read");
        // A backend that can't read it does nothing.
        let Some((given, given_uris)) = decode(message) else {
            continue;
        };
        assert!(
            given == *name || number > 0 && given.is_empty(),
            "{method:?}: `{given}` and not `{name}`"
        );
        if method.uris_in().is_some() {
            assert_eq!(&Uris::of(given_uris.iter().map(String::as_str)), uris, "{method:?}");
        }
    }
}

/// What a backend reads of a message: the name, and the URIs.
type Decode = fn(&[u8]) -> Option<(String, Vec<String>)>;

/// A message whose only known field is the name.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

fn decode<M: Message + Default + Debug>(
    message: &[u8],
    of: fn(M) -> (String, Vec<String>),
) -> Option<(String, Vec<String>)> {
    M::decode(message).ok().map(of)
}

macro_rules! read {
    ($type:ty, $name:ident) => {
        Some(|message| decode::<$type>(message, |message| (message.$name, Vec::new())))
    };
    ($type:ty, $name:ident, $uris:ident) => {
        Some(|message| decode::<$type>(message, |message| (message.$name, message.$uris)))
    };
}

/// How a backend reads the messages of a method, where a decision needs something of them.
fn decoder(method: Method) -> Option<Decode> {
    match method {
        Method::GetCapabilities => read!(reapi::GetCapabilitiesRequest, instance_name),
        Method::FindMissingBlobs => read!(reapi::FindMissingBlobsRequest, instance_name),
        Method::BatchReadBlobs => read!(reapi::BatchReadBlobsRequest, instance_name),
        Method::GetTree => read!(reapi::GetTreeRequest, instance_name),
        Method::SplitBlob => read!(reapi::SplitBlobRequest, instance_name),
        Method::BatchUpdateBlobs => read!(reapi::BatchUpdateBlobsRequest, instance_name),
        Method::SpliceBlob => read!(reapi::SpliceBlobRequest, instance_name),
        Method::Read => read!(bytestream::ReadRequest, resource_name),
        Method::Write => read!(bytestream::WriteRequest, resource_name),
        Method::QueryWriteStatus => read!(bytestream::QueryWriteStatusRequest, resource_name),
        Method::GetActionResult => read!(reapi::GetActionResultRequest, instance_name),
        Method::UpdateActionResult => read!(reapi::UpdateActionResultRequest, instance_name),
        Method::Execute => read!(reapi::ExecuteRequest, instance_name),
        Method::FetchBlob => read!(asset::FetchBlobRequest, instance_name, uris),
        Method::FetchDirectory => read!(asset::FetchDirectoryRequest, instance_name, uris),
        Method::PushBlob => read!(asset::PushBlobRequest, instance_name, uris),
        Method::PushDirectory => read!(asset::PushDirectoryRequest, instance_name, uris),
        Method::GetReference => read!(GetReferenceRequest, instance_name),
        Method::UpdateReference => read!(UpdateReferenceRequest, instance_name),
        Method::CreateBotSession | Method::Status => read!(Named, name),
        Method::WaitExecution
        | Method::GetOperation
        | Method::WaitOperation
        | Method::CancelOperation
        | Method::ListOperations
        | Method::DeleteOperation
        | Method::CreateLogStream
        | Method::UpdateBotSession
        | Method::PublishLifecycleEvent
        | Method::PublishBuildToolEventStream
        | Method::HealthCheck
        | Method::HealthWatch => None,
    }
}
