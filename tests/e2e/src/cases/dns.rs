//! Names that end in `.mesh`. The mesh is STRICT, so a response shows that the connection had mTLS.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};

use crate::fixture::{APP_NAMESPACE, CONTROL_PLANE, Fixture, SERVER_SERVICE, SYSTEM_NAMESPACE};
use crate::harness::demo;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{demo_pod, is_ready};

/// Time limit of each condition.
const TIMEOUT: Duration = Duration::from_mins(1);
/// ConfigMap with the virtual IPs.
const VIRTUAL_IPS: &str = "kuma-dns-vips";
/// Pod of the headless Service `store`.
const STORE_POD: &str = "store-0";
/// Headless Service. Its Pods listen on port 8080.
const STORE: &str = "
apiVersion: v1
kind: Service
metadata: {name: store, namespace: e2e-mesh}
spec:
  clusterIP: None
  selector: {app: store-0}
  ports: [{appProtocol: http, port: 8080}]
";

pub(super) async fn names_of_services_and_pods_resolve_and_lead_to_them_with_mtls(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let kubectl = &fixture.cluster.kubectl;
    kubectl.apply(STORE).await?;
    let pods = fixture.pods(APP_NAMESPACE);
    let pod = demo_pod(fixture, APP_NAMESPACE, STORE_POD, &["server"])?;
    pods.create(&PostParams::default(), &pod).await?;
    let outcome = check_names(fixture).await;
    pods.delete(STORE_POD, &DeleteParams::default()).await?;
    kubectl.delete(STORE, true).await?;
    outcome
}

async fn check_names(fixture: &Fixture) -> Result<Note> {
    let pods = fixture.pods(APP_NAMESPACE);
    wait_for(
        "the Pod of the headless Service to be ready",
        TIMEOUT,
        async || {
            let pod = pods.get(STORE_POD).await?;
            Ok(done_if(is_ready(&pod), (), || format!("{:?}", pod.status)))
        },
    )
    .await?;
    let client = fixture.ready_pod_name(APP_NAMESPACE, "client").await?;
    let server_with_dots = SERVER_SERVICE.replace('_', ".");
    let urls = [
        (format!("http://{SERVER_SERVICE}.mesh/"), "server_e2e-mesh_svc_80"),
        (
            format!("http://{server_with_dots}.mesh/"),
            "server_e2e-mesh_svc_80",
        ),
        // The Pod itself is called at its container port.
        (
            "http://store_e2e-mesh_svc_8080.store-0.mesh:8080/".to_owned(),
            "store_e2e-mesh_svc_8080",
        ),
        (
            "http://store.e2e-mesh.svc.8080.store-0.mesh:8080/".to_owned(),
            "store_e2e-mesh_svc_8080",
        ),
        (
            "http://store_e2e-mesh_svc_8080.mesh/".to_owned(),
            "store_e2e-mesh_svc_8080",
        ),
    ];
    // The last name is called only after the restart, so no cache has its address or its cluster.
    let (late, early) = urls.split_last().context("no names")?;
    for (url, service) in early {
        call(fixture, &client, url, service).await?;
    }
    let failure = demo::get_expecting_failure(
        &fixture.cluster.kubectl,
        APP_NAMESPACE,
        &client,
        "http://nothing.mesh/",
    )
    .await?;
    ensure!(
        !failure.to_lowercase().contains("time"),
        "the lookup of an unknown name gets no response: {failure}"
    );
    let before = virtual_ips(fixture).await?;
    fixture
        .restart_deployment(SYSTEM_NAMESPACE, CONTROL_PLANE)
        .await?;
    let config_maps: Api<ConfigMap> = Api::namespaced(fixture.cluster.client.clone(), SYSTEM_NAMESPACE);
    config_maps.delete(VIRTUAL_IPS, &DeleteParams::default()).await?;
    wait_for("the virtual IPs to be stored again", TIMEOUT, async || {
        let after = virtual_ips(fixture).await.unwrap_or_default();
        Ok(done_if(before == after, (), || {
            format!("{after} instead of {before}")
        }))
    })
    .await?;
    call(fixture, &client, &late.0, late.1).await?;
    Ok(format!("{} names resolved; unknown name: {failure}", urls.len()))
}

/// Calls a URL until it responds, because a new service needs a moment. Checks the identities of both ends of the
/// connection.
async fn call(fixture: &Fixture, client: &str, url: &str, service: &str) -> Result<()> {
    let texts = [
        "URI=spiffe://default/client_e2e-mesh_svc".to_owned(),
        format!("By=spiffe://default/{service}"),
    ];
    wait_for(&format!("a response of {url}"), TIMEOUT, async || {
        let result = demo::get(&fixture.cluster.kubectl, APP_NAMESPACE, client, "client", url).await;
        let response = result.unwrap_or_else(|error| format!("{error:#}"));
        let is_expected = texts.iter().all(|text| response.contains(text));
        Ok(done_if(is_expected, (), || response))
    })
    .await
}

/// Returns the virtual IPs that the control plane has stored.
async fn virtual_ips(fixture: &Fixture) -> Result<String> {
    let config_maps: Api<ConfigMap> = Api::namespaced(fixture.cluster.client.clone(), SYSTEM_NAMESPACE);
    let config_map = config_maps.get(VIRTUAL_IPS).await?;
    let name = config_map.name_any();
    let text = config_map.data.and_then(|mut data| data.remove("default"));
    text.ok_or_else(|| anyhow::anyhow!("ConfigMap {name} has no entry default"))
}
