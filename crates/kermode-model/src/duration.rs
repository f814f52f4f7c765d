//! Durations in Go's notation (`1m30s`), as used by annotations, configuration and Kuma's resources.
//!
//! Grammar: <https://pkg.go.dev/time#ParseDuration>, without signs.

use std::time::Duration;

/// A text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration: write a number and a unit (ms, s, m, h), for example 30s or 1m30s")]
pub struct InvalidDuration {
    text: String,
}

/// Units and their lengths in nanoseconds.
const UNITS: [(&str, u128); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
];

/// Parses a duration such as `30s`, `1h15m` or `1.5s`. Only `0` needs no unit.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    parse_nanoseconds(text)
        .and_then(|nanoseconds| u64::try_from(nanoseconds).ok())
        .map(Duration::from_nanos)
        .ok_or_else(|| InvalidDuration {
            text: text.to_owned(),
        })
}

fn parse_nanoseconds(text: &str) -> Option<u128> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number_len = rest
            .find(|character: char| !character.is_ascii_digit() && character != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_len);
        let unit_len = after
            .find(|character: char| character.is_ascii_digit() || character == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let scale = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        total = total.checked_add(in_nanoseconds(number, scale)?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

/// Converts a decimal number, in units of `scale` nanoseconds, to nanoseconds. Fractions of a nanosecond are dropped.
fn in_nanoseconds(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value = if whole.is_empty() {
        0
    } else {
        whole.parse::<u128>().ok()?.checked_mul(scale)?
    };
    let mut digit_scale = scale;
    for digit in fraction.chars() {
        digit_scale /= 10;
        value = value.checked_add(u128::from(digit.to_digit(10)?) * digit_scale)?;
    }
    Some(value)
}

/// Formats a duration as Go does: `1m30s`, `30s`, `1.5s`, `250ms`, `0s`.
pub fn format(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    for (unit, scale) in [("ns", 1), ("µs", 1_000), ("ms", 1_000_000)] {
        if nanoseconds > 0 && nanoseconds < scale * 1_000 {
            return format!("{}{unit}", decimal(nanoseconds, scale));
        }
    }
    let seconds = decimal(nanoseconds % (60 * 1_000_000_000), 1_000_000_000);
    let minutes = duration.as_secs() / 60;
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// Formats `value / scale` as a decimal number without trailing zeros. `scale` is a power of 10.
fn decimal(value: u128, scale: u128) -> String {
    let whole = value / scale;
    let fraction = value % scale;
    if fraction == 0 {
        return whole.to_string();
    }
    let width = scale.ilog10() as usize;
    let digits = format!("{fraction:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

/// Durations as strings in Go's notation, for `#[serde(with)]`.
pub mod go_notation {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes a duration.
    ///
    /// # Errors
    /// Fails when the serializer fails.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format(*value))
    }

    /// Reads a duration.
    ///
    /// # Errors
    /// Fails when the value is not a string, or its text is not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_and_formatted_as_in_go() {
        for (text, millis, printed) in [
            ("30s", 30_000, "30s"),
            ("90s", 90_000, "1m30s"),
            ("1m30s", 90_000, "1m30s"),
            ("1h", 3_600_000, "1h0m0s"),
            ("1.5s", 1_500, "1.5s"),
            (".5s", 500, "500ms"),
            ("250ms", 250, "250ms"),
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("24h", 86_400_000, "24h0m0s"),
        ] {
            let duration = parse(text).expect(text);
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
            assert_eq!(format(duration), printed, "{text}");
        }
    }

    #[test]
    fn text_that_is_not_a_duration_is_rejected() {
        for text in [
            "",
            "30",
            "s",
            "30x",
            "-5s",
            "1.2.3s",
            ".s",
            "30 s",
            "99999999999999999999h",
        ] {
            assert!(parse(text).is_err(), "{text:?} is accepted");
        }
    }
}
