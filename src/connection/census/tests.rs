#![expect(clippy::unwrap_used, reason = "a test may panic")]
use super::*;

fn limits(connections: usize, connections_per_address: usize) -> Limits {
    let second = Duration::from_secs(1);
    Limits {
        connections: Some(connections),
        connections_per_address,
        handshakes: 4,
        first_request_timeout: second,
        idle_timeout: second,
        anonymous_idle_timeout: second,
        resets_at_once: 1,
        stall_timeout: Duration::from_secs(1),
        calls_per_connection: 1000,
        calls_per_certificate: 10_000,
        memory: None,
        resets_per_second: 1,
        control_frames_at_once: 100,
        control_frames_per_second: 1,
    }
}

fn address(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

fn census(room: usize) -> Arc<Census> {
    Arc::new(Census::new(&limits(2, 2), room, Arc::new(Metrics::new(1).unwrap())))
}

/// One that has shaken hands.
fn enter(census: &Arc<Census>, address: IpAddr, limits: &Limits) -> Option<Ticket> {
    let ticket = stranger(census, address, limits)?;
    ticket.is_no_stranger();
    Some(ticket)
}

fn stranger(census: &Arc<Census>, address: IpAddr, limits: &Limits) -> Option<Ticket> {
    census.enter(Address::of(address), limits).ok()
}

fn is_leaving(ticket: &Ticket) -> bool {
    ticket.entry.leaving.load(Ordering::Relaxed)
}

#[test]
fn the_connection_that_is_idle_for_the_longest_time_leaves_and_busy_ones_stay() {
    let (census, limits) = (census(100), limits(2, 100));
    let first = enter(&census, address(1), &limits).unwrap();
    let second = enter(&census, address(2), &limits).unwrap();
    let busy = first.call();
    let third = enter(&census, address(3), &limits).unwrap();
    assert!(!is_leaving(&first));
    assert!(is_leaving(&second));
    // One more than allowed is open, until the second has left.
    assert!(enter(&census, address(4), &limits).is_none());
    drop(second);
    let also_busy = third.call();
    assert!(enter(&census, address(4), &limits).is_none());
    drop((busy, also_busy));
    assert!(enter(&census, address(4), &limits).is_some());
}

#[test]
fn an_address_has_its_share_and_gives_up_its_own() {
    let (census, limits) = (census(100), limits(100, 2));
    let other = enter(&census, address(9), &limits).unwrap();
    let first = enter(&census, address(1), &limits).unwrap();
    let _second = enter(&census, address(1), &limits).unwrap();
    let _third = enter(&census, address(1), &limits).unwrap();
    assert!(is_leaving(&first));
    assert!(!is_leaving(&other));
    assert!(enter(&census, address(1), &limits).is_none());
    assert!(enter(&census, address(2), &limits).is_some());
}

#[test]
fn strangers_leave_before_those_who_are_known_and_these_before_those_with_a_certificate() {
    let (census, limits) = (census(100), limits(3, 100));
    let certified = enter(&census, address(1), &limits).unwrap();
    certified.is_known();
    let anonymous = enter(&census, address(2), &limits).unwrap();
    let silent = stranger(&census, address(3), &limits).unwrap();
    let next = enter(&census, address(4), &limits).unwrap();
    assert!(is_leaving(&silent) && !is_leaving(&certified) && !is_leaving(&anonymous));
    drop(silent);
    let _last = enter(&census, address(5), &limits).unwrap();
    assert!(is_leaving(&anonymous) && !is_leaving(&certified) && !is_leaving(&next));
}

#[test]
fn nothing_is_left_of_connections_that_are_gone() {
    let (census, limits) = (census(100), limits(2, 2));
    for number in 0..100 {
        drop(enter(&census, address(number), &limits).unwrap());
    }
    let book = census.book.lock();
    assert!(book.connections.is_empty() && book.addresses.is_empty() && book.leaving == 0);
}

#[test]
fn open_files_bound_them() {
    let census = census(1);
    assert_eq!(census.connections(&limits(100, 1)), 1);
}
