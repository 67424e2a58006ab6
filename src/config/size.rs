//! Sizes as people write them: `"100GiB"`.

use serde::{Deserialize, Deserializer};

/// A number of bytes: a whole number, or text with one of the units B, KiB, MiB, GiB, TiB (powers of 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

const UNITS: [(&str, u32); 5] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("B", 0)];

impl Size {
    /// The largest unit that a number of bytes is a whole multiple of, and how many.
    pub fn text(bytes: u64) -> String {
        let whole = |shift: u32| bytes != 0 && bytes.trailing_zeros() >= shift;
        let unit = UNITS.iter().rev().skip(1).find(|(_, shift)| whole(*shift));
        let (unit, shift) = unit.copied().unwrap_or(("B", 0));
        format!("{} {unit}", bytes >> shift)
    }

    fn parse(text: &str) -> Option<Size> {
        let (unit, shift) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
        let number = text.strip_suffix(unit)?.trim_end();
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number: u64 = number.parse().ok()?;
        number.checked_mul(1 << shift).map(Size)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        use serde::de::Error;
        let value = toml::Value::deserialize(deserializer)?;
        let size = match &value {
            toml::Value::Integer(bytes) => u64::try_from(*bytes).ok().map(Size),
            toml::Value::String(text) => Size::parse(text),
            _ => None,
        };
        size.ok_or_else(|| {
            D::Error::custom(format!(
                "`{value}` is no size: write a whole number with KiB, MiB, GiB or TiB, such as \"100GiB\""
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit_and_go_both_ways() {
        for (text, bytes, again) in [
            ("100GiB", 100 << 30, "100 GiB"),
            ("100 GiB", 100 << 30, "100 GiB"),
            ("1536MiB", 1536 << 20, "1536 MiB"),
            ("2048MiB", 2 << 30, "2 GiB"),
            ("3TiB", 3 << 40, "3 TiB"),
            ("1KiB", 1024, "1 KiB"),
            ("17B", 17, "17 B"),
            ("0B", 0, "0 B"),
        ] {
            assert_eq!(Size::parse(text), Some(Size(bytes)), "{text}");
            assert_eq!(Size::text(bytes), again);
        }
        for wrong in [
            "",
            "GiB",
            "1",
            "1.5GiB",
            "-1GiB",
            "+1GiB",
            "1GB",
            "1G",
            "1gib",
            "1GiB ",
            "99999999999TiB",
        ] {
            assert_eq!(Size::parse(wrong), None, "{wrong}");
        }
    }
}
