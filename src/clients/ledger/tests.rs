#![expect(clippy::unwrap_used, reason = "a test may panic")]
use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn ledger(limit: u64) -> Arc<Ledger> {
    Ledger::new(limit, IntGauge::new("bytes", "Bytes.").unwrap())
}

/// As much as an account can have in pieces of 64 KiB.
fn fill(account: &Arc<Account>) -> Reservation {
    let mut reservation = account.purse().reservation();
    while reservation.grow(STEP).is_ok() {}
    reservation
}

#[test]
fn one_party_has_half_and_there_is_something_left_for_the_next_one() {
    let ledger = ledger(64 * MIB);
    let parties: Vec<_> = (0..5).map(|_| ledger.account()).collect();
    let filled: Vec<_> = parties.iter().map(fill).collect();
    let bytes: Vec<_> = filled.iter().map(|held| (held.bytes() - FLOOR) / MIB).collect();
    assert_eq!(bytes, [32, 16, 8, 4, 2]);
    // Neither by another connection.
    assert!(parties[0].purse().reserve(2 * STEP).is_err());
    // The floor of a connection is there in any case.
    let small = parties[0].purse().reserve(FLOOR).unwrap();
    assert!(ledger.drawn.load(Ordering::Relaxed) <= 64 * MIB);
    let sum: u64 = filled.iter().map(Reservation::bytes).sum();
    assert_eq!(ledger.gauge.get(), signed(sum + small.bytes()));
    drop((filled, small));
    assert_eq!((ledger.gauge.get(), ledger.drawn.load(Ordering::Relaxed)), (0, 0));
    assert!(parties.iter().all(|party| party.is_empty()));
}

#[test]
fn a_limit_that_is_lowered_holds_for_what_comes() {
    let ledger = ledger(64 * MIB);
    let purse = ledger.account().purse();
    let mut held = purse.reserve(16 * MIB).unwrap();
    ledger.set_limit(Some(4 * MIB));
    assert_eq!(held.grow(MIB), Err(Full));
    held.shrink_to(MIB);
    assert_eq!((held.grow(MIB / 2), held.bytes()), (Ok(()), MIB + MIB / 2));
    ledger.set_limit(None);
    assert_eq!(held.grow_to(20 * MIB), Ok(()));
}

#[test]
fn small_reservations_leave_the_ledger_alone() {
    let ledger = ledger(64 * MIB);
    let purse = ledger.account().purse();
    for _ in 0..100 {
        let _call = (purse.reserve(1000).unwrap(), purse.reserve(20_000).unwrap());
        assert_eq!(ledger.drawn.load(Ordering::Relaxed), 0);
    }
    let large = purse.reserve(4 * MIB).unwrap();
    assert_eq!(ledger.drawn.load(Ordering::Relaxed), 4 * MIB - FLOOR);
    drop(large);
    assert_eq!(ledger.drawn.load(Ordering::Relaxed), 0);
}

#[test]
fn windows_leave_something_and_have_half_at_most() {
    let ledger = ledger(512 * MIB);
    let push = |account: &Arc<Account>| {
        let mut share = WindowShare::none(account);
        let taken = share.take(64 * MIB, MIB / 4, false);
        (share, taken)
    };
    let shares: Vec<_> = (0..1000).map(|_| push(&ledger.account())).collect();
    let taken: Vec<_> = shares.iter().map(|(_, taken)| *taken).collect();
    assert_eq!(taken[..3], [32 * MIB, 28 * MIB, 49 * MIB / 2]);
    assert!(taken[10] > 4 * MIB && taken[20] > MIB && taken[999] == 0, "{taken:?}");
    assert!(taken.iter().sum::<u64>() <= 256 * MIB);
    // What is no window is still there.
    assert!(ledger.account().purse().reserve(100 * MIB).is_ok());
    drop(shares);
    assert_eq!(ledger.drawn.load(Ordering::Relaxed), 0);
    let one = ledger.account();
    let shares: Vec<_> = (0..1000).map(|_| push(&one)).collect();
    let held: u64 = shares.iter().map(|(_, taken)| taken).sum();
    assert!(held > 120 * MIB && held <= 128 * MIB, "{held}");
    let (_other, taken) = push(&ledger.account());
    assert!(taken > 15 * MIB, "{taken}");
    assert_eq!(WindowShare::none(&ledger.account()).take(16 * MIB, 0, true), 0);
}

#[tokio::test]
async fn who_waits_gets_what_is_given_back_and_gives_up_in_time() {
    let ledger = ledger(4 * MIB);
    let account = ledger.account();
    let held = fill(&account);
    let purse = account.purse();
    let mut waits = purse.reservation();
    let soon = Duration::from_millis(10);
    assert_eq!(waits.grow_when_free(MIB, soon).await, Err(Full));
    let later = Duration::from_secs(60);
    let (grown, ()) = tokio::join!(waits.grow_when_free(MIB, later), async { drop(held) });
    assert_eq!((grown, waits.bytes()), (Ok(()), MIB));
    assert_eq!(account.waiting.load(Ordering::Relaxed), 0);
}

#[test]
fn threads_lose_nothing() {
    let ledger = ledger(8 * MIB);
    let account = ledger.account();
    let purse = account.purse();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let purse = Arc::clone(&purse);
            scope.spawn(move || {
                let mut held = purse.reservation();
                for turn in 0..2000_u64 {
                    let _full = held.grow((turn * 7919 + number * 104_729) % (2 * MIB));
                    held.shrink(turn * 31_337 % MIB);
                }
            });
        }
    });
    assert_eq!(purse.used.load(Ordering::Relaxed), 0);
    drop(purse);
    assert!(account.is_empty());
    assert_eq!((ledger.gauge.get(), ledger.drawn.load(Ordering::Relaxed)), (0, 0));
}

proptest! {
    #[test]
    fn no_order_of_steps_passes_the_limit_or_loses_a_byte(steps in proptest::collection::vec((0..6_usize, 0..3 * MIB, any::<bool>()), 0..200)) {
        let ledger = ledger(8 * MIB);
        let accounts = [ledger.account(), ledger.account()];
        let purses: Vec<_> = (0..6).map(|number| accounts[number % 2].purse()).collect();
        let mut held: Vec<_> = purses.iter().map(Purse::reservation).collect();
        for (index, bytes, grows) in steps {
            if grows {
                let _full = held[index].grow(bytes);
            } else {
                held[index].shrink(bytes);
            }
            let sum: u64 = held.iter().map(Reservation::bytes).sum();
            prop_assert!(sum <= 8 * MIB + 6 * FLOOR);
            prop_assert!(ledger.gauge.get() >= signed(sum));
        }
        drop((held, purses));
        prop_assert_eq!((ledger.gauge.get(), ledger.drawn.load(Ordering::Relaxed)), (0, 0));
    }
}
