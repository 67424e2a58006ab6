//! A connection of a client, and the calls on it. It tells apart what the gate said and what broke.

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use casgate::policy::method::Method;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Result;
use crate::calls::framed;
use crate::tally::Failure;

/// How long a call of an honest client may take. Long: the machine may be busy with other things.
const DEADLINE: Duration = Duration::from_secs(120);
/// Longest message of an answer, in bytes.
const LONGEST: usize = 16 << 20;

/// Where a client knocks, and as whom.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    /// The address that it comes from.
    pub(crate) from: Ipv4Addr,
    pub(crate) tls: TlsConnector,
}

/// A call under way: its answer to come, and the way for its body.
pub(crate) type Open = (ResponseFuture, SendStream<Bytes>);

/// A connection. It closes once this is dropped and its calls have ended.
pub(crate) struct Client {
    sender: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl Door {
    /// A connection over which anything can be sent.
    pub(crate) async fn tcp(&self) -> Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((IpAddr::from(self.from), 0).into())?;
        let tcp = socket.connect(self.address).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    /// The same, after a handshake.
    pub(crate) async fn tls(&self) -> Result<TlsStream<TcpStream>> {
        let tcp = self.tcp().await?;
        Ok(self.tls.connect("localhost".try_into()?, tcp).await?)
    }

    /// The same, with HTTP/2.
    ///
    /// # Errors
    /// When the gate did not let the client in, or took too long to.
    pub(crate) async fn connect(&self) -> std::result::Result<Client, Failure> {
        let connecting = async {
            let tls = self.tls().await?;
            let (sender, connection) = h2::client::Builder::new()
                .enable_push(false)
                .initial_window_size(1 << 20)
                .initial_connection_window_size(16 << 20)
                .handshake(tls)
                .await?;
            let driver = tokio::spawn(async move {
                // Calls see it end.
                let _ended = connection.await;
            });
            Result::Ok(Client { sender, driver })
        };
        let connected = tokio::time::timeout(DEADLINE, connecting).await;
        connected
            .map_err(|_| Failure::broken("no connection within the deadline"))?
            .map_err(|error| Failure::broken(format!("can't connect: {error}")))
    }
}

impl Client {
    /// Whether the connection is closed.
    pub(crate) fn has_ended(&self) -> bool {
        self.driver.is_finished()
    }

    /// Waits until it is closed, by the gate or for want of calls.
    pub(crate) async fn close(self) {
        drop(self.sender);
        let _ended = self.driver.await;
    }

    /// One message there and one back.
    pub(crate) async fn ask<A: Message + Default>(
        &self,
        method: Method,
        request: &impl Message,
    ) -> std::result::Result<A, Failure> {
        let mut answer = None;
        self.call(method, std::iter::once(framed(request)), |message| {
            answer = Some(message);
        })
        .await?;
        let answer = answer.ok_or_else(|| Failure::broken("OK without a message"))?;
        A::decode(answer).map_err(Failure::broken)
    }

    /// Messages there and back. It ends with the answer, which may come before all is sent.
    pub(crate) async fn call(
        &self,
        method: Method,
        messages: impl Iterator<Item = Bytes>,
        take: impl FnMut(Bytes),
    ) -> std::result::Result<(), Failure> {
        let calling = async {
            let (response, mut stream) = self.open(method).await?;
            let mut answer = std::pin::pin!(answer(response, take));
            let sending = async {
                for message in messages {
                    send(&mut stream, message).await?;
                }
                // One that was answered has nothing left to end.
                let _answered = stream.send_data(Bytes::new(), true);
                Some(())
            };
            tokio::select! {
                biased;
                answer = &mut answer => return answer,
                _sent = sending => {}
            }
            answer.await
        };
        let called = tokio::time::timeout(DEADLINE, calling).await;
        called.unwrap_or_else(|_| Err(Failure::broken("no answer within the deadline")))
    }

    /// A call whose body is still to come.
    pub(crate) async fn open(&self, method: Method) -> std::result::Result<Open, Failure> {
        let request = Request::post(format!("https://localhost{}", method.path()))
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(())
            .map_err(Failure::broken)?;
        let mut sender = self.sender.clone().ready().await.map_err(Failure::broken)?;
        sender.send_request(request, false).map_err(Failure::broken)
    }
}

/// Sends a chunk as the window allows; None when the stream takes no more.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, mut chunk: Bytes) -> Option<()> {
    while !chunk.is_empty() {
        stream.reserve_capacity(chunk.len());
        let room = poll_fn(|context| stream.poll_capacity(context)).await?.ok()?;
        stream.send_data(chunk.split_to(room.min(chunk.len())), false).ok()?;
    }
    Some(())
}

/// Reads an answer, message by message, to its status.
pub(crate) async fn answer(response: ResponseFuture, mut take: impl FnMut(Bytes)) -> std::result::Result<(), Failure> {
    let (head, mut body) = response.await.map_err(Failure::broken)?.into_parts();
    if head.status != 200 {
        return Err(Failure::broken(format!("HTTP status {}", head.status)));
    }
    let mut pending = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(Failure::broken)?;
        body.flow_control()
            .release_capacity(chunk.len())
            .map_err(Failure::broken)?;
        pending.extend_from_slice(&chunk);
        while let Some(message) = next_message(&mut pending)? {
            take(message);
        }
    }
    let trailers = body.trailers().await.map_err(Failure::broken)?;
    status(trailers.as_ref().unwrap_or(&head.headers))?;
    match pending.is_empty() {
        true => Ok(()),
        false => Err(Failure::broken("OK in the middle of a message")),
    }
}

/// Takes a whole message out of what came.
fn next_message(pending: &mut BytesMut) -> std::result::Result<Option<Bytes>, Failure> {
    let Some([0, a, b, c, d]) = pending.first_chunk() else {
        return match pending.first() {
            None | Some(0) => Ok(None),
            Some(_) => Err(Failure::broken("a message that is compressed")),
        };
    };
    let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
    if length > LONGEST {
        return Err(Failure::broken("a message that is too long"));
    }
    if pending.len() < 5 + length {
        return Ok(None);
    }
    pending.advance(5);
    Ok(Some(pending.split_to(length).freeze()))
}

fn status(headers: &HeaderMap) -> std::result::Result<(), Failure> {
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let Some(code) = text("grpc-status").and_then(|code| code.parse().ok()) else {
        return Err(Failure::broken("no gRPC status"));
    };
    if code == 0 {
        return Ok(());
    }
    let message = text("grpc-message").unwrap_or_default();
    let message = percent_encoding::percent_decode_str(&message).decode_utf8_lossy();
    Err(Failure {
        code: Some(code),
        text: message.into_owned(),
    })
}
