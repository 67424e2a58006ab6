use std::time::Duration;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const ALL: [u8; 10] = [
    heads::DATA,
    heads::PRIORITY,
    heads::RST_STREAM,
    heads::SETTINGS,
    heads::PUSH_PROMISE,
    heads::PING,
    heads::GOAWAY,
    heads::WINDOW_UPDATE,
    heads::CONTINUATION,
    0x77,
];

fn limits(at_once: u32, per_second: u32) -> Limits {
    Limits {
        connections: None,
        connections_per_address: 1,
        handshakes: 4,
        first_request_timeout: SECOND,
        idle_timeout: SECOND,
        anonymous_idle_timeout: SECOND,
        resets_at_once: 1,
        resets_per_second: 1,
        control_frames_at_once: at_once,
        control_frames_per_second: per_second,
        stall_timeout: SECOND,
        calls_per_connection: 1000,
        calls_per_certificate: 10_000,
        memory: None,
    }
}

fn head(kind: u8, flags: u8, stream: u32, length: usize) -> Head {
    Head {
        length,
        kind,
        flags,
        stream,
        reason: 0,
    }
}

/// How many of these pass.
fn pass(account: &mut Account, head: Head) -> usize {
    (0..10_000_000).take_while(|_| account.read(head)).count()
}

#[test]
fn every_kind_of_frame_that_moves_nothing_has_an_end() {
    let limits = limits(10_000, 1);
    let begun = Instant::now();
    let passed = |head| pass(&mut Account::new(&limits, begun), head);
    for kind in ALL {
        let wanted = match kind {
            heads::SETTINGS | heads::GOAWAY => 1000,
            _ => 10_000,
        };
        assert_eq!(passed(head(kind, 0, 1, 8)), wanted, "{kind}");
    }
    assert_eq!(passed(head(heads::PING, heads::ACK, 0, 8)), 100);
    // Padding is no payload.
    assert_eq!(passed(head(heads::DATA, heads::PADDED, 1, 257)), 10_000);
    // A stream that was reset can be ended often.
    assert_eq!(passed(head(heads::DATA, 1, 1, 0)), 10_000);
    let earned = usize::try_from(CALL).unwrap_or_default();
    assert_eq!(passed(head(heads::HEADERS, 0, 1, 100)), 1 + 10_000 + earned);
}

#[test]
fn streams_that_must_be_reset_cost_more_than_they_earn() {
    let limits = limits(10_000, 1);
    let mut account = Account::new(&limits, Instant::now());
    let reset = Head {
        reason: u32::from(h2::Reason::STREAM_CLOSED),
        ..head(heads::RST_STREAM, 0, 1, 4)
    };
    let answered = head(heads::RST_STREAM, 0, 1, 4);
    let mut calls = (0..100_000).map(|number| {
        account.written(answered);
        account.written(reset);
        account.read(head(heads::HEADERS, 0, 2 * number + 1, 100))
    });
    assert_eq!(calls.position(|goes_on| !goes_on), Some(2500));
}

#[test]
fn downloads_earn_what_their_client_sends_and_no_more_than_that_is_saved_up() {
    let limits = limits(100, 1);
    let mut account = Account::new(&limits, Instant::now());
    let given_back = head(heads::WINDOW_UPDATE, 0, 1, 4);
    let ping = head(heads::PING, 0, 0, 8);
    for length in (0..100_000).map(|number| number * 7 % 65_536) {
        account.written(head(heads::DATA, 0, 1, length));
        // Go gives both windows back for each 4 KiB.
        for _ in 0..1 + length / 4096 {
            assert!(account.read(given_back) && account.read(given_back));
        }
        assert!(account.read(ping));
    }
    let most = usize::try_from(100 + MOST_EARNED).unwrap_or_default();
    assert!(pass(&mut account, ping) <= most);
}

#[test]
fn what_casgate_asks_may_be_answered() {
    let limits = limits(100, 1);
    let mut account = Account::new(&limits, Instant::now());
    let answer = head(heads::PING, heads::ACK, 0, 8);
    for _ in 0..50 {
        account.written(head(heads::PING, 0, 0, 8));
        assert!(account.read(answer));
    }
    assert!(!account.read(answer));
}

#[test]
fn time_gives_back_no_more_than_the_burst() {
    let limits = limits(1000, 100);
    let begun = Instant::now();
    let mut account = Account::new(&limits, begun);
    let ping = head(heads::PING, 0, 0, 8);
    assert_eq!(pass(&mut account, ping), 1000);
    assert!(!account.fill(begun, &limits));
    assert!(account.fill(begun + SECOND, &limits));
    // One more was taken than there was.
    assert_eq!(pass(&mut account, ping), 99);
    assert!(account.fill(begun + 1000 * SECOND, &limits));
    assert_eq!(pass(&mut account, ping), 1000);
}
