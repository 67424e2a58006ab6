//! Finds out whether an endpoint is up, before and beside the calls of clients: one task for each, whatever the number of
//! threads.
//!
//! Each check makes a connection of its own, so that it finds what a new call would find, and an idle connection is never
//! disturbed. It can ask what a [`Question`] says, and nothing else: no caller is behind it, so there is no permit.

use std::sync::Arc;
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2::GetCapabilitiesRequest;
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT};
use http::{Method as HttpMethod, Request, Version};

use super::dial::Dialed;
use super::endpoint::Endpoint;
use super::health::Health;
use super::pool::plain;
use crate::http2;
use crate::metrics::Metrics;
use crate::policy::method::Method;
use crate::proxy::{grpc_status, message};
use crate::snapshot::backends::{HealthPlan, Question};
use crate::status::Code;
use crate::wire;
use crate::wire::shapes::{FEW, bounded};

/// How long an answer may take, with the way to it.
const TIMEOUT: Duration = Duration::from_secs(5);
/// An endpoint that is down, or failed its last check, is tried again after so long.
const RETRY: Duration = Duration::from_secs(1);
/// So many checks in a row without a good answer make it down; one does when it can't be reached. A server may be slow once.
const FAILURES: u32 = 2;
/// How long the end of the connection may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// No answer to a question is longer, in bytes.
const LONGEST: usize = 64 * 1024;

/// Why a check failed.
#[derive(Debug)]
enum Fault {
    /// There is no connection.
    Unreachable(String),
    /// There is one, and no good answer.
    Answer(String),
}

/// The end of an answer: its status, and what came before that.
struct Answer {
    code: u8,
    body: BytesMut,
}

/// The answer of grpc.health.v1 (grpc/health/v1/health.proto).
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

bounded! {
    HEALTH: HealthCheckResponse, FEW, [];
}

/// `HealthCheckResponse.ServingStatus.SERVING`
const SERVING: i32 = 1;

/// Checks an endpoint again and again. Without a plan only one that is down, until it can be reached again.
pub(super) async fn watch(
    endpoint: Arc<Endpoint>,
    health: Arc<Health>,
    plan: Option<HealthPlan>,
    backend: Arc<str>,
    metrics: Arc<Metrics>,
) {
    let number = endpoint.number;
    let interval = plan.as_ref().map(|plan| plan.interval);
    let mut failures = 0;
    loop {
        if plan.is_some() || health.is_down(number) {
            let was_down = health.is_down(number);
            let question = plan.as_ref().map(|plan| &plan.question);
            let timeout = || Err(Fault::Answer("it did not answer within 5 s".to_owned()));
            let result = tokio::time::timeout(TIMEOUT, check(&endpoint, question)).await;
            match result.unwrap_or_else(|_| timeout()) {
                Ok(()) => {
                    failures = 0;
                    match question {
                        Some(_) => health.answered(number),
                        None => health.reached(number),
                    }
                    if was_down {
                        endpoint.forgive();
                    }
                }
                Err(fault) => {
                    failures += 1;
                    if question.is_some() {
                        let label = [&*backend, health.name(number)];
                        metrics.health_failures.with_label_values(&label).inc();
                    }
                    match fault {
                        Fault::Unreachable(reason) => health.unreachable(number, &reason),
                        Fault::Answer(reason) if failures >= FAILURES || health.is_unknown(number) => {
                            health.failed(number, &reason);
                        }
                        Fault::Answer(_) => {}
                    }
                }
            }
        }
        let retry = interval.map_or(RETRY, |interval| interval.min(RETRY));
        if failures > 0 || health.is_down(number) {
            tokio::time::sleep(retry).await;
            continue;
        }
        let next = async {
            match interval {
                Some(interval) => tokio::time::sleep(interval).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = next => {}
            // A call found out. It may be back in a moment.
            () = health.until_down(number) => tokio::time::sleep(retry).await,
        }
    }
}

/// Connects, and asks where there is a question.
async fn check(endpoint: &Endpoint, question: Option<&Question>) -> Result<(), Fault> {
    let dialed = endpoint.dialer.dial().await;
    let Dialed { sender, mut driver, .. } = dialed.map_err(|error| Fault::Unreachable(plain(&error).to_owned()))?;
    let asked = async {
        match question {
            Some(question) => ask(sender, endpoint, question).await,
            None => {
                drop(sender);
                Ok(())
            }
        }
    };
    let result = tokio::select! {
        biased;
        result = asked => result,
        _ended = &mut driver => return Err(Fault::Answer("it closed the connection".to_owned())),
    };
    // Without a stream the connection ends by itself, with a GOAWAY.
    let _ended_or_not = tokio::time::timeout(GOODBYE, driver).await;
    result
}

/// The only calls that are made without a permit.
async fn ask(sender: SendRequest<Bytes>, endpoint: &Endpoint, question: &Question) -> Result<(), Fault> {
    let (method, message) = match question {
        // `service`, the only field, stays empty: the server as a whole.
        Question::Health => (Method::HealthCheck, message::frame(b"")),
        Question::Capabilities(name) => {
            let request = GetCapabilitiesRequest {
                instance_name: name.to_string(),
            };
            (Method::GetCapabilities, message::framed(&request))
        }
    };
    let answer = exchange(sender, request(endpoint, method), message).await;
    judge(question, answer.map_err(Fault::Answer)?).map_err(Fault::Answer)
}

fn request(endpoint: &Endpoint, method: Method) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = HttpMethod::POST;
    *request.version_mut() = Version::HTTP_2;
    // As a call of the first thread: checks are few.
    *request.uri_mut() = endpoint.uri(0, method);
    let headers = request.headers_mut();
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(USER_AGENT, HeaderValue::from_static("casgate"));
    headers.insert("grpc-timeout", HeaderValue::from_static("5S"));
    request
}

async fn exchange(sender: SendRequest<Bytes>, request: Request<()>, message: Bytes) -> Result<Answer, String> {
    let plain = |error: h2::Error| http2::plain(&error);
    let mut sender = sender.ready().await.map_err(plain)?;
    let (response, mut body) = sender.send_request(request, false).map_err(plain)?;
    // Where the server takes no more, its answer says why.
    let _closed = http2::send(&mut body, message, true).await;
    let (parts, mut data) = response.await.map_err(plain)?.into_parts();
    let mut body = BytesMut::new();
    match parts.status.as_u16() {
        200 => {}
        // As a proxy says UNIMPLEMENTED (grpc doc/http-grpc-status-mapping.md).
        404 => {
            return Ok(Answer {
                code: Code::Unimplemented as u8,
                body,
            });
        }
        other => return Err(format!("it answered with HTTP status {other}")),
    }
    if let Some(code) = grpc_status(&parts.headers) {
        return Ok(Answer { code, body });
    }
    while let Some(chunk) = data.data().await {
        let chunk = chunk.map_err(plain)?;
        let _gone = data.flow_control().release_capacity(chunk.len());
        if body.len() + chunk.len() > LONGEST {
            return Err("its answer is longer than 64 KiB".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
    let trailers = data.trailers().await.map_err(plain)?;
    let code = trailers.as_ref().and_then(grpc_status);
    let code = code.ok_or("it ended its answer without a status")?;
    Ok(Answer { code, body })
}

/// Whether a server that answers so can be asked by others. One that does not know the question, or does not want to answer it
/// to just anybody, is there.
fn judge(question: &Question, answer: Answer) -> Result<(), String> {
    let Answer { code, mut body } = answer;
    match (question, code) {
        (Question::Health, 0) => {
            let answer = message::take(&mut body)?.ok_or("its answer has no message")?;
            match wire::decode::<HealthCheckResponse>(answer) {
                Ok(answer) if answer.status == SERVING => Ok(()),
                Ok(_) => Err("it says that it does not serve".to_owned()),
                Err(_) => Err("its answer can't be read".to_owned()),
            }
        }
        // INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, UNIMPLEMENTED, UNAUTHENTICATED.
        (_, 0 | 3 | 5 | 7 | 12 | 16) => Ok(()),
        (_, code) => Err(format!("it answered with gRPC status {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_know_the_question_is_there_and_who_does_not_serve_is_not() {
        let is_up = |question: &Question, code, body: &[u8]| {
            let body = BytesMut::from(body);
            judge(question, Answer { code, body }).is_ok()
        };
        let capabilities = Question::Capabilities(Default::default());
        for (code, expected) in [
            (0, true),
            (12, true),
            (7, true),
            (3, true),
            (14, false),
            (2, false),
            (4, false),
            (13, false),
        ] {
            assert_eq!(is_up(&capabilities, code, b""), expected, "{code}");
            if code != 0 {
                assert_eq!(is_up(&Question::Health, code, b""), expected, "{code}");
            }
        }
        for (body, expected) in [
            (&b"\0\0\0\0\x02\x08\x01"[..], true),
            // UNKNOWN, as the field is left out, NOT_SERVING, SERVICE_UNKNOWN.
            (b"\0\0\0\0\0", false),
            (b"\0\0\0\0\x02\x08\x02", false),
            (b"\0\0\0\0\x02\x08\x03", false),
            (b"", false),
            (b"\0\0\0\0\x02\x08", false),
            (b"\0\0\0\0\x02\xff\xff", false),
        ] {
            assert_eq!(is_up(&Question::Health, 0, body), expected, "{body:?}");
        }
    }
}
