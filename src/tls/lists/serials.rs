//! Serial numbers of revoked certificates, in few bytes each: lists may name hundreds of thousands.

use std::cmp::Ordering;

/// A set of serial numbers, which takes as many bytes as they have.
#[derive(Debug, Default)]
pub(super) struct Serials {
    /// The numbers of each length, sorted, one behind the other.
    by_length: Vec<(usize, Box<[u8]>)>,
}

impl Serials {
    /// The set of these numbers, each as [`canonical`] has it.
    pub(super) fn new(mut numbers: Vec<&[u8]>) -> Serials {
        numbers.sort_unstable_by(|one, other| one.len().cmp(&other.len()).then_with(|| one.cmp(other)));
        numbers.dedup();
        let groups = numbers.chunk_by(|one, other| one.len() == other.len());
        let groups = groups.map(|group| (group.first().map_or(0, |number| number.len()), group.concat().into()));
        Serials {
            by_length: groups.collect(),
        }
    }

    /// Whether a number is in it, which is as [`canonical`] has it.
    pub(super) fn contains(&self, number: &[u8]) -> bool {
        let Some((length, numbers)) = self.by_length.iter().find(|(length, _)| *length == number.len()) else {
            return false;
        };
        let (mut from, mut to) = (0, numbers.len().checked_div(*length).unwrap_or_default());
        while from < to {
            let middle = from.midpoint(to);
            let here = numbers.get(middle * length..(middle + 1) * length).unwrap_or_default();
            match here.cmp(number) {
                Ordering::Equal => return true,
                Ordering::Less => from = middle + 1,
                Ordering::Greater => to = middle,
            }
        }
        false
    }
}

/// An INTEGER in as few bytes as two's complement takes (X.690, 8.3.2): sloppy issuers put more in front. -1 is one byte,
/// and 255 is two.
pub(super) fn canonical(mut number: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = number {
        match (first, rest.first()) {
            (0x00, Some(0..0x80)) | (0xff, Some(0x80..)) => number = rest,
            _ => break,
        }
    }
    number
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_has_one_form_and_minus_one_is_not_255() {
        for (raw, expected) in [
            (&[0xff][..], &[0xff][..]),
            (&[0xff, 0xff, 0xff], &[0xff]),
            (&[0, 0xff], &[0, 0xff]),
            (&[0, 0, 0xff], &[0, 0xff]),
            (&[0, 0, 1], &[1]),
            (&[0], &[0]),
            (&[0, 0], &[0]),
            (&[0xff, 0x7f], &[0xff, 0x7f]),
            (&[], &[]),
        ] {
            assert_eq!(canonical(raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn a_number_takes_the_bytes_that_it_has_and_no_others() {
        let numbers: Vec<_> = (1..=100_000u64).map(|number| (number << 32).to_be_bytes()).collect();
        let serials = Serials::new(numbers.iter().map(|number| canonical(number)).collect());
        let bytes: usize = serials.by_length.iter().map(|(_, numbers)| numbers.len()).sum();
        assert_eq!(
            bytes,
            numbers.iter().map(|number| canonical(number).len()).sum::<usize>()
        );
        assert!(serials.by_length.len() < 5);
        assert!(numbers.iter().all(|number| serials.contains(canonical(number))));
    }

    proptest! {
        #[test]
        fn what_was_put_in_is_in_and_nothing_else(
            numbers in proptest::collection::vec(proptest::collection::vec(0u8..4, 1..4), 0..40),
            others in proptest::collection::vec(proptest::collection::vec(0u8..4, 0..5), 0..40),
        ) {
            let serials = Serials::new(numbers.iter().map(Vec::as_slice).collect());
            let set: HashSet<_> = numbers.iter().collect();
            for number in numbers.iter().chain(&others) {
                prop_assert_eq!(serials.contains(number), set.contains(number));
            }
        }
    }
}
