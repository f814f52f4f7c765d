//! Parses Kubernetes quantities (`50m`, `64Mi`, `0.1`, `1e3`) for validation and comparison.
//!
//! Grammar: <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// A quantity as written. May be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Quantity(String);

/// Numeric value of a quantity, in billionths, because the finest suffix is `n` (nano).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(i128);

/// Error for a text that is not a quantity, with the first 64 characters of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a quantity: write a number with an optional suffix, for example 100m, 0.5 or 64Mi")]
pub struct InvalidQuantity {
    text: String,
}

/// The number 1, in billionths.
const UNIT: i128 = 1_000_000_000;

/// Suffixes and their factors, in billionths.
const SUFFIXES: [(&str, i128); 16] = [
    ("n", 1),
    ("u", 1_000),
    ("m", 1_000_000),
    ("", UNIT),
    ("k", UNIT * 1_000),
    ("M", UNIT * 1_000_000),
    ("G", UNIT * 1_000_000_000),
    ("T", UNIT * 1_000_000_000_000),
    ("P", UNIT * 1_000_000_000_000_000),
    ("E", UNIT * 1_000_000_000_000_000_000),
    ("Ki", UNIT << 10),
    ("Mi", UNIT << 20),
    ("Gi", UNIT << 30),
    ("Ti", UNIT << 40),
    ("Pi", UNIT << 50),
    ("Ei", UNIT << 60),
];

/// Parses a quantity. Digits finer than a billionth are dropped.
///
/// # Errors
/// When the text is not a quantity, its exponent is below -9 or above 18, or its value in billionths exceeds 128 bits.
pub fn parse(text: &str) -> Result<Amount, InvalidQuantity> {
    parse_billionths(text).map(Amount).ok_or_else(|| InvalidQuantity {
        text: text.chars().take(64).collect(),
    })
}

fn parse_billionths(text: &str) -> Option<i128> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let factor = factor_of(suffix)?;
    let mut value = parse_digits(whole)?.checked_mul(factor)?;
    let mut digit_factor = factor;
    for digit in fraction.bytes() {
        digit_factor /= 10;
        value = value.checked_add(i128::from(digit - b'0').checked_mul(digit_factor)?)?;
    }
    Some(if negative { -value } else { value })
}

fn parse_digits(text: &str) -> Option<i128> {
    if text.is_empty() {
        Some(0)
    } else {
        text.parse().ok()
    }
}

/// Returns the factor of a suffix or exponent, in billionths.
fn factor_of(suffix: &str) -> Option<i128> {
    if let Some((_, factor)) = SUFFIXES.iter().find(|(name, _)| *name == suffix) {
        return Some(*factor);
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    match exponent {
        -9..=0 => Some(UNIT / 10_i128.pow(exponent.unsigned_abs())),
        1..=18 => Some(UNIT * 10_i128.pow(exponent.unsigned_abs())),
        _ => None,
    }
}

// === impl Quantity ===

impl Quantity {
    /// Creates a quantity without validating the text.
    pub fn new_unchecked(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Returns the text as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the text is empty, which means no request or no limit.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whole units, rounded down: 1 for `1100m`. Returns zero for a negative or invalid quantity.
    pub fn whole_units(&self) -> u32 {
        parse(&self.0).map_or(0, |amount| {
            u32::try_from(amount.0.max(0) / UNIT).unwrap_or(u32::MAX)
        })
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Whole(i64),
            Fraction(f64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Whole(number) => number.to_string(),
            Written::Fraction(number) => number.to_string(),
            Written::Text(text) => text,
        };
        if !text.is_empty() {
            parse(&text).map_err(serde::de::Error::custom)?;
        }
        Ok(Self(text))
    }
}

// === impl Amount ===

impl fmt::Display for Amount {
    /// Writes the exact decimal value: `0.05`, `67108864`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.is_negative() { "-" } else { "" };
        let (whole, fraction) = (
            self.0.unsigned_abs() / UNIT.unsigned_abs(),
            self.0.unsigned_abs() % UNIT.unsigned_abs(),
        );
        let fraction = if fraction == 0 {
            String::new()
        } else {
            format!(".{fraction:09}")
        };
        write!(formatter, "{sign}{whole}{}", fraction.trim_end_matches('0'))
    }
}

impl Amount {
    /// Whether the amount is below zero.
    pub fn is_negative(self) -> bool {
        self.0 < 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_notations_of_an_amount_compare_equal() {
        for (left, right) in [
            ("1100m", "1.1"),
            ("0.1", "100m"),
            ("1Ki", "1024"),
            ("50M", "50000k"),
            ("1e3", "1k"),
            ("1E3", "1000"),
            ("5.", "5"),
            (".5", "500m"),
            ("+2", "2"),
            ("1500000n", "1.5m"),
        ] {
            assert_eq!(parse(left), parse(right), "{left} {right}");
        }
        assert!(parse("64Mi").unwrap() > parse("64M").unwrap());
        assert!(parse("-1").is_ok_and(Amount::is_negative));
    }

    #[test]
    fn text_that_is_not_a_quantity_is_rejected() {
        // The last text is a digit, but not an ASCII digit.
        for text in [
            "", "abc", "m", "1 Gi", "1.2.3", "1Kib", "1e", "1e99", "--1", ".", "١",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(parse(&"9".repeat(200)).is_err());
    }

    #[test]
    fn amounts_are_displayed_exactly() {
        for (text, shown) in [
            ("50m", "0.05"),
            ("64Mi", "67108864"),
            ("-1500m", "-1.5"),
            ("1n", "0.000000001"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn whole_units_are_rounded_down() {
        for (text, units) in [
            ("1100m", 1),
            ("8500m", 8),
            ("2", 2),
            ("50m", 0),
            ("-3", 0),
            ("", 0),
        ] {
            assert_eq!(Quantity::new_unchecked(text).whole_units(), units, "{text}");
        }
    }
}
