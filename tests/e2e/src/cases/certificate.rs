//! CA of the webhooks: the control plane restores the caBundles and the Secret.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::dry_run;
use crate::world::{SYSTEM, World};

/// Webhook registrations, by kind and name.
const REGISTRATIONS: [(&str, &str); 2] = [
    (
        "MutatingWebhookConfiguration",
        "kuma-admission-mutating-webhook-configuration",
    ),
    (
        "ValidatingWebhookConfiguration",
        "kuma-validating-webhook-configuration",
    ),
];
const CA_SECRET: &str = "kuma-control-plane-ca";
/// Deadline of the restoration, which takes a watch event and a patch.
const DEADLINE: Duration = Duration::from_secs(15);

pub(super) async fn missing_or_wrong_ca_bundle_is_restored(world: &World) -> Result<Note> {
    world.installed().await?;
    // The API server accepts only valid certificates as caBundle, so the test uses the CA of the API server.
    let wrong = world.cluster.kubectl.run(&[
        "get",
        "configmap",
        "kube-root-ca.crt",
        "--namespace=default",
        "--output=jsonpath={.data.ca\\.crt}",
    ]);
    let wrong = json!(ByteString(wrong.await?.into_bytes()));
    for registration in REGISTRATIONS {
        let original = bundles(world, registration, |all| all.iter().all(Value::is_string)).await?;
        patch(world, registration, original.len(), &json!({"op": "remove"})).await?;
        bundles(world, registration, |all| all == original)
            .await
            .context("after its removal")?;
        patch(
            world,
            registration,
            original.len(),
            &json!({"op": "replace", "value": wrong}),
        )
        .await?;
        bundles(world, registration, |all| all == original)
            .await
            .context("after its replacement")?;
        world.cluster.kubectl.apply(&world.manifests(&[]).await?).await?;
        bundles(world, registration, |all| all == original)
            .await
            .context("after applying the manifests again")?;
    }
    dry_run(world).await?;
    Ok(String::new())
}

pub(super) async fn deleted_ca_secret_is_restored(world: &World) -> Result<Note> {
    world.installed().await?;
    let before = bundles(world, REGISTRATIONS[0], |all| all.iter().all(Value::is_string)).await?;
    let secrets = Api::<Secret>::namespaced(world.cluster.client.clone(), SYSTEM);
    let deleted = secrets.delete(CA_SECRET, &DeleteParams::default()).await;
    deleted.context("the Secret of the CA")?;
    // Sidecars trust the existing CA, so the restored Secret must contain the same CA.
    wait_for("the Secret of the CA", DEADLINE, async || {
        let secret = secrets.get_opt(CA_SECRET).await?;
        let data = secret.and_then(|secret| secret.data);
        let certificate = json!(data.as_ref().and_then(|data| data.get("ca.crt")));
        let good = before.iter().all(|bundle| *bundle == certificate);
        Ok(done_if(good, (), || format!("its certificate is {certificate}")))
    })
    .await?;
    world.admits().await?;
    Ok(String::new())
}

/// Waits until the caBundles of a registration fulfil the condition, and returns them.
async fn bundles(
    world: &World,
    registration: (&str, &str),
    condition: impl Fn(&[Value]) -> bool,
) -> Result<Vec<Value>> {
    let api = api(world, registration.0);
    wait_for(
        &format!("the caBundle of {}", registration.1),
        DEADLINE,
        async || {
            let object = api.get(registration.1).await?;
            let webhooks = object.data["webhooks"].as_array().map_or(&[][..], Vec::as_slice);
            let all: Vec<Value> = webhooks
                .iter()
                .map(|webhook| webhook["clientConfig"]["caBundle"].clone())
                .collect();
            let good = !all.is_empty() && condition(&all);
            Ok(done_if(good, all, || "it is missing or wrong".to_owned()))
        },
    )
    .await
}

/// Applies an operation to the caBundle of each webhook of a registration.
async fn patch(world: &World, registration: (&str, &str), count: usize, operation: &Value) -> Result<()> {
    let operations: Vec<Value> = (0..count)
        .map(|index| {
            let mut operation = operation.clone();
            operation["path"] = format!("/webhooks/{index}/clientConfig/caBundle").into();
            operation
        })
        .collect();
    let operations = Patch::<()>::Json(serde_json::from_value(operations.into())?);
    api(world, registration.0)
        .patch(registration.1, &PatchParams::default(), &operations)
        .await?;
    Ok(())
}

fn api(world: &World, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
    Api::all_with(world.cluster.client.clone(), &ApiResource::from_gvk(&kind))
}
