//! The control plane's configuration file. Only what differs from one installation to the next is written: the
//! defaults live in the control plane (BEHAVIOUR section 7).

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::assignment;
use super::manifests::NAME;
use super::settings::Settings;

/// The configuration file's content, every wrong assignment reported at once.
pub(super) fn config(settings: &Settings) -> Result<Value> {
    let mut config = Map::new();
    config.insert(
        "store".to_owned(),
        json!({"kubernetes": {"systemNamespace": settings.namespace}}),
    );
    config.insert(
        "runtime".to_owned(),
        json!({"kubernetes": {
            "controlPlaneServiceName": NAME,
            "injector": {
                "sidecarContainer": {"image": settings.images.sidecar},
                "initContainer": {"image": settings.images.init},
            },
        }}),
    );
    if let Some(zone) = &settings.zone {
        config.insert("multizone".to_owned(), json!({"zone": {"name": zone}}));
    }
    let problems: Vec<String> = settings
        .assignments
        .iter()
        .filter_map(|text| assignment::apply(text, &mut config).err())
        .map(|error| error.to_string())
        .collect();
    anyhow::ensure!(problems.is_empty(), "{}", problems.join("\n       "));
    Ok(Value::Object(config))
}
