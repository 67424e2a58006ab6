//! One thread with a runtime of its own: the connections that it was given stay with it, and so do their calls and the
//! connections to backends that they use.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::connection::{self, Newcomer, Turns};
use crate::live::Shared;

/// A thread that serves connections, until its doors are gone.
#[derive(Debug)]
pub(super) struct Worker {
    door: Door,
    ended: Option<mpsc::Receiver<()>>,
}

/// Waits, when dropped, for threads whose doors are gone: what they count and log of calls that were cut off is part of
/// their end.
#[derive(Debug)]
pub(super) struct Ends(Vec<mpsc::Receiver<()>>);

/// How long a thread may take to drop its calls.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// The way to a worker.
#[derive(Clone, Debug)]
pub(super) struct Door {
    arrivals: UnboundedSender<Message>,
    connections: Arc<AtomicUsize>,
}

/// What a worker is sent.
#[derive(Debug)]
enum Message {
    Newcomer(Newcomer),
    /// Answered by a thread that runs.
    Question(oneshot::Sender<()>),
}

impl Worker {
    /// Starts the thread.
    pub(super) fn start(number: usize, shared: &Arc<Shared>) -> io::Result<Worker> {
        let (arrivals, receiver) = unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::clone(shared);
        let counted = Arc::clone(&connections);
        let (end, ended) = mpsc::channel::<()>();
        std::thread::Builder::new()
            .name(format!("casgate-{number}"))
            .spawn(move || {
                runtime.block_on(run(receiver, number, shared, counted));
                // Drops the calls, and does not wait for a name that is being resolved.
                runtime.shutdown_background();
                drop(end);
            })?;
        Ok(Worker {
            door: Door { arrivals, connections },
            ended: Some(ended),
        })
    }

    /// What waits for the threads of these workers.
    pub(super) fn ends(workers: &mut [Worker]) -> Ends {
        Ends(workers.iter_mut().filter_map(|worker| worker.ended.take()).collect())
    }

    /// The way in.
    pub(super) fn door(&self) -> Door {
        self.door.clone()
    }

    /// How many connections it has.
    pub(super) fn connections(&self) -> usize {
        self.door.connections()
    }

    /// Whether the thread runs; waits until it has answered.
    pub(super) async fn answers(&self) -> bool {
        let (question, answer) = oneshot::channel();
        let sent = self.door.arrivals.send(Message::Question(question));
        sent.is_ok() && answer.await.is_ok()
    }
}

impl Door {
    /// How many connections the worker has.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Hands a connection over.
    pub(super) fn enter(&self, newcomer: Newcomer) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        if self.arrivals.send(Message::Newcomer(newcomer)).is_err() {
            self.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

async fn run(
    mut arrivals: UnboundedReceiver<Message>,
    worker: usize,
    shared: Arc<Shared>,
    connections: Arc<AtomicUsize>,
) {
    let turns = Arc::new(Turns::default());
    tokio::spawn(Arc::clone(&turns).give());
    while let Some(message) = arrivals.recv().await {
        let newcomer = match message {
            Message::Newcomer(newcomer) => newcomer,
            Message::Question(answer) => {
                // Who asked may have lost patience.
                let _gone = answer.send(());
                continue;
            }
        };
        let leave = Leave(Arc::clone(&connections));
        let (shared, turns) = (Arc::clone(&shared), Arc::clone(&turns));
        tokio::spawn(async move {
            connection::serve(shared, newcomer, worker, turns).await;
            drop(leave);
        });
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        for ended in &self.0 {
            // Nothing is ever sent: the other half is dropped.
            let _ended = ended.recv_timeout(END_TIMEOUT);
        }
    }
}

/// Counts a connection off when dropped.
struct Leave(Arc<AtomicUsize>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
