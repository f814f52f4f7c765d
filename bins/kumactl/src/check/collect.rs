//! Collects the facts for `kumactl check`.

use anyhow::Result;
use futures::future::try_join_all;
use kermode_check::{CNI, Census, Clocks, DryRun, Facts, LEASE, certificate_secrets, required_permissions};
use kermode_crds::annotation::{SIDECAR_INJECTED, SIDECAR_INJECTION};
use kermode_explain::{ObservedCluster, PodReviewer, Unread};
use kermode_install::{CONFIG_MAP, Installation, NAME};
use kermode_k8s::controller::registration::{MUTATING, VALIDATING};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::CheckArgs;
use crate::cluster::{ClusterClient, ClusterError, Resource, Selection, ServerTime};
use crate::control_plane::{Found, REPLICAS, config_in_cluster, get, list, system_namespace};
use crate::install::DEFAULT_NAMESPACE;
use crate::progress::Progress;
use crate::version::VERSION;

/// Namespace of the Leases of the kubelets.
const NODE_LEASES: &str = "kube-node-lease";
/// Custom resources of the mesh.
const DEFINITIONS: [Resource; 4] = [
    Resource::CONTAINER_PATCH,
    Resource::DATAPLANE,
    Resource::MESH,
    Resource::MESH_TRAFFIC_PERMISSION,
];
/// Selection of all objects.
const ALL: Selection<'static> = Selection {
    namespace: None,
    labels: "",
    fields: "",
};

/// Collects the facts before an installation.
pub(super) async fn before_installation(
    client: &ClusterClient,
    args: &CheckArgs,
    progress: &Progress,
) -> Result<Facts> {
    let namespace = args.control_plane_namespace.as_deref();
    let objects = Installation::new(namespace.unwrap_or(DEFAULT_NAMESPACE)).objects()?;
    let mut permissions = required_permissions(&objects);
    let reviews = permissions.iter().map(|permission| {
        client.may(
            permission.verb,
            &permission.resource,
            permission.namespace.as_deref(),
        )
    });
    let allowed = progress
        .during("asking for permissions", try_join_all(reviews))
        .await?;
    for (permission, is_allowed) in permissions.iter_mut().zip(allowed) {
        permission.is_allowed = is_allowed;
    }
    let serves_admission_registrations = match client.serves(&Resource::MUTATING_WEBHOOKS).await {
        Ok(serves) => Some(serves),
        Err(error) if error.is_about_one_resource() => None,
        Err(error) => return Err(error.into()),
    };
    let mut facts = common(client, progress).await?;
    facts.permissions = permissions;
    facts.serves_admission_registrations = serves_admission_registrations;
    Ok(facts)
}

/// Collects the facts about a running mesh.
pub(super) async fn mesh(client: &ClusterClient, args: &CheckArgs, progress: &Progress) -> Result<Facts> {
    let mut facts = common(client, progress).await?;
    let namespace = match &args.control_plane_namespace {
        Some(namespace) => namespace.clone(),
        None => system_namespace(client).await?,
    };
    facts.missing_definitions = match client.mesh_kinds().await {
        Ok(served) => {
            let is_missing = |resource: &&Resource| !served.iter().any(|kind| kind.kind == resource.kind);
            let missing = DEFINITIONS.iter().filter(is_missing);
            Ok(missing.map(Resource::full_name).collect())
        }
        Err(error) if error.is_about_one_resource() => Err(error.to_string()),
        Err(error) => return Err(error.into()),
    };
    progress
        .during(
            "reading the control plane",
            Box::pin(read_control_plane(client, &namespace, &mut facts)),
        )
        .await?;
    facts.dry_run = progress
        .during("creating a Pod in a dry run", dry_run(client, args))
        .await?;
    facts.census = Some(
        progress
            .during("reading Pods and Dataplanes", census(client, &facts.cluster))
            .await?,
    );
    Ok(facts)
}

/// Collects the facts that both checks need.
async fn common(client: &ClusterClient, progress: &Progress) -> Result<Facts> {
    let leases = Selection {
        namespace: Some(NODE_LEASES),
        ..ALL
    };
    let (version, time, nodes, leases) = progress
        .during(
            "reading nodes",
            Box::pin(async {
                tokio::try_join!(
                    client.version(),
                    client.server_time(),
                    list(client, Resource::NODE, ALL),
                    list(client, Resource::LEASE, leases),
                )
            }),
        )
        .await?;
    let mut facts = Facts {
        kumactl_version: VERSION.to_owned(),
        api_server_version: version,
        clocks: time.as_ref().and_then(clocks),
        cluster: ObservedCluster {
            is_live: true,
            ..ObservedCluster::default()
        },
        ..Facts::default()
    };
    add(&mut facts.cluster, [nodes, leases]);
    Ok(facts)
}

fn clocks(time: &ServerTime) -> Option<Clocks> {
    let api_server = OffsetDateTime::parse(&time.api_server, &Rfc2822).ok()?;
    Some(Clocks {
        local: time.local,
        api_server: api_server.into(),
    })
}

/// Reads the objects and the settings of the control plane.
async fn read_control_plane(client: &ClusterClient, namespace: &str, facts: &mut Facts) -> Result<()> {
    let in_namespace = Selection {
        namespace: Some(namespace),
        ..ALL
    };
    let replicas = Selection {
        labels: REPLICAS,
        ..in_namespace
    };
    let (cni, cni_namespace) = CNI;
    let (own, config_map, deployment, replicas) = tokio::try_join!(
        list(client, Resource::NAMESPACE, ALL),
        get(client, Resource::CONFIG_MAP, Some(namespace), CONFIG_MAP),
        get(client, Resource::DEPLOYMENT, Some(namespace), NAME),
        list(client, Resource::POD, replicas),
    )?;
    let others = tokio::try_join!(
        list(client, Resource::MESH, ALL),
        list(client, Resource::CONTAINER_PATCH, in_namespace),
        get(client, Resource::MUTATING_WEBHOOKS, None, MUTATING),
        get(client, Resource::VALIDATING_WEBHOOKS, None, VALIDATING),
        get(client, Resource::LEASE, Some(namespace), LEASE),
        get(client, Resource::DAEMON_SET, Some(cni_namespace), cni),
    )?;
    let cluster = &mut facts.cluster;
    if let Some(config_map) = config_map.0.first() {
        cluster.config = config_in_cluster(config_map, deployment.0.first())?;
        cluster.config_is_known = true;
    }
    namespace.clone_into(&mut cluster.config.store.kubernetes.system_namespace);
    let injector = &mut cluster.config.runtime.kubernetes.injector;
    injector.set_api_server_version(facts.api_server_version);
    cluster.control_plane_pods = replicas.1.is_none().then_some(replicas.0);
    cluster.unread.extend(replicas.1);
    let (meshes, patches, mutating, validating, lease, cni) = others;
    let certificates = certificates(client, namespace, &meshes.0).await?;
    let found = [
        own,
        deployment,
        meshes,
        patches,
        mutating,
        validating,
        lease,
        cni,
        certificates,
    ];
    add(cluster, found);
    Ok(())
}

/// Reads the Secrets with certificates of the meshes' CAs. Secrets with keys are not read.
async fn certificates(client: &ClusterClient, namespace: &str, meshes: &[Value]) -> Found {
    let names = match client.names(&Resource::SECRET, namespace).await {
        Ok(names) => names,
        Err(error) if error.is_about_one_resource() => {
            let unread = Unread {
                kind: Resource::SECRET.kind,
                reason: error.to_string(),
            };
            return Ok((Vec::new(), Some(unread)));
        }
        Err(error) => return Err(error),
    };
    let (mut secrets, mut unread) = (Vec::new(), None);
    for name in certificate_secrets(meshes.iter(), &names) {
        let (found, reason) = get(client, Resource::SECRET, Some(namespace), &name).await?;
        secrets.extend(found);
        unread = unread.or(reason);
    }
    Ok((secrets, unread))
}

/// Creates a Pod with the injection label in a dry run.
async fn dry_run(client: &ClusterClient, args: &CheckArgs) -> Result<DryRun, ClusterError> {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "kumactl-check", "labels": {SIDECAR_INJECTION: "enabled"}},
        // Pod Security `restricted` admits the container.
        "spec": {"containers": [{"name": "app", "image": "none", "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        }}]},
    });
    match client
        .create_in_dry_run(&Resource::POD, &args.namespace, &pod)
        .await
    {
        Ok(pod) if pod["metadata"]["annotations"][SIDECAR_INJECTED] == "true" => Ok(DryRun::Injected),
        Ok(_) => Ok(DryRun::NotInjected),
        Err(error) => match error.refusal() {
            Some((code, message)) => Ok(DryRun::of_error(code, message)
                .unwrap_or_else(|| DryRun::NotTried(format!("no Pod was created: {error}")))),
            None if matches!(error, ClusterError::NotFound { .. }) => Ok(DryRun::NotTried(format!(
                "namespace {} does not exist; name another one with --namespace",
                args.namespace
            ))),
            None => Err(error),
        },
    }
}

/// Reads all Pods and Dataplanes, page by page.
async fn census(client: &ClusterClient, cluster: &ObservedCluster) -> Result<Result<Census, String>> {
    let reviewer = match PodReviewer::new(cluster) {
        Ok(reviewer) => reviewer,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let mut census = Census::default();
    let mut undecodable = None;
    let pods = client
        .visit(&Resource::POD, ALL, |pod| {
            if let Err(error) = census.add_pod(&reviewer, &pod) {
                undecodable = Some(error);
            }
        })
        .await;
    let dataplanes = match pods {
        Ok(()) => {
            client
                .visit(&Resource::DATAPLANE, ALL, |dataplane| {
                    census.add_dataplane(&dataplane);
                })
                .await
        }
        Err(error) => Err(error),
    };
    match (dataplanes, undecodable) {
        (Ok(()), None) => Ok(Ok(census)),
        (Ok(()), Some(error)) => Ok(Err(error.to_string())),
        (Err(error), _) if error.is_about_one_resource() => Ok(Err(error.to_string())),
        (Err(error), _) => Err(error.into()),
    }
}

/// Adds objects, and the kinds that the user may not read.
fn add(cluster: &mut ObservedCluster, found: impl IntoIterator<Item = (Vec<Value>, Option<Unread>)>) {
    for (objects, unread) in found {
        cluster.objects.extend(objects);
        cluster.unread.extend(unread);
    }
}
