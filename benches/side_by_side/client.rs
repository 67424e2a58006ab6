//! A client connection: HTTP/2 over mutual TLS or in the clear, and one call on it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::HeaderMap;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::Result;
use crate::backend::send;
use crate::calls::Call;

/// Enough for 1 Gbit/s over 40 ms.
const STREAM_WINDOW: u32 = 8 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;
/// How long the way to a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) struct Client {
    sender: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl Client {
    /// Connects, with TLS or in the clear.
    pub(crate) async fn connect(address: SocketAddr, tls: Option<&TlsConnector>) -> Result<Client> {
        tokio::time::timeout(CONNECT_TIMEOUT, async {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            match tls {
                None => Client::over(tcp).await,
                Some(tls) => {
                    let name = ServerName::try_from("localhost")?;
                    Client::over(tls.connect(name, tcp).await?).await
                }
            }
        })
        .await?
    }

    async fn over<IO>(io: IO) -> Result<Client>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(1024 * 1024)
            .handshake(io)
            .await?;
        let driver = tokio::spawn(async move {
            // Calls see it end.
            let _ended = connection.await;
        });
        Ok(Client { sender, driver })
    }

    /// What sends calls on it.
    pub(crate) fn sender(&self) -> SendRequest<Bytes> {
        self.sender.clone()
    }

    /// Closes it, once no call is under way.
    pub(crate) async fn close(self) -> Result<()> {
        drop(self.sender);
        Ok(tokio::time::timeout(Duration::from_secs(5), self.driver).await??)
    }
}

/// Makes a call, and counts bytes of blobs as they go by.
///
/// # Errors
/// When it does not end with OK.
pub(crate) async fn call(sender: SendRequest<Bytes>, call: &Call, moved: &AtomicU64) -> Result<()> {
    let mut sender = sender.ready().await?;
    let (response, mut stream) = sender.send_request(call.request.clone(), false)?;
    let is_upload = call.blob > 0 && call.body.len() > call.blob;
    if is_upload {
        // One that is refused may be answered before it has sent everything: the answer says why.
        if upload(&mut stream, call, moved).await.is_ok() {
            stream.send_data(Bytes::new(), true)?;
        }
    } else {
        stream.send_data(call.body.clone(), true)?;
    }
    let (head, mut body) = response.await?.into_parts();
    if head.status != 200 {
        return Err(format!("HTTP status {}", head.status).into());
    }
    let mut length = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?.len();
        body.flow_control().release_capacity(chunk)?;
        length += chunk;
        if !is_upload {
            moved.fetch_add(chunk as u64, Ordering::Relaxed);
        }
    }
    let trailers = body.trailers().await?;
    check_status(trailers.as_ref().unwrap_or(&head.headers))?;
    if !is_upload && length < call.blob {
        return Err(format!("{length} bytes of {}", call.blob).into());
    }
    Ok(())
}

async fn upload(stream: &mut h2::SendStream<Bytes>, call: &Call, moved: &AtomicU64) -> Result<()> {
    let mut left = call.body.clone();
    while !left.is_empty() {
        let part = left.split_to(left.len().min(64 * 1024));
        let length = part.len() as u64;
        send(stream, part).await?;
        moved.fetch_add(length, Ordering::Relaxed);
    }
    Ok(())
}

fn check_status(headers: &HeaderMap) -> Result<()> {
    match headers.get("grpc-status").map(|status| status.as_bytes()) {
        Some(b"0") => Ok(()),
        Some(other) => Err(format!("gRPC status {}", String::from_utf8_lossy(other)).into()),
        None => Err("no gRPC status".into()),
    }
}
