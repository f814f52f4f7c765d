//! The control plane's configuration file. It contains only settings that differ between installations; all others have
//! the defaults of `kermode-config`.

use serde_json::{Map, Value, json};

use crate::{InstallError, Installation, NAME, assignment};

/// Returns the content of the file.
///
/// # Errors
/// If an assignment cannot be used. The error lists every such assignment with its problem.
pub(crate) fn file(installation: &Installation) -> Result<Value, InstallError> {
    let mut config = Map::new();
    config.insert(
        "store".to_owned(),
        json!({"kubernetes": {"systemNamespace": installation.namespace}}),
    );
    let mut injector = json!({
        "sidecarContainer": {"image": installation.images.sidecar},
        "initContainer": {"image": installation.images.init},
    });
    if !installation.image_pull_secrets.is_empty() {
        injector["imagePullSecrets"] = json!(installation.image_pull_secrets);
    }
    if let Some(cni) = &installation.cni {
        injector["cniEnabled"] = true.into();
        injector["cniChained"] = cni.is_chained.into();
    }
    config.insert(
        "runtime".to_owned(),
        json!({"kubernetes": {"controlPlaneServiceName": NAME, "injector": injector}}),
    );
    if let Some(zone) = &installation.zone {
        config.insert("multizone".to_owned(), json!({"zone": {"name": zone}}));
    }
    let problems: Vec<_> = installation
        .assignments
        .iter()
        .filter_map(|text| assignment::apply(text, &mut config).err())
        .collect();
    if problems.is_empty() {
        Ok(Value::Object(config))
    } else {
        Err(InstallError::Assignments(problems))
    }
}
