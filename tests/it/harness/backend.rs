//! Backends that record every stream they see, and do with it what a test tells them to.

mod exchange;
mod raw;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use h2::Reason;
use http::HeaderMap;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

pub(crate) use exchange::{Exchange, echo, head, send, silent, status, unary};
pub(crate) use raw::Raw;

use super::until;
use exchange::Order;

/// A backend that runs until it is dropped.
pub(crate) struct Backend {
    place: Place,
    record: Arc<Record>,
    task: JoinHandle<()>,
}

/// Where a backend listens. It keeps the port while the backend is away, so that no other test gets it.
pub(crate) enum Place {
    Tcp { port: u16, _held: socket2::Socket },
    Unix { path: PathBuf, _dir: TempDir },
}

/// What may differ between backends.
#[derive(Clone, Default)]
pub(crate) struct Options {
    pub(crate) tls: Option<TlsAcceptor>,
    /// `SETTINGS_INITIAL_WINDOW_SIZE`, and the window of the connection.
    pub(crate) window: Option<u32>,
    pub(crate) max_streams: Option<u32>,
    /// Looks at its connections only now and then, and ends those on which too many streams were reset before it looked at
    /// them, as h2 does unless told otherwise.
    pub(crate) minds_resets: bool,
}

/// A stream that a backend saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Number of the connection, from 0.
    pub(crate) connection: usize,
    pub(crate) path: String,
    pub(crate) authority: String,
    pub(crate) headers: HeaderMap,
    /// How many bytes of DATA came.
    pub(crate) received: u64,
    /// The first of them.
    pub(crate) body: Vec<u8>,
    /// Whether the body came to its end.
    pub(crate) ended: bool,
    pub(crate) reset: Option<Reason>,
}

#[derive(Default)]
struct Record {
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
}

pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

#[derive(Clone)]
enum Script {
    Calls(Arc<dyn Fn(Exchange) -> BoxFuture<'static, ()> + Send + Sync>),
    Frames(Arc<dyn Fn(Raw) -> BoxFuture<'static, ()> + Send + Sync>),
}

impl Backend {
    /// A backend on TCP.
    pub(crate) fn start<F>(behaviour: impl Fn(Exchange) -> F + Send + Sync + 'static) -> Backend
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Backend::at(Place::tcp(), Options::default(), behaviour)
    }

    /// A backend somewhere, with options.
    pub(crate) fn at<F>(
        place: Place,
        options: Options,
        behaviour: impl Fn(Exchange) -> F + Send + Sync + 'static,
    ) -> Backend
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let script = Script::Calls(Arc::new(move |exchange| Box::pin(behaviour(exchange))));
        Backend::run(place, options, script)
    }

    /// A backend whose connections are written frame by frame.
    pub(crate) fn raw<F>(behaviour: impl Fn(Raw) -> F + Send + Sync + 'static) -> Backend
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Backend::raw_with(Options::default(), behaviour)
    }

    /// The same, with options.
    pub(crate) fn raw_with<F>(options: Options, behaviour: impl Fn(Raw) -> F + Send + Sync + 'static) -> Backend
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let script = Script::Frames(Arc::new(move |raw| Box::pin(behaviour(raw))));
        Backend::run(Place::tcp(), options, script)
    }

    fn run(place: Place, options: Options, script: Script) -> Backend {
        let record = Arc::<Record>::default();
        let task = match &place {
            Place::Tcp { port, .. } => {
                let socket = socket(*port);
                socket.listen(1024).unwrap();
                let listener = TcpListener::from_std(socket.into()).unwrap();
                let record = Arc::clone(&record);
                tokio::spawn(async move {
                    let mut connections = JoinSet::new();
                    while let Ok((tcp, _)) = listener.accept().await {
                        tcp.set_nodelay(true).unwrap();
                        connections.spawn(connection(tcp, options.clone(), script.clone(), Arc::clone(&record)));
                    }
                })
            }
            Place::Unix { path, .. } => {
                let listener = UnixListener::bind(path).unwrap();
                let record = Arc::clone(&record);
                tokio::spawn(async move {
                    let mut connections = JoinSet::new();
                    while let Ok((unix, _)) = listener.accept().await {
                        connections.spawn(connection(unix, options.clone(), script.clone(), Arc::clone(&record)));
                    }
                })
            }
        };
        Backend { place, record, task }
    }

    /// What the configuration calls it.
    pub(crate) fn endpoint(&self) -> String {
        self.place.endpoint()
    }

    /// Ends it and all its connections at once. Its place is free for another.
    pub(crate) async fn vanish(self) -> Place {
        self.task.abort();
        let _cancelled = self.task.await;
        if let Place::Unix { path, .. } = &self.place {
            std::fs::remove_file(path).unwrap();
        }
        self.place
    }

    /// Every stream so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.record.seen.lock().clone()
    }

    /// How many streams it saw.
    pub(crate) fn streams(&self) -> usize {
        self.record.seen.lock().len()
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.record.connections.load(Ordering::SeqCst)
    }

    /// Waits until the record says something.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&[Seen]) -> bool) {
        until(what, || holds(&self.record.seen.lock())).await;
    }
}

impl Place {
    pub(crate) fn tcp() -> Place {
        let held = socket(0);
        let port = held.local_addr().unwrap().as_socket().unwrap().port();
        Place::Tcp { port, _held: held }
    }

    pub(crate) fn unix() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backend.sock");
        Place::Unix { path, _dir: dir }
    }

    pub(crate) fn endpoint(&self) -> String {
        match self {
            Place::Tcp { port, .. } => format!("http://127.0.0.1:{port}"),
            Place::Unix { path, .. } => format!("unix:{}", path.display()),
        }
    }
}

/// A bound socket. That it does not listen keeps the port for the next one that does.
fn socket(port: u16) -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
        .bind(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into())
        .unwrap();
    socket
}

async fn connection(io: impl Io + 'static, options: Options, script: Script, record: Arc<Record>) {
    let number = record.connections.fetch_add(1, Ordering::SeqCst);
    let io: Box<dyn Io> = match &options.tls {
        Some(tls) => match tls.accept(io).await {
            Ok(tls) => Box::new(tls),
            Err(_) => return,
        },
        None => Box::new(io),
    };
    match script {
        Script::Calls(behaviour) => calls(io, &options, &*behaviour, number, record).await,
        Script::Frames(behaviour) => {
            if let Some(raw) = Raw::accept(io, &options, number, record).await {
                behaviour(raw).await;
            }
        }
    }
}

async fn calls(
    io: Box<dyn Io>,
    options: &Options,
    behaviour: &(dyn Fn(Exchange) -> BoxFuture<'static, ()> + Send + Sync),
    number: usize,
    record: Arc<Record>,
) {
    let mut builder = h2::server::Builder::new();
    if !options.minds_resets {
        builder
            .max_concurrent_reset_streams(10_000)
            .max_pending_accept_reset_streams(10_000);
    }
    if let Some(window) = options.window {
        builder
            .initial_window_size(window)
            .initial_connection_window_size(window);
    }
    if let Some(max) = options.max_streams {
        builder.max_concurrent_streams(max);
    }
    let Ok(mut connection) = builder.handshake(io).await else {
        return;
    };
    let (orders, mut inbox) = unbounded_channel();
    let mut tasks = JoinSet::new();
    loop {
        if options.minds_resets {
            tokio::time::sleep(Duration::from_millis(30)).await;
            while let Some(accepted) = connection.accept().now_or_never() {
                let Some(Ok((request, respond))) = accepted else { return };
                tasks.spawn(behaviour(Exchange::new(request, respond, number, &record, &orders)));
            }
            continue;
        }
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                let exchange = Exchange::new(request, respond, number, &record, &orders);
                tasks.spawn(behaviour(exchange));
            }
            order = inbox.recv() => match order {
                Some(Order::GoAway) => connection.graceful_shutdown(),
                Some(Order::Close) | None => return,
            },
        }
    }
}
