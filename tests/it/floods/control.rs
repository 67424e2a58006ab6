//! Frames that move no call on.

use casgate::policy::method::Method;
use tokio::io::AsyncWriteExt;
use tokio::time::Duration;

use super::{Bystander, Flood, MOST_MEMORY, gate_with, reasons, waiting, withstand};
use crate::harness::backend::Backend;
use crate::harness::frames::{self, ACK, CONTINUATION, DATA, Frame, HEADERS, PING, PRIORITY};
use crate::harness::wire::Scripted;
use crate::harness::{until, within};

/// An upload whose body is still to come.
fn upload() -> Frame {
    Frame::request(1, Method::BatchUpdateBlobs.path())
}

#[tokio::test]
async fn control_frames_beyond_the_limit_end_their_connection_only() {
    const LIMIT: &str = "limit=\"control-frames\"";
    const ANY: &str = "limit=";
    let finished = Frame::request(1, Method::HealthCheck.path());
    withstand(vec![
        Flood::of("PING", LIMIT, Frame::ping()),
        Flood::of("PING that answers none", LIMIT, Frame::new(PING, ACK, 0, vec![0; 8])),
        Flood::of("SETTINGS", LIMIT, Frame::settings()),
        // Each changes the windows of all streams.
        Flood::of("SETTINGS of windows", LIMIT, Frame::settings_of([(4, 65_536)])),
        Flood::of("PRIORITY", LIMIT, Frame::new(PRIORITY, 0, 1, vec![0, 0, 0, 3, 0])),
        Flood::of("WINDOW_UPDATE", LIMIT, Frame::window_update(0, 1)),
        Flood::of("WINDOW_UPDATE of a stream", LIMIT, Frame::window_update(1, 1)).after(vec![upload()]),
        // With a call under way; else it is the end of the connection.
        Flood::of("GOAWAY", LIMIT, Frame::go_away(0, 0)).after(vec![upload()]),
        Flood::of("an unknown kind", LIMIT, Frame::new(0x77, 0, 0, vec![0; 10])),
        Flood::of("RST_STREAM", LIMIT, Frame::reset(1, frames::CANCEL)).after(vec![finished]),
        // Unless h2 ends it, since too many wait for the call.
        Flood::of("small DATA", ANY, Frame::new(DATA, 0, 1, vec![0])).after(vec![upload()]),
    ])
    .await;
}

/// What h2 ends by itself is counted as well.
#[tokio::test]
async fn what_http_2_itself_limits_is_counted() {
    const LIMIT: &str = "limit=\"http2\"";
    let field = frames::header_block(&[("x-long", "x".repeat(3_900))]);
    // A field that is put into the table (RFC 7541, 6.2.1), and taken from it again and again (6.1).
    let bomb = [&[0x40][..], &field[1..], &[0xbe; 12_000]].concat();
    let begun = Frame::new(HEADERS, 0, 1, frames::header_block(&[(":method", "POST")]));
    withstand(vec![
        Flood::of("CONTINUATION", LIMIT, Frame::new(CONTINUATION, 0, 1, vec![])).after(vec![begun.clone()]),
        Flood::of("long CONTINUATION", LIMIT, Frame::new(CONTINUATION, 0, 1, field)).after(vec![begun]),
        Flood {
            round: Box::new(move |round| vec![Frame::new(HEADERS, frames::END_HEADERS, 2 * round + 1, bomb.clone())]),
            ..Flood::of("HPACK bomb", LIMIT, Frame::ping())
        },
        Flood::of("empty DATA", LIMIT, Frame::new(DATA, 0, 1, vec![])).after(vec![upload()]),
        Flood {
            limit: None,
            ..Flood::of("SETTINGS that answer none", LIMIT, Frame::settings_ack())
        },
    ])
    .await;
}

#[tokio::test]
async fn a_flood_of_who_reads_nothing_ends_as_well_and_the_log_says_whose_it_was() {
    let backend = Backend::start(waiting);
    let gate = gate_with(&backend, "").await;
    let bystander = Bystander::start(&gate).await;
    let mut deaf = Scripted::connect(&gate, "writer").await;
    let pings = vec![Frame::ping(); 1000];
    for _ in 0..40 {
        if deaf.send(&pings).await.is_err() {
            break;
        }
    }
    let limited = || {
        gate.scrape(
            "casgate_limited_total",
            &["limit=\"control-frames\"", "action=\"closed\""],
        )
    };
    until("it is cut off", || limited() == 1.0).await;
    until("it is gone", || gate.scrape("casgate_connections_open", &[]) == 1.0).await;
    bystander.stop().await;
    let lines = gate.log();
    let text = |line: &toml::Table, key: &str| line.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    let line = lines
        .iter()
        .find(|line| text(line, "limit").as_deref() == Some("control-frames") && line.contains_key("certificate"))
        .unwrap();
    assert_eq!(text(line, "certificate").as_deref(), Some("CN=writer"));
    assert!(text(line, "message").unwrap().contains("PING"), "{line:?}");
    let peer = line
        .get("span")
        .and_then(|span| span.get("peer"))
        .and_then(toml::Value::as_str);
    assert!(peer.unwrap().starts_with("127.0.0.1:"), "{line:?}");
}

/// What is forgotten with time is given back: a slow trickle goes on for ever.
#[tokio::test]
async fn a_trickle_is_no_flood() {
    let backend = Backend::start(waiting);
    let limits = "control-frames-at-once = 200
control-frames-per-second = 1000";
    let gate = gate_with(&backend, limits).await;
    let mut client = Scripted::connect(&gate, "reader").await;
    let mut answers = 0;
    for _ in 0..20 {
        client.send(&vec![Frame::ping(); 50]).await.unwrap();
        let mut answered = 0;
        while answered < 50 {
            let frame = client.next().await.unwrap();
            answered += usize::from(frame.kind == PING && frame.has(ACK));
            assert!(reasons(&[frame]).is_empty());
        }
        answers += answered;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert_eq!(answers, 1000);
    assert_eq!(gate.scrape("casgate_limited_total", &[]), 0.0);
}

/// One byte of a header block is a field, of which h2 keeps a hundred times as much until its call is looked at.
#[tokio::test]
async fn fields_of_a_byte_do_not_pile_up() {
    const CALLS: u32 = 1000;
    let backend = Backend::start(waiting);
    let gate = gate_with(&backend, "").await;
    let client = Scripted::connect(&gate, "root").await;
    let before = gate.memory();
    let usual = Frame::request(1, Method::GetOperation.path()).payload;
    // A field that is put into the table (RFC 7541, 6.2.1), and taken from it again and again (6.1).
    let entry = [&[0x40][..], &frames::header_block(&[("x", "y")])[1..]].concat();
    let call = |number: u32| {
        let first = if number == 0 { &entry[..] } else { &[] };
        let block = [&usual[..], first, &[0xbe; 2500]].concat();
        Frame::new(HEADERS, frames::END_HEADERS | frames::END_STREAM, 2 * number + 1, block)
    };
    let calls: Vec<Frame> = (0..CALLS).map(call).collect();
    let bytes: Vec<u8> = calls.iter().flat_map(Frame::bytes).collect();
    let Scripted { mut from, mut to } = client;
    let send = async {
        to.write_all(&bytes).await.unwrap();
        to.flush().await.unwrap();
    };
    let receive = async {
        let mut answered = 0;
        while answered < CALLS {
            let frame = Frame::read(&mut from).await.unwrap();
            answered += u32::from(frame.kind == HEADERS && frame.has(frames::END_STREAM));
        }
    };
    within("all are answered", async { tokio::join!(send, receive) }).await;
    let grown = gate.peak_memory().saturating_sub(before);
    println!("{} KiB for {} KiB of header blocks", grown >> 10, bytes.len() >> 10);
    assert!(grown < MOST_MEMORY, "{grown} bytes");
    assert_eq!(
        gate.scrape("casgate_limited_total", &["limit=\"header-list\""]),
        f64::from(CALLS)
    );
}
