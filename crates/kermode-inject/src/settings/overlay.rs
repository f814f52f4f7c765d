//! Deserializes nested settings over their defaults, so that a configuration that sets one field keeps the defaults of
//! the other fields.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{InitContainer, ProbeSettings, Resources, SidecarContainer};

/// Deserializes settings; absent fields keep the values of `base`.
fn merge_over<'de, D, T>(deserializer: D, base: T) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Serialize + DeserializeOwned,
{
    let mut value = serde_json::to_value(base).map_err(D::Error::custom)?;
    merge(&mut value, Value::deserialize(deserializer)?);
    serde_json::from_value(value).map_err(D::Error::custom)
}

fn merge(base: &mut Value, given: Value) {
    match (base, given) {
        (Value::Object(base), Value::Object(given)) => {
            for (key, value) in given {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, given) => *base = given,
    }
}

pub(super) fn readiness<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ProbeSettings, D::Error> {
    merge_over(deserializer, SidecarContainer::default().readiness_probe)
}

pub(super) fn liveness<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ProbeSettings, D::Error> {
    merge_over(deserializer, SidecarContainer::default().liveness_probe)
}

pub(super) fn startup<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ProbeSettings, D::Error> {
    merge_over(deserializer, SidecarContainer::default().startup_probe)
}

pub(super) fn sidecar_resources<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Resources, D::Error> {
    merge_over(deserializer, SidecarContainer::default().resources)
}

pub(super) fn init_resources<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Resources, D::Error> {
    merge_over(deserializer, InitContainer::default().resources)
}

#[cfg(test)]
mod tests {
    use crate::Settings;
    use crate::settings::SidecarContainer;
    use serde_json::json;

    #[test]
    fn setting_one_field_keeps_the_defaults_of_its_siblings() {
        let settings: Settings = serde_json::from_value(json!({
            "sidecarContainer": {
                "livenessProbe": {"periodSeconds": 7},
                "resources": {"limits": {"cpu": 2}},
            },
        }))
        .unwrap();
        let (sidecar, default) = (settings.sidecar_container, SidecarContainer::default());
        assert_eq!(sidecar.liveness_probe.period_seconds, 7);
        assert_eq!(sidecar.liveness_probe.initial_delay_seconds, 60);
        assert_eq!(sidecar.resources.limits.cpu.as_str(), "2");
        assert_eq!(sidecar.resources.limits.memory, default.resources.limits.memory);
        assert_eq!(sidecar.resources.requests, default.resources.requests);
    }

    #[test]
    fn unknown_keys_and_invalid_quantities_are_rejected_at_any_depth() {
        for bad in [
            json!({"sidecarContainer": {"livenessProbe": {"period": 7}}}),
            json!({"sidecarContainer": {"resources": {"limits": {"cpu": "lots"}}}}),
            json!({"sidecar": {}}),
            json!({"sidecarMode": "sometimes"}),
        ] {
            assert!(serde_json::from_value::<Settings>(bad.clone()).is_err(), "{bad}");
        }
    }
}
