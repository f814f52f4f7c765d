//! Typed access to the labels and annotations of one object (docs/reference/labels-and-annotations.md#values).

use std::collections::BTreeMap;
use std::time::Duration;

use kermode_crds::annotation::{GATEWAY, parse_bool, parse_gateway};
use kermode_model::{duration, notation};

use crate::denial::Denial;

/// Maximum number of characters that a message quotes of an invalid value, or of an invalid item of a map.
const MAX_QUOTED_CHARS: usize = 64;

/// Labels or annotations of an object, and the name of the object for messages. The methods that parse a value return
/// `None`, or an empty map, if the key is absent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Values<'a> {
    entries: &'a BTreeMap<String, String>,
    /// `label` or `annotation`.
    noun: &'static str,
    /// Kind and name, for example `Pod default/app`.
    pub(crate) object: &'a str,
}

// === impl Values ===

impl<'a> Values<'a> {
    pub(crate) fn labels(entries: &'a BTreeMap<String, String>, object: &'a str) -> Self {
        Self {
            entries,
            noun: "label",
            object,
        }
    }

    pub(crate) fn annotations(entries: &'a BTreeMap<String, String>, object: &'a str) -> Self {
        Self {
            entries,
            noun: "annotation",
            object,
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a str> {
        self.entries.get(key).map(String::as_str)
    }

    /// Returns a value; `None` if it is absent or empty.
    pub(crate) fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    pub(crate) fn boolean(&self, key: &'static str) -> Result<Option<bool>, Denial> {
        let parse = |value| {
            parse_bool(key, value).map_err(|_| Denial::WrongValue {
                noun: self.noun,
                key,
                value: value.chars().take(MAX_QUOTED_CHARS).collect(),
                object: self.object.to_owned(),
            })
        };
        self.get(key).map(parse).transpose()
    }

    /// Whether the annotation `kuma.io/gateway` makes the Pod a gateway.
    pub(crate) fn is_gateway(&self) -> Result<bool, Denial> {
        let Some(value) = self.get(GATEWAY) else {
            return Ok(false);
        };
        match parse_gateway(value) {
            Ok(identity) => Ok(identity.is_some()),
            Err(_) => Err(self.unparsable(
                GATEWAY,
                format!("wrong value {value:?}, use enabled, provided or disabled"),
            )),
        }
    }

    /// Parses the value of the first key that is present.
    pub(crate) fn first_boolean(&self, keys: &[&'static str]) -> Result<Option<bool>, Denial> {
        match keys.iter().find(|key| self.get(key).is_some()) {
            Some(key) => self.boolean(key),
            None => Ok(None),
        }
    }

    pub(crate) fn number(&self, key: &'static str) -> Result<Option<u32>, Denial> {
        let parse = |value: &str| {
            notation::number(value)
                .map_err(|_| self.unparsable(key, format!("{value:?} is not a number from 0 to 4294967295")))
        };
        self.get(key).map(parse).transpose()
    }

    pub(crate) fn port(&self, key: &'static str) -> Result<Option<u16>, Denial> {
        let Some(number) = self.number(key)? else {
            return Ok(None);
        };
        match u16::try_from(number) {
            Ok(port) if port > 0 => Ok(Some(port)),
            _ => Err(self.unparsable(key, format!("{number} is not a port from 1 to 65535"))),
        }
    }

    /// Parses the value of the first key that is present.
    pub(crate) fn first_port(&self, keys: &[&'static str]) -> Result<Option<u16>, Denial> {
        match keys.iter().find(|key| self.get(key).is_some()) {
            Some(key) => self.port(key),
            None => Ok(None),
        }
    }

    pub(crate) fn list(&self, key: &str) -> Option<Vec<String>> {
        let items = |text| notation::list(text).map(str::to_owned).collect();
        self.get(key).map(items)
    }

    /// Parses `k1=v1;k2=v2`.
    pub(crate) fn map(&self, key: &'static str) -> Result<BTreeMap<String, String>, Denial> {
        let Some(text) = self.get(key) else {
            return Ok(BTreeMap::new());
        };
        notation::map(text).map_err(|item| Denial::InvalidMap {
            key,
            item: item.chars().take(MAX_QUOTED_CHARS).collect(),
            object: self.object.to_owned(),
        })
    }

    /// Parses a duration above zero.
    pub(crate) fn duration(&self, key: &'static str) -> Result<Option<Duration>, Denial> {
        let duration = self.duration_or_zero(key)?;
        if duration.is_some_and(|duration| duration.is_zero()) {
            return Err(self.unparsable(key, "the duration must be above zero".to_owned()));
        }
        Ok(duration)
    }

    /// Parses a duration, which may be zero.
    pub(crate) fn duration_or_zero(&self, key: &'static str) -> Result<Option<Duration>, Denial> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        let duration = duration::parse(text);
        duration
            .map(Some)
            .map_err(|error| self.unparsable(key, error.to_string()))
    }

    /// Parses one of several fixed words. Returns the value that `choices` has for the word.
    pub(crate) fn choice<T: Copy>(
        &self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, Denial> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        let found = choices
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, choice)| *choice);
        found.map(Some).ok_or_else(|| {
            let known: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            self.unparsable(key, format!("wrong value {text:?}, use {}", known.join(" or ")))
        })
    }

    /// Describes the location of a key, for example `label kuma.io/mesh of Pod default/app`.
    pub(crate) fn location(&self, key: &str) -> String {
        format!("{} {key} of {}", self.noun, self.object)
    }

    fn unparsable(&self, key: &'static str, problem: String) -> Denial {
        Denial::Unparsable {
            key,
            problem,
            object: self.object.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("k".to_owned(), value.to_owned())])
    }

    #[test]
    fn numbers_are_unsigned_integers_in_decimal_notation() {
        for bad in ["", "-1", "+1", "1.5", "0x10", "4294967296", " 1"] {
            assert!(
                Values::annotations(&entries(bad), "Pod a/b").number("k").is_err(),
                "{bad:?}"
            );
        }
        assert_eq!(
            Values::annotations(&entries("7"), "Pod a/b").number("k"),
            Ok(Some(7))
        );
    }

    #[test]
    fn error_of_an_invalid_map_names_key_item_and_object() {
        let error = Values::annotations(&entries("a=1;b"), "Pod a/b")
            .map("k")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid format. Map in \"k\" has to be provided in the following format: key1=value1;key2=value2 \
             (item \"b\" on Pod a/b has no key or no equals sign)"
        );
        let long = entries(&"x".repeat(100_000));
        let error = Values::annotations(&long, "Pod a/b").map("k").unwrap_err();
        assert!(error.to_string().len() < 300, "the item is truncated");
    }

    #[test]
    fn error_of_a_wrong_value_calls_a_label_a_label_and_names_key_value_and_object() {
        let pairs = entries("maybe");
        for (values, noun) in [
            (Values::labels(&pairs, "Pod default/app"), "label"),
            (Values::annotations(&pairs, "Pod default/app"), "annotation"),
        ] {
            assert_eq!(
                values.boolean("k").unwrap_err().to_string(),
                format!(
                    "{noun} \"k\" has wrong value \"maybe\" (on Pod default/app): use enabled, true, disabled or false"
                )
            );
        }
    }
}
