//! Selects the sidecar's service account token, which authenticates the Pod to the control plane
//! (docs/design.md#proxy-tokens), and the file of the roots that the sidecar trusts
//! (docs/design.md#roots-of-the-control-plane).

use kermode_crds::annotation::SERVICE_ACCOUNT_TOKEN_VOLUME;
use kermode_model::{CONTROL_PLANE_CA_CONFIG_MAP, CONTROL_PLANE_CA_ENTRY};
use serde_json::{Value, json};

use crate::denial::Denial;
use crate::names::{CA_DIRECTORY, CA_FILE, CA_VOLUME, TOKEN_DIRECTORY, TOKEN_VOLUME};
use crate::pod::Pod;
use crate::trace::{Trace, TraceTopic};
use crate::values::Values;

/// Volumes from which the sidecar reads its service account token and the roots of the control plane.
#[derive(Clone, Debug)]
pub(crate) struct TokenAndRoots {
    /// Volume mounts of the sidecar.
    pub(crate) mounts: Vec<Value>,
    /// Volume that the Pod must have. It contains the roots, and also the token unless an annotation names the token's
    /// volume.
    pub(crate) volume: Value,
    /// Path of the file with the roots; `None` for the default path of `kuma-dp`.
    pub(crate) ca_file: Option<String>,
}

/// Selects the token: that of the volume that the annotation names, else a new projected token for the sidecar alone.
/// The token that a container of the Pod mounts is not used: it may be for another audience, it may not be bound to the
/// Pod, and the application may show it to other services.
pub(crate) fn token_and_roots(
    pod: &Pod<'_>,
    annotations: &Values<'_>,
    audience: &str,
    warnings: &mut Vec<String>,
    trace: &mut Trace,
) -> Result<TokenAndRoots, Denial> {
    if let Some(name) = annotations.text(SERVICE_ACCOUNT_TOKEN_VOLUME) {
        let volume = pod.volume(name).ok_or_else(|| Denial::TokenVolumeMissing {
            volume: name.to_owned(),
        })?;
        if lacks_token(volume.json, audience) {
            warnings.push(format!(
                "volume {name}, which {SERVICE_ACCOUNT_TOKEN_VOLUME} names, has no projected service account token for \
                 the audience {audience} in a file named token: the control plane rejects the sidecar; add the token, or \
                 remove the annotation"
            ));
        }
        trace.note(TraceTopic::Token, || {
            let location = annotations.location(SERVICE_ACCOUNT_TOKEN_VOLUME);
            format!("{location} names the volume {name}")
        });
        return Ok(TokenAndRoots {
            mounts: vec![mount_of(name, TOKEN_DIRECTORY), mount_of(CA_VOLUME, CA_DIRECTORY)],
            volume: projected(CA_VOLUME, &[roots_source()]),
            ca_file: Some(format!("{CA_DIRECTORY}/{CA_FILE}")),
        });
    }
    trace.note(TraceTopic::Token, || {
        format!("a projected token for audience {audience} is added for the sidecar")
    });
    Ok(TokenAndRoots {
        mounts: vec![mount_of(TOKEN_VOLUME, TOKEN_DIRECTORY)],
        volume: projected(TOKEN_VOLUME, &[token_source(audience), roots_source()]),
        ca_file: None,
    })
}

/// Whether a volume is known to have no token for the audience in its file `token`. The contents of a CSI volume are
/// unknown, so the result for it is false.
fn lacks_token(volume: &Value, audience: &str) -> bool {
    let sources = volume.pointer("/projected/sources").and_then(Value::as_array);
    let mut tokens = sources
        .into_iter()
        .flatten()
        .filter_map(|source| source.get("serviceAccountToken"));
    let has_token = tokens.any(|token| token["path"] == "token" && token["audience"] == audience);
    !has_token && volume.get("csi").is_none()
}

/// Whether a volume is mounted at the path of service account tokens.
pub(crate) fn is_token_mount(mount: &Value) -> bool {
    let path = mount.get("mountPath").and_then(Value::as_str);
    path.is_some_and(|path| path.trim_end_matches('/') == TOKEN_DIRECTORY)
}

fn mount_of(volume: &str, path: &str) -> Value {
    json!({"name": volume, "readOnly": true, "mountPath": path})
}

fn projected(name: &str, sources: &[Value]) -> Value {
    json!({"name": name, "projected": {"sources": sources}})
}

/// Renders the projected source of the sidecar's token. The API server and other services reject the token, because
/// only the control plane accepts its audience. The control plane rejects tokens with another audience, such as those
/// that the application shows to other services.
fn token_source(audience: &str) -> Value {
    json!({"serviceAccountToken": {"path": "token", "expirationSeconds": 3600, "audience": audience}})
}

/// Renders the projected source of the control plane's roots. Its ConfigMap is optional, because the control plane may
/// create the ConfigMap after the Pod.
fn roots_source() -> Value {
    let items = json!([{"key": CONTROL_PLANE_CA_ENTRY, "path": CA_FILE}]);
    json!({"configMap": {"name": CONTROL_PLANE_CA_CONFIG_MAP, "optional": true, "items": items}})
}
