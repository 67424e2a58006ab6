//! Calls that are opened to be reset: by their client (CVE-2023-44487, "rapid reset"), or by the gate, which is made to do it
//! (CVE-2025-8671, "MadeYouReset").

use casgate::policy::method::Method;
use h2::Reason;

use super::{Flood, reasons, withstand};
use crate::harness::backend::{Backend, unary};
use crate::harness::frames::{self, DATA, END_HEADERS, END_STREAM, Frame, HEADERS, PRIORITY};
use crate::harness::gate::{Config, Gate};
use crate::harness::wire::grpc_request;

#[tokio::test]
async fn who_resets_without_end_is_told_to_calm_down() {
    let backend = Backend::start(unary);
    let mut config = Config::to(&backend);
    config
        .backends
        .push_str("\n[limits]\nresets-at-once = 500\nresets-per-second = 1\n");
    let gate = Gate::start(config).await;
    let mut other = gate.client("reader").await;
    // With and without the right to do so.
    for (closed, name) in [(1.0, "root"), (2.0, "stranger")] {
        let mut flood = gate.client(name).await;
        let mut rounds = 0;
        while flood.tap.end().is_none() {
            rounds += 1;
            assert!(rounds < 200, "{name} goes on");
            for _ in 0..50 {
                if let Ok(call) = flood.try_open(grpc_request(Method::Write.path()), false) {
                    call.cancel();
                }
            }
            let reply = other.ask(Method::FindMissingBlobs, "").await;
            assert_eq!(reply.code(), Some(0), "{reply:?}");
        }
        assert_eq!(
            reasons(&flood.tap.received()),
            [u32::from(Reason::ENHANCE_YOUR_CALM)],
            "{name}"
        );
        let labels = ["limit=\"resets\"", "action=\"closed\""];
        assert_eq!(gate.metric("casgate_limited_total", &labels), closed);
    }
    assert_eq!(backend.connections(), 1);
}

/// The number of the stream of a round.
fn stream(round: u32) -> u32 {
    2 * round + 1
}

/// A call that waits for its answer.
fn call(round: u32) -> Frame {
    let mut head = Frame::request(stream(round), Method::GetOperation.path());
    head.flags |= END_STREAM;
    head
}

/// An upload, with one more field.
pub(super) fn upload(round: u32, name: &str, value: &str) -> Frame {
    let Frame { stream, payload, .. } = Frame::request(stream(round), Method::Write.path());
    let block = [payload, frames::header_block(&[(name, value)])].concat();
    Frame::new(HEADERS, END_HEADERS, stream, block)
}

fn made_you_reset(name: &'static str, limit: &'static str, round: impl Fn(u32) -> Vec<Frame> + 'static) -> Flood {
    Flood {
        name,
        begin: Vec::new(),
        round: Box::new(round),
        rounds: 15_000,
        limit: Some(limit),
    }
}

#[tokio::test]
async fn who_makes_the_gate_reset_without_end_is_cut_off() {
    // By rate, or by h2 where more must be reset than it has written.
    const ANY: &str = "limit=";
    withstand(vec![
        made_you_reset("a window that overflows", ANY, |round| {
            vec![call(round), Frame::window_update(stream(round), 0x7fff_ffff)]
        }),
        made_you_reset("a stream that depends on itself", ANY, |round| {
            let itself = [&stream(round).to_be_bytes()[..], &[0]].concat();
            vec![call(round), Frame::new(PRIORITY, 0, stream(round), itself)]
        }),
        made_you_reset("headers that are malformed", ANY, |round| {
            vec![upload(round, ":path", "/late")]
        }),
        made_you_reset("a body longer than it says", ANY, |round| {
            let body = Frame::new(DATA, 0, stream(round), vec![0; 20]);
            vec![upload(round, "content-length", "1"), body]
        }),
        // More than are allowed at a time: each is refused.
        made_you_reset("calls beyond the limit", ANY, |round| vec![call(round)]),
        // By h2 where they come faster than calls are taken.
        made_you_reset("rapid reset", ANY, |round| {
            vec![call(round), Frame::reset(stream(round), frames::CANCEL)]
        }),
    ])
    .await;
    // These are errors of the whole connection, at the first one.
    let mut broken = vec![
        made_you_reset("an empty WINDOW_UPDATE", "", |round| {
            vec![call(round), Frame::window_update(stream(round), 0)]
        }),
        made_you_reset("trailers that end nothing", "", |round| {
            let trailers = Frame::new(HEADERS, END_HEADERS, stream(round), frames::header_block(&[("x", "y")]));
            vec![upload(round, "x", "y"), trailers]
        }),
        made_you_reset("DATA behind the end", "", |round| {
            vec![call(round), Frame::new(DATA, 0, stream(round), vec![0; 20])]
        }),
    ];
    broken.iter_mut().for_each(|flood| flood.limit = None);
    withstand(broken).await;
}
