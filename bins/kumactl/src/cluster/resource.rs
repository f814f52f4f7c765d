//! Resources of the API server that the commands read.

/// A resource: API group, version, kind and plural.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    /// API group; empty for the core group.
    group: &'static str,
    version: &'static str,
    /// Kind of the objects.
    pub(crate) kind: &'static str,
    plural: &'static str,
}

impl Resource {
    pub(crate) const CONFIG_MAP: Self = Self::new("", "v1", "ConfigMap", "configmaps");
    pub(crate) const CONTAINER_PATCH: Self = Self::kuma("ContainerPatch", "containerpatches");
    pub(crate) const CRON_JOB: Self = Self::new("batch", "v1", "CronJob", "cronjobs");
    pub(crate) const DAEMON_SET: Self = Self::new("apps", "v1", "DaemonSet", "daemonsets");
    pub(crate) const DATAPLANE: Self = Self::kuma("Dataplane", "dataplanes");
    pub(crate) const DEPLOYMENT: Self = Self::new("apps", "v1", "Deployment", "deployments");
    pub(crate) const EVENT: Self = Self::new("", "v1", "Event", "events");
    pub(crate) const JOB: Self = Self::new("batch", "v1", "Job", "jobs");
    pub(crate) const LEASE: Self = Self::new("coordination.k8s.io", "v1", "Lease", "leases");
    pub(crate) const MESH: Self = Self::kuma("Mesh", "meshes");
    pub(crate) const MESH_TRAFFIC_PERMISSION: Self =
        Self::kuma("MeshTrafficPermission", "meshtrafficpermissions");
    pub(crate) const MUTATING_WEBHOOKS: Self = Self::new(
        "admissionregistration.k8s.io",
        "v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
    );
    pub(crate) const NAMESPACE: Self = Self::new("", "v1", "Namespace", "namespaces");
    pub(crate) const NODE: Self = Self::new("", "v1", "Node", "nodes");
    pub(crate) const POD: Self = Self::new("", "v1", "Pod", "pods");
    pub(crate) const REPLICA_SET: Self = Self::new("apps", "v1", "ReplicaSet", "replicasets");
    pub(crate) const SECRET: Self = Self::new("", "v1", "Secret", "secrets");
    pub(crate) const SERVICE: Self = Self::new("", "v1", "Service", "services");
    pub(crate) const STATEFUL_SET: Self = Self::new("apps", "v1", "StatefulSet", "statefulsets");

    pub(crate) const VALIDATING_WEBHOOKS: Self = Self::new(
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
    );

    const fn new(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
    ) -> Self {
        Self {
            group,
            version,
            kind,
            plural,
        }
    }

    const fn kuma(kind: &'static str, plural: &'static str) -> Self {
        Self::new(kermode_crds::GROUP, kermode_crds::VERSION, kind, plural)
    }

    /// Returns the plural with the API group, as `kubectl auth can-i` takes it.
    pub(crate) fn full_name(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Returns the value of `apiVersion` of the objects.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Returns the path of the objects of a namespace; `None` selects all namespaces.
    pub(crate) fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let namespace = namespace
            .map(|namespace| format!("/namespaces/{namespace}"))
            .unwrap_or_default();
        format!("{root}/{}{namespace}/{}", self.api_version(), self.plural)
    }
}
