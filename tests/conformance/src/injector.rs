//! Suite `injector`: injects Pods of Kuma's tests and compares the results with those of Kuma.

use anyhow::{Context, Result, bail};
use kermode_inject::Settings;
use kermode_inject::settings::SidecarMode;
use serde_json::{Value, json};

use crate::corpus::Case;
use crate::injection::{InjectionInputs, comparable_denials, comparable_pod};
use crate::suite::{Outcome, Runner};

/// Runner of the suite.
pub(crate) struct Injector;

impl Runner for Injector {
    fn suite(&self) -> &'static str {
        "injector"
    }

    fn run(&self, case: &Case<'_>) -> Result<Outcome> {
        let settings = settings(case)?;
        if !settings.problems().is_empty() {
            // The control plane does not start with these settings.
            return Ok(Outcome::Compared {
                expected: case.document("expected")?,
                actual: json!({"settings rejected": settings.problems()}),
            });
        }
        let pod = case.document("pod")?;
        let result = inputs(case)?.inject_and_patch(&pod, &settings)?;
        let (expected, actual) = match (case.kind(), result) {
            ("error", result) => comparable_denials(case.at("/expectedError"), result),
            ("inject" | "skip", Ok(admitted)) => (
                comparable_pod(&case.document("expected")?),
                comparable_pod(&admitted),
            ),
            ("inject" | "skip", Err(denial)) => (
                comparable_pod(&case.document("expected")?),
                json!({"denied": denial.to_string()}),
            ),
            (kind, _) => bail!("unknown kind {kind:?}"),
        };
        Ok(Outcome::Compared { expected, actual })
    }
}

/// Returns the inputs of the injection. The inputs in the member `fixed` of the suite are the same for all cases.
fn inputs(case: &Case<'_>) -> Result<InjectionInputs> {
    let fixed = &case.suite.json["fixed"];
    let text = |key: &str| {
        fixed[key]
            .as_str()
            .with_context(|| format!("`fixed.{key}` of the suite is missing"))
    };
    Ok(InjectionInputs {
        namespace: case.at("/objects/namespace").clone(),
        meshes: vec![case.decode("/objects/mesh/metadata/name")?],
        system_namespace: text("systemNamespace")?.to_owned(),
        container_patches: case.decode("/objects/containerPatches")?,
        control_plane_url: text("controlPlaneURL")?.to_owned(),
        control_plane_ca_pem: case.suite.text(text("caCertFile")?)?,
    })
}

/// Returns the injector's settings of a case. Settings that the case does not contain have Kermode's defaults, except
/// that DNS redirection and exceptions are off and that sidecars are classic.
fn settings(case: &Case<'_>) -> Result<Settings> {
    let mut config = json!({"builtinDNS": {"enabled": false}, "exceptions": {"labels": {}}});
    merge(&mut config, case.document("config")?);
    // Kuma's decoder ignores some of these keys; Kermode has no settings for the others.
    for (parent, key) in [
        ("", "controlPlane"),
        ("/initContainer", "enabled"),
        ("/sidecarContainer", "ipFamilyMode"),
    ] {
        if let Some(section) = config.pointer_mut(parent).and_then(Value::as_object_mut) {
            section.remove(key);
        }
    }
    let mut settings: Settings = serde_json::from_value(config)
        .with_context(|| format!("cannot decode the settings of case {}", case.id()))?;
    settings.native_sidecars_supported = true;
    settings.sidecar_mode = match case.at("/settings/sidecarContainersEnabled").as_bool() {
        Some(true) => SidecarMode::Native,
        _ => SidecarMode::Classic,
    };
    Ok(settings)
}

/// Overwrites values of `base` with values of `overrides`, recursively for objects.
fn merge(base: &mut Value, overrides: Value) {
    match (base, overrides) {
        (Value::Object(base), Value::Object(overrides)) => {
            for (key, value) in overrides {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, overrides) => *base = overrides,
    }
}
