//! Selects the sidecar's service account token, which authenticates the Pod to the control plane
//! (docs/design.md#proxy-tokens).

use kermode_crds::annotation::SERVICE_ACCOUNT_TOKEN_VOLUME;
use serde_json::{Value, json};

use crate::denial::Denial;
use crate::names::{TOKEN_DIRECTORY, TOKEN_VOLUME};
use crate::pod::Pod;
use crate::trace::{Trace, TraceTopic};
use crate::values::Values;

/// Service account token of the sidecar.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    /// Volume mount of the sidecar.
    pub(crate) mount: Value,
    /// Volume to add to the Pod; `None` if the Pod has the volume.
    pub(crate) volume: Option<Value>,
}

/// Selects the token, in this order: the volume that the annotation names; the token that a container of the Pod
/// mounts; a new projected token for the sidecar alone.
pub(crate) fn token(pod: &Pod<'_>, annotations: &Values<'_>, trace: &mut Trace) -> Result<Token, Denial> {
    if let Some(volume) = annotations.text(SERVICE_ACCOUNT_TOKEN_VOLUME) {
        if !pod.volumes.contains(&volume) {
            return Err(Denial::TokenVolumeMissing {
                volume: volume.to_owned(),
            });
        }
        trace.note(TraceTopic::Token, || {
            let location = annotations.location(SERVICE_ACCOUNT_TOKEN_VOLUME);
            format!("{location} names the volume {volume}")
        });
        return Ok(Token {
            mount: mount_of(volume),
            volume: None,
        });
    }
    let mounts = pod
        .containers
        .iter()
        .flat_map(|container| container.list("volumeMounts"));
    if let Some(mount) = mounts.into_iter().find(|mount| is_token_mount(mount)) {
        trace.note(TraceTopic::Token, || {
            "the sidecar mounts the same token as the Pod's containers".to_owned()
        });
        return Ok(Token {
            mount: mount.clone(),
            volume: None,
        });
    }
    trace.note(TraceTopic::Token, || {
        "no container mounts a token: a projected token is added for the sidecar".to_owned()
    });
    Ok(Token {
        mount: mount_of(TOKEN_VOLUME),
        volume: (!pod.volumes.contains(&TOKEN_VOLUME)).then(own_volume),
    })
}

/// Whether a volume is mounted at the path of service account tokens.
pub(crate) fn is_token_mount(mount: &Value) -> bool {
    let path = mount.get("mountPath").and_then(Value::as_str);
    path.is_some_and(|path| path.trim_end_matches('/') == TOKEN_DIRECTORY)
}

fn mount_of(volume: &str) -> Value {
    json!({"name": volume, "readOnly": true, "mountPath": TOKEN_DIRECTORY})
}

/// Renders the projected volume. Without an explicit audience, the token has the API server's audience, which
/// TokenReview expects.
fn own_volume() -> Value {
    json!({
        "name": TOKEN_VOLUME,
        "projected": {
            "sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}],
        },
    })
}
