//! The control plane's configuration file. It contains only settings that differ between installations; all others have
//! the defaults of `kermode-config`.
//!
//! The file is JSON, which is YAML too. The Helm chart can write JSON, but not YAML, exactly as this module does, so that
//! the checksum of the file is the same.

use std::fmt::Write;

use kermode_manifests::yaml;
use ring::digest;
use serde_json::{Value, json};

use crate::template::{evaluate, image, is_set, merge, namespace, only_if, option};
use crate::{Installation, NAME};

/// Path of the option with settings that are merged into the file.
pub(crate) const OPTION: &str = "controlPlane.config";

/// Template of the file without the settings of [`OPTION`].
pub(crate) fn template() -> Value {
    let secrets = "global.imagePullSecrets";
    let injector = json!({
        "sidecarContainer": {"image": image("dataPlane.image")},
        "initContainer": {"image": image("dataPlane.initImage")},
        "imagePullSecrets": only_if(is_set(secrets), option(secrets)),
        "cniEnabled": only_if(is_set("cni.enabled"), true.into()),
        "cniChained": only_if(is_set("cni.enabled"), option("cni.chained")),
    });
    let zone = "controlPlane.zone";
    json!({
        "store": {"kubernetes": {"systemNamespace": namespace()}},
        "runtime": {"kubernetes": {"controlPlaneServiceName": NAME, "injector": injector}},
        "multizone": only_if(is_set(zone), json!({"zone": {"name": option(zone)}})),
    })
}

/// Content of the file.
pub(crate) fn content(installation: &Installation) -> Value {
    let mut content = evaluate(&template(), installation).unwrap_or_default();
    let changes = installation.value(OPTION);
    if let (Value::Object(content), Value::Object(changes)) = (&mut content, changes) {
        merge(content, changes);
    }
    content
}

/// Text of the file, exactly as Helm's function `toPrettyJson` writes it: keys are sorted, whole numbers have no decimal
/// point, and some characters of strings are escaped.
pub(crate) fn text(installation: &Installation) -> String {
    let content = with_whole_numbers(yaml::sorted(&content(installation)));
    let text = format!("{content:#}");
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') {
            _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Returns the value with whole numbers as integers: 1.0 as 1.
fn with_whole_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => {
            let text = number.to_string();
            let whole = text
                .strip_suffix(".0")
                .and_then(|whole| whole.parse::<i64>().ok());
            whole.map_or(Value::Number(number), Value::from)
        }
        Value::Array(items) => items.into_iter().map(with_whole_numbers).collect(),
        Value::Object(members) => members
            .into_iter()
            .map(|(key, member)| (key, with_whole_numbers(member)))
            .collect(),
        other => other,
    }
}

/// SHA-256 of the text, to detect changes.
pub(crate) fn checksum(installation: &Installation) -> String {
    let digest = digest::digest(&digest::SHA256, text(installation).as_bytes());
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}
