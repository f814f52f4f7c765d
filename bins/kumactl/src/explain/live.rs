//! Reads the objects of `kumactl explain` from a cluster. An object that the user may not read is left out, and the
//! explanation says so; only the explained object itself is required.

use anyhow::Result;
use kermode_explain::{ObservedCluster, Unread};
use kermode_install::{CONFIG_MAP, NAME};
use kermode_k8s::controller::registration::MUTATING;
use kermode_model::{CONTROL_PLANE_CA_CONFIG_MAP, CONTROL_PLANE_CA_ENTRY};
use serde_json::Value;

use crate::cluster::{ClusterClient, Resource, Selection};
use crate::control_plane::{REPLICAS, config_in_cluster, get, list, system_namespace};

/// Reader of the objects that explain an object of one namespace.
pub(super) struct Reader<'a> {
    client: &'a ClusterClient,
    namespace: &'a str,
    /// Objects that all explanations read.
    observed: ObservedCluster,
}

// === impl Reader ===

impl<'a> Reader<'a> {
    /// Reads the objects that all explanations need. `control_plane_namespace` is the namespace of the control plane if the
    /// user has named it.
    pub(super) async fn new(
        client: &'a ClusterClient,
        namespace: &'a str,
        control_plane_namespace: Option<&str>,
    ) -> Result<Self> {
        let system_namespace = match control_plane_namespace {
            Some(namespace) => namespace.to_owned(),
            None => system_namespace(client).await?,
        };
        let in_system = Selection {
            namespace: Some(&system_namespace),
            ..Selection::default()
        };
        let in_namespace = Selection {
            namespace: Some(namespace),
            ..Selection::default()
        };
        let warnings = Selection {
            fields: "type=Warning",
            ..in_namespace
        };
        let (own_namespace, webhooks, meshes, patches, nodes, services, events) = tokio::try_join!(
            get(client, Resource::NAMESPACE, None, namespace),
            get(client, Resource::MUTATING_WEBHOOKS, None, MUTATING),
            list(client, Resource::MESH, Selection::default()),
            list(client, Resource::CONTAINER_PATCH, in_system),
            list(client, Resource::NODE, Selection::default()),
            list(client, Resource::SERVICE, in_namespace),
            list(client, Resource::EVENT, warnings),
        )?;
        let mut observed = ObservedCluster {
            is_live: true,
            ..ObservedCluster::default()
        };
        for (objects, unread) in [own_namespace, webhooks, meshes, patches, nodes, services, events] {
            observed.objects.extend(objects);
            observed.unread.extend(unread);
        }
        let mut reader = Self {
            client,
            namespace,
            observed,
        };
        reader.read_configuration(&system_namespace).await?;
        Ok(reader)
    }

    /// Reads the configuration of the control plane, its roots, and the version of the API server.
    async fn read_configuration(&mut self, system_namespace: &str) -> Result<()> {
        let (client, observed) = (self.client, &mut self.observed);
        let replicas = Selection {
            namespace: Some(system_namespace),
            labels: REPLICAS,
            ..Selection::default()
        };
        let ((config_map, unread), (deployment, _), (roots, _), (replicas, unread_replicas), version) = tokio::try_join!(
            get(client, Resource::CONFIG_MAP, Some(system_namespace), CONFIG_MAP),
            get(client, Resource::DEPLOYMENT, Some(system_namespace), NAME),
            get(
                client,
                Resource::CONFIG_MAP,
                Some(self.namespace),
                CONTROL_PLANE_CA_CONFIG_MAP
            ),
            list(client, Resource::POD, replicas),
            client.version(),
        )?;
        observed.unread.extend(unread);
        // Without its Deployment, the control plane runs outside of the cluster.
        let has_replicas = unread_replicas.is_none() && !deployment.is_empty();
        observed.control_plane_pods = has_replicas.then_some(replicas);
        system_namespace.clone_into(&mut observed.config.store.kubernetes.system_namespace);
        if let Some(config_map) = config_map.first() {
            observed.config = config_in_cluster(config_map, deployment.first())?;
            observed.config_is_known = true;
        }
        observed
            .config
            .runtime
            .kubernetes
            .injector
            .set_api_server_version(version);
        // With this setting, sidecars get the roots of a file of the control plane.
        let has_own_roots = observed.config.injector().ca_cert_file.is_empty();
        let roots = roots.first().filter(|_| has_own_roots);
        let roots = roots.and_then(|roots| roots["data"][CONTROL_PLANE_CA_ENTRY].as_str());
        observed.control_plane_roots = roots.map(str::to_owned);
        Ok(())
    }

    /// Reads a Pod with its Dataplane and its controllers.
    pub(super) async fn pod(mut self, name: &str) -> Result<ObservedCluster> {
        let namespace = Some(self.namespace);
        let pod = self.client.get(&Resource::POD, namespace, name).await?;
        let dataplane = get(self.client, Resource::DATAPLANE, namespace, name).await?;
        self.add(dataplane);
        let owners = pod["metadata"]["ownerReferences"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for owner in owners.iter().filter(|owner| owner["controller"] == true) {
            let name = owner["name"].as_str().unwrap_or_default();
            for resource in [Resource::REPLICA_SET, Resource::JOB] {
                if owner["kind"] == resource.kind {
                    let found = get(self.client, resource, namespace, name).await?;
                    self.add(found);
                }
            }
        }
        self.observed.objects.push(pod);
        Ok(self.observed)
    }

    /// Reads a Deployment with its ReplicaSets and Pods.
    pub(super) async fn deployment(mut self, name: &str) -> Result<ObservedCluster> {
        let deployment = self
            .client
            .get(&Resource::DEPLOYMENT, Some(self.namespace), name)
            .await?;
        self.observed.objects.push(deployment);
        self.add_pods().await?;
        Ok(self.observed)
    }

    /// Reads the Pods of the namespace.
    pub(super) async fn namespace(mut self) -> Result<ObservedCluster> {
        // The Namespace was read already, unless it does not exist or the user may not read it.
        if self
            .observed
            .find(Resource::NAMESPACE.kind, "", self.namespace)
            .is_none()
        {
            self.client
                .get(&Resource::NAMESPACE, None, self.namespace)
                .await?;
        }
        self.add_pods().await?;
        Ok(self.observed)
    }

    /// Reads the Pods of the namespace with their controllers and Dataplanes.
    async fn add_pods(&mut self) -> Result<()> {
        let selection = Selection {
            namespace: Some(self.namespace),
            ..Selection::default()
        };
        let (pods, replica_sets, jobs, dataplanes) = tokio::try_join!(
            list(self.client, Resource::POD, selection),
            list(self.client, Resource::REPLICA_SET, selection),
            list(self.client, Resource::JOB, selection),
            list(self.client, Resource::DATAPLANE, selection),
        )?;
        for found in [pods, replica_sets, jobs, dataplanes] {
            self.add(found);
        }
        Ok(())
    }

    fn add(&mut self, (objects, unread): (Vec<Value>, Option<Unread>)) {
        self.observed.objects.extend(objects);
        self.observed.unread.extend(unread);
    }
}
