//! One call, from its headers to its end: a straight path, each step one call down and one `?` back.

mod answer;
mod body;
pub mod capabilities;
mod exchange;
pub mod headers;
pub mod prefix;
mod record;
mod right;

use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request};

use crate::config::file::Capabilities;
use crate::connection::{Caller, View};
use crate::policy::instance::InstanceName;
use crate::policy::method::{InstanceIn, Method, Service};
use crate::policy::rights::Right;
use crate::policy::{Permit, Scope, Uris, resource};
use crate::status::Rejection;

use answer::Answer;
use body::Upload;
use capabilities::May;
use exchange::Exchange;
use record::Record;
use right::Held;

/// Serves one call. It ends in exactly one count and one access line, whatever becomes of it.
pub async fn handle(caller: Arc<Caller>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let mut answer = Answer::new(respond);
    if let Err(not_grpc) = headers::check_grpc(&request) {
        let record = Record::new(&caller, None, request.uri().path());
        return record.not_grpc(answer.not_grpc(not_grpc));
    }
    // With a query the path is another one, and unknown.
    let path = request.uri().path_and_query().map_or("", |path| path.as_str());
    let method = Method::from_path(path);
    let mut record = Record::new(&caller, method, path);
    match try_handle(&caller, method, request, &mut answer, &mut record).await {
        Ok(code) => record.answered(code),
        Err(rejection) => {
            answer.reject(&rejection);
            record.rejected(&rejection);
        }
    }
}

/// The path of a call. Gives the gRPC status that the client got from the backend.
async fn try_handle(
    caller: &Arc<Caller>,
    method: Option<Method>,
    request: Request<RecvStream>,
    answer: &mut Answer,
    record: &mut Record,
) -> Result<u8, Rejection> {
    let method = method.ok_or_else(|| Rejection::unknown_method(record.path()))?;
    if method.service() == Service::Health {
        return answer.health(method).await;
    }
    let mut held = Held::new(caller);
    let view = caller.view();
    right::check(caller, &view)?;
    let denied = |denial| Rejection::denied(&caller.peer.identity, denial);
    view.standing.may_ever(method.rights()).map_err(denied)?;
    let (parts, body) = request.into_parts();
    let mut upload = Upload::new(method, body);
    let (scope, uris) = name(method, &mut upload).await?;
    if let Scope::Instance(instance) = &scope {
        record.instance(instance);
    }
    let policy = &view.live.snapshot.policy;
    let permit = policy.decide(&view.standing, method, scope, uris).map_err(denied)?;
    record.allowed(&view.live, &permit);
    let backend = view
        .live
        .snapshot
        .routes
        .pick(&permit)
        .and_then(|id| view.live.backend(id))
        .ok_or(Rejection::NoBackend(method.service()))?;
    record.backend(backend.name());
    let told = told(method, &view, &permit, &parts.headers);
    let mut headers = parts.headers;
    headers::for_upstream(&mut headers);
    if told.is_some() {
        // The answer will be read, so it must not be compressed.
        headers.remove("grpc-accept-encoding");
    }
    let exchange = Exchange {
        backend,
        worker: caller.worker,
        headers,
        told,
    };
    let result = exchange.run(permit, &mut upload, answer, record, &mut held).await;
    record.received(upload.received());
    result
}

/// Reads as much of the body as the decision needs.
async fn name(method: Method, upload: &mut Upload) -> Result<(Scope, Uris), Rejection> {
    let reader = match method.instance_in() {
        InstanceIn::Unknown => return Ok((Scope::Unknown, Uris::default())),
        InstanceIn::Field(_) | InstanceIn::ResourceName(_) => upload.settle().await?,
    };
    let name = reader.name()?;
    let instance = match method.instance_in() {
        InstanceIn::ResourceName(kind) => resource::instance_of(name, kind)?,
        InstanceIn::Field(_) | InstanceIn::Unknown => InstanceName::parse(name)?,
    };
    Ok((Scope::Instance(instance), reader.uris()))
}

/// What this caller is told of the server's capabilities; `None` where the answer goes through as it is.
fn told(method: Method, view: &View, permit: &Permit, headers: &HeaderMap) -> Option<May> {
    if method != Method::GetCapabilities || view.live.snapshot.capabilities == Capabilities::Unchanged {
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
    let is_all = may.action_push && may.cas_push && may.execute;
    (!is_all).then_some(may)
}
