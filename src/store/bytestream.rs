//! `google.bytestream.ByteStream`: blobs of any size, in pieces.

use std::time::Duration;

use bazel_remote_apis::google::bytestream::byte_stream_server::ByteStream;
use bazel_remote_apis::google::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest, WriteResponse,
};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tonic::{Request, Response, Status, Streaming};

use super::Cache;
use super::fault::Fault;
use super::name::{BlobName, UploadName};

/// How long an answer waits for the client to end its stream after `finish_write`. Nearly all have
/// done so already, and are spared a RST_STREAM.
const HALF_CLOSE: Duration = Duration::from_millis(500);

#[tonic::async_trait]
impl ByteStream for Cache {
    type ReadStream = BoxStream<'static, Result<ReadResponse, Status>>;

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let name = BlobName::parse(&request.resource_name)?;
        let size = name.digest.size();
        let out_of_range = |field, value| Fault::OutOfRange { field, value, size };
        let limit = request.read_limit;
        let limit = u64::try_from(limit).map_err(|_| out_of_range("read_limit", limit))?;
        let offset = request.read_offset;
        let start = u64::try_from(offset).map_err(|_| out_of_range("read_offset", offset))?;
        if start > size {
            // A blob that isn't here has no range.
            return Err(match self.blobs.holds(&name.instance, &name.digest).await? {
                true => out_of_range("read_offset", offset),
                false => Fault::NoBlob(name.digest),
            }
            .into());
        }
        let end = match limit {
            0 => size,
            limit => size.min(start.saturating_add(limit)),
        };
        let read = self.blobs.read(&name.instance, &name.digest, start..end);
        let pieces = read.await?.ok_or(Fault::NoBlob(name.digest))?;
        let responses = stream::try_unfold(pieces, |mut pieces| async move {
            let Some(piece) = pieces.next().await.transpose()? else {
                return Ok(None);
            };
            let data = Vec::from(piece);
            Ok(Some((ReadResponse { data }, pieces)))
        });
        Ok(Response::new(responses.boxed()))
    }

    async fn write(&self, request: Request<Streaming<WriteRequest>>) -> Result<Response<WriteResponse>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?;
        let mut message = first.ok_or(Fault::Absent("the first message"))?;
        let resource_name = std::mem::take(&mut message.resource_name);
        let name = UploadName::parse(&resource_name)?;
        let digest = name.digest;
        let answer = Response::new(WriteResponse {
            committed_size: i64::try_from(digest.size()).unwrap_or(i64::MAX),
        });
        if self.blobs.holds_sound(&name.instance, &digest).await? {
            return Ok(answer);
        }

        self.blobs.check_size(&digest)?;
        let start = || self.blobs.upload(&name.instance, &digest);
        let mut session = self.uploads.begin(&name, message.write_offset, start)?;
        loop {
            let named = &message.resource_name;
            if !named.is_empty() && *named != resource_name {
                return Err(Fault::ResourceName {
                    name: message.resource_name,
                    reason: "not that of the first message",
                }
                .into());
            }
            session.push(message.write_offset, message.data).await?;
            if message.finish_write {
                break;
            }
            let next = tokio::select! {
                biased;
                next = messages.message() => next?,
                () = session.revoked() => return Err(Fault::NoShare.into()),
            };
            let committed = session.committed();
            message = next.ok_or(Fault::Unfinished { committed })?;
        }
        session.finish().await?;

        // The blob is stored: whatever comes now changes nothing.
        let _ = tokio::time::timeout(HALF_CLOSE, messages.message()).await;
        Ok(answer)
    }

    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        let request = request.into_inner();
        let name = UploadName::parse(&request.resource_name)?;
        let complete = self.blobs.holds(&name.instance, &name.digest).await?;
        let committed = match complete {
            true => Some(name.digest.size()),
            false => self.uploads.committed(&name),
        };
        let committed = committed.ok_or(Fault::NoUpload(request.resource_name))?;
        Ok(Response::new(QueryWriteStatusResponse {
            committed_size: i64::try_from(committed).unwrap_or(i64::MAX),
            complete,
        }))
    }
}
