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

fn enter(census: &Arc<Census>, address: IpAddr, limits: &Limits) -> Option<Ticket> {
    census.enter(Address::of(address), limits).ok()
}

#[test]
fn the_connection_that_is_idle_for_the_longest_time_leaves_and_busy_ones_stay() {
    let (census, limits) = (census(100), limits(2, 100));
    let first = enter(&census, address(1), &limits).unwrap();
    let second = enter(&census, address(2), &limits).unwrap();
    let busy = first.call();
    let third = enter(&census, address(3), &limits).unwrap();
    assert!(!first.entry.leaving.load(Ordering::Relaxed));
    assert!(second.entry.leaving.load(Ordering::Relaxed));
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
    assert!(first.entry.leaving.load(Ordering::Relaxed));
    assert!(!other.entry.leaving.load(Ordering::Relaxed));
    assert!(enter(&census, address(1), &limits).is_none());
    assert!(enter(&census, address(2), &limits).is_some());
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
fn open_files_and_ipv6_networks_bound_them() {
    let census = census(1);
    assert_eq!(census.connections(&limits(100, 1)), 1);
    let same = ["2001:db8::1", "2001:db8::ffff:1"].map(|text| Address::of(text.parse().unwrap()));
    assert_eq!(same[0], same[1]);
    let mapped = Address::of("::ffff:192.0.2.1".parse().unwrap());
    assert_eq!(mapped, Address::of(address(1)));
}
