//! Notations of values in annotations, labels, flags and environment variables. Each notation has one parser.
//!
//! A parser reports that a text is not in its notation. The caller knows the name of the setting and writes the error.
//! Durations have a module of their own: [`crate::duration`].

use std::collections::BTreeMap;
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

/// Notation of the value of a label or annotation. The reference shows the text of its `Display`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notation {
    /// See [`boolean`].
    Boolean,
    /// See [`list`].
    List,
    /// See [`map`].
    Map,
    /// See [`crate::duration::parse`].
    Duration,
    /// See [`number`].
    Number,
    /// A number from 1 to 65535. Only the redirection port of inbound IPv6 traffic may also be 0.
    Port,
    /// A list of ports and ranges of ports, such as `22,8000-8010`; `kermode-netfilter` parses it.
    PortRanges,
    /// Items `ports:uids` or `[protocols:][ports:]uids`, separated by semicolons; `kermode-netfilter` parses them.
    UidExclusions,
    /// Any text.
    Text,
    /// One of several words.
    Words(&'static [&'static str]),
}

impl fmt::Display for Notation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Boolean => "boolean",
            Self::List => "list",
            Self::Map => "map",
            Self::Duration => "duration",
            Self::Number => "number",
            Self::Port => "port",
            Self::PortRanges => "list of ports and ranges",
            Self::UidExclusions => "UID exclusions",
            Self::Text => "text",
            Self::Words(words) => return write!(f, "`{}`", words.join("`, `")),
        };
        f.write_str(name)
    }
}

/// Parses a boolean: `enabled` and `true`, `disabled` and `false`. Returns `None` for any other text.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "enabled" | "true" => Some(true),
        "disabled" | "false" => Some(false),
        _ => None,
    }
}

/// Splits a comma-separated list. Items are trimmed, and empty items are dropped
/// (`docs/design.md#lists-are-trimmed`).
pub fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Parses a map `k1=v1;k2=v2`. The first `=` of an item ends its key, so values may contain `=`. Keys are trimmed,
/// values are not, and empty items are dropped. If a key occurs several times, the last value counts.
///
/// # Errors
/// Returns the first item that has no `=` or whose key is empty.
pub fn map(text: &str) -> Result<BTreeMap<String, String>, &str> {
    let parse_item = |item| match str::split_once(item, '=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err(item.trim()),
    };
    text.split(';')
        .filter(|item| !item.trim().is_empty())
        .map(parse_item)
        .collect()
}

/// Parses an unsigned decimal number. Unlike `FromStr`, this function rejects a leading plus sign.
///
/// # Errors
/// If the text is empty, contains anything but digits, or is out of the range of `T`.
pub fn number<T: FromStr<Err = ParseIntError>>(text: &str) -> Result<T, ParseIntError> {
    // `ParseIntError` has no constructor: parsing a sign without digits yields the error for an invalid digit.
    let text = if text.starts_with('+') { "+" } else { text };
    text.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_boolean_has_two_spellings() {
        for (text, value) in [
            ("enabled", Some(true)),
            ("true", Some(true)),
            ("disabled", Some(false)),
            ("false", Some(false)),
            ("", None),
            ("yes", None),
            ("True", None),
        ] {
            assert_eq!(boolean(text), value, "{text:?}");
        }
    }

    #[test]
    fn lists_are_trimmed_and_have_no_empty_items() {
        let items: Vec<&str> = list(" a, b,,c ,").collect();
        assert_eq!(items, ["a", "b", "c"]);
        assert_eq!(list(" , ").count(), 0);
    }

    #[test]
    fn first_equals_sign_of_an_item_ends_its_key() {
        for (text, pairs) in [
            ("a=1;b=", &[("a", "1"), ("b", "")][..]),
            ("a=b=c,d=e;f==", &[("a", "b=c,d=e"), ("f", "=")]),
            ("a={\"k\": 1}", &[("a", "{\"k\": 1}")]),
            ("a=1; b = 2 ;", &[("a", "1"), ("b", " 2 ")]),
            (";;a=1; ;", &[("a", "1")]),
            ("", &[]),
            (" ; ", &[]),
        ] {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            assert_eq!(map(text), Ok(pairs.into_iter().collect()), "{text:?}");
        }
        for (text, item) in [("a", "a"), ("a=1; b;c=2", "b"), ("=b", "=b"), (" = b", "= b")] {
            assert_eq!(map(text), Err(item), "{text:?}");
        }
    }

    #[test]
    fn number_has_only_digits_and_is_in_range() {
        assert_eq!(number::<u16>("65535"), Ok(65535));
        for text in ["", "+", "+1", "-1", " 1", "65536", "1.0", "0x1"] {
            assert!(number::<u16>(text).is_err(), "{text:?}");
        }
    }
}
