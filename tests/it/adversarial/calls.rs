//! Runs cases that are calls: what is sent goes onto the wire byte by byte, and what comes back is read by h2.

use std::time::{Duration, Instant};

use http::StatusCode;

use super::cases::{Call, Sees};
use super::notation::{self, STREAM};
use crate::harness::assert_only_this_is_seen;
use crate::harness::backend::{Backend, Seen, unary};
use crate::harness::frames::{self, Frame};
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::{Client, Reply, grpc_request, reply};

/// How long an answer may take. Every case has one, or loses its stream.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs each case of a family on a connection of its own, and an honest call after each: had the gate forwarded
/// anything of the case, it would be there by then.
pub(super) async fn run(cases: Vec<Call>) {
    let backend = Backend::start(unary);
    let gate = Gate::start(config(&backend)).await;
    let mut honest = gate.client("reader").await;
    let mut wrong = Vec::new();
    for call in &cases {
        let before = backend.streams();
        let answer = send(&gate, &backend, call).await;
        let seen = backend.seen().split_off(before);
        // Which of its reasons h2 gives for the end of a connection is its own business.
        if answer != call.answer && answer.split(' ').next() != Some(&call.answer) {
            wrong.push(format!("`{}`: {answer} and not {}", call.name, call.answer));
        }
        if let Err(what) = check(call, &backend, seen).await {
            wrong.push(format!("`{}`: {what}", call.name));
        }
        assert_only_this_is_seen(&mut honest, &backend).await;
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

/// `team` works on the instance `team`, and `builder` on URIs that begin with `urn:ours:`.
fn config(backend: &Backend) -> Config {
    let mut config = Config::to(backend).with_anonymous();
    let rights = ["pull", "push"];
    config.rule("team", "{ common-name = \"team\" }", &rights, Some(&["team"]));
    config.rule("builders", "{ common-name = \"builder\" }", &rights, None);
    config.rules.push_str("uris = [\"urn:ours:\"]\n");
    config
}

async fn send(gate: &Gate, backend: &Backend, call: &Call) -> String {
    let mut client = match call.who.as_str() {
        "anonymous" => gate.anonymous().await,
        name => gate.client(name).await,
    };
    let before = backend.streams();
    client.tap.send_instead(notation::request(call));
    let running = client.open_with(grpc_request("/replaced"), false);
    let mut sent = notation::body(call).len();
    for (number, body) in (1..).zip(&call.later) {
        let what = format!("`{}`: the backend has {sent} bytes", call.name);
        backend
            .until(&what, |seen| {
                seen.get(before).is_some_and(|seen| seen.received >= sent as u64)
            })
            .await;
        let body = notation::parts(body);
        sent += body.len();
        let last = if number == call.later.len() {
            frames::END_STREAM
        } else {
            0
        };
        client.tap.inject(Frame::new(frames::DATA, last, STREAM, body));
    }
    match tokio::time::timeout(PATIENCE, reply(running.response)).await {
        Ok(reply) => outcome(&reply, &client),
        Err(_) => "no answer".to_owned(),
    }
}

/// What came of a call, as the case files write it.
fn outcome(reply: &Reply, client: &Client) -> String {
    if let (Some(StatusCode::OK), Some(code)) = (reply.http, reply.code()) {
        return format!("grpc {code}");
    }
    if let Some(http) = reply.http {
        return format!("http {}", http.as_u16());
    }
    for frame in client.tap.received() {
        match frame.kind {
            frames::RST_STREAM if frame.stream == STREAM => return format!("reset {}", reason(frame.number_at(0))),
            frames::GOAWAY if frame.number_at(4) != frames::NO_ERROR => {
                return format!("go-away {}", reason(frame.number_at(4)));
            }
            _ => {}
        }
    }
    format!("closed: {reply:?}")
}

/// RFC 9113, section 7.
fn reason(number: u32) -> String {
    let name = h2::Reason::from(number);
    format!("{name:?}")
}

/// Compares what the backend saw with what it may see.
async fn check(call: &Call, backend: &Backend, seen: Vec<Seen>) -> Result<(), String> {
    let path = notation::method(&call.method).path();
    let one = match (call.backend, &seen[..]) {
        (Sees::Nothing, []) => return Ok(()),
        (Sees::Call | Sees::Stripped | Sees::Cut | Sees::Unended, [one]) if one.path == path => one,
        (expected, seen) => return Err(format!("the backend saw {seen:?} and not {expected:?}")),
    };
    let sent = [
        vec![notation::body(call)],
        call.later.iter().map(|body| notation::parts(body)).collect(),
    ]
    .concat();
    let is = |what: bool, text: &str| if what { Ok(()) } else { Err(format!("{text}: {one:?}")) };
    match call.backend {
        Sees::Nothing => Ok(()),
        Sees::Call => {
            is(one.ended && one.body == sent.concat(), "the body is another one")?;
            let arrived = call.headers.iter().filter(|(name, _)| !name.starts_with(':'));
            let mut arrived = arrived.map(|(name, value)| (one.headers.get(name), value));
            is(
                arrived.all(|(given, value)| given.is_some_and(|given| given.as_bytes() == value.as_bytes())),
                "header fields are missing",
            )
        }
        Sees::Stripped => {
            is(one.ended && one.body == sent.concat(), "the body is another one")?;
            let mut names: Vec<_> = one.headers.keys().map(|name| name.as_str()).collect();
            names.sort_unstable();
            is(
                names == ["content-type", "te"] && one.headers.len() == 2,
                "header fields arrived",
            )?;
            is(
                one.authority == "localhost" || one.authority.starts_with("127.0.0.1"),
                "the authority is odd",
            )
        }
        Sees::Unended => {
            let seen = over(backend).await;
            is(seen.reset.is_some() && !seen.ended, "it was ended")
        }
        Sees::Cut => {
            let seen = over(backend).await;
            // The last piece is the one that must not arrive; where there is one only, not to its end.
            let (last, before) = sent.split_last().unwrap();
            let allowed = before.concat();
            let is_cut = match allowed.len() as u64 {
                0 => seen.received < last.len() as u64,
                length => seen.received <= length && messages(&seen.body) <= messages(&allowed),
            };
            is(seen.reset.is_some() && is_cut, "it was not cut off")
        }
    }
}

/// What the backend has seen of the last call, once that is over.
async fn over(backend: &Backend) -> Seen {
    let is_over = |seen: &Seen| seen.reset.is_some() || seen.ended;
    let begun = Instant::now();
    while !backend.seen().last().is_some_and(is_over) && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    backend.seen().pop().unwrap()
}

/// How many whole messages there are in a body.
fn messages(mut body: &[u8]) -> usize {
    let mut count = 0;
    while let Some((head, rest)) = body.split_at_checked(5) {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let Some((_, behind)) = rest.split_at_checked(length as usize) else {
            break;
        };
        (count, body) = (count + 1, behind);
    }
    count
}
