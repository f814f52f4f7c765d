//! Sets of ports and UIDs as merged ranges: nftables rejects sets with overlapping ranges.

use std::fmt;
use std::str::FromStr;

/// A set of TCP or UDP ports.
pub type PortSet = Intervals<u16>;

/// A set of UIDs, which have 32 bits in the kernel.
pub type UidSet = Intervals<u32>;

/// A set of numbers as sorted inclusive ranges that neither overlap nor adjoin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intervals<T>(Vec<(T, T)>);

/// Element type of [`Intervals`].
pub trait Number: Copy + Ord + fmt::Display + FromStr<Err = std::num::ParseIntError> {
    /// Name of the type in error texts. The name is that of the Go type, as in Kuma's error texts.
    const TYPE_NAME: &'static str;

    /// Returns the next number; `None` for the largest number.
    fn successor(self) -> Option<Self>;
}

// === impl Intervals ===

impl<T> Default for Intervals<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Number> Intervals<T> {
    /// Creates the set of a single number.
    pub fn single(number: T) -> Self {
        Self(vec![(number, number)])
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the ranges in ascending order.
    pub fn ranges(&self) -> &[(T, T)] {
        &self.0
    }

    /// Whether the set contains a number.
    pub fn contains(&self, number: T) -> bool {
        self.0
            .iter()
            .any(|&(first, last)| (first..=last).contains(&number))
    }
}

impl<T: Number> FromIterator<(T, T)> for Intervals<T> {
    /// Collects ranges in any order. A range with an end below its start is empty.
    fn from_iter<I: IntoIterator<Item = (T, T)>>(ranges: I) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
        ranges.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                // The range overlaps or adjoins the previous range.
                Some((_, end)) if end.successor().is_none_or(|successor| first <= successor) => {
                    *end = last.max(*end);
                }
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }
}

/// Writes the notation of nftables: `443`, `1000-2000` or `{ 443, 1000-2000 }`.
impl<T: Number> fmt::Display for Intervals<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let needs_braces = self.0.len() != 1;
        if needs_braces {
            f.write_str("{ ")?;
        }
        for (index, (first, last)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
        }
        if needs_braces {
            f.write_str(" }")?;
        }
        Ok(())
    }
}

impl Number for u16 {
    const TYPE_NAME: &'static str = "uint16";

    fn successor(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Number for u32 {
    const TYPE_NAME: &'static str = "uint32";

    fn successor(self) -> Option<Self> {
        self.checked_add(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn overlapping_and_adjoining_ranges_are_merged() {
        let ports: PortSet = [(1902, 1902), (1000, 2000), (2001, 2001), (5, 5)]
            .into_iter()
            .collect();
        assert_eq!(ports.ranges(), [(5, 5), (1000, 2001)]);
        assert_eq!(ports.to_string(), "{ 5, 1000-2001 }");
    }

    #[test]
    fn largest_number_of_the_type_does_not_overflow() {
        let uids: UidSet = [(7, u32::MAX), (u32::MAX, u32::MAX)].into_iter().collect();
        assert_eq!(uids.ranges(), [(7, u32::MAX)]);
    }

    proptest! {
        #[test]
        fn merging_preserves_the_set_of_numbers(ranges in prop::collection::vec((0u16..60, 0u16..60), 0..8)) {
            let expected: BTreeSet<u16> = ranges.iter().flat_map(|&(first, last)| first..=last).collect();
            let set: PortSet = ranges.into_iter().collect();
            let merged: BTreeSet<u16> = set.ranges().iter().flat_map(|&(first, last)| first..=last).collect();
            prop_assert_eq!(&merged, &expected);
            prop_assert!(set.ranges().windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            prop_assert!((0..60).all(|port| set.contains(port) == expected.contains(&port)));
        }
    }
}
