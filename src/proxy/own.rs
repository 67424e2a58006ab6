//! Calls that the gate makes itself to answer a caller: with the caller's rights, each with a permit of its own.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;
use percent_encoding::percent_decode_str;

use super::answer::grpc_status;
use super::body::release;
use super::exchange::{RESENDS, fit};
use super::fault::{Failure, Faults};
use super::message::take;
use super::verdict;
use crate::clients::Reservation;
use crate::connection::View;
use crate::http2;
use crate::policy::identity::Identity;
use crate::policy::method::{Method, Service};
use crate::policy::rights::Right;
use crate::policy::{Permit, Uris};
use crate::route::Way;
use crate::status::{Code, Rejection};
use crate::upstream::{Backend, Client, Outbound, Sent};
use crate::wire::{self, Bounded};

/// On whose behalf calls are made.
pub(super) struct OwnCalls<'a> {
    /// Who calls.
    pub(super) identity: &'a Identity,
    /// What the configuration gives to the caller.
    pub(super) view: &'a View,
    /// Whose share of the streams is used.
    pub(super) client: Client<'a>,
    /// The call that they are made for.
    pub(super) permit: &'a Permit,
    /// The caller's headers, fit for a backend.
    pub(super) headers: HeaderMap,
}

/// A status that a backend ended a call with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) code: u8,
    pub(super) message: String,
}

/// Why a call has no good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// The backend said so, and the client is told the same.
    Status(Status),
    /// The gate says so.
    Reject(Rejection),
}

impl From<Rejection> for Failed {
    fn from(rejection: Rejection) -> Failed {
        Failed::Reject(rejection)
    }
}

impl Status {
    /// NOT_FOUND.
    pub(super) fn not_found(message: impl Into<String>) -> Status {
        Status {
            code: Code::NotFound as u8,
            message: message.into(),
        }
    }

    /// Nothing when all went well, else the status.
    pub(super) fn ok(self) -> Result<(), Failed> {
        if self.code == Code::Ok as u8 {
            Ok(())
        } else {
            Err(Failed::Status(self))
        }
    }
}

/// The answer to a call: message by message, then the status.
pub(super) struct Messages<'a> {
    faults: Faults<'a>,
    body: Option<RecvStream>,
    buffer: BytesMut,
    kept: Reservation,
    /// There from the begin where the head of the answer ended it.
    status: Option<Status>,
    /// Counts the call to its connection.
    _stream: Sent,
}

/// The message of an answer.
pub(super) struct Decoded<Answer> {
    /// Decoded.
    pub(super) message: Answer,
    /// As it came.
    pub(super) bytes: Bytes,
    _room: Reservation,
}

impl OwnCalls<'_> {
    /// The instance's name, as messages of a service carry it.
    ///
    /// # Errors
    /// Where no route leads to a backend.
    pub(super) fn instance(&self, service: Service) -> Result<String, Rejection> {
        let way = self.way(service)?;
        let name = way.rewritten.as_ref().or(self.permit.instance());
        Ok(name.map(ToString::to_string).unwrap_or_default())
    }

    /// Whether the caller has a right on the instance.
    fn has(&self, right: Right) -> bool {
        let policy = &self.view.live.snapshot.policy;
        self.view.standing.has(policy, right, self.permit.scope())
    }

    /// Whether the caller may do all that BuildStream does to push: blobs first and the name last.
    pub(super) fn may_push(&self) -> bool {
        [Right::CasPush, Right::AssetPush]
            .into_iter()
            .all(|right| self.has(right))
    }

    /// Whether a caller that may not push is told that it may.
    pub(super) fn accepts_probes(&self) -> bool {
        let policy = &self.view.live.snapshot.policy;
        policy
            .accepts_probes(&self.view.standing, self.permit.scope())
            .is_some()
    }

    /// The way to the backend that serves a service.
    ///
    /// # Errors
    /// Where there is none.
    pub(super) fn way(&self, service: Service) -> Result<Way, Rejection> {
        verdict::way_to(&self.view.live.snapshot, service, self.permit.instance())
    }

    /// The backend that serves a service.
    ///
    /// # Errors
    /// Where there is none.
    pub(super) fn backend(&self, service: Service) -> Result<&Arc<Backend>, Rejection> {
        let backend = self.way(service)?.route.backend;
        self.view.live.backend(backend).ok_or(Rejection::NoBackend(service))
    }

    /// A call with one message each way, which is given decoded and as it came. What it takes is reserved with it.
    pub(super) async fn unary<Answer: Bounded>(
        &self,
        method: Method,
        uris: Uris,
        request: Bytes,
    ) -> Result<Decoded<Answer>, Failed> {
        let mut messages = self.call(method, uris, request).await?;
        let first = messages.next().await?;
        messages.status().await?.ok()?;
        let unreadable = |why: &str| messages.faults.not_grpc(why, Code::Unknown);
        let bytes = first.ok_or_else(|| unreadable("it has no message"))?;
        let measured = wire::measure(bytes.clone()).map_err(|error| unreadable(&error.to_string()))?;
        let room = self
            .client
            .purse()
            .reserve(measured.cost().memory)
            .map_err(Rejection::from)?;
        let message = measured.decode().map_err(|error| unreadable(&error.to_string()))?;
        Ok(Decoded {
            message,
            bytes,
            _room: room,
        })
    }

    /// Makes a call with one message, which comes with its prefix.
    pub(super) async fn call(&self, method: Method, uris: Uris, request: Bytes) -> Result<Messages<'_>, Rejection> {
        let policy = &self.view.live.snapshot.policy;
        let denied = |denial| Rejection::denied(self.identity, denial);
        let mut permit = policy
            .decide(&self.view.standing, method, self.permit.scope().clone(), uris)
            .map_err(denied)?;
        let route = self.way(method.service())?.route;
        let (id, client) = (route.backend, self.client.by(&route));
        let backend = self.backend(method.service())?;
        let mut headers = self.headers.clone();
        self.view.forward(id, permit.rule(), &mut headers);
        let faults = Faults(backend);
        let mut last = String::new();
        let mut refused = None;
        for _ in 0..=RESENDS {
            let send = backend.send(permit, client, headers.clone(), false, refused);
            let Outbound {
                permit: back,
                mut stream,
                place,
            } = send.await.map_err(|(_, unreachable)| faults.unavailable(unreachable))?;
            permit = back;
            refused = Some(place);
            match exchange(&mut stream, request.clone(), faults).await {
                Ok((status, body)) => {
                    return Ok(Messages {
                        faults,
                        body,
                        buffer: BytesMut::new(),
                        kept: self.client.purse().reservation(),
                        status,
                        _stream: stream,
                    });
                }
                Err(Failure::Reject(rejection)) => return Err(rejection),
                Err(Failure::Unprocessed(reason)) => {
                    backend.count_resent();
                    last = reason;
                }
            }
        }
        Err(faults.unavailable(last))
    }
}

/// Sends the message while it waits for the head of the answer, which may come before the message is out.
async fn exchange(
    stream: &mut Sent,
    request: Bytes,
    faults: Faults<'_>,
) -> Result<(Option<Status>, Option<RecvStream>), Failure> {
    let Some((response, mut body)) = stream.split() else {
        return Err(faults.without_status().into());
    };
    let send = async {
        // Where the backend takes no more, its answer says why.
        let _closed = body.send_first(request, true).await;
        std::future::pending().await
    };
    let head = tokio::select! {
        head = response => head.map_err(|error| faults.failure(&error))?,
        never = send => never,
    };
    let code = faults.check_head(&head)?;
    let (parts, body) = head.into_parts();
    match code {
        Some(code) => Ok((Some(status(code, &parts.headers)), None)),
        None => Ok((None, Some(body))),
    }
}

impl Messages<'_> {
    /// The next message; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Rejection> {
        let Some(body) = &mut self.body else { return Ok(None) };
        loop {
            if let Some(message) = take(&mut self.buffer).map_err(|text| self.faults.not_grpc(text, Code::Unknown))? {
                return Ok(Some(message));
            }
            match body.data().await {
                Some(chunk) => {
                    let chunk = chunk.map_err(|error| self.faults.unavailable(http2::plain(&error)))?;
                    // What was taken out of the buffer is being read, and goes soon.
                    self.kept.grow_to((self.buffer.len() + chunk.len()) as u64)?;
                    release(body, chunk.len());
                    self.buffer.extend_from_slice(&chunk);
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(self.faults.unavailable("it ended its answer within a message")),
            }
        }
    }

    /// Reads to the end, and gives the status.
    pub(super) async fn status(&mut self) -> Result<Status, Rejection> {
        if let Some(status) = &self.status {
            return Ok(status.clone());
        }
        while self.next().await?.is_some() {}
        let trailers = match &mut self.body {
            Some(body) => body
                .trailers()
                .await
                .map_err(|error| self.faults.unavailable(http2::plain(&error)))?,
            None => None,
        };
        let trailers = trailers.ok_or_else(|| self.faults.without_status())?;
        let code = grpc_status(&trailers).ok_or_else(|| self.faults.without_status())?;
        let status = status(code, &trailers);
        self.status = Some(status.clone());
        Ok(status)
    }
}

fn status(code: u8, headers: &HeaderMap) -> Status {
    let message = headers.get("grpc-message");
    let cut = message.and_then(|value| fit::cut(value.as_bytes()));
    let message = cut.as_ref().or(message).and_then(|value| value.to_str().ok());
    let message = percent_decode_str(message.unwrap_or_default()).decode_utf8_lossy();
    Status {
        code,
        message: message.into_owned(),
    }
}
