//! `ContentAddressableStorage`.

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::rpc;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use prost::Message;
use reapi::batch_update_blobs_request::Request as Update;
use reapi::batch_update_blobs_response::Response as Updated;
use reapi::content_addressable_storage_server::ContentAddressableStorage;
use reapi::{batch_read_blobs_response, compressor};
use tonic::{Code, Request, Response, Status, Streaming};

use super::digest::BlobDigest;
use super::fault::Fault;
use super::instance::Instance;
use super::memory::{Memory, Reserve};
use super::walk::{Stop, Walk};
use super::{Cache, check_digest_function, memory};
use crate::wire;

/// Most bytes of blobs in one batch. With what is around them, a message gets larger than the
/// 4 MiB that gRPC clients take by default: [`super::capabilities`] announces somewhat less.
pub(super) const LARGEST_BATCH: u64 = 4 << 20;

/// Blobs of one request that are worked on at a time.
pub(super) const AT_ONCE: usize = 16;

/// Bytes that a digest of a request takes while it is answered.
const DIGEST_BYTES: u64 = 320;

/// Most directories and most bytes in one `GetTreeResponse`.
const PAGE: usize = 1000;
const PAGE_BYTES: usize = 1 << 20;

#[tonic::async_trait]
impl ContentAddressableStorage for Cache {
    async fn find_missing_blobs(
        &self,
        request: Request<reapi::FindMissingBlobsRequest>,
    ) -> Result<Response<reapi::FindMissingBlobsResponse>, Status> {
        let request = request.into_inner();
        check_digest_function(request.digest_function)?;
        let instance = Instance::parse(&request.instance_name)?;
        // Each of them is there as it came, as it was read, and in the answer.
        let _room = memory::reserve(request.blob_digests.len() as u64 * DIGEST_BYTES)?;
        let digests = request
            .blob_digests
            .iter()
            .map(|digest| BlobDigest::parse(digest, "blob_digests"))
            .collect::<Result<Vec<_>, Fault>>()?;
        let missing_blob_digests = stream::iter(digests)
            .map(|digest| {
                let instance = &instance;
                async move {
                    let here = self.blobs.holds(instance, &digest).await?;
                    Ok::<_, Fault>((!here).then(|| digest.to_proto()))
                }
            })
            .buffered(AT_ONCE)
            .try_filter_map(|missing| async move { Ok(missing) })
            .try_collect()
            .await?;
        Ok(Response::new(reapi::FindMissingBlobsResponse { missing_blob_digests }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<reapi::BatchUpdateBlobsRequest>,
    ) -> Result<Response<reapi::BatchUpdateBlobsResponse>, Status> {
        let request = request.into_inner();
        check_digest_function(request.digest_function)?;
        let instance = Instance::parse(&request.instance_name)?;
        check_batch(request.requests.iter().map(|blob| blob.data.len() as u64))?;
        let responses = stream::iter(request.requests)
            .map(|update| {
                let instance = &instance;
                async move {
                    let digest = update.digest.clone();
                    let status = Some(outcome(self.update(instance, update).await));
                    Updated { digest, status }
                }
            })
            .buffered(AT_ONCE)
            .collect()
            .await;
        Ok(Response::new(reapi::BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<reapi::BatchReadBlobsRequest>,
    ) -> Result<Response<reapi::BatchReadBlobsResponse>, Status> {
        let request = request.into_inner();
        check_digest_function(request.digest_function)?;
        let instance = Instance::parse(&request.instance_name)?;
        // Negative sizes add nothing here and are refused one by one.
        let sizes = request.digests.iter().map(|digest| digest.size_bytes);
        let total = check_batch(sizes.map(|size| u64::try_from(size).unwrap_or(0)))?;
        // What is read, and what it is encoded to.
        let room = memory::reserve_when_free(2 * total).await?;
        let responses = stream::iter(request.digests)
            .map(|digest| {
                let instance = &instance;
                async move {
                    let read = self.load(instance, &digest).await;
                    let (data, result) = match read {
                        Ok(data) => (data.to_vec(), Ok(())),
                        Err(fault) => (Vec::new(), Err(fault)),
                    };
                    batch_read_blobs_response::Response {
                        digest: Some(digest),
                        data,
                        compressor: compressor::Value::Identity.into(),
                        status: Some(outcome(result)),
                    }
                }
            })
            .buffered(AT_ONCE)
            .collect()
            .await;
        let mut response = Response::new(reapi::BatchReadBlobsResponse { responses });
        memory::keep_until_encoded(room, &mut response);
        Ok(response)
    }

    type GetTreeStream = BoxStream<'static, Result<reapi::GetTreeResponse, Status>>;

    /// The whole tree in one stream: no page tokens are given, so none are taken.
    async fn get_tree(&self, request: Request<reapi::GetTreeRequest>) -> Result<Response<Self::GetTreeStream>, Status> {
        let request = request.into_inner();
        check_digest_function(request.digest_function)?;
        let instance = Instance::parse(&request.instance_name)?;
        let root = BlobDigest::required(request.root_digest.as_ref(), "root_digest")?;
        let field = |field, reason| Err(Fault::Field { field, reason }.into());
        if !request.page_token.is_empty() {
            return field("page_token", "this server gives none; read the tree anew");
        }
        let page = match usize::try_from(request.page_size) {
            Ok(0) => PAGE,
            Ok(page) => page.min(PAGE),
            Err(_) => return field("page_size", "can't be negative"),
        };
        let turn = self.turns.take().await?;
        let mut walk = Walk::new(self.blobs.clone(), instance, root, turn)?;
        let first = match walk.next().await? {
            Some(Stop::Present(digest, bytes)) => Decoded::of(walk.memory(), digest, bytes)?,
            Some(Stop::Missing) | None => return Err(Fault::NoBlob(root).into()),
        };
        let state = (walk, Vec::new(), Some(first));
        let pages = stream::try_unfold(state, move |(mut walk, sent, carry)| async move {
            // The page before is encoded.
            drop::<Vec<Box<dyn Reserve>>>(sent);
            let (directories, rooms, carry) = next_page(&mut walk, carry, page).await?;
            let response = reapi::GetTreeResponse {
                directories,
                next_page_token: String::new(),
            };
            let done = response.directories.is_empty();
            Ok((!done).then_some((response, (walk, rooms, carry))))
        });
        Ok(Response::new(pages.boxed()))
    }

    async fn split_blob(
        &self,
        _: Request<reapi::SplitBlobRequest>,
    ) -> Result<Response<reapi::SplitBlobResponse>, Status> {
        Err(Fault::Unsupported("SplitBlob").into())
    }

    type GetChunkMappingStream = BoxStream<'static, Result<reapi::GetChunkMappingResponse, Status>>;

    async fn get_chunk_mapping(
        &self,
        _: Request<reapi::GetChunkMappingRequest>,
    ) -> Result<Response<Self::GetChunkMappingStream>, Status> {
        Err(Fault::Unsupported("GetChunkMapping").into())
    }

    async fn splice_blob(
        &self,
        _: Request<reapi::SpliceBlobRequest>,
    ) -> Result<Response<reapi::SpliceBlobResponse>, Status> {
        Err(Fault::Unsupported("SpliceBlob").into())
    }

    async fn register_chunk_mapping(
        &self,
        _: Request<Streaming<reapi::RegisterChunkMappingRequest>>,
    ) -> Result<Response<reapi::RegisterChunkMappingResponse>, Status> {
        Err(Fault::Unsupported("RegisterChunkMapping").into())
    }
}

impl Cache {
    async fn update(&self, instance: &Instance, update: Update) -> Result<(), Fault> {
        if update.compressor != i32::from(compressor::Value::Identity) {
            return Err(Fault::Compressor(update.compressor));
        }
        let digest = BlobDigest::required(update.digest.as_ref(), "digest")?;
        let data = Bytes::from(update.data);
        self.blobs.store(instance, &digest, data).await
    }

    async fn load(&self, instance: &Instance, digest: &reapi::Digest) -> Result<Bytes, Fault> {
        let digest = BlobDigest::parse(digest, "digests")?;
        let data = self.blobs.load(instance, &digest).await?;
        data.ok_or(Fault::NoBlob(digest))
    }
}

/// Collects directories until the page is full, with what is reserved for them. The one that did not fit opens the next
/// page.
async fn next_page(
    walk: &mut Walk,
    mut carry: Option<Decoded>,
    page: usize,
) -> Result<(Vec<reapi::Directory>, Vec<Box<dyn Reserve>>, Option<Decoded>), Fault> {
    let (mut directories, mut rooms) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    while directories.len() < page {
        let Decoded(directory, room) = match carry.take() {
            Some(decoded) => decoded,
            None => match walk.next().await? {
                Some(Stop::Present(digest, bytes)) => Decoded::of(walk.memory(), digest, bytes)?,
                Some(Stop::Missing) => continue,
                None => break,
            },
        };
        bytes += directory.encoded_len();
        if bytes > PAGE_BYTES && !directories.is_empty() {
            carry = Some(Decoded(directory, room));
            break;
        }
        directories.push(directory);
        rooms.push(room);
    }
    Ok((directories, rooms, carry))
}

/// A directory for a page, with what is reserved for it.
struct Decoded(reapi::Directory, Box<dyn Reserve>);

impl Decoded {
    fn of(memory: &dyn Memory, digest: BlobDigest, bytes: Bytes) -> Result<Self, Fault> {
        let kind = "Directory";
        let measured = wire::measure(bytes).map_err(|_| Fault::NotA { digest, kind })?;
        let mut room = memory.reservation();
        if !room.grow(measured.cost().memory) {
            return Err(Fault::NoMemory);
        }
        let directory = measured.decode().map_err(|_| Fault::NotA { digest, kind })?;
        Ok(Self(directory, room))
    }
}

fn check_batch(sizes: impl Iterator<Item = u64>) -> Result<u64, Fault> {
    let total = sizes.fold(0_u64, u64::saturating_add);
    if total > LARGEST_BATCH {
        return Err(Fault::BatchTooLarge {
            total,
            limit: LARGEST_BATCH,
        });
    }
    Ok(total)
}

/// The status of one blob in a batch.
fn outcome(result: Result<(), Fault>) -> rpc::Status {
    let (code, message) = match result {
        Ok(()) => (Code::Ok, String::new()),
        Err(fault) => {
            let status = Status::from(fault);
            (status.code(), status.message().to_owned())
        }
    };
    rpc::Status {
        code: code.into(),
        message,
        details: Vec::new(),
    }
}
