//! A client that reads blobs over HTTP/2 and only counts their bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use bazel_remote_apis::google::bytestream::byte_stream_client::ByteStreamClient;
use bazel_remote_apis::google::bytestream::{ReadRequest, WriteRequest};
use bytes::Bytes;
use futures_util::stream;
use h2::client::SendRequest;
use http::Request;
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::Result;

const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 256 << 20;
/// Bytes in one message of an upload.
const PIECE: usize = 1 << 20;

/// A blob of one instance.
#[derive(Clone)]
pub(crate) struct Blob {
    name: String,
    size: usize,
}

/// Connections to the gate.
pub(crate) struct Reader {
    pushes: ByteStreamClient<Channel>,
    connections: Vec<SendRequest<Bytes>>,
}

impl Blob {
    /// The same, in another instance.
    pub(crate) fn at(&self, instance: &str) -> Blob {
        Blob {
            name: format!("{instance}/{}", self.name),
            size: self.size,
        }
    }
}

impl Reader {
    pub(crate) async fn connect(address: SocketAddr, connections: usize) -> Result<Reader> {
        let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
        let mut reader = Reader {
            pushes: ByteStreamClient::new(channel),
            connections: Vec::new(),
        };
        for _ in 0..connections {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let (sender, connection) = h2::client::Builder::new()
                .initial_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_frame_size(256 << 10)
                .handshake(tcp)
                .await?;
            tokio::spawn(connection);
            reader.connections.push(sender);
        }
        Ok(reader)
    }

    /// Puts a blob into the instance `store`.
    pub(crate) async fn push(&mut self, seed: u64, size: usize) -> Result<Blob> {
        let mut data = vec![0_u8; size];
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for word in data.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let hash = digest(&SHA256, &data);
        let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("blobs/{hash}/{size}");
        let upload = format!("store/uploads/{seed}/{name}");
        let offsets = (0..size).step_by(PIECE);
        let messages = offsets.map(move |offset| WriteRequest {
            resource_name: upload.clone(),
            write_offset: i64::try_from(offset).unwrap_or(i64::MAX),
            finish_write: offset + PIECE >= size,
            data: data[offset..size.min(offset + PIECE)].to_vec(),
        });
        self.pushes.write(stream::iter(messages)).await?;
        Ok(Blob { name, size })
    }

    /// Reads blobs in turn, so many at a time, for so long. Bytes and seconds.
    pub(crate) async fn read_for(&self, blobs: &[Blob], streams: usize, time: Duration) -> Result<(usize, f64)> {
        let begun = Instant::now();
        let next = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for number in 0..streams {
            let sender = self.connections[number % self.connections.len()].clone();
            let (blobs, next) = (blobs.to_vec(), Arc::clone(&next));
            tasks.spawn(async move {
                let mut bytes = 0;
                while begun.elapsed() < time {
                    let blob = &blobs[next.fetch_add(1, Ordering::Relaxed) % blobs.len()];
                    bytes += read(sender.clone(), blob).await?;
                }
                Result::Ok(bytes)
            });
        }
        let mut bytes = 0;
        while let Some(task) = tasks.join_next().await {
            bytes += task??;
        }
        Ok((bytes, begun.elapsed().as_secs_f64()))
    }

    /// So many streams at once, each of which reads one blob.
    pub(crate) async fn read_each(&self, blobs: &[Blob], streams: usize) -> Result<()> {
        let mut tasks = JoinSet::new();
        for number in 0..streams {
            let sender = self.connections[number % self.connections.len()].clone();
            let blob = blobs[number % blobs.len()].clone();
            tasks.spawn(async move { read(sender, &blob).await });
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        Ok(())
    }
}

/// Reads a blob; its bytes, which must be all of them.
async fn read(sender: SendRequest<Bytes>, blob: &Blob) -> Result<usize> {
    let message = ReadRequest {
        resource_name: blob.name.clone(),
        ..Default::default()
    }
    .encode_to_vec();
    let length = u32::try_from(message.len())?.to_be_bytes();
    let body = Bytes::from([&[0], length.as_slice(), &message].concat());
    let request = Request::post("http://localhost/google.bytestream.ByteStream/Read")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(())?;
    let (response, mut stream) = sender.ready().await?.send_request(request, false)?;
    stream.send_data(body, true)?;
    let mut body = response.await?.into_body();
    let mut bytes = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes += chunk.len();
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    match trailers.get("grpc-status").is_some_and(|status| status == "0") && bytes > blob.size {
        true => Ok(blob.size),
        false => Err(format!("{} ended after {bytes} bytes with {trailers:?}", blob.name).into()),
    }
}
