//! One connection of a client: TLS under a deadline, then HTTP/2, then a task for each call.

mod account;
mod blocks;
mod budget;
mod caller;
mod census;
mod counted;
mod entrance;
mod handshake;
mod hello;
mod meter;
mod party;
mod refusals;
mod resets;
mod standstill;
mod turns;
mod watches;
mod window;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use tokio::net::TcpStream;
use tracing::Instrument;

pub use budget::{Budget, Share};
pub use caller::{Caller, Peer, View};
pub use census::{Census, Ticket};
pub use entrance::{Newcomer, wait};
pub use meter::{Direction, Meter};
pub use party::{Member, Parties, Party, PartyCall};
pub use refusals::sum_up;
pub use turns::Turns;
pub use watches::Watches;

use census::Slot;
use counted::{Breach, Breaches};
use standstill::{Progress, Standstill};

use crate::http2;
use crate::http2::gather::{Clear, Gather, Outbox, Records};
use crate::live::Shared;
use crate::metrics::{Action, Limit};
use crate::policy::identity::Identity;
use crate::policy::method::Method;
use crate::proxy;
use crate::snapshot::listen::{ListenerId, Security};

/// How long a client that was told to go may stay without a call. Calls that it made before it heard of that have come
/// by then; one that does not answer would stay for ever.
const GRACE: Duration = Duration::from_secs(5);
/// How soon a shorter timeout of a new configuration holds at the latest.
const RELOAD_INTERVAL: Duration = Duration::from_secs(60);
/// How long frames are ignored of streams that were reset.
const RESET_MEMORY: Duration = Duration::from_secs(4);
/// So many calls are taken one after the other before it is looked at what else has happened to their connection.
const CALLS_IN_A_ROW: u32 = 32;

/// A connection as h2 sees it.
type Http2<O> = Connection<counted::Counted<Gather<O>>, Bytes>;
/// What h2 gives of a call.
type Call = (Request<RecvStream>, SendResponse<Bytes>);

/// A connection that a thread serves.
#[derive(Debug)]
struct Arrival {
    tcp: TcpStream,
    address: SocketAddr,
    /// Where it came in.
    listener: ListenerId,
    turns: Arc<Turns>,
    /// Counts it.
    ticket: Ticket,
    /// For its handshake.
    slot: Option<Slot>,
}

/// Serves a connection until it ends.
pub async fn serve(shared: Arc<Shared>, newcomer: Newcomer, worker: usize, turns: Arc<Turns>) {
    let span = tracing::info_span!("connection", peer = %newcomer.address);
    // One that is gone already.
    let Ok(tcp) = TcpStream::from_std(newcomer.tcp) else {
        return;
    };
    let arrival = Arrival {
        tcp,
        address: newcomer.address,
        listener: newcomer.listener,
        turns,
        ticket: newcomer.ticket,
        slot: newcomer.slot,
    };
    async {
        let live = shared.live();
        let security = live.snapshot.listener(arrival.listener).map(|listen| &listen.security);
        match security {
            Some(Security::Tls { config, .. }) => {
                let config = Arc::clone(config);
                drop(live);
                // Boxed, here and below: what one step needs is not kept in the next.
                let secure = Box::pin(handshake::encrypted(&shared, arrival, config)).await;
                if let Some((tls, peer, ticket, progress)) = secure {
                    http2(shared, worker, Records::new(tls), peer, ticket, progress).await;
                }
            }
            Some(Security::Clear) => {
                drop(live);
                if let Some((tcp, peer, ticket)) = handshake::clear(arrival) {
                    http2(shared, worker, Clear::new(tcp), peer, ticket, Arc::default()).await;
                }
            }
            None => {
                tracing::info!(target: "casgate::connection", "refused: this listener is not in the configuration any more");
            }
        }
    }
    .instrument(span)
    .await;
}

async fn http2<O: Outbox>(
    shared: Arc<Shared>,
    worker: usize,
    outbox: O,
    peer: Peer,
    ticket: Ticket,
    progress: Arc<Progress>,
) {
    let metrics = Arc::clone(&shared.metrics);
    metrics.connections.inc();
    let caller = Arc::new(Caller::new(Arc::clone(&shared), worker, peer));
    let view = caller.view();
    let gather = Gather::new(outbox);
    let (io, breaches) = counted::Counted::new(gather.share(), Arc::clone(&caller), Arc::clone(&progress));
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(window::LEAST)
        .initial_connection_window_size(window::LEAST)
        .max_frame_size(http2::MAX_FRAME_SIZE)
        .max_header_list_size(http2::MAX_HEADER_LIST)
        .max_send_buffer_size(http2::MAX_SEND_BUFFER)
        .max_concurrent_streams(view.live.snapshot.limits.calls_per_connection)
        // A client that cancels a whole build is counted here: h2's own limit would cut honest ones off.
        .max_pending_accept_reset_streams(1024)
        // What is still on its way when an upload is answered early is no error, also on a slow line.
        .max_concurrent_reset_streams(4096)
        .reset_stream_duration(RESET_MEMORY)
        // h2 counts over the life of a connection. Streams that must be reset are limited by rate, when their reset is written
        // (see `account`), and those that wait for that by number (see `counted`).
        .max_local_error_reset_streams(None)
        // Small frames that wait keep the buffers that they came in, which are 30 times as large as what is counted here.
        .data_frame_budget(1024 * 1024);
    drop(view);
    let preface = Box::pin(async {
        let mut preface = builder.handshake(io);
        let preface = poll_fn(|cx| {
            let preface = Pin::new(&mut preface).poll(cx);
            if preface.is_pending() {
                // Otherwise it goes with what follows.
                let _written = gather.poll_flush_all(cx);
            }
            preface
        });
        let preface = tokio::time::timeout(handshake::TIMEOUT, preface).await;
        preface.map(|preface| preface.map(Box::new))
    });
    match ticket.unless_told_to_leave(preface).await {
        None => {}
        Some(Ok(Ok(connection))) => {
            let watched = (breaches, progress);
            run(shared, caller, connection, &gather, watched, &ticket).await;
        }
        Some(Ok(Err(error))) => tracing::info!(target: "casgate::connection", %error, "no HTTP/2"),
        Some(Err(_)) => tracing::info!(target: "casgate::connection", "no HTTP/2 preface within 10 s"),
    }
    metrics.connections.dec();
}

async fn run<O: Outbox>(
    shared: Arc<Shared>,
    caller: Arc<Caller>,
    mut connection: Box<Http2<O>>,
    gather: &Gather<O>,
    (breaches, progress): (Breaches, Arc<Progress>),
    ticket: &Ticket,
) {
    let mut generation = shared.generation.subscribe();
    let mut draining = shared.draining.subscribe();
    let (mut is_draining, mut has_expired) = (false, false);
    let silent = http2::until_peer_is_silent(connection.ping_pong(), ticket.has_calls());
    let idle = until_idle(&caller, ticket);
    let expired = caller.until_expired();
    let mut window = window::Window::new(&caller);
    let begin = |(request, respond): Call| {
        // Who only watches does nothing: it needs no right, and must not keep its connection for ever.
        let is_watch = request.uri().path() == Method::HealthWatch.path();
        let open = if is_watch {
            ticket.is_asked();
            None
        } else {
            Some(ticket.call())
        };
        let caller = Arc::clone(&caller);
        // Without the span: an access line names its peer itself, whatever is filtered.
        // Boxed: a task moves what it runs several times, and this is large.
        tokio::spawn(Box::pin(async move {
            proxy::handle(caller, request, respond).await;
            drop(open);
        }));
    };
    let mut standstill = Standstill::new(Arc::clone(&progress));
    let breach = breaches.found();
    tokio::pin!(silent, idle, expired, breach);
    loop {
        if is_draining {
            caller.watches.end();
        }
        tokio::select! {
            biased;
            // First: what the client is told of it is written with the rest.
            () = window.wanted() => window.grow(&mut connection),
            ended = poll_fn(|cx| poll_calls(&mut connection, gather, (&caller, &progress), cx, begin)) => {
                if let Some(error) = ended {
                    tracing::debug!(target: "casgate::connection", %error, "connection ended");
                    if error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
                        cut_off(&caller, ticket, Limit::Http2, &error.to_string());
                    }
                }
                return;
            },
            // A header block was not read that later ones build on. Calls that run go on.
            () = poll_fn(|_| progress.poll_out_of_step()), if !is_draining => {
                cut_off(&caller, ticket, Limit::HeaderList, "a header block of more than 60 KiB was not read");
                is_draining = true;
                connection.graceful_shutdown();
            }
            Ok(()) = generation.changed() => {
                let view = caller.view();
                caller.recheck();
                // A list that had ended may have been followed by another.
                has_expired = false;
                expired.set(caller.until_expired());
                if view.withdrawn.is_some() && !is_draining {
                    is_draining = true;
                    connection.graceful_shutdown();
                }
            }
            () = until_true(&mut draining), if !is_draining => {
                is_draining = true;
                connection.graceful_shutdown();
            }
            // Also while it drains: a call that began in time must not outlive its certificate.
            () = &mut expired, if !has_expired => {
                has_expired = true;
                caller.recheck();
                if !is_draining {
                    is_draining = true;
                    connection.graceful_shutdown();
                }
            }
            limit = &mut idle, if !is_draining => {
                ticket.count(limit, Action::Closed);
                is_draining = true;
                connection.graceful_shutdown();
            }
            () = ticket.told_to_leave(), if !is_draining => {
                is_draining = true;
                if connection.has_streams() {
                    connection.graceful_shutdown();
                } else {
                    // Others wait for the room. A call that is on its way is not lost: the client learns from the GOAWAY
                    // that it was not seen.
                    connection.abrupt_shutdown(Reason::NO_ERROR);
                }
            }
            // In a block: no clock is read where it does not drain.
            () = async { tokio::time::sleep(GRACE).await }, if is_draining => {
                let limits = caller.view().live.snapshot.limits;
                // The end of an answer may still be on its way to a client that is slow.
                let grace = if gather.has_waiting() { limits.stall_timeout.max(GRACE) } else { GRACE };
                if ticket.idle().is_some_and(|idle| idle >= grace) && !connection.has_streams() {
                    return;
                }
            }
            () = caller.resets_too_many() => {
                cut_off(&caller, ticket, Limit::Resets, "too many calls were reset");
                return close(&mut connection, gather, Reason::ENHANCE_YOUR_CALM).await;
            }
            breach = &mut breach => {
                let (limit, why, reason) = match breach {
                    Breach::Flood(frame) => {
                        let why = format!("too many frames that move no call on, the last one {frame}");
                        (Limit::ControlFrames, why, Reason::ENHANCE_YOUR_CALM)
                    }
                    Breach::Memory => {
                        let why = "no memory is left for its header blocks".to_owned();
                        (Limit::Memory, why, Reason::NO_ERROR)
                    }
                    Breach::Reused => {
                        let why = "the number of a stream was used again".to_owned();
                        (Limit::Http2, why, Reason::PROTOCOL_ERROR)
                    }
                };
                cut_off(&caller, ticket, limit, &why);
                return close(&mut connection, gather, reason).await;
            }
            what = poll_fn(|cx| poll_standstill(&mut standstill, gather, ticket, cx)) => {
                cut_off(&caller, ticket, Limit::Standstill, &format!("it stood still in the middle of {what}"));
                // Not its fault for sure: a client that calls again may find a better way.
                return close(&mut connection, gather, Reason::NO_ERROR).await;
            }
            () = &mut silent => {
                tracing::info!(target: "casgate::connection", "no answer to PING: connection closed");
                return;
            }
        }
    }
}

/// Counts that a connection ends because of its client, and logs whose it is.
fn cut_off(caller: &Caller, ticket: &Ticket, limit: Limit, why: &str) {
    ticket.count(limit, Action::Closed);
    let certificate = &caller.peer.label;
    tracing::info!(target: "casgate::connection", %certificate, limit = limit.name(), "connection closed: {why}");
}

/// Tells the client why it is left. The GOAWAY is written if the client takes it; nothing of it is read any more.
async fn close<O: Outbox>(connection: &mut Http2<O>, gather: &Gather<O>, reason: Reason) {
    connection.abrupt_shutdown(reason);
    let closed = poll_fn(|cx| {
        let closed = connection.poll_closed(cx);
        let _written = gather.poll_flush_all(cx);
        closed
    });
    let _closed = tokio::time::timeout(GRACE, closed).await;
}

/// Begins the calls that have come, and writes what there is to write; ready when the connection has ended, with the error
/// that ended it. After several calls without a pause, whoever polls gets a look at everything else.
fn poll_calls<O: Outbox>(
    connection: &mut Http2<O>,
    gather: &Gather<O>,
    (caller, progress): (&Caller, &Progress),
    cx: &mut Context<'_>,
    begin: impl Fn(Call),
) -> Poll<Option<h2::Error>> {
    for _ in 0..CALLS_IN_A_ROW {
        let ended = match connection.poll_accept(cx) {
            Poll::Ready(Some(Ok(call))) => {
                begin(call);
                continue;
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(error)),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                if progress.has_taken_all() {
                    // More may be read now.
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
        };
        // What can't be written is an error that reading meets, too.
        caller.set_behind(gather.poll_flush_all(cx).is_pending());
        return ended;
    }
    caller.set_behind(gather.poll_flush_all(cx).is_pending());
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Ready when the client stands still. Where answers wait to be written, it may not be read either: its calls end where it takes
/// nothing of them.
fn poll_standstill<O: Outbox>(
    standstill: &mut Standstill,
    gather: &Gather<O>,
    ticket: &Ticket,
    cx: &mut Context<'_>,
) -> Poll<&'static str> {
    if gather.has_waiting() && ticket.idle().is_none() {
        return Poll::Pending;
    }
    standstill.poll(cx)
}

/// Ends when the connection has done nothing for too long; gives the limit that it reached.
async fn until_idle(caller: &Caller, ticket: &Ticket) -> Limit {
    loop {
        let limits = caller.view().live.snapshot.limits;
        let idle_timeout = match caller.peer.identity {
            Identity::Certificate(_) => limits.idle_timeout,
            Identity::Anonymous => limits.anonymous_idle_timeout,
        };
        let (limit, timeout) = if ticket.has_called() {
            (Limit::IdleTimeout, idle_timeout)
        } else {
            let timeout = limits.first_request_timeout.min(idle_timeout);
            (Limit::FirstRequestTimeout, timeout)
        };
        let left = match ticket.idle() {
            Some(idle) => timeout.saturating_sub(idle),
            None => timeout,
        };
        if left.is_zero() {
            return limit;
        }
        // No longer, since a reload may make it shorter.
        tokio::time::sleep(left.min(RELOAD_INTERVAL)).await;
    }
}

async fn until_true(flag: &mut tokio::sync::watch::Receiver<bool>) {
    if flag.wait_for(|flag| *flag).await.is_err() {
        std::future::pending().await
    }
}
