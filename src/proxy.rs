//! One call, from its headers to its end: a straight path, each step one call down and one `?` back.

mod announcement;
mod answer;
mod body;
mod build_stream_1;
mod call_id;
pub mod capabilities;
pub mod completeness;
mod exchange;
mod fault;
pub mod headers;
mod kind;
pub(crate) mod message;
mod metered;
mod outgoing;
mod own;
pub mod prefix;
mod record;
mod rename;
mod right;
mod subject;
pub mod verdict;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::request::Parts;
use http::{HeaderMap, Request};

use crate::config::file::Capabilities;
use crate::connection::{Caller, View};
use crate::policy::kindness::Kindly;
use crate::policy::method::{InstanceIn, Method, ResourceKind, Service};
use crate::policy::rights::Right;
use crate::policy::{Permit, Scope, Uris, resource};
use crate::route::Way;
use crate::status::Rejection;
use crate::upstream::Client;

use answer::Answer;
pub(crate) use answer::grpc_status;
use body::Upload;
use capabilities::{May, Told};
use exchange::Exchange;
use kind::Kind;
use own::{Failed, OwnCalls};
use prefix::LONGEST_HELD;
use record::Record;
use right::Held;
use subject::Picker;

/// What an open call takes beside its headers and its body, in bytes: its task, its stream, short pieces of either body.
const CALL: u64 = 12 * 1024;
/// How long a call waits for others of its caller to end, where no more may be kept for that.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves one call. It ends in exactly one count and one access line, whatever becomes of it.
pub async fn handle(caller: Arc<Caller>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let mut answer = Answer::new(respond, &caller);
    if let Err(not_grpc) = headers::check_grpc(&request) {
        let record = Record::new(&caller, None, request.uri().path());
        return record.not_grpc(answer.not_grpc(not_grpc));
    }
    // With a query the path is another one, and unknown.
    let path = request.uri().path_and_query().map_or("", |path| path.as_str());
    let method = Method::from_path(path);
    let mut record = Record::new(&caller, method, path);
    if let Err(rejection) = headers::check_size(&request) {
        answer.reject(&rejection, record.id());
        return record.rejected(&rejection);
    }
    // What is kept of it: a call moves and holds all that it is given.
    let (Parts { headers, .. }, body) = request.into_parts();
    match try_handle(&caller, method, headers, body, &mut answer, &mut record).await {
        Ok(code) => record.answered(code),
        Err(rejection) => {
            if rejection == Rejection::Cancelled || answer.is_closed() {
                caller.count_reset();
            }
            answer.reject(&rejection, record.id());
            record.rejected(&rejection);
        }
    }
}

/// The path of a call. Gives the gRPC status that the client got from the backend.
async fn try_handle(
    caller: &Arc<Caller>,
    method: Option<Method>,
    mut headers: HeaderMap,
    body: RecvStream,
    answer: &mut Answer,
    record: &mut Record,
) -> Result<u8, Rejection> {
    let method = method.ok_or_else(|| Rejection::unknown_method(record.path()))?;
    let service = method.service();
    let mut held = Held::new(caller);
    let view = caller.view();
    let _counted = metered::count(caller, &view.live.snapshot.limits)?;
    if service == Service::Health {
        return Box::pin(answer.health(method, caller, &mut held)).await;
    }
    let mut reserved = caller.purse.reservation();
    let bytes = CALL + exchange::fit::size(&headers) as u64;
    if reserved.grow(bytes).is_err() {
        Box::pin(reserved.grow_when_free(bytes, PATIENCE)).await?;
    }
    answer.set_least(reserved.split(outgoing::SMALL as u64));
    let (snapshot, identity) = (&view.live.snapshot, &caller.peer.identity);
    answer.wait_at_most(snapshot.limits.stall_timeout);
    verdict::check_served(snapshot, method)?;
    right::check(caller, &view)?;
    verdict::check_ever(&snapshot.policy, identity, &view.standing, method)?;
    let mut upload = Upload::new(method, body, caller, reserved);
    // A build may have nothing to tell for long.
    if method != Method::PublishBuildToolEventStream {
        upload.wait_at_most(snapshot.limits.stall_timeout);
    }
    // Who can only be answered kindly may not make the gate keep so much.
    let may_change = subject::is_noted(method) && view.standing.may_ever(method.rights()).is_ok();
    if may_change
        && view.live.audit.is_some()
        && let Some(picker) = Picker::new(method)
    {
        upload.pick(picker);
    }
    let named = tokio::select! {
        biased;
        // What changed meanwhile is asked for below: most calls need not wait for it.
        named = name(method, &mut upload, record) => named,
        rejection = held.lost_all_for(method) => Err(rejection),
    };
    record.received(upload.received());
    let (scope, uris) = named?;
    if let Scope::Instance(instance) = &scope {
        record.instance(instance);
    }
    let kindly = snapshot.policy.kindly(&view.standing, method, &scope, &uris);
    let kindly = kindly.map(|(_, kindly)| (kindly, scope.clone()));
    let permit = match verdict::decide(snapshot, identity, &view.standing, method, scope, uris) {
        Ok(permit) => permit,
        Err(denial) => {
            let Some((kindly, scope)) = kindly else {
                return Err(denial);
            };
            let kind = Kind {
                caller,
                method,
                scope,
                kindly,
                denial,
            };
            return Box::pin(kind.answer(&mut upload, answer, record, &mut held)).await;
        }
    };
    held.check(&permit)?;
    record.allowed(&view, &permit);
    // Nothing was waited for since the name was read: its DATA woke the connection, which so has the room when it goes on.
    caller.make_room(&permit);
    let _place = match view.meter(permit.rule()) {
        Some(meter) => Box::pin(metered::admit(caller, meter, &permit, &mut upload, answer, &mut held)).await?,
        None => None,
    };
    if subject::is_noted(method) {
        record.audit(&view.live)?;
    }
    if service == Service::ReferenceStorage || method == Method::FetchDirectory && permit.uris().has_build_stream_1() {
        let own = Own {
            caller,
            view: &view,
            permit,
            headers,
        };
        let result = Box::pin(own.answer(&mut upload, answer, record, &mut held)).await;
        record.subject(upload.subject());
        return result;
    }
    let way = verdict::way(snapshot, &permit)?;
    rename(&permit, &way, &mut upload, record)?;
    let backend = view
        .live
        .backend(way.route.backend)
        .ok_or(Rejection::NoBackend(service))?;
    record.backend(backend.name());
    if method == Method::Read {
        // Before the backend hears of it: many that begin at once wait here for each other, and hold nothing.
        let size = resource::read(upload.name()?, ResourceKind::Read).map_or(0, |read| read.size);
        let bytes = u64::try_from(size).unwrap_or(0).min(backend.window());
        answer.admit(bytes, PATIENCE).await?;
    }
    if let Some(announcement) = record.announcement() {
        upload.announce(announcement);
        if upload.is_empty() {
            upload.announced().await?;
        }
    }
    let told = told(&way, &view, &permit, &headers);
    headers::for_upstream(&mut headers, &snapshot.identity_headers);
    view.forward(way.route.backend, permit.rule(), &mut headers);
    if told.is_some() {
        // The answer will be read, so it must not be compressed.
        headers.remove("grpc-accept-encoding");
    }
    let exchange = Exchange {
        backend,
        client: Client::of(caller).by(&way.route),
        headers,
        told,
    };
    let result = exchange.run(permit, &mut upload, answer, record, &mut held).await;
    record.received(upload.received());
    record.subject(upload.subject());
    result
}

/// Reads as much of the body as the decision needs.
async fn name(method: Method, upload: &mut Upload, record: &mut Record) -> Result<(Scope, Uris), Rejection> {
    if method.instance_in() == InstanceIn::Unknown {
        return Ok((Scope::Unknown, Uris::default()));
    }
    let reader = upload.settle().await?;
    let name = reader.name()?;
    let scope = match method.instance_in() {
        InstanceIn::ResourceName(kind) => {
            if subject::is_noted(method) {
                record.resource(name);
            }
            Scope::Instance(resource::instance_of(name, kind)?)
        }
        InstanceIn::Field(_) | InstanceIn::Unknown => verdict::scope(method, name)?,
    };
    Ok((scope, reader.take_uris()))
}

/// A call that the gate answers by calls of its own.
struct Own<'a> {
    caller: &'a Arc<Caller>,
    view: &'a View,
    permit: Permit,
    headers: HeaderMap,
}

impl Own<'_> {
    async fn answer(
        mut self,
        upload: &mut Upload,
        answer: &mut Answer,
        record: &mut Record,
        held: &mut Held,
    ) -> Result<u8, Rejection> {
        headers::for_upstream(&mut self.headers, &self.view.live.snapshot.identity_headers);
        // What the gate asks is not compressed, and it will read the answer.
        for name in ["grpc-encoding", "grpc-accept-encoding"] {
            self.headers.remove(name);
        }
        let method = self.permit.method();
        let calls = OwnCalls {
            identity: &self.caller.peer.identity,
            view: self.view,
            client: Client::of(self.caller),
            permit: &self.permit,
            headers: self.headers,
        };
        rename(&self.permit, &calls.way(Service::Asset)?, upload, record)?;
        record.backend(calls.backend(Service::Asset)?.name());
        if let Some(announcement) = record.announcement() {
            upload.announce(announcement);
        }
        let known = &self.caller.shared.known;
        let call = async {
            if method == Method::FetchDirectory {
                let message = upload.whole(LONGEST_HELD as usize).await?;
                build_stream_1::fetch_directory(&calls, known, self.permit.uris().clone(), message).await
            } else {
                let message = upload.whole(build_stream_1::LONGEST).await?;
                upload.announced().await?;
                build_stream_1::reference_storage(&calls, known, method, message).await
            }
        };
        let result = tokio::select! {
            biased;
            result = call => result,
            () = poll_fn(|cx| answer.poll_closed(cx)) => Err(Rejection::Cancelled.into()),
            rejection = held.lost(&self.permit) => Err(rejection.into()),
        };
        record.received(upload.received());
        let result = match result {
            Ok(message) => Ok(message),
            Err(Failed::Status(status)) => Err(status),
            Err(Failed::Reject(rejection)) => return Err(rejection),
        };
        if method == Method::Status && !calls.may_push() && calls.accepts_probes() {
            record.pretend(Kindly::Probe);
        }
        if let Ok(message) = &result {
            record.sent(message.len());
        }
        answer.message(result).await
    }
}

/// Has the request name the instance as it is called behind the gate.
fn rename(permit: &Permit, way: &Way, upload: &mut Upload, record: &mut Record) -> Result<(), Rejection> {
    let (Scope::Instance(asked), Some(name)) = (permit.scope(), way.rewritten.as_ref().or(permit.instance())) else {
        return Ok(());
    };
    if asked != name {
        record.instance_at_backend(name);
        upload.rename(name)?;
    }
    Ok(())
}

/// What this caller is told of the server's capabilities; `None` where the answer goes through as it is.
fn told(way: &Way, view: &View, permit: &Permit, headers: &HeaderMap) -> Option<Told> {
    if permit.method() != Method::GetCapabilities || view.live.snapshot.capabilities == Capabilities::Unchanged {
        return None;
    }
    let has = |right| view.standing.has(&view.live.snapshot.policy, right, permit.scope());
    let metadata = headers
        .get("build.bazel.remote.execution.v2.requestmetadata-bin")
        .and_then(|value| capabilities::decode_binary(value.as_bytes()));
    let may = May {
        action_push: has(Right::ActionPush) || capabilities::client_fails_without_update(metadata.as_deref()),
        cas_push: has(Right::CasPush),
        execute: has(Right::Execute),
    };
    Some(Told {
        may,
        max_batch_total_size: way.route.max_batch_total_size,
    })
}
