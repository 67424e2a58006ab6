//! The calls of honest clients, each of which checks its answer.

use aws_lc_rs::digest::{Context, SHA256};
use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::bytestream::{ReadRequest, ReadResponse, WriteRequest, WriteResponse};
use bytes::Bytes;
use casgate::policy::method::Method;
use h2::Reason;
use prost::Message;
use reapi::batch_update_blobs_request::Request as Update;

use crate::calls::framed;
use crate::catalogue::{Catalogue, Item, Part};
use crate::client::{Client, answer, send};
use crate::noise::{Random, hash};
use crate::tally::Failure;

type Done = Result<(), Failure>;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Find,
    BatchRead,
    Read,
    BatchUpdate,
    Write,
    GetAction,
    UpdateAction,
    Capabilities,
    /// Reads that are given up, some at once.
    CancelReads,
    /// An upload that is given up.
    CancelWrite,
}

/// Bytes in one message of an upload.
const PIECE: usize = 64 << 10;
/// NOT_FOUND (grpc doc/statuscodes.md).
const NOT_FOUND: i32 = 5;

impl Work {
    const ALL: [Work; 12] = [
        Work::Find,
        Work::Find,
        Work::BatchRead,
        Work::Read,
        Work::Read,
        Work::BatchUpdate,
        Work::Write,
        Work::GetAction,
        Work::UpdateAction,
        Work::Capabilities,
        Work::CancelReads,
        Work::CancelWrite,
    ];

    pub(crate) fn pick(random: &mut Random) -> Work {
        Work::ALL[random.next() as usize % Work::ALL.len()]
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Work::Find => "FindMissingBlobs",
            Work::BatchRead => "BatchReadBlobs",
            Work::Read => "Read",
            Work::BatchUpdate => "BatchUpdateBlobs",
            Work::Write => "Write",
            Work::GetAction => "GetActionResult",
            Work::UpdateAction => "UpdateActionResult",
            Work::Capabilities => "GetCapabilities",
            Work::CancelReads => "Read, cancelled",
            Work::CancelWrite => "Write, cancelled",
        }
    }

    pub(crate) fn is_push(self) -> bool {
        matches!(self, Work::BatchUpdate | Work::Write | Work::UpdateAction)
    }

    /// Does it; `None` where there is nothing to do now.
    pub(crate) async fn run(self, client: &Client, catalogue: &Catalogue, random: &mut Random) -> Option<Done> {
        Some(match self {
            Work::Find => find(client, catalogue, random).await,
            Work::BatchRead => batch_read(client, catalogue, random).await,
            Work::Read => {
                let item = catalogue.pick(random);
                let must = catalogue.must_have(&item, Part::Blob);
                found(must, read(client, catalogue, &item).await)
            }
            Work::BatchUpdate => {
                let item = catalogue.to_push(random)?;
                match item.blob.size <= BATCH {
                    true => batch_update(client, catalogue, &item).await,
                    false => write(client, catalogue, &item).await,
                }
            }
            Work::Write => write(client, catalogue, &*catalogue.to_push(random)?).await,
            Work::GetAction => {
                let item = catalogue.pick(random);
                let must = catalogue.must_have(&item, Part::Action);
                found(must, get_action(client, catalogue, &item).await)
            }
            Work::UpdateAction => {
                let item = catalogue.pick(random);
                if !catalogue.must_have(&item, Part::Blob) {
                    return None;
                }
                update_action(client, catalogue, &item).await
            }
            Work::Capabilities => capabilities(client, catalogue).await,
            Work::CancelReads => cancel_reads(client, catalogue, random).await,
            Work::CancelWrite => cancel_write(client, catalogue, random).await,
        })
    }
}

/// Largest blob that is pushed in a batch, in bytes.
const BATCH: usize = 1 << 20;

/// What need not be there may be missing.
fn found(must: bool, done: Done) -> Done {
    match done {
        Err(failure) if failure.code == Some(NOT_FOUND as u8) && !must => Ok(()),
        Err(failure) if failure.code == Some(NOT_FOUND as u8) => {
            Err(wrong("what was pushed is not found", &failure.text))
        }
        done => done,
    }
}

fn wrong(what: &str, detail: impl std::fmt::Display) -> Failure {
    Failure::broken(format!("{what}: {detail}"))
}

async fn find(client: &Client, catalogue: &Catalogue, random: &mut Random) -> Done {
    let items: Vec<_> = (0..10).map(|_| catalogue.pick(random)).collect();
    let musts: Vec<_> = items
        .iter()
        .filter(|item| catalogue.must_have(item, Part::Blob))
        .collect();
    let request = reapi::FindMissingBlobsRequest {
        instance_name: catalogue.instance.to_owned(),
        blob_digests: items.iter().map(|item| item.digest.clone()).collect(),
        ..Default::default()
    };
    let answer: reapi::FindMissingBlobsResponse = client.ask(Method::FindMissingBlobs, &request).await?;
    for missing in &answer.missing_blob_digests {
        if !request.blob_digests.contains(missing) {
            return Err(wrong("a digest that nobody asked for", &missing.hash));
        }
        if musts.iter().any(|item| item.digest == *missing) {
            return Err(wrong("what was pushed is missing", &missing.hash));
        }
    }
    Ok(())
}

async fn batch_read(client: &Client, catalogue: &Catalogue, random: &mut Random) -> Done {
    let items: Vec<_> = (0..4).map(|_| catalogue.pick_small(random)).collect();
    let musts: Vec<_> = items.iter().map(|item| catalogue.must_have(item, Part::Blob)).collect();
    let request = reapi::BatchReadBlobsRequest {
        instance_name: catalogue.instance.to_owned(),
        digests: items.iter().map(|item| item.digest.clone()).collect(),
        ..Default::default()
    };
    let answer: reapi::BatchReadBlobsResponse = client.ask(Method::BatchReadBlobs, &request).await?;
    for (item, must) in items.iter().zip(musts) {
        let one = answer
            .responses
            .iter()
            .find(|one| one.digest.as_ref() == Some(&item.digest))
            .ok_or_else(|| wrong("a batch without", &item.digest.hash))?;
        match one.status.as_ref().map_or(0, |status| status.code) {
            0 if hash(&one.data) == item.digest.hash => {}
            0 => return Err(wrong("wrong bytes in a batch", &item.digest.hash)),
            NOT_FOUND if !must => {}
            code => return Err(wrong("a status in a batch", code)),
        }
    }
    Ok(())
}

async fn read(client: &Client, catalogue: &Catalogue, item: &Item) -> Done {
    let (mut hash, mut length, mut broken) = (Context::new(&SHA256), 0, None);
    let request = framed(&read_request(catalogue, item));
    client
        .call(
            Method::Read,
            std::iter::once(request),
            |message| match ReadResponse::decode(message) {
                Ok(piece) => {
                    length += piece.data.len();
                    hash.update(&piece.data);
                }
                Err(error) => broken = Some(error),
            },
        )
        .await?;
    let hash = hash.finish();
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    match broken {
        Some(error) => Err(Failure::broken(error)),
        None if hash != item.digest.hash || length != item.blob.size => {
            Err(wrong("wrong bytes", format_args!("{length} of {}", item.blob.size)))
        }
        None => Ok(()),
    }
}

/// A request for a whole blob.
pub(crate) fn read_request(catalogue: &Catalogue, item: &Item) -> ReadRequest {
    let reapi::Digest { hash, size_bytes } = &item.digest;
    ReadRequest {
        resource_name: format!("{}blobs/{hash}/{size_bytes}", prefix(catalogue)),
        ..Default::default()
    }
}

async fn batch_update(client: &Client, catalogue: &Catalogue, item: &Item) -> Done {
    let request = reapi::BatchUpdateBlobsRequest {
        instance_name: catalogue.instance.to_owned(),
        requests: vec![Update {
            digest: Some(item.digest.clone()),
            data: item.blob.bytes(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let answer: reapi::BatchUpdateBlobsResponse = client.ask(Method::BatchUpdateBlobs, &request).await?;
    match answer.responses.as_slice() {
        [one] if one.status.as_ref().is_none_or(|status| status.code == 0) => {
            catalogue.stored(item, Part::Blob);
            Ok(())
        }
        other => Err(wrong("a push in a batch", format_args!("{other:?}"))),
    }
}

async fn write(client: &Client, catalogue: &Catalogue, item: &Item) -> Done {
    let mut answer = None;
    let messages = write_messages(catalogue, item);
    client
        .call(Method::Write, messages, |message| answer = Some(message))
        .await?;
    let answer = answer.ok_or_else(|| Failure::broken("OK without a message"))?;
    let answer = WriteResponse::decode(answer).map_err(Failure::broken)?;
    if answer.committed_size != item.digest.size_bytes {
        return Err(wrong("another size was committed", answer.committed_size));
    }
    catalogue.stored(item, Part::Blob);
    Ok(())
}

/// An upload.
pub(crate) fn write_messages(catalogue: &Catalogue, item: &Item) -> impl Iterator<Item = Bytes> + use<> {
    let reapi::Digest { hash, size_bytes } = &item.digest;
    let upload = uuid::Uuid::new_v4();
    let name = format!("{}uploads/{upload}/blobs/{hash}/{size_bytes}", prefix(catalogue));
    let (data, size) = (item.blob.bytes(), item.blob.size);
    (0..size).step_by(PIECE).map(move |offset| {
        let end = size.min(offset + PIECE);
        framed(&WriteRequest {
            resource_name: name.clone(),
            write_offset: offset as i64,
            finish_write: end == size,
            data: data[offset..end].to_vec(),
        })
    })
}

async fn get_action(client: &Client, catalogue: &Catalogue, item: &Item) -> Done {
    let request = reapi::GetActionResultRequest {
        instance_name: catalogue.instance.to_owned(),
        action_digest: Some(item.action()),
        ..Default::default()
    };
    let answer: reapi::ActionResult = client.ask(Method::GetActionResult, &request).await?;
    same(item, answer.stdout_digest.as_ref())
}

async fn update_action(client: &Client, catalogue: &Catalogue, item: &Item) -> Done {
    let request = reapi::UpdateActionResultRequest {
        instance_name: catalogue.instance.to_owned(),
        action_digest: Some(item.action()),
        action_result: Some(reapi::ActionResult {
            stdout_digest: Some(item.digest.clone()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let answer: reapi::ActionResult = client.ask(Method::UpdateActionResult, &request).await?;
    same(item, answer.stdout_digest.as_ref())?;
    catalogue.stored(item, Part::Action);
    Ok(())
}

fn same(item: &Item, digest: Option<&reapi::Digest>) -> Done {
    match digest == Some(&item.digest) {
        true => Ok(()),
        false => Err(wrong("a name for something else", format_args!("{digest:?}"))),
    }
}

async fn capabilities(client: &Client, catalogue: &Catalogue) -> Done {
    let request = reapi::GetCapabilitiesRequest {
        instance_name: catalogue.instance.to_owned(),
    };
    let _checked_elsewhere: reapi::ServerCapabilities = client.ask(Method::GetCapabilities, &request).await?;
    Ok(())
}

/// As Ctrl-C does in a build.
async fn cancel_reads(client: &Client, catalogue: &Catalogue, random: &mut Random) -> Done {
    let mut open = Vec::new();
    for _ in 0..1 + random.next() % 30 {
        let request = read_request(catalogue, &catalogue.pick(random));
        let (response, mut stream) = client.open(Method::Read).await?;
        stream.send_data(framed(&request), true).map_err(Failure::broken)?;
        open.push((response, stream));
    }
    tokio::time::sleep(std::time::Duration::from_millis(random.next() % 50)).await;
    // Those that were answered have ended already.
    for (_, stream) in &mut open {
        stream.send_reset(Reason::CANCEL);
    }
    Ok(())
}

async fn cancel_write(client: &Client, catalogue: &Catalogue, random: &mut Random) -> Done {
    let item = catalogue.pick(random);
    let messages: Vec<_> = write_messages(catalogue, &item).collect();
    let some = random.next() as usize % messages.len();
    let (response, mut stream) = client.open(Method::Write).await?;
    let mut answer = std::pin::pin!(answer(response, drop));
    let sending = async {
        for message in messages.into_iter().take(some) {
            send(&mut stream, message).await?;
        }
        Some(())
    };
    tokio::select! {
        _answered = &mut answer => {}
        _sent = sending => stream.send_reset(Reason::CANCEL),
    }
    Ok(())
}

fn prefix(catalogue: &Catalogue) -> String {
    match catalogue.instance {
        "" => String::new(),
        name => format!("{name}/"),
    }
}
