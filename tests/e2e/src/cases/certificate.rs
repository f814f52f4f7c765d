//! CA of the control plane: the control plane restores the CA's Secret and the caBundles of the webhook registrations.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

use crate::fixture::{Fixture, SYSTEM_NAMESPACE};
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::check_injection_in_dry_run;

/// Kind and name of each webhook registration.
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
/// Secret with the CA of the control plane.
const CA_SECRET: &str = "kuma-control-plane-ca";
/// Time limit of a restoration, which usually takes one watch event and one request to the API server.
const TIMEOUT: Duration = Duration::from_secs(15);

pub(super) async fn missing_or_wrong_ca_bundle_is_restored(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    // The API server accepts only valid certificates as caBundle, so the wrong caBundle is the CA of the API server.
    let other_ca = fixture.cluster.kubectl.run(&[
        "get",
        "configmap",
        "kube-root-ca.crt",
        "--namespace=default",
        "--output=jsonpath={.data.ca\\.crt}",
    ]);
    let other_ca = json!(ByteString(other_ca.await?.into_bytes()));
    for registration in REGISTRATIONS {
        let original_bundles = wait_for_ca_bundles(fixture, registration, |bundles| {
            bundles.iter().all(Value::is_string)
        })
        .await?;
        patch_ca_bundles(
            fixture,
            registration,
            original_bundles.len(),
            &json!({"op": "remove"}),
        )
        .await?;
        wait_for_ca_bundles(fixture, registration, |bundles| bundles == original_bundles)
            .await
            .context("after the removal of the caBundle")?;
        patch_ca_bundles(
            fixture,
            registration,
            original_bundles.len(),
            &json!({"op": "replace", "value": other_ca}),
        )
        .await?;
        wait_for_ca_bundles(fixture, registration, |bundles| bundles == original_bundles)
            .await
            .context("after the replacement of the caBundle")?;
        fixture
            .cluster
            .kubectl
            .apply(&fixture.manifests(&[]).await?)
            .await?;
        wait_for_ca_bundles(fixture, registration, |bundles| bundles == original_bundles)
            .await
            .context("after applying the manifests again")?;
    }
    check_injection_in_dry_run(fixture).await?;
    Ok(String::new())
}

pub(super) async fn deleted_ca_secret_is_restored(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    let original_bundles = wait_for_ca_bundles(fixture, REGISTRATIONS[0], |bundles| {
        bundles.iter().all(Value::is_string)
    })
    .await?;
    let secrets = Api::<Secret>::namespaced(fixture.cluster.client.clone(), SYSTEM_NAMESPACE);
    let deletion = secrets.delete(CA_SECRET, &DeleteParams::default()).await;
    deletion.context("the Secret of the CA cannot be deleted")?;
    // Sidecars trust the existing CA, so the restored Secret must contain the same CA.
    wait_for("the Secret of the CA to be restored", TIMEOUT, async || {
        let secret = secrets.get_opt(CA_SECRET).await?;
        let data = secret.and_then(|secret| secret.data);
        let certificate = json!(data.as_ref().and_then(|data| data.get("ca.crt")));
        let unchanged = original_bundles.iter().all(|bundle| *bundle == certificate);
        Ok(done_if(unchanged, (), || {
            format!("the Secret's certificate is {certificate}")
        }))
    })
    .await?;
    fixture.wait_for_admission().await?;
    Ok(String::new())
}

/// Waits until the caBundles of a registration, one for each webhook, meet the condition. Returns the caBundles.
async fn wait_for_ca_bundles(
    fixture: &Fixture,
    registration: (&str, &str),
    condition: impl Fn(&[Value]) -> bool,
) -> Result<Vec<Value>> {
    let api = registration_api(fixture, registration.0);
    wait_for(
        &format!("all caBundles of {} to be as expected", registration.1),
        TIMEOUT,
        async || {
            let object = api.get(registration.1).await?;
            let webhooks = object.data["webhooks"].as_array().map_or(&[][..], Vec::as_slice);
            let bundles: Vec<Value> = webhooks
                .iter()
                .map(|webhook| webhook["clientConfig"]["caBundle"].clone())
                .collect();
            let holds = !bundles.is_empty() && condition(&bundles);
            Ok(done_if(holds, bundles, || {
                "a caBundle is missing or wrong".to_owned()
            }))
        },
    )
    .await
}

/// Applies an operation to the caBundle of each webhook of a registration.
async fn patch_ca_bundles(
    fixture: &Fixture,
    registration: (&str, &str),
    webhook_count: usize,
    operation: &Value,
) -> Result<()> {
    let operations: Vec<Value> = (0..webhook_count)
        .map(|index| {
            let mut operation = operation.clone();
            operation["path"] = format!("/webhooks/{index}/clientConfig/caBundle").into();
            operation
        })
        .collect();
    let operations = Patch::<()>::Json(serde_json::from_value(operations.into())?);
    registration_api(fixture, registration.0)
        .patch(registration.1, &PatchParams::default(), &operations)
        .await?;
    Ok(())
}

/// Returns an API client for the webhook registrations of a kind.
fn registration_api(fixture: &Fixture, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
    Api::all_with(fixture.cluster.client.clone(), &ApiResource::from_gvk(&kind))
}
