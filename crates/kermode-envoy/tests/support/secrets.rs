//! Secrets of proxies, which Envoy reads from files instead of requesting them from `kuma-dp`.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::certificates::Authority;

/// Writes the secrets of a proxy as files to a temporary folder: a certificate with these URIs, and the trust bundle.
pub(crate) fn write_secrets(authority: &Authority, uris: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for secret in [authority.identity(uris), authority.trust_bundle()] {
        let name = secret["resources"][0]["name"]
            .as_str()
            .expect("a name")
            .to_owned();
        std::fs::write(folder.path().join(name + ".json"), secret.to_string()).expect("a writable folder");
    }
    folder
}

/// Replaces each reference to a secret, at any depth of the value, by a reference to its file in `folder`.
pub(crate) fn refer_to_secret_files(value: &mut Value, folder: &Path) {
    if let (Some(name), Some(_)) = (value.get("name").cloned(), value.get("sdsConfig")) {
        let path = folder.join(format!("{}.json", name.as_str().expect("a name")));
        value["sdsConfig"] = json!({ "pathConfigSource": { "path": path }, "resourceApiVersion": "V3" });
    }
    for_each_child(value, &mut |child| refer_to_secret_files(child, folder));
}

pub(crate) fn for_each_child(value: &mut Value, action: &mut dyn FnMut(&mut Value)) {
    match value {
        Value::Object(map) => map.values_mut().for_each(action),
        Value::Array(list) => list.iter_mut().for_each(action),
        _ => {}
    }
}
