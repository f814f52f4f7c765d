//! The declarations of all options.

use serde_json::{Value, json};

use super::format::{
    CIDR, DNS_LABEL, DNS_SUBDOMAIN, FOLDER, IMAGE_PART, LABEL_KEY, LABEL_VALUE, NETWORK_FILE, QUANTITY,
    REGISTRY, WEBHOOK_URL,
};
use super::{InstallOption, Kind};

/// Default registry of the images. No public registry has this name, so an installation without a registry runs only
/// images that were loaded onto the nodes.
const DEFAULT_REGISTRY: &str = "localhost/kermode";

/// Default tag of the images: the version of this build.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Declares an option.
fn option(
    path: &'static str,
    flag: &'static str,
    kind: Kind,
    default: impl Into<Value>,
    meaning: &'static str,
) -> InstallOption {
    InstallOption {
        path,
        flag,
        group: "",
        kind,
        default: default.into(),
        chart_default: None,
        meaning,
    }
}

/// Returns all options, in the order of the reference.
pub(super) fn all() -> Vec<InstallOption> {
    let groups = [
        ("Control plane", control_plane()),
        ("Images", images()),
        ("Pods of the control plane", pods()),
        ("Network policies", network_policies()),
        ("CNI plugin", cni()),
        ("Control plane outside of the cluster", outside()),
    ];
    let with_group = |(group, options): (_, Vec<_>)| {
        options
            .into_iter()
            .map(move |option| InstallOption { group, ..option })
    };
    groups.into_iter().flat_map(with_group).collect()
}

fn control_plane() -> Vec<InstallOption> {
    let mut create_namespace = option(
        "createNamespace",
        "create-namespace",
        Kind::Boolean,
        true,
        "Create the namespace of the control plane. The default of the chart is false, because Helm needs the namespace \
         before the installation.",
    );
    create_namespace.chart_default = Some(false.into());
    vec![
        create_namespace,
        option(
            "controlPlane.mode",
            "mode",
            Kind::Choice(&["standalone", "zone", "global"]),
            "standalone",
            "Mode of the control plane: a single cluster (standalone), or one zone of several (zone). The mode global is \
             not supported yet.",
        ),
        option(
            "controlPlane.zone",
            "zone",
            Kind::OptionalText(DNS_LABEL),
            "",
            "Name of this zone, the value of the tag kuma.io/zone of every inbound.",
        ),
        option(
            "controlPlane.replicas",
            "replicas",
            Kind::Integer {
                minimum: 1,
                maximum: 100,
            },
            1,
            "Number of replicas of the control plane.",
        ),
        option(
            "controlPlane.injectorFailurePolicy",
            "injector-failure-policy",
            Kind::Choice(&["Fail", "Ignore"]),
            "Fail",
            "Failure policy of the injector, for Pods that have an injection label or whose namespace has one. While no \
             replica is ready, Fail denies these Pods and Ignore admits them without a sidecar.",
        ),
        option(
            "controlPlane.envVars",
            "env-var",
            Kind::EnvironmentVariables,
            json!({}),
            "Environment variables of the control plane.",
        ),
        option(
            "controlPlane.config",
            "set",
            Kind::Configuration,
            json!({}),
            "Settings of the control plane's configuration file, which are merged into the file.",
        ),
    ]
}

fn images() -> Vec<InstallOption> {
    let mut options = vec![
        option(
            "global.image.registry",
            "registry",
            Kind::Text(REGISTRY),
            DEFAULT_REGISTRY,
            "Registry of all images.",
        ),
        option(
            "global.imagePullSecrets",
            "image-pull-secret",
            Kind::Texts(DNS_SUBDOMAIN),
            json!([]),
            "Secrets with credentials for the registry, for the Pods of the control plane and of the CNI plugin and for \
             injected Pods. They must exist in the namespace of each of these Pods.",
        ),
    ];
    options.extend(image(
        [
            "controlPlane.image.registry",
            "controlPlane.image.repository",
            "controlPlane.image.tag",
        ],
        [
            "control-plane-registry",
            "control-plane-repository",
            "control-plane-version",
        ],
        "kuma-cp",
        [
            "Registry of the control plane's image. Empty: {global.image.registry}.",
            "Repository of the control plane's image.",
            "Tag of the control plane's image.",
        ],
    ));
    options.extend(image(
        [
            "dataPlane.image.registry",
            "dataPlane.image.repository",
            "dataPlane.image.tag",
        ],
        ["dataplane-registry", "dataplane-repository", "dataplane-version"],
        "kuma-dp",
        [
            "Registry of the sidecar's image. Empty: {global.image.registry}.",
            "Repository of the sidecar's image.",
            "Tag of the sidecar's image.",
        ],
    ));
    options.extend(image(
        [
            "dataPlane.initImage.registry",
            "dataPlane.initImage.repository",
            "dataPlane.initImage.tag",
        ],
        [
            "dataplane-init-registry",
            "dataplane-init-repository",
            "dataplane-init-version",
        ],
        "kuma-init",
        [
            "Registry of the init container's image. Empty: {global.image.registry}.",
            "Repository of the init container's image.",
            "Tag of the init container's image.",
        ],
    ));
    options
}

/// Registry, repository and tag of an image, with the paths, flags and meanings of the three.
fn image(
    paths: [&'static str; 3],
    flags: [&'static str; 3],
    repository: &str,
    meanings: [&'static str; 3],
) -> [InstallOption; 3] {
    [
        option(paths[0], flags[0], Kind::OptionalText(REGISTRY), "", meanings[0]),
        option(
            paths[1],
            flags[1],
            Kind::Text(IMAGE_PART),
            repository,
            meanings[1],
        ),
        option(paths[2], flags[2], Kind::Text(IMAGE_PART), VERSION, meanings[2]),
    ]
}

/// Options of the Pods of the control plane.
fn pods() -> Vec<InstallOption> {
    vec![
        option(
            "controlPlane.resources.requests.cpu",
            "control-plane-cpu-request",
            Kind::Text(QUANTITY),
            "100m",
            "CPU that a replica requests.",
        ),
        option(
            "controlPlane.resources.requests.memory",
            "control-plane-memory-request",
            Kind::Text(QUANTITY),
            "64Mi",
            "Memory that a replica requests.",
        ),
        option(
            "controlPlane.resources.limits.memory",
            "control-plane-memory-limit",
            Kind::Text(QUANTITY),
            "512Mi",
            "Memory that a replica may use. A replica that needs more is ended.",
        ),
        option(
            "controlPlane.priorityClassName",
            "control-plane-priority-class",
            Kind::OptionalText(DNS_SUBDOMAIN),
            "",
            "PriorityClass of the replicas, for example system-cluster-critical. It must exist. Empty: the default of the \
             cluster.",
        ),
        option(
            "controlPlane.nodeSelector",
            "control-plane-node-selector",
            Kind::Map {
                key: LABEL_KEY,
                value: LABEL_VALUE,
            },
            json!({"kubernetes.io/os": "linux"}),
            "Labels of the nodes on which the replicas run, in addition to the default.",
        ),
        option(
            "controlPlane.tolerations",
            "control-plane-toleration",
            Kind::Tolerations,
            json!([]),
            "Taints of nodes on which the replicas may run nevertheless.",
        ),
        option(
            "controlPlane.topologySpread",
            "control-plane-topology-spread",
            Kind::Choices {
                key: LABEL_KEY,
                choices: &["DoNotSchedule", "ScheduleAnyway"],
            },
            json!({"kubernetes.io/hostname": "ScheduleAnyway", "topology.kubernetes.io/zone": "ScheduleAnyway"}),
            "Labels of nodes over whose values several replicas are spread, in addition to the default. With \
             ScheduleAnyway, a replica also starts where it makes the spread uneven; with DoNotSchedule, it stays pending.",
        ),
        option(
            "controlPlane.podDisruptionBudget.maxUnavailable",
            "control-plane-max-unavailable",
            Kind::Integer {
                minimum: 1,
                maximum: 99,
            },
            1,
            "Number of replicas that may be evicted at the same time, for example while nodes are drained. It must be less \
             than {controlPlane.replicas}. A single replica has no PodDisruptionBudget, so that its node can be drained.",
        ),
    ]
}

fn network_policies() -> Vec<InstallOption> {
    vec![
        option(
            "networkPolicies.enabled",
            "network-policies",
            Kind::Boolean,
            false,
            "Add a NetworkPolicy that closes the control plane to all connections except those of the API server, of \
             Pods to the port for sidecars, and of {networkPolicies.metricsNamespaces}. It has an effect only if the \
             network of the cluster enforces NetworkPolicies.",
        ),
        option(
            "networkPolicies.apiServerCIDRs",
            "api-server-cidr",
            Kind::Texts(CIDR),
            json!([]),
            "Addresses from which the API server calls the webhooks, if {networkPolicies.enabled} is set. Empty: the \
             port of the webhooks is open to all addresses.",
        ),
        option(
            "networkPolicies.metricsNamespaces",
            "metrics-namespace",
            Kind::Texts(DNS_LABEL),
            json!([]),
            "Namespaces whose Pods may read the metrics of the control plane, if {networkPolicies.enabled} is set.",
        ),
    ]
}

fn cni() -> Vec<InstallOption> {
    let mut options = vec![
        option(
            "cni.enabled",
            "cni-enabled",
            Kind::Boolean,
            false,
            "Redirect traffic with a CNI plugin in place of an init container, so that injected Pods need no privileges. A \
             DaemonSet in kube-system installs the plugin on each node.",
        ),
        option(
            "cni.chained",
            "cni-chained",
            Kind::Boolean,
            true,
            "Add the plugin to the network configuration of each node. If false, the plugin gets a configuration of its \
             own, which Multus calls.",
        ),
        option(
            "cni.netDir",
            "cni-net-dir",
            Kind::OptionalText(FOLDER),
            "",
            "Folder of the nodes with network configurations. Empty: /etc/cni/net.d, or /etc/cni/multus/net.d if \
             {cni.chained} is false.",
        ),
        option(
            "cni.binDir",
            "cni-bin-dir",
            Kind::OptionalText(FOLDER),
            "",
            "Folder of the nodes with plugins. Empty: /opt/cni/bin, or /var/lib/cni/bin if {cni.chained} is false.",
        ),
        option(
            "cni.confName",
            "cni-conf-name",
            Kind::OptionalText(NETWORK_FILE),
            "",
            "Network configuration that the plugin is added to. Empty: the first valid one, or kuma-cni.conf if \
             {cni.chained} is false.",
        ),
        option(
            "cni.nodeSelector",
            "cni-node-selector",
            Kind::Map {
                key: LABEL_KEY,
                value: LABEL_VALUE,
            },
            json!({"kubernetes.io/os": "linux"}),
            "Labels of the nodes on which the plugin is installed, in addition to the default. Injected Pods must run only \
             on these nodes.",
        ),
    ];
    options.extend(image(
        ["cni.image.registry", "cni.image.repository", "cni.image.tag"],
        ["cni-registry", "cni-repository", "cni-version"],
        "kuma-cni",
        [
            "Registry of the plugin's image. Empty: {global.image.registry}.",
            "Repository of the plugin's image.",
            "Tag of the plugin's image.",
        ],
    ));
    options
}

/// Options for a control plane outside of the cluster.
fn outside() -> Vec<InstallOption> {
    vec![
        option(
            "controlPlane.webhookUrl",
            "webhook-url",
            Kind::OptionalText(WEBHOOK_URL),
            "",
            "URL, https://HOST:PORT, at which the API server calls the webhooks, instead of the Service; for a control \
             plane outside of the cluster.",
        ),
        option(
            "controlPlane.withoutDeployment",
            "without-deployment",
            Kind::Boolean,
            false,
            "Leave out the Deployment, for a control plane outside of the cluster. The Service then has no selector: \
             create an EndpointSlice with the address of the control plane.",
        ),
    ]
}
