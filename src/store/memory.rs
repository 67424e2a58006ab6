//! The memory that the store keeps for its callers.
//!
//! Who they are, and what they may have, is the matter of whoever serves the store: it gives [`Callers`], and the store
//! keeps nothing for a call without a [`Reserve`] of it. Requests are reserved in front of gRPC, message by message, and
//! answers until HTTP/2 has sent them; what is kept in between is reserved by `reserve`.

mod answer;
mod request;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tonic::service::Routes;

use self::answer::Answer;
use self::request::Reserved;
use super::caller::OnBehalf;
use super::fault::Fault;
use super::requests::Kind;

/// How long a call waits for others to end that have the memory which it needs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads wait for memory before the store hears of them: whoever serves it has reserved [`super::READ_BYTES`] for each, or
/// the size of its blob. Two that each have a part of what they need would wait for each other.
const READ: &str = "/google.bytestream.ByteStream/Read";

/// Whoever calls.
pub trait Callers: fmt::Debug + Send + Sync {
    /// What may be kept for the caller of a request with these headers.
    fn memory(&self, headers: &HeaderMap) -> Arc<dyn Memory>;
}

/// What may be kept for one caller.
pub trait Memory: fmt::Debug + Send + Sync {
    /// A reservation of nothing.
    fn reservation(&self) -> Box<dyn Reserve>;
}

/// Bytes that are kept for a caller. Dropping it gives them back.
pub trait Reserve: fmt::Debug + Send + Sync {
    /// How many they are.
    fn bytes(&self) -> u64;

    /// Takes so many more; false where the caller may not have them now, and then it has what it had.
    fn grow(&mut self, more: u64) -> bool;

    /// The same, but waits so long for others to end. Whoever waits holds nothing that others wait for.
    fn grow_when_free(&mut self, more: u64, patience: Duration) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;

    /// Gives so many back, or all where it has fewer.
    fn shrink(&mut self, bytes: u64);
}

tokio::task_local! {
    /// Of the call that runs.
    static CALLER: Arc<dyn Memory>;
}

/// What may be kept for the caller of the call that runs: for what its answer keeps, which is made after the call.
///
/// # Errors
/// [`Fault::NoMemory`] outside of a call.
pub(super) fn of_caller() -> Result<Arc<dyn Memory>, Fault> {
    CALLER.try_with(Arc::clone).map_err(|_| Fault::NoMemory)
}

/// A reservation of nothing, for the caller of the call that runs.
///
/// # Errors
/// [`Fault::NoMemory`] outside of a call.
pub(super) fn reservation() -> Result<Box<dyn Reserve>, Fault> {
    CALLER
        .try_with(|memory| memory.reservation())
        .map_err(|_| Fault::NoMemory)
}

/// Reserves bytes for the caller of the call that runs.
///
/// # Errors
/// [`Fault::NoMemory`] where the caller may not have them now.
pub(super) fn reserve(bytes: u64) -> Result<Box<dyn Reserve>, Fault> {
    let mut reservation = reservation()?;
    match reservation.grow(bytes) {
        true => Ok(reservation),
        false => Err(Fault::NoMemory),
    }
}

/// The same, but waits for others to end. The call must hold nothing that others wait for.
///
/// # Errors
/// [`Fault::NoMemory`], when that takes too long.
pub(super) async fn reserve_when_free(bytes: u64) -> Result<Box<dyn Reserve>, Fault> {
    let mut reservation = reservation()?;
    match reservation.grow_when_free(bytes, PATIENCE).await {
        true => Ok(reservation),
        false => Err(Fault::NoMemory),
    }
}

/// What a message takes that is an answer and not encoded yet.
#[derive(Clone)]
struct Room {
    _reservation: Arc<Box<dyn Reserve>>,
}

/// Keeps a reservation until an answer is encoded; what it is encoded to is reserved by itself.
pub(super) fn keep_until_encoded<T>(reservation: Box<dyn Reserve>, response: &mut tonic::Response<T>) {
    let _reservation = Arc::new(reservation);
    response.extensions_mut().insert(Room { _reservation });
}

/// The services, with all that they keep reserved.
pub(super) struct Reserving {
    pub(super) routes: TowerToHyperService<OnBehalf<Routes>>,
    pub(super) callers: Arc<dyn Callers>,
}

impl Service<Request<Incoming>> for Reserving {
    type Response = Response<Answer>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let memory = self.callers.memory(request.headers());
        let is_paid = request.uri().path() == READ;
        let (parts, body) = request.into_parts();
        let kind = Kind::of_path(parts.uri.path());
        let (body, kept) = Reserved::new(body, Arc::clone(&memory), kind);
        let call = self.routes.call(Request::from_parts(parts, body));
        Box::pin(CALLER.scope(Arc::clone(&memory), async move {
            let mut response = call.await?;
            let room = response.extensions_mut().remove();
            // What the request was decoded to is as large as it was, and goes with the call.
            drop(kept);
            Ok(response.map(|body| Answer::new(body, memory, room, is_paid)))
        }))
    }
}

/// Callers that may have everything: of tests and benchmarks, which are the only callers of their store.
#[derive(Debug, Default)]
pub struct Everything(u64);

impl Callers for Everything {
    fn memory(&self, _: &HeaderMap) -> Arc<dyn Memory> {
        Arc::new(Everything(0))
    }
}

impl Memory for Everything {
    fn reservation(&self) -> Box<dyn Reserve> {
        Box::new(Everything(0))
    }
}

impl Reserve for Everything {
    fn bytes(&self) -> u64 {
        self.0
    }

    fn grow(&mut self, more: u64) -> bool {
        self.0 += more;
        true
    }

    fn grow_when_free(&mut self, more: u64, _: Duration) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(std::future::ready(self.grow(more)))
    }

    fn shrink(&mut self, bytes: u64) {
        self.0 = self.0.saturating_sub(bytes);
    }
}
