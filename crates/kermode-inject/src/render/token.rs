//! Where the sidecar's service-account token comes from. It proves to the control plane which Pod this is.

use kermode_crds::annotation::SERVICE_ACCOUNT_TOKEN_VOLUME;
use serde_json::{Value, json};

use crate::denial::Denial;
use crate::names::{TOKEN_DIRECTORY, TOKEN_VOLUME};
use crate::pod::Pod;
use crate::trace::{Trace, TraceTopic};
use crate::values::Values;

/// The sidecar's token: its mount, and the volume when the Pod needs another one for it.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) mount: Value,
    pub(crate) volume: Option<Value>,
}

/// The annotated volume, else what a container of the Pod mounts, else a token of the sidecar's own: bound to the
/// Pod by the kubelet, and seen by no other container.
pub(crate) fn token(pod: &Pod<'_>, annotations: &Values<'_>, trace: &mut Trace) -> Result<Token, Denial> {
    if let Some(volume) = annotations.text(SERVICE_ACCOUNT_TOKEN_VOLUME) {
        if !pod.volumes.contains(&volume) {
            return Err(Denial::TokenVolumeMissing {
                volume: volume.to_owned(),
            });
        }
        trace.note(TraceTopic::Token, || {
            let place = annotations.place(SERVICE_ACCOUNT_TOKEN_VOLUME);
            format!("{place} names the volume {volume}")
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
            "the sidecar mounts what the Pod's containers mount".to_owned()
        });
        return Ok(Token {
            mount: mount.clone(),
            volume: None,
        });
    }
    trace.note(TraceTopic::Token, || {
        "no container mounts a token: the sidecar gets one of its own".to_owned()
    });
    Ok(Token {
        mount: mount_of(TOKEN_VOLUME),
        volume: (!pod.volumes.contains(&TOKEN_VOLUME)).then(own_volume),
    })
}

/// Whether a mount is at the place of service-account tokens.
pub(crate) fn is_token_mount(mount: &Value) -> bool {
    let path = mount.get("mountPath").and_then(Value::as_str);
    path.is_some_and(|path| path.trim_end_matches('/') == TOKEN_DIRECTORY)
}

fn mount_of(volume: &str) -> Value {
    json!({"name": volume, "readOnly": true, "mountPath": TOKEN_DIRECTORY})
}

/// No audience is asked for: the token is for the API server, whose TokenReview the control plane calls.
fn own_volume() -> Value {
    json!({
        "name": TOKEN_VOLUME,
        "projected": {
            "sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}],
        },
    })
}
