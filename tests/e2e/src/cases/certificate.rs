//! CA of the control plane: the control plane restores the CA's Secret and the caBundles of the webhook registrations,
//! and running sidecars follow a new CA.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::high_availability::ensure_three_replicas;
use super::outage::{scale_control_plane, wait_for_no_replica};
use super::server_changes::scale_servers;
use crate::fixture::{APP_NAMESPACE, CONTROL_PLANE, Fixture, SERVER_SERVICE, SYSTEM_NAMESPACE};
use crate::harness::envoy::Envoy;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{check_injection_in_dry_run, ip};

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
/// Time limit until a running sidecar trusts a new CA. The kubelet of a local cluster updates a projected ConfigMap within
/// about 15 s, the kubelets of other clusters within about 90 s.
const KUBELET_TIMEOUT: Duration = Duration::from_mins(4);

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

pub(super) async fn running_sidecars_follow_a_new_ca_of_the_control_plane(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let client = fixture.ready_pod_name(APP_NAMESPACE, "client").await?;
    let old_root = published_root(fixture).await?.context("no root is published")?;
    let before = fixture.client_counters().await?;
    scale_control_plane(fixture, 0).await?;
    // A replica would restore the Secret.
    wait_for_no_replica(fixture).await?;
    let secrets = Api::<Secret>::namespaced(fixture.cluster.client.clone(), SYSTEM_NAMESPACE);
    secrets.delete(CA_SECRET, &DeleteParams::default()).await?;
    scale_control_plane(fixture, 1).await?;
    fixture.wait_for_rollout(SYSTEM_NAMESPACE, CONTROL_PLANE).await?;
    fixture.wait_for_admission().await?;
    wait_for("another root to be published", TIMEOUT, async || {
        let root = published_root(fixture).await?;
        let is_new = root.is_some_and(|root| root != old_root);
        Ok(done_if(is_new, (), || "the old root is published".to_owned()))
    })
    .await?;
    let start = std::time::Instant::now();
    let servers = fixture.ready_pods(APP_NAMESPACE, "server").await?.len();
    scale_servers(fixture, servers + 1).await?;
    let outcome = wait_for_endpoints(fixture, &client).await;
    let learned = start.elapsed();
    let increase = fixture.client_counters().await?.since(&before);
    scale_servers(fixture, servers).await?;
    outcome?;
    wait_for_endpoints(fixture, &client).await?;
    ensure!(
        increase.failed == 0 && fixture.ready_pod_name(APP_NAMESPACE, "client").await? == client,
        "the client was restarted, or requests failed: {}",
        increase.request_summary()
    );
    Ok(format!(
        "{}; the old sidecar learned of a new endpoint after {:.0} s",
        increase.request_summary(),
        learned.as_secs_f64()
    ))
}

pub(super) async fn rotation_of_the_control_planes_ca_fails_no_request(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let client = fixture.ready_pod_name(APP_NAMESPACE, "client").await?;
    let old_root = published_root(fixture).await?.context("no root is published")?;
    let before = fixture.client_counters().await?;
    let namespace_flag = format!("--namespace={SYSTEM_NAMESPACE}");
    let secret = format!("secret/{CA_SECRET}");
    let request = format!("kuma.io/rotate-ca=after {client}");
    let arguments = ["annotate", &secret, &namespace_flag, "--overwrite", &request];
    fixture.cluster.kubectl.run(&arguments).await?;
    wait_for_published_roots(fixture, |roots| roots.contains(&old_root) && roots != old_root).await?;
    check_injection_in_dry_run(fixture).await?;
    start_step(fixture, "signs-from").await?;
    wait_for_event(fixture, "CARotationSigning").await?;
    // New connections to a replica, with the certificate of the new CA.
    fixture
        .restart_deployment(SYSTEM_NAMESPACE, CONTROL_PLANE)
        .await?;
    start_step(fixture, "predecessor-trusted-until").await?;
    wait_for_published_roots(fixture, |roots| !roots.contains(&old_root)).await?;
    fixture
        .restart_deployment(SYSTEM_NAMESPACE, CONTROL_PLANE)
        .await?;
    fixture.wait_for_admission().await?;
    let servers = fixture.ready_pods(APP_NAMESPACE, "server").await?.len();
    scale_servers(fixture, servers + 1).await?;
    let outcome = wait_for_endpoints(fixture, &client).await;
    let increase = fixture.client_counters().await?.since(&before);
    scale_servers(fixture, servers).await?;
    outcome?;
    wait_for_endpoints(fixture, &client).await?;
    ensure!(increase.failed == 0, "{}", increase.request_summary());
    Ok(increase.request_summary())
}

/// Only the leader writes the caBundles. Replicas that wrote in turn would change them more often.
pub(super) async fn rotation_with_three_replicas_changes_each_ca_bundle_twice(
    fixture: &Fixture,
) -> Result<Note> {
    ensure_three_replicas(fixture).await?;
    let before = registration_generations(fixture).await?;
    let note = rotation_of_the_control_planes_ca_fails_no_request(fixture).await?;
    let after = registration_generations(fixture).await?;
    // The first change adds the root of the new CA, and the second one removes the root of the old CA.
    let expected: Vec<i64> = before.iter().map(|generation| generation + 2).collect();
    ensure!(
        after == expected,
        "generations of the webhook registrations: {before:?} before the rotation, {after:?} after it"
    );
    Ok(note)
}

/// Returns the generation of each webhook registration. Each change of a caBundle increases it.
async fn registration_generations(fixture: &Fixture) -> Result<Vec<i64>> {
    let mut generations = Vec::new();
    for (kind, name) in REGISTRATIONS {
        let metadata = registration_api(fixture, kind).get(name).await?.metadata;
        generations.push(
            metadata
                .generation
                .context("the registration has no generation")?,
        );
    }
    Ok(generations)
}

/// Starts a step of the rotation: sets the step's time, which is the entry `time_entry` of the Secret of the newest CA,
/// to the current time. The scheduled time is later than the end of this test.
async fn start_step(fixture: &Fixture, time_entry: &str) -> Result<()> {
    let secrets = Api::<Secret>::namespaced(fixture.cluster.client.clone(), SYSTEM_NAMESPACE);
    let selected = ListParams::default().fields("type=system.kuma.io/control-plane-ca");
    let names = secrets.list(&selected).await?.items;
    let number = |secret: &Secret| secret.name_any().rsplit('.').next()?.parse::<u32>().ok();
    let newest = names.iter().max_by_key(|secret| number(secret));
    let newest = newest.context("there is no Secret of a later CA")?.name_any();
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let patch = json!({"stringData": {time_entry: now.to_string()}});
    secrets
        .patch(&newest, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}

/// Waits until the roots in the namespace of the application, and those of the webhook registrations, meet the condition.
async fn wait_for_published_roots(fixture: &Fixture, condition: impl Fn(&str) -> bool) -> Result<()> {
    let published = wait_for("the published roots to change", TIMEOUT, async || {
        let published = published_root(fixture).await?.unwrap_or_default();
        Ok(done_if(condition(&published), published, || {
            "the roots have not changed yet".to_owned()
        }))
    })
    .await?;
    let expected = json!(ByteString(published.into_bytes()));
    for registration in REGISTRATIONS {
        wait_for_ca_bundles(fixture, registration, |bundles| {
            bundles.iter().all(|bundle| *bundle == expected)
        })
        .await?;
    }
    Ok(())
}

/// Waits for an Event about the Secret of the CA.
async fn wait_for_event(fixture: &Fixture, reason: &str) -> Result<()> {
    let namespace_flag = format!("--namespace={SYSTEM_NAMESPACE}");
    let output = "--output=jsonpath={.items[*].reason}";
    wait_for(&format!("Event {reason}"), TIMEOUT, async || {
        let reasons = fixture
            .cluster
            .kubectl
            .run(&["get", "events", &namespace_flag, output])
            .await?;
        Ok(done_if(reasons.contains(reason), (), || reasons))
    })
    .await
}

/// Returns the roots of the control plane that are published in the namespace of the application.
async fn published_root(fixture: &Fixture) -> Result<Option<String>> {
    let api = Api::<ConfigMap>::namespaced(fixture.cluster.client.clone(), APP_NAMESPACE);
    let found = api.get_opt(CA_SECRET).await?;
    Ok(found.and_then(|found| found.data?.remove("ca.crt")))
}

/// Waits until the endpoints of the client's Envoy are the ready servers.
async fn wait_for_endpoints(fixture: &Fixture, client: &str) -> Result<()> {
    let envoy = Envoy::new(&fixture.cluster.kubectl, APP_NAMESPACE, client, "client");
    wait_for(
        "the client's Envoy to have the ready servers as endpoints",
        KUBELET_TIMEOUT,
        async || {
            let servers = fixture.ready_pods(APP_NAMESPACE, "server").await?;
            let endpoints = envoy.endpoints(SERVER_SERVICE).await?;
            let is_endpoint = |ip: &str| {
                endpoints
                    .iter()
                    .any(|endpoint| endpoint.address.to_string().starts_with(&format!("{ip}:")))
            };
            let mut missing = Vec::new();
            for server in &servers {
                if !is_endpoint(ip(server)?) {
                    missing.push(server.name_any());
                }
            }
            let done = missing.is_empty() && endpoints.len() == servers.len();
            Ok(done_if(done, (), || {
                format!("{} endpoints; not among them: {missing:?}", endpoints.len())
            }))
        },
    )
    .await
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
