//! Reading a Pod's annotations (BEHAVIOUR section 1), errors naming key and value.

use kermode_crds::annotation;
use kermode_model::notation;

use super::error::ConvertError;
use super::facts::PodFacts;

/// A boolean; `None` when absent.
pub(super) fn boolean(pod: &PodFacts, key: &'static str) -> Result<Option<bool>, ConvertError> {
    let Some(value) = pod.annotations.get(key) else {
        return Ok(None);
    };
    let value = annotation::parse_bool(key, value)?;
    Ok(Some(value))
}

/// A port number, 0 included; `None` when absent.
pub(super) fn number(pod: &PodFacts, key: &'static str) -> Result<Option<u16>, ConvertError> {
    let Some(value) = pod.annotations.get(key) else {
        return Ok(None);
    };
    let number = notation::number(value).map_err(|source| ConvertError::Number {
        key,
        value: value.to_string(),
        source,
    })?;
    Ok(Some(number))
}

/// A port number; `None` when absent or 0, which is no port.
pub(super) fn port(pod: &PodFacts, key: &'static str) -> Result<Option<u16>, ConvertError> {
    Ok(number(pod, key)?.filter(|port| *port != 0))
}

/// A comma-separated list, trimmed (decision 2).
pub(super) fn list(pod: &PodFacts, key: &str) -> Vec<String> {
    let value = pod.annotations.get(key);
    value
        .map(|value| notation::list(value).map(str::to_owned).collect())
        .unwrap_or_default()
}
