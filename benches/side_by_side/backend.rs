//! The null backend: clear HTTP/2, answers with bytes that were made before, keeps nothing.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use crate::Result;
use crate::calls::{Answers, size_of};

/// Enough for 1 Gbit/s over 40 ms.
const STREAM_WINDOW: u32 = 8 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024 * 1024;

/// Serves until the program ends; prints the address when it can be connected to.
pub(crate) async fn run(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let answers = Arc::new(Answers::new());
    loop {
        let (tcp, _) = listener.accept().await?;
        // A connection that breaks off is seen by whoever is measured.
        tokio::spawn(serve(tcp, Arc::clone(&answers)));
    }
}

async fn serve(tcp: TcpStream, answers: Arc<Answers>) -> Result<()> {
    tcp.set_nodelay(true)?;
    let mut connection = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(1000)
        .max_send_buffer_size(1024 * 1024)
        .handshake::<_, Bytes>(tcp)
        .await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        tokio::spawn(answer(request, respond, Arc::clone(&answers)));
    }
    Ok(())
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, answers: Arc<Answers>) -> Result<()> {
    let (parts, mut body) = request.into_parts();
    let path = parts.uri.path();
    if path.ends_with("/Read") {
        let mut message = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            message.extend_from_slice(&chunk);
        }
        let size = size_of(&message).ok_or("a read without a size")?;
        let mut stream = respond.send_response(head(), false)?;
        for chunk in answers.blob(size) {
            send(&mut stream, chunk).await?;
        }
        stream.send_trailers(ok())?;
        return Ok(());
    }
    while let Some(chunk) = body.data().await {
        let length = chunk?.len();
        body.flow_control().release_capacity(length)?;
    }
    let message = match path.rsplit('/').next() {
        Some("FindMissingBlobs") => &answers.found,
        Some("Write") => &answers.written,
        _ => &answers.capabilities,
    };
    let mut stream = respond.send_response(head(), false)?;
    stream.send_data(message.clone(), false)?;
    stream.send_trailers(ok())?;
    Ok(())
}

/// Sends a chunk as the windows of the receiver allow.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, mut chunk: Bytes) -> Result<()> {
    while !chunk.is_empty() {
        stream.reserve_capacity(chunk.len());
        let mut capacity = stream.capacity();
        if capacity == 0 {
            capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx))
                .await
                .ok_or("the stream was closed")??;
        }
        let part = chunk.split_to(capacity.min(chunk.len()));
        stream.send_data(part, false)?;
    }
    Ok(())
}

fn head() -> Response<()> {
    let mut response = Response::new(());
    let content_type = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", content_type);
    response
}

fn ok() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}
