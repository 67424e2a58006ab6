//! A client that sees every frame in both directions, and may change or hold back some of them.

mod scripted;
mod tap;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use casgate::policy::method::Method;
use casgate::tls;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, StatusCode};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) use scripted::Scripted;
pub(crate) use tap::Tap;

use super::backend::send;
use super::gate::Gate;
use super::pki::Credentials;
use super::{grpc, until, within};

/// A client connection.
pub(crate) struct Client {
    pub(crate) tap: Arc<Tap>,
    sender: SendRequest<Bytes>,
    _tasks: JoinSet<()>,
}

/// A call that runs.
pub(crate) struct Call {
    pub(crate) response: ResponseFuture,
    pub(crate) body: SendStream<Bytes>,
}

/// A whole answer, as far as it came.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) http: Option<StatusCode>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
    /// The stream was reset, before the answer was complete.
    pub(crate) reset: Option<Reason>,
    /// Some other error ended it.
    pub(crate) error: Option<String>,
}

/// TLS for a client of this gate.
pub(crate) fn tls_config(gate: &Gate, credentials: Option<&Credentials>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap();
    with_credentials(builder, gate, credentials)
}

/// The same, for a choice of protocol versions.
pub(crate) fn with_credentials(
    builder: rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>,
    gate: &Gate,
    credentials: Option<&Credentials>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(gate.config.authority.der()).unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match credentials {
        Some(credentials) => {
            // Unchecked, so that the key may be a wrong one and the certificate one that rustls does not read.
            let key = tls::provider()
                .key_provider
                .load_private_key(credentials.key_der())
                .unwrap();
            let pair = CertifiedKey::new(credentials.chain(), key);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![tls::ALPN_H2.to_vec()];
    config
}

/// The client's half of a handshake. With TLS 1.3 a refusal comes only after it.
pub(crate) async fn connect_tls(gate: &Gate, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    connect_tls_at(gate.address(), config).await
}

/// The same, for a gate that may be another one the next time.
pub(crate) async fn connect_tls_at(address: SocketAddr, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let name = "localhost".try_into().unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// A connection from another address of this machine.
pub(crate) async fn tcp_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let from = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    socket.bind(from).unwrap();
    socket.connect(to).await.unwrap()
}

/// A client from there.
pub(crate) async fn client_from(last: u8, gate: &Gate) -> Client {
    let config = tls_config(gate, Some(&gate.config.authority.client("reader")));
    let tcp = tcp_from(last, gate.address()).await;
    let connector = TlsConnector::from(Arc::new(config));
    let tls = within("a handshake", connector.connect("localhost".try_into().unwrap(), tcp)).await;
    Client::over(tls.unwrap(), &h2::client::Builder::new()).await
}

impl Client {
    /// Connects to a gate that lets this client in.
    pub(crate) async fn connect(gate: &Gate, credentials: Option<&Credentials>) -> Client {
        Client::try_connect(gate, tls_config(gate, credentials))
            .await
            .unwrap_or_else(|error| panic!("refused: {error}"))
    }

    /// Connects; the error is what the client sees of a refusal.
    pub(crate) async fn try_connect(gate: &Gate, config: ClientConfig) -> Result<Client, String> {
        let tls = within("a handshake", connect_tls(gate, config)).await;
        let mut builder = h2::client::Builder::new();
        // Small frames that the test has not read yet count against the window of the connection.
        builder.initial_connection_window_size(4 * 1024 * 1024);
        let client = Client::over(tls.map_err(|error| error.to_string())?, &builder).await;
        until("SETTINGS or a refusal", || {
            !client.tap.received().is_empty() || client.tap.end().is_some()
        })
        .await;
        client.tap.end().map_or(Ok(client), Err)
    }

    /// A client with its own settings, over an open connection.
    pub(crate) async fn over(
        io: impl AsyncRead + AsyncWrite + Send + 'static,
        builder: &h2::client::Builder,
    ) -> Client {
        let mut tasks = JoinSet::new();
        let (tap, near) = Tap::start(io, &mut tasks);
        let (sender, connection) = builder.handshake::<_, Bytes>(near).await.unwrap();
        tasks.spawn(async move {
            let _ended = connection.await;
        });
        Client {
            tap,
            sender,
            _tasks: tasks,
        }
    }

    /// Begins a call whose body is still to come.
    pub(crate) fn open(&mut self, method: Method) -> Call {
        self.open_with(grpc_request(method.path()), false)
    }

    /// Begins any request.
    pub(crate) fn open_with(&mut self, request: Request<()>, end_of_stream: bool) -> Call {
        self.try_open(request, end_of_stream).unwrap()
    }

    /// The same, where the connection may be closed.
    pub(crate) fn try_open(&mut self, request: Request<()>, end_of_stream: bool) -> Result<Call, h2::Error> {
        let (response, body) = self.sender.send_request(request, end_of_stream)?;
        Ok(Call { response, body })
    }

    /// Calls a method with one message.
    pub(crate) async fn call(&mut self, method: Method, message: Bytes) -> Reply {
        self.send(grpc_request(method.path()), message).await
    }

    /// Sends a request with a body.
    pub(crate) async fn send(&mut self, request: Request<()>, body: Bytes) -> Reply {
        let mut call = self.open_with(request, false);
        let _refused = call.body.send_data(body, true);
        call.reply().await
    }

    /// Calls a method on an instance.
    pub(crate) async fn ask(&mut self, method: Method, instance: &str) -> Reply {
        self.call(method, grpc::request(method, instance)).await
    }
}

impl Call {
    /// Sends as the window allows; false when the gate takes no more.
    pub(crate) async fn send(&mut self, chunk: Bytes) -> bool {
        send(&mut self.body, chunk).await
    }

    /// Ends the body.
    pub(crate) fn end(&mut self) {
        let _refused = self.body.send_data(Bytes::new(), true);
    }

    /// The number of the stream.
    pub(crate) fn id(&self) -> u32 {
        self.response.stream_id().as_u32()
    }

    /// Reads the whole answer.
    pub(crate) async fn reply(self) -> Reply {
        // The body stays open: whether the client ends it is the business of the test.
        within("an answer", reply(self.response)).await
    }

    /// The answer's head, and the rest of it to come.
    pub(crate) async fn head(&mut self) -> (HeaderMap, RecvStream) {
        let response = within("the head of an answer", &mut self.response).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts.headers, body)
    }

    /// Gives up.
    pub(crate) fn cancel(mut self) {
        self.body.send_reset(Reason::CANCEL);
    }
}

/// Reads an answer as far as it comes.
pub(crate) async fn reply(response: ResponseFuture) -> Reply {
    let mut reply = Reply::default();
    let result = async {
        let (parts, body) = response.await?.into_parts();
        reply.http = Some(parts.status);
        reply.headers = parts.headers;
        rest(body, &mut reply).await
    }
    .await;
    if let Err(error) = result {
        reply.reset = error.is_reset().then(|| error.reason()).flatten();
        reply.error = Some(error.to_string());
    }
    reply
}

/// Reads the rest of an answer.
pub(crate) async fn rest(mut body: RecvStream, reply: &mut Reply) -> Result<(), h2::Error> {
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        reply.body.extend_from_slice(&chunk);
        body.flow_control().release_capacity(chunk.len())?;
    }
    reply.trailers = body.trailers().await?;
    Ok(())
}

impl Reply {
    /// The gRPC status, wherever it stands.
    pub(crate) fn code(&self) -> Option<u8> {
        self.status("grpc-status")?.parse().ok()
    }

    /// The gRPC message, decoded.
    pub(crate) fn message(&self) -> String {
        let encoded = self.status("grpc-message").unwrap_or_default();
        percent_encoding::percent_decode_str(encoded)
            .decode_utf8_lossy()
            .into_owned()
    }

    fn status(&self, name: &str) -> Option<&str> {
        let trailers = self.trailers.as_ref().unwrap_or(&self.headers);
        trailers.get(name)?.to_str().ok()
    }
}

/// A gRPC request for a path.
pub(crate) fn grpc_request(path: &str) -> Request<()> {
    Request::post(format!("https://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}
