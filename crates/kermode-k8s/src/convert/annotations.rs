//! Typed access to a Pod's annotations (docs/reference/labels-and-annotations.md#values). Errors name the key and the
//! value.

use kermode_crds::annotation;
use kermode_model::notation;

use super::error::ConvertError;
use super::facts::PodFacts;

/// Parses a boolean; `None` if the annotation is absent.
pub(super) fn boolean(pod: &PodFacts, key: &'static str) -> Result<Option<bool>, ConvertError> {
    let Some(value) = pod.annotations.get(key) else {
        return Ok(None);
    };
    let value = annotation::parse_bool(key, value)?;
    Ok(Some(value))
}

/// Parses a port number or 0; `None` if the annotation is absent.
pub(super) fn number(pod: &PodFacts, key: &'static str) -> Result<Option<u16>, ConvertError> {
    let Some(value) = pod.annotations.get(key) else {
        return Ok(None);
    };
    let number = notation::number(value).map_err(|source| ConvertError::InvalidPort {
        key,
        value: value.to_string(),
        source,
    })?;
    Ok(Some(number))
}

/// Parses a port number; `None` if the annotation is absent or 0.
pub(super) fn port(pod: &PodFacts, key: &'static str) -> Result<Option<u16>, ConvertError> {
    Ok(number(pod, key)?.filter(|port| *port != 0))
}

/// Parses a comma-separated list (docs/design.md#lists-are-trimmed).
pub(super) fn list(pod: &PodFacts, key: &str) -> Vec<String> {
    let value = pod.annotations.get(key);
    value
        .map(|value| notation::list(value).map(str::to_owned).collect())
        .unwrap_or_default()
}
