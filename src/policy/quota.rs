//! What a rule lets each of its callers take at most: calls and bytes in a time, and calls at once.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// The limits of a rule, counted for each caller by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Calls in a time; `None` for as many as come.
    pub rate: Option<Rate>,
    /// Bytes of messages in a time, in each direction; `None` for as many as come.
    pub bandwidth: Option<Bandwidth>,
    /// Calls that are open at once; `None` for as many as come.
    pub max_calls: Option<NonZeroU32>,
}

/// Calls in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The time from one call to the next.
    pub period: Duration,
    /// Calls that may come at once, after a pause.
    pub burst: NonZeroU32,
}

/// Bytes in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// Bytes in a second: [`SLOWEST`] to [`FASTEST`].
    pub per_second: u64,
    /// Bytes that may go at once, after a pause: [`SMALLEST_BURST`] to [`LARGEST_BURST`].
    pub burst: u64,
}

/// Calls in any time, and at once.
pub const MOST_CALLS: u32 = 1_000_000;
/// Bytes in a second: with fewer, one frame would take longer than clients wait.
pub const SLOWEST: u64 = 16 << 10;
/// Bytes in a second: more can't be told from no limit.
pub const FASTEST: u64 = 10 << 30;
/// Bytes: the largest DATA frame must fit.
pub const SMALLEST_BURST: u64 = 64 << 10;
/// Bytes.
pub const LARGEST_BURST: u64 = 256 << 30;

impl Quota {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Quota::default()
    }

    /// The longest time after which a caller has nothing left to make up for.
    pub fn memory(&self) -> Duration {
        let rate = self.rate.map(|rate| rate.period.saturating_mul(rate.burst.get()));
        let bandwidth = self
            .bandwidth
            .map(|bandwidth| Duration::from_secs(bandwidth.burst / bandwidth.per_second.max(1) + 1));
        rate.max(bandwidth).unwrap_or_default()
    }
}

impl fmt::Display for Quota {
    /// As it follows on what a rule allows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rate) = self.rate {
            write!(f, ", one call every {:?} (at once {})", rate.period, rate.burst)?;
        }
        if let Some(bandwidth) = self.bandwidth {
            let (per_second, burst) = (bandwidth.per_second, bandwidth.burst);
            write!(f, ", {per_second} bytes a second each way (at once {burst})")?;
        }
        if let Some(calls) = self.max_calls {
            write!(f, ", {calls} calls open")?;
        }
        if self.is_empty() {
            Ok(())
        } else {
            f.write_str(", for each caller")
        }
    }
}

impl Rate {
    /// Reads `"100/s"`, `"6000/min"` or `"1000/h"`; without a burst, as many calls may come at once as in that time.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, burst: Option<NonZeroU32>) -> Result<Rate, String> {
        let read = || {
            let (calls, unit) = text.split_once('/')?;
            let time = match unit {
                "s" => 1,
                "min" => 60,
                "h" => 3600,
                _ => return None,
            };
            Some((digits(calls)?, Duration::from_secs(time)))
        };
        let (calls, time) = read().ok_or_else(|| format!("`{text}` is no rate, such as \"100/s\" or \"6000/min\""))?;
        let calls = u32::try_from(calls).ok().and_then(NonZeroU32::new);
        let calls = calls.filter(|calls| calls.get() <= MOST_CALLS);
        let calls = calls.ok_or_else(|| format!("is not between 1 and {MOST_CALLS} calls"))?;
        Ok(Rate {
            period: time / calls.get(),
            burst: burst.unwrap_or(calls),
        })
    }
}

impl Bandwidth {
    /// Reads `"50MiB/s"`; without a burst, as much may go at once as in a second.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, burst: Option<u64>) -> Result<Bandwidth, String> {
        let per_second = text.strip_suffix("/s").and_then(bytes);
        let per_second = per_second.ok_or_else(|| format!("`{text}` is no bandwidth, such as \"50MiB/s\""))?;
        if !(SLOWEST..=FASTEST).contains(&per_second) {
            return Err("is not between 16KiB/s and 10GiB/s".to_owned());
        }
        Ok(Bandwidth {
            per_second,
            burst: burst.unwrap_or(per_second.max(SMALLEST_BURST)),
        })
    }
}

/// Reads a size: a whole number with `B`, `KiB`, `MiB`, `GiB` or `TiB` (powers of 1024), or `kB`, `MB`, `GB` or `TB`
/// (powers of 1000). `None` where it is none, or more than 2^64.
pub fn bytes(text: &str) -> Option<u64> {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(end)?;
    let factor: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    };
    digits(number)?.checked_mul(factor)
}

/// A number without sign.
fn digits(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(text)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn rates_are_read_with_their_time() {
        let rate = |text| Rate::parse(text, None).map(|rate| (rate.period, rate.burst.get()));
        assert_eq!(rate("100/s"), Ok((Duration::from_millis(10), 100)));
        assert_eq!(rate("6000/min"), Ok((Duration::from_millis(10), 6000)));
        assert_eq!(rate("1/h"), Ok((Duration::from_secs(3600), 1)));
        assert_eq!(Rate::parse("100/s", NonZeroU32::new(7)).unwrap().burst.get(), 7);
        for bad in [
            "",
            "100",
            "/s",
            "0/s",
            "-1/s",
            "+1/s",
            "1.5/s",
            "100/day",
            "1000001/s",
            "100 /s",
            "99999999999999999999/s",
        ] {
            assert!(Rate::parse(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, expected) in [
            ("0B", Some(0)),
            ("64KiB", Some(65_536)),
            ("2GiB", Some(2 << 30)),
            ("5MB", Some(5_000_000)),
            ("99999999TiB", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
        for bad in ["", "KiB", "1", "1k", "1.5GiB", "-1B", "1 GiB", "1gib", "ü"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_bandwidth_holds_the_largest_frame() {
        let bandwidth = |text| Bandwidth::parse(text, None).map(|bandwidth| (bandwidth.per_second, bandwidth.burst));
        assert_eq!(bandwidth("50MiB/s"), Ok((50 << 20, 50 << 20)));
        assert_eq!(bandwidth("16KiB/s"), Ok((16 << 10, 64 << 10)));
        for bad in ["50MiB", "50/s", "1KiB/s", "1TiB/s", "MiB/s"] {
            assert!(Bandwidth::parse(bad, None).is_err(), "{bad}");
        }
    }
}
