//! Log lines that a caller or the disk can cause without end: one a minute, with how often it happened.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// From one line to the next.
const PAUSE: Duration = Duration::from_secs(60);

/// One kind of line; a `static` at the place that writes it.
#[derive(Debug)]
pub(super) struct Rarely(Mutex<Count>);

#[derive(Debug)]
struct Count {
    /// When the last line was written.
    last: Option<Instant>,
    /// What happened since, and was not told.
    untold: u64,
}

impl Rarely {
    /// Nothing has happened yet.
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Count { last: None, untold: 0 }))
    }

    /// Counts that it happened. Where a line is due, how often it did since the last line: write it.
    pub(super) fn due(&self) -> Option<u64> {
        self.due_at(Instant::now())
    }

    fn due_at(&self, now: Instant) -> Option<u64> {
        let mut count = self.0.lock();
        count.untold += 1;
        if count
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < PAUSE)
        {
            return None;
        }
        count.last = Some(now);
        Some(std::mem::take(&mut count.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_minute_tells_how_often_it_happened() {
        let rarely = Rarely::new();
        let begun = Instant::now();
        let told: Vec<_> = (0..14_000_u32)
            .filter_map(|number| rarely.due_at(begun + number * Duration::from_millis(10)))
            .collect();
        assert_eq!(told, [1, 6000, 6000]);
        assert_eq!(rarely.due_at(begun + Duration::from_secs(200)), Some(2000));
    }
}
