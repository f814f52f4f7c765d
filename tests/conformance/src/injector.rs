//! Suite `injector`: Pods of Kuma's tests before and after injection.

use anyhow::{Context, Result, bail};
use kermode_inject::Settings;
use kermode_inject::settings::SidecarMode;
use serde_json::{Value, json};

use crate::corpus::Case;
use crate::injection::{World, comparable_pod, denial};
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
            // The control plane refuses to start with these settings.
            let (expected, actual) = (
                case.file("expected")?,
                json!({"settings refused": settings.problems()}),
            );
            return Ok(Outcome::Compared { expected, actual });
        }
        let pod = case.file("pod")?;
        let admitted = world(case)?.admitted(&pod, &settings)?;
        let (expected, actual) = match (case.kind(), admitted) {
            ("error", admitted) => denial(case.at("/expectedError"), admitted),
            ("inject" | "skip", Ok(admitted)) => {
                (comparable_pod(&case.file("expected")?), comparable_pod(&admitted))
            }
            ("inject" | "skip", Err(denial)) => (
                comparable_pod(&case.file("expected")?),
                json!({"refused": denial.to_string()}),
            ),
            (kind, _) => bail!("unknown kind {kind:?}"),
        };
        Ok(Outcome::Compared { expected, actual })
    }
}

fn world(case: &Case<'_>) -> Result<World> {
    let fixed = &case.document.json["fixed"];
    let text = |key: &str| fixed[key].as_str().with_context(|| format!("fixed.{key}"));
    Ok(World {
        namespace: case.at("/objects/namespace").clone(),
        meshes: vec![case.decode("/objects/mesh/metadata/name")?],
        system_namespace: text("systemNamespace")?.to_owned(),
        container_patches: case.decode("/objects/containerPatches")?,
        control_plane_url: text("controlPlaneURL")?.to_owned(),
        control_plane_ca_pem: case.document.text(text("caCertFile")?)?,
    })
}

/// Returns the settings of a case. Settings that the case leaves out are off, whatever Kermode's defaults are.
fn settings(case: &Case<'_>) -> Result<Settings> {
    let mut config = json!({"builtinDNS": {"enabled": false}, "exceptions": {"labels": {}}});
    merge(&mut config, case.file("config")?);
    // Keys that Kuma's decoder ignores, and keys of settings that Kermode does not have.
    for (parent, key) in [
        ("", "controlPlane"),
        ("/initContainer", "enabled"),
        ("/sidecarContainer", "ipFamilyMode"),
    ] {
        if let Some(section) = config.pointer_mut(parent).and_then(Value::as_object_mut) {
            section.remove(key);
        }
    }
    let mut settings: Settings =
        serde_json::from_value(config).context(case.file_name("config")?.to_owned())?;
    settings.native_sidecars_supported = true;
    settings.sidecar_mode = match case.at("/settings/sidecarContainersEnabled").as_bool() {
        Some(true) => SidecarMode::Native,
        _ => SidecarMode::Classic,
    };
    Ok(settings)
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
