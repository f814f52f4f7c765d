//! Settings of a mesh: everything that the scenarios know about it. The file `settings/kermode.yaml` is an example.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Settings of a mesh.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Labels of the namespace in the mesh.
    #[serde(default)]
    pub namespace_labels: BTreeMap<String, String>,
    /// Annotations of the namespace in the mesh.
    #[serde(default)]
    pub namespace_annotations: BTreeMap<String, String>,
    /// Labels of all Pods in the mesh.
    #[serde(default)]
    pub pod_labels: BTreeMap<String, String>,
    /// Annotations of all Pods in the mesh.
    #[serde(default)]
    pub pod_annotations: BTreeMap<String, String>,
    /// Files to apply before the scenarios, relative to the file of the settings.
    #[serde(default)]
    pub manifests: Vec<PathBuf>,
    /// Values of the field `appProtocol` of the Service's ports, by the name of the port: `http`, `http2`, `grpc` or
    /// `tcp`. The default value is the name of the port.
    #[serde(default)]
    pub app_protocols: BTreeMap<String, String>,
    /// Deployment of the control plane; without it, the scenario `control-plane` is left out.
    pub control_plane: Option<ControlPlane>,
    /// Sets of labels and annotations of the servers' Pods.
    #[serde(default = "default_variants")]
    pub variants: Vec<Variant>,
}

/// Deployment of the control plane.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlPlane {
    /// Namespace.
    pub namespace: String,
    /// Name of the Deployment.
    pub deployment: String,
}

/// Set of labels and annotations of the servers' Pods in the mesh.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Variant {
    /// Name in the report.
    pub name: String,
    /// Labels of the servers' Pods.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the servers' Pods.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Whether a failed request makes the run fail.
    #[serde(default)]
    pub required: bool,
}

/// Returns one variant without labels or annotations.
fn default_variants() -> Vec<Variant> {
    vec![Variant {
        name: "default".to_owned(),
        required: true,
        ..Variant::default()
    }]
}

impl Settings {
    /// Reads the settings from a file.
    ///
    /// # Errors
    /// The file cannot be read, or is not valid. The error names the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut settings =
            Self::parse(&text).with_context(|| format!("settings {} are not valid", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for manifest in &mut settings.manifests {
            *manifest = folder.join(&*manifest);
        }
        Ok(settings)
    }

    fn parse(text: &str) -> Result<Self> {
        let settings: Self = serde_saphyr::from_str(text)?;
        ensure!(
            !settings.variants.is_empty(),
            "variants is empty: name at least one"
        );
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_kermode_are_valid() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("settings/kermode.yaml");
        let settings = Settings::read(&path).expect("valid settings");
        assert!(settings.variants[0].required);
        for manifest in &settings.manifests {
            assert!(manifest.exists(), "{}", manifest.display());
        }
    }

    #[test]
    fn settings_may_consist_of_the_label_for_injection() {
        let settings =
            Settings::parse("namespaceLabels: {istio-injection: enabled}").expect("valid settings");
        assert_eq!(settings.variants, default_variants());
        assert!(settings.control_plane.is_none());
    }

    #[test]
    fn unknown_field_is_an_error() {
        let error = Settings::parse("labels: {}").expect_err("an error");
        assert!(error.to_string().contains("labels"), "{error}");
    }
}
