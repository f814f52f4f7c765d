//! Meshes: validation, status, the permission that the control plane creates for a new Mesh, passthrough, and a Mesh that
//! is deleted and created again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::identity::SidecarSecrets;
use crate::fixture::{APP_NAMESPACE, Fixture, OUTSIDE_NAMESPACE, SYSTEM_NAMESPACE};
use crate::harness::demo;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::demo_pod;

/// Time limit of each condition that the tests wait for.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Invalid objects, each with a text that its denial must contain.
const INVALID_OBJECTS: [(&str, &str); 6] = [
    (
        "{apiVersion: kuma.io/v1alpha1, kind: Mesh, metadata: {name: team.one}, spec: {}}",
        "metadata.name must be a DNS label",
    ),
    (
        "{apiVersion: kuma.io/v1alpha1, kind: Mesh, metadata: {name: team}, spec: {mtls: {enabledBackend: ca, backends: [
         {name: ca, type: builtin, dpCert: {rotation: {expiration: soon}}}]}}}",
        "spec.mtls.backends[0].dpCert.rotation.expiration: ",
    ),
    (
        "{apiVersion: kuma.io/v1alpha1, kind: Mesh, metadata: {name: team}, spec: {mtls: {enabledBackend: v, backends: [
         {name: v, type: vault}]}}}",
        "spec.mtls.backends[0].type: \"vault\" is not supported: use builtin",
    ),
    (
        "{apiVersion: kuma.io/v1alpha1, kind: Dataplane, metadata: {name: by-hand, namespace: default}, mesh: nowhere,
         spec: {networking: {address: 0.0.0.0, inbound: [{port: 80, tags: {kuma.io/service: web}}]}}}",
        "mesh: there is no Mesh \"nowhere\": create it or name another; \
         spec.networking.address: must not be 0.0.0.0 or ::",
    ),
    (
        "{apiVersion: kuma.io/v1alpha1, kind: Dataplane, metadata: {name: by-hand, namespace: default}, mesh: default,
         spec: {networking: {address: 10.0.0.1, inbound: [{port: 80, tags: {kuma.io/service: web,
         kuma.io/protocol: mongo}}]}}}",
        "tag \"kuma.io/protocol\" has an invalid value \"mongo\". Allowed values: grpc, http, http2, kafka, tcp",
    ),
    (
        "{apiVersion: kuma.io/v1alpha1, kind: MeshTrafficPermission, metadata: {name: p, namespace: default}, spec: {
         targetRef: {kind: Mesh}, from: [{targetRef: {kind: Mesh}, default: {action: Allow}}]}}",
        "MeshTrafficPermission can only be placed in kong-mesh-system namespace",
    ),
];

pub(super) async fn denial_of_an_invalid_resource_names_the_field_and_the_remedy(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    fixture.wait_for_default_mesh().await?;
    let dry_run = ["apply", "--dry-run=server", "--filename=-"];
    for (object, expected) in INVALID_OBJECTS {
        let output = fixture.cluster.kubectl.output(&dry_run, object).await?;
        let message = String::from_utf8_lossy(&output.stderr);
        ensure!(
            !output.status.success(),
            "{object} was admitted, although it is invalid"
        );
        ensure!(
            message.contains(expected),
            "{expected:?} is missing from the denial: {message}"
        );
    }
    Ok(format!("{} invalid objects were denied", INVALID_OBJECTS.len()))
}

pub(super) async fn status_shows_mtls_mode_and_numbers_of_dataplanes_and_services(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("kuma.io", "v1alpha1", "Mesh"));
    let meshes: Api<DynamicObject> = Api::all_with(fixture.cluster.client.clone(), &kind);
    let status = wait_for("the status of Mesh default", TIMEOUT, async || {
        let status = meshes.get("default").await?.data["status"].clone();
        let complete = status["mtls"] == "STRICT"
            && status["conditions"][0]["type"] == "Accepted"
            && status["conditions"][0]["status"] == "True"
            && status["dataplanes"].as_u64() >= Some(2)
            && status["services"].as_u64() >= Some(2);
        Ok(done_if(complete, status.clone(), || format!("{status:#}")))
    })
    .await?;
    let table = fixture.cluster.kubectl.run(&["get", "meshes"]).await?;
    for expected in ["MTLS", "BACKEND", "DATAPLANES", "STRICT", "ca-1"] {
        ensure!(
            table.contains(expected),
            "{expected} is missing from the Meshes that kubectl prints:\n{table}"
        );
    }
    Ok(format!(
        "{} Dataplanes of {} services",
        status["dataplanes"], status["services"]
    ))
}

pub(super) async fn initial_permission_allows_all_traffic_and_is_not_recreated_after_its_deletion(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    let kubectl = &fixture.cluster.kubectl;
    let namespace_flag = "--namespace=kong-mesh-system";
    let read_permission = async |name: &str| -> Result<Value> {
        let arguments = [
            "get",
            "meshtrafficpermission",
            name,
            namespace_flag,
            "--output=json",
        ];
        Ok(serde_json::from_str(&kubectl.run(&arguments).await?)?)
    };
    let permission = read_permission("allow-all-default").await?;
    ensure!(
        permission["spec"]
            == json!({"targetRef": {"kind": "Mesh"},
                "from": [{"targetRef": {"kind": "Mesh"}, "default": {"action": "Allow"}}]}),
        "the initial permission does not allow all traffic: its spec is {:#}",
        permission["spec"]
    );
    let second_mesh = "{apiVersion: kuma.io/v1alpha1, kind: Mesh, metadata: {name: e2e-second}, spec: {}}";
    kubectl.apply(second_mesh).await?;
    let outcome = async {
        wait_for("the initial permission of a second Mesh", TIMEOUT, async || {
            let found = read_permission("allow-all-e2e-second").await;
            Ok(done_if(found.is_ok(), (), || format!("{found:?}")))
        })
        .await?;
        kubectl
            .run(&[
                "delete",
                "meshtrafficpermission",
                "allow-all-e2e-second",
                namespace_flag,
            ])
            .await?;
        // The control plane must not recreate the deleted permission when it handles a change of the Mesh.
        let patch = "--patch={\"spec\": {\"networking\": {\"outbound\": {\"passthrough\": true}}}}";
        kubectl
            .run(&["patch", "mesh", "e2e-second", "--type=merge", patch])
            .await?;
        wait_for("the status of the changed Mesh", TIMEOUT, async || {
            let output_flag =
                "--output=jsonpath={.metadata.generation} {.status.conditions[0].observedGeneration}";
            let text = kubectl.run(&["get", "mesh", "e2e-second", output_flag]).await?;
            let is_observed = text
                .split_once(' ')
                .is_some_and(|(generation, observed)| generation == observed);
            Ok(done_if(is_observed, (), || text))
        })
        .await?;
        ensure!(
            read_permission("allow-all-e2e-second").await.is_err(),
            "the deleted permission was recreated"
        );
        Ok(())
    };
    let outcome = outcome.await;
    kubectl.delete(second_mesh, true).await?;
    outcome?;
    Ok(String::new())
}

pub(super) async fn requests_that_leave_the_mesh_fail_without_passthrough(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let kubectl = &fixture.cluster.kubectl;
    let client = fixture.ready_pod_name(APP_NAMESPACE, "client").await?;
    let url = format!("http://server.{OUTSIDE_NAMESPACE}.svc/");
    demo::get(kubectl, APP_NAMESPACE, &client, "client", &url).await?;
    set_passthrough(fixture, false).await?;
    let outcome = wait_for("requests that leave the mesh to fail", TIMEOUT, async || {
        let failure = demo::get_expecting_failure(kubectl, APP_NAMESPACE, &client, &url).await;
        let request_failed = failure.is_ok();
        Ok(done_if(request_failed, failure.unwrap_or_default(), || {
            "requests still succeed".to_owned()
        }))
    })
    .await;
    // Requests within the mesh must still succeed.
    let mesh_response = demo::get(
        kubectl,
        APP_NAMESPACE,
        &client,
        "client",
        crate::fixture::SERVER_URL,
    )
    .await;
    set_passthrough(fixture, true).await?;
    let failure = outcome?;
    mesh_response?;
    wait_for("requests that leave the mesh to succeed", TIMEOUT, async || {
        let response = demo::get(kubectl, APP_NAMESPACE, &client, "client", &url).await;
        Ok(done_if(response.is_ok(), (), || format!("{response:?}")))
    })
    .await?;
    Ok(failure)
}

async fn set_passthrough(fixture: &Fixture, enabled: bool) -> Result<()> {
    let patch = json!({"spec": {"networking": {"outbound": {"passthrough": enabled}}}});
    let patch = format!("--patch={patch}");
    fixture
        .cluster
        .kubectl
        .run(&["patch", "mesh", "default", "--type=merge", &patch])
        .await?;
    Ok(())
}

/// Mesh that is deleted and created again, and the Service of its server.
const RECREATED: &str = "
apiVersion: kuma.io/v1alpha1
kind: Mesh
metadata: {name: e2e-recreated}
spec: {mtls: {enabledBackend: ca-1, backends: [{name: ca-1, type: builtin, mode: STRICT}]}}
";
const RECREATED_SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: recreated, namespace: e2e-mesh}
spec:
  selector: {app: recreated-server}
  ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]
";
/// Pods of the Mesh.
const RECREATED_PODS: [&str; 2] = ["recreated-server", "recreated-client"];
/// Time limit until the sidecars have certificates of the new CA. A sidecar notices the new Mesh within 30 s.
const NEW_CA_TIMEOUT: Duration = Duration::from_mins(1);

pub(super) async fn pods_of_a_mesh_that_was_deleted_and_created_again_talk_under_its_new_ca(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    fixture.ensure_application().await?;
    let kubectl = &fixture.cluster.kubectl;
    let pods = fixture.pods(APP_NAMESPACE);
    kubectl.apply(RECREATED).await?;
    kubectl.apply(RECREATED_SERVICE).await?;
    for name in RECREATED_PODS {
        let mut pod = demo_pod(fixture, APP_NAMESPACE, name, &["server"])?;
        pod.annotations_mut()
            .insert("kuma.io/mesh".to_owned(), "e2e-recreated".to_owned());
        pods.create(&PostParams::default(), &pod).await?;
    }
    let outcome = check_recreation(fixture).await;
    for name in RECREATED_PODS {
        pods.delete(name, &DeleteParams::default()).await?;
    }
    kubectl.delete(RECREATED_SERVICE, true).await?;
    kubectl.delete(RECREATED, true).await?;
    outcome
}

async fn check_recreation(fixture: &Fixture) -> Result<Note> {
    let kubectl = &fixture.cluster.kubectl;
    wait_for_response_in_recreated_mesh(fixture).await?;
    let old_root = root_of_recreated_mesh(fixture)
        .await?
        .context("the Mesh has no CA")?;
    kubectl.delete(RECREATED, true).await?;
    wait_for(
        "Secrets and permission of the deleted Mesh to be gone",
        TIMEOUT,
        async || {
            let left_over = objects_of_recreated_mesh(fixture).await?;
            Ok(done_if(left_over.is_empty(), (), || {
                format!("{left_over:?} remain")
            }))
        },
    )
    .await?;
    let start = Instant::now();
    kubectl.apply(RECREATED).await?;
    let new_root = wait_for("the CA of the new Mesh", TIMEOUT, async || {
        let root = root_of_recreated_mesh(fixture).await?;
        Ok(done_if(root.is_some(), root, || "the Mesh has no CA".to_owned()))
    })
    .await?
    .context("the Mesh has no CA")?;
    ensure!(new_root != old_root, "the new Mesh has the CA of the deleted one");
    wait_for("both sidecars to have the new CA", NEW_CA_TIMEOUT, async || {
        let mut outdated = Vec::new();
        for pod in RECREATED_PODS {
            let secrets = SidecarSecrets::read(fixture, pod, "client").await?;
            if !secrets.trusts_exactly(&[&new_root]) || !secrets.chains_to(&new_root) {
                outdated.push(pod);
            }
        }
        Ok(done_if(outdated.is_empty(), (), || {
            format!("{outdated:?} have not")
        }))
    })
    .await?;
    wait_for_response_in_recreated_mesh(fixture).await?;
    let duration = start.elapsed();
    for name in RECREATED_PODS {
        let status = fixture
            .pods(APP_NAMESPACE)
            .get(name)
            .await?
            .status
            .unwrap_or_default();
        let init_containers = status.init_container_statuses.into_iter().flatten();
        let mut containers = init_containers.chain(status.container_statuses.into_iter().flatten());
        ensure!(
            containers.all(|container| container.restart_count == 0),
            "a container of Pod {name} was restarted"
        );
    }
    Ok(format!(
        "responses under the new CA after {:.0} s",
        duration.as_secs_f64()
    ))
}

async fn wait_for_response_in_recreated_mesh(fixture: &Fixture) -> Result<()> {
    let url = format!("http://recreated.{APP_NAMESPACE}.svc/");
    wait_for("a response in the Mesh", NEW_CA_TIMEOUT, async || {
        let (kubectl, client) = (&fixture.cluster.kubectl, RECREATED_PODS[1]);
        let response = demo::get(kubectl, APP_NAMESPACE, client, "client", &url).await;
        Ok(done_if(response.is_ok(), (), || format!("{response:?}")))
    })
    .await
}

/// Returns the certificate of the Mesh's first CA.
async fn root_of_recreated_mesh(fixture: &Fixture) -> Result<Option<CertificateDer<'static>>> {
    let secrets = Api::<Secret>::namespaced(fixture.cluster.client.clone(), SYSTEM_NAMESPACE);
    let secret = secrets.get_opt("e2e-recreated.ca-builtin-cert-ca-1").await?;
    let Some(pem) = secret.and_then(|secret| secret.data?.remove("value")) else {
        return Ok(None);
    };
    Ok(Some(CertificateDer::from_pem_slice(&pem.0)?))
}

/// Returns the names of the Secrets and of the permissions of the Mesh.
async fn objects_of_recreated_mesh(fixture: &Fixture) -> Result<Vec<String>> {
    let client = &fixture.cluster.client;
    let secrets = Api::<Secret>::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(
        "kuma.io",
        "v1alpha1",
        "MeshTrafficPermission",
    ));
    let permissions = Api::<DynamicObject>::namespaced_with(client.clone(), SYSTEM_NAMESPACE, &kind);
    let all = ListParams::default();
    let secret_names = secrets
        .list(&all)
        .await?
        .into_iter()
        .map(|secret| secret.name_any());
    let permission_names = permissions
        .list(&all)
        .await?
        .into_iter()
        .map(|object| object.name_any());
    Ok(secret_names
        .chain(permission_names)
        .filter(|name| name.contains("e2e-recreated"))
        .collect())
}
