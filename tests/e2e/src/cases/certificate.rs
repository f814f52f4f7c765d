//! The webhooks' certificate: nobody has to care for it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::harness::runner::Note;
use crate::harness::wait::{until, when};
use crate::pods::trial;
use crate::world::{CONTROL_PLANE, SYSTEM, World};

const REGISTRATION: &str = "kuma-admission-mutating-webhook-configuration";
const AUTHORITY: &str = "kuma-control-plane-ca";
/// How long putting it right may take: a watch event and a patch.
const SOON: Duration = Duration::from_secs(15);

pub(super) async fn a_ca_bundle_that_is_wiped_or_wrong_is_put_right(world: &World) -> Result<Note> {
    world.installed().await?;
    let right = bundles(world, "the first caBundle", |all| all.iter().all(Option::is_some)).await?;
    trial(world).await?;

    let registrations = registrations(world);
    let wipe: Vec<_> = (0..right.len())
        .map(|index| json!({"op": "remove", "path": format!("/webhooks/{index}/clientConfig/caBundle")}))
        .collect();
    patch(&registrations, json!(wipe)).await?;
    bundles(world, "caBundle after it was removed", |all| all == right).await?;

    // A certificate, as the API server insists on, but not the right one: that of the API server.
    let wrong = world.cluster.kubectl.run(&[
        "get",
        "configmap",
        "kube-root-ca.crt",
        "--namespace=default",
        "--output=jsonpath={.data.ca\\.crt}",
    ]);
    let wrong = ByteString(wrong.await?.into_bytes());
    let replace: Vec<_> = (0..right.len())
        .map(|index| json!({"op": "replace", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": wrong}))
        .collect();
    patch(&registrations, json!(replace)).await?;
    bundles(world, "caBundle after it was replaced", |all| all == right).await?;

    world.cluster.kubectl.apply(&world.manifests(&[]).await?).await?;
    bundles(world, "caBundle after applying the manifests again", |all| {
        all == right
    })
    .await?;
    trial(world).await?;
    Ok(String::new())
}

pub(super) async fn a_new_authority_is_made_and_trusted_when_its_secret_is_gone(
    world: &World,
) -> Result<Note> {
    world.installed().await?;
    let before = bundles(world, "the first caBundle", |all| all.iter().all(Option::is_some)).await?;
    let secrets = Api::<Secret>::namespaced(world.cluster.client.clone(), SYSTEM);
    secrets
        .delete(AUTHORITY, &DeleteParams::default())
        .await
        .context("the authority's Secret")?;
    let here = format!("--namespace={SYSTEM}");
    world
        .cluster
        .kubectl
        .run(&[
            "rollout",
            "restart",
            &format!("deployment/{CONTROL_PLANE}"),
            &here,
        ])
        .await?;
    world.rolled_out(SYSTEM, CONTROL_PLANE).await?;
    let after = bundles(world, "a new caBundle", |all| {
        all.iter()
            .zip(&before)
            .all(|(now, earlier)| now.is_some() && now != earlier)
    })
    .await?;
    let secret = secrets
        .get(AUTHORITY)
        .await
        .context("the authority's new Secret")?;
    let certificate = secret.data.as_ref().and_then(|data| data.get("ca.crt"));
    ensure!(
        after.iter().all(|bundle| bundle.as_ref() == certificate),
        "the caBundle is not the Secret's ca.crt"
    );
    world.admits().await?;
    Ok(String::new())
}

fn registrations(world: &World) -> Api<MutatingWebhookConfiguration> {
    Api::all(world.cluster.client.clone())
}

async fn patch(
    registrations: &Api<MutatingWebhookConfiguration>,
    operations: serde_json::Value,
) -> Result<()> {
    let operations = Patch::<()>::Json(serde_json::from_value(operations)?);
    registrations
        .patch(REGISTRATION, &PatchParams::default(), &operations)
        .await?;
    Ok(())
}

/// Waits until the webhooks' caBundles are as they should be, and returns them.
async fn bundles(
    world: &World,
    what: &str,
    right: impl Fn(&[Option<ByteString>]) -> bool,
) -> Result<Vec<Option<ByteString>>> {
    let registrations = registrations(world);
    until(what, SOON, async || {
        let webhooks = registrations
            .get(REGISTRATION)
            .await?
            .webhooks
            .unwrap_or_default();
        let bundles: Vec<_> = webhooks
            .into_iter()
            .map(|webhook| webhook.client_config.ca_bundle)
            .collect();
        let good = !bundles.is_empty() && right(&bundles);
        Ok(when(good, bundles, || "it is missing or wrong".to_owned()))
    })
    .await
}
