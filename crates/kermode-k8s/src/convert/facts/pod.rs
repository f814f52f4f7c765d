//! Facts of Pods.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, HTTPGetAction, LifecycleHandler, Pod, PodSpec, PodStatus, Probe,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kermode_crds::annotation;
use kermode_model::ObjectKey;

use super::readiness::Readiness;
use super::restart::{RestartPolicy, is_restarted};
use super::{Deduplicate, OwnerRef, Pairs, SIDECAR, is_tcp, port_number};

/// Facts of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// UID; distinguishes the Pod from an earlier Pod of the same name.
    pub uid: Arc<str>,
    /// Labels.
    pub labels: Pairs,
    /// Annotations with `kuma.io/` in the key.
    pub annotations: Pairs,
    /// First IP; `None` until an IP is assigned.
    pub ip: Option<IpAddr>,
    /// IPs besides the first IP: at most one, of the other IP family.
    pub other_ips: Box<[IpAddr]>,
    /// Time since which the Pod has its IPs, as far as its timestamps tell, in seconds since the Unix epoch; 0 without
    /// timestamps.
    pub has_ips_since: i64,
    /// Phase.
    pub phase: PodPhase,
    /// Whether the Pod is being deleted.
    pub is_terminating: bool,
    /// Readiness; `None` if the Pod does not have the condition `Ready`.
    pub readiness: Option<Readiness>,
    /// Name of the service account.
    pub service_account: Arc<str>,
    /// Long-running containers: `spec.containers`, then containers that only the status reports, then the native
    /// sidecars among `spec.initContainers`.
    pub containers: Box<[ContainerFacts]>,
    /// HTTP probes and hooks of the application with a numeric port. Empty if the Pod has no annotation
    /// `kuma.io/virtual-probes`.
    pub probes: Box<[ProbeFacts]>,
    /// Controlling owner.
    pub owner: Option<OwnerRef>,
    /// Restart policy of the containers without one of their own; `None` if it is unknown.
    pub restart_policy: Option<RestartPolicy>,
}

/// Phase of a Pod, simplified for conversion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodPhase {
    /// Pending, Running or unknown.
    #[default]
    Active,
    /// Succeeded or Failed: all containers have terminated, and none is restarted.
    Finished,
}

/// One long-running container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerFacts {
    /// Name.
    pub name: Arc<str>,
    /// Whether the container is the sidecar of the mesh.
    pub is_sidecar: bool,
    /// Whether the container is a native sidecar: a restartable init container.
    pub is_native_sidecar: bool,
    /// Names and numbers of the declared TCP ports.
    pub ports: Box<[(Option<Arc<str>>, u16)]>,
    /// State, as reported by the kubelet; `None` before the first report.
    pub state: Option<ContainerState>,
}

/// State of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerState {
    /// Whether the container is ready.
    pub ready: bool,
    /// Exit code; `None` while the container runs.
    pub exit_code: Option<i32>,
    /// Whether the container has terminated and will not be restarted.
    pub has_ended: bool,
}

/// One HTTP probe or hook with a numeric port. The kubelet sends its request in plain text to the Pod's IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFacts {
    /// Whether the container is one of `spec.initContainers` instead of `spec.containers`.
    pub is_init: bool,
    /// Index of the container in its list.
    pub container: usize,
    /// Kind of the probe.
    pub kind: ProbeKind,
    /// Port of the probe.
    pub port: u16,
    /// Path of the probe.
    pub path: Arc<str>,
}

/// Kind of a container's probe or lifecycle hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// `livenessProbe`.
    Liveness,
    /// `readinessProbe`.
    Readiness,
    /// `startupProbe`.
    Startup,
    /// `lifecycle.postStart`.
    PostStart,
    /// `lifecycle.preStop`.
    PreStop,
}

// === impl PodFacts ===

impl PodFacts {
    /// Whether the Pod was injected: it has the annotation that injection sets, and a sidecar. The annotation alone may
    /// be left from an earlier injection. A Pod stays in the mesh even if the label that requested injection changes.
    pub fn is_injected(&self) -> bool {
        let annotation = self.annotations.get(annotation::SIDECAR_INJECTED);
        annotation.is_some_and(|value| annotation::marks_injected(value)) && self.sidecar().is_some()
    }

    /// Iterates over the IPs that the Pod has, according to its status. A finished Pod has none: its IPs may belong to
    /// another Pod.
    pub fn held_ips(&self) -> impl Iterator<Item = IpAddr> {
        let is_active = self.phase == PodPhase::Active;
        let ips = self.ip.into_iter().chain(self.other_ips.iter().copied());
        ips.filter(move |_| is_active)
    }

    /// Returns the sidecar.
    pub fn sidecar(&self) -> Option<&ContainerFacts> {
        self.containers.iter().find(|container| container.is_sidecar)
    }

    /// Iterates over all long-running containers except the sidecar.
    pub fn application_containers(&self) -> impl Iterator<Item = &ContainerFacts> {
        self.containers.iter().filter(|container| !container.is_sidecar)
    }

    /// Completes the readiness by the `former` facts of the same Pod, because the status does not always show a forgotten
    /// probe.
    pub(crate) fn remember(&mut self, former: &Self) {
        if let (Some(readiness), Some(former_readiness)) = (self.readiness, former.readiness)
            && self.uid == former.uid
        {
            self.readiness = Some(readiness.after(former_readiness));
        }
    }

    /// Deduplicates values that are likely to occur in other Pods.
    pub(crate) fn deduplicate(&mut self, pool: &mut impl Deduplicate) {
        pool.dedup_text(&mut self.key.namespace);
        pool.dedup_text(&mut self.service_account);
        pool.dedup_pairs(&mut self.labels);
        pool.dedup_pairs(&mut self.annotations);
        for container in &mut self.containers {
            pool.dedup_text(&mut container.name);
            for name in container.ports.iter_mut().filter_map(|(name, _)| name.as_mut()) {
                pool.dedup_text(name);
            }
        }
        for probe in &mut self.probes {
            pool.dedup_text(&mut probe.path);
        }
        if let Some(owner) = &mut self.owner {
            pool.dedup_text(&mut owner.kind);
            pool.dedup_text(&mut owner.name);
        }
    }
}

impl From<&Pod> for PodFacts {
    fn from(pod: &Pod) -> Self {
        let (empty_spec, empty_status) = (PodSpec::default(), PodStatus::default());
        let spec = pod.spec.as_ref().unwrap_or(&empty_spec);
        let status = pod.status.as_ref().unwrap_or(&empty_status);
        let annotations = Pairs::kuma_only(pod.metadata.annotations.as_ref());
        let has_probes_annotation = annotations.get(annotation::VIRTUAL_PROBES).is_some();
        let service_account = spec
            .service_account_name
            .as_deref()
            .filter(|name| !name.is_empty());
        Self {
            key: key_of(&pod.metadata),
            uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
            labels: Pairs::all(pod.metadata.labels.as_ref()),
            annotations,
            ip: first_ip(status),
            other_ips: other_ips(status),
            has_ips_since: has_ips_since(&pod.metadata, status),
            phase: phase(status),
            is_terminating: pod.metadata.deletion_timestamp.is_some(),
            readiness: Readiness::read(spec, status),
            service_account: service_account.unwrap_or("default").into(),
            containers: containers(spec, status),
            probes: if has_probes_annotation {
                probes(spec)
            } else {
                Box::default()
            },
            owner: OwnerRef::controlling(&pod.metadata),
            restart_policy: RestartPolicy::read(spec.restart_policy.as_deref()),
        }
    }
}

/// Returns the namespace and name of an object.
pub(super) fn key_of(metadata: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

fn first_ip(status: &PodStatus) -> Option<IpAddr> {
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    status
        .pod_ip
        .as_deref()
        .into_iter()
        .chain(listed)
        .find_map(|ip| ip.parse().ok())
}

/// Returns the IPs besides the first IP: at most one, of the other IP family.
fn other_ips(status: &PodStatus) -> Box<[IpAddr]> {
    let Some(first) = first_ip(status) else {
        return Box::default();
    };
    let mut listed = status.pod_ips.iter().flatten();
    let other = listed.find_map(|ip| {
        ip.ip
            .parse()
            .ok()
            .filter(|ip: &IpAddr| ip.is_ipv6() != first.is_ipv6())
    });
    other.into_iter().collect()
}

/// Returns the latest known of these times of the Pod: its creation, its start, and the assignment of its IPs. Only
/// Kubernetes 1.29 and later report the assignment (condition `PodReadyToStartContainers`).
fn has_ips_since(metadata: &ObjectMeta, status: &PodStatus) -> i64 {
    let conditions = status.conditions.iter().flatten();
    let mut conditions = conditions
        .filter(|condition| condition.type_ == "PodReadyToStartContainers" && condition.status == "True");
    let assigned = conditions
        .next()
        .and_then(|condition| condition.last_transition_time.as_ref());
    let times = [
        metadata.creation_timestamp.as_ref(),
        status.start_time.as_ref(),
        assigned,
    ];
    let seconds = times.into_iter().flatten().map(|time| time.0.as_second());
    seconds.max().unwrap_or_default()
}

fn phase(status: &PodStatus) -> PodPhase {
    match status.phase.as_deref() {
        Some("Succeeded" | "Failed") => PodPhase::Finished,
        _ => PodPhase::Active,
    }
}

fn containers(spec: &PodSpec, status: &PodStatus) -> Box<[ContainerFacts]> {
    let statuses = status.container_statuses.as_deref().unwrap_or_default();
    let init_statuses = status.init_container_statuses.as_deref().unwrap_or_default();
    let pod_policy = RestartPolicy::read(spec.restart_policy.as_deref());
    let native_sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut all: Vec<_> = spec
        .containers
        .iter()
        .map(|container| ContainerFacts::new(container, statuses, pod_policy))
        .collect();
    // As in Kuma, statuses without a container in the spec are included.
    let only_in_status = statuses.iter().filter(|status| {
        let mut names = spec.containers.iter().map(|container| &container.name);
        !names.any(|name| *name == status.name)
    });
    all.extend(only_in_status.map(|status| ContainerFacts::of_status(status, pod_policy)));
    all.extend(native_sidecars.map(|container| ContainerFacts {
        is_native_sidecar: true,
        ..ContainerFacts::new(container, init_statuses, pod_policy)
    }));
    all.into()
}

/// Returns the HTTP probes and hooks of all containers except the sidecar of the mesh. Of the init containers, only
/// native sidecars have probes and hooks.
fn probes(spec: &PodSpec) -> Box<[ProbeFacts]> {
    let init = spec.init_containers.iter().flatten().enumerate();
    let lists = spec
        .containers
        .iter()
        .enumerate()
        .map(|(index, container)| (false, index, container))
        .chain(init.map(|(index, container)| (true, index, container)));
    let mut probes = Vec::new();
    for (is_init, index, container) in lists {
        if is_sidecar(container) {
            continue;
        }
        let hooks = container.lifecycle.as_ref();
        let actions = [
            (
                ProbeKind::Liveness,
                http_of_probe(container.liveness_probe.as_ref()),
            ),
            (
                ProbeKind::Readiness,
                http_of_probe(container.readiness_probe.as_ref()),
            ),
            (
                ProbeKind::Startup,
                http_of_probe(container.startup_probe.as_ref()),
            ),
            (
                ProbeKind::PostStart,
                http_of_hook(hooks.and_then(|hooks| hooks.post_start.as_ref())),
            ),
            (
                ProbeKind::PreStop,
                http_of_hook(hooks.and_then(|hooks| hooks.pre_stop.as_ref())),
            ),
        ];
        let facts = |(kind, action): (ProbeKind, Option<&HTTPGetAction>)| {
            let (port, path) = plain_target(action?)?;
            Some(ProbeFacts {
                is_init,
                container: index,
                kind,
                port,
                path,
            })
        };
        probes.extend(actions.into_iter().filter_map(facts));
    }
    probes.into()
}

fn http_of_probe(probe: Option<&Probe>) -> Option<&HTTPGetAction> {
    probe?.http_get.as_ref()
}

fn http_of_hook(hook: Option<&LifecycleHandler>) -> Option<&HTTPGetAction> {
    hook?.http_get.as_ref()
}

/// Returns port and path of a request in plain text to the Pod's IP; `None` for other requests and for named ports.
fn plain_target(action: &HTTPGetAction) -> Option<(u16, Arc<str>)> {
    let has_host = action.host.as_ref().is_some_and(|host| !host.is_empty());
    let is_plain = action.scheme.as_ref().is_none_or(|scheme| scheme != "HTTPS");
    match &action.port {
        IntOrString::Int(port) if is_plain && !has_host => Some((
            port_number(*port)?,
            action.path.as_deref().unwrap_or_default().into(),
        )),
        _ => None,
    }
}

/// Whether a container is the sidecar: by its name, or, since a ContainerPatch may have renamed it, by environment
/// variables that every sidecar has.
pub(super) fn is_sidecar(container: &Container) -> bool {
    let has_variable = |name: &str| {
        container
            .env
            .iter()
            .flatten()
            .any(|variable| variable.name == name)
    };
    container.name == SIDECAR
        || (has_variable("KUMA_CONTROL_PLANE_URL") && has_variable("KUMA_DATAPLANE_MESH"))
}

// === impl ContainerFacts ===

impl ContainerFacts {
    /// Reads a container of the spec, and its status. The container counts as an ordinary container.
    fn new(container: &Container, statuses: &[ContainerStatus], pod_policy: Option<RestartPolicy>) -> Self {
        let ports = container.ports.iter().flatten();
        let status = statuses.iter().find(|status| status.name == container.name);
        Self {
            name: container.name.as_str().into(),
            is_sidecar: is_sidecar(container),
            is_native_sidecar: false,
            ports: ports
                .filter(|port| is_tcp(port.protocol.as_ref()))
                .filter_map(|port| {
                    let name = port.name.as_deref().map(Into::into);
                    Some((name, port_number(port.container_port)?))
                })
                .collect(),
            state: status.map(|status| {
                ContainerState::new(status, |exit_code| {
                    is_restarted(Some(container), pod_policy, exit_code)
                })
            }),
        }
    }

    /// Reads a container that only the status reports.
    fn of_status(status: &ContainerStatus, pod_policy: Option<RestartPolicy>) -> Self {
        let is_restarted = |exit_code| is_restarted(None, pod_policy, exit_code);
        Self {
            name: status.name.as_str().into(),
            is_sidecar: status.name == SIDECAR,
            is_native_sidecar: false,
            ports: Box::default(),
            state: Some(ContainerState::new(status, is_restarted)),
        }
    }
}

impl ContainerState {
    /// Reads a status. `is_restarted` tells for the exit code of a terminated container whether it is restarted.
    fn new(status: &ContainerStatus, is_restarted: impl Fn(i32) -> bool) -> Self {
        let terminated = status.state.as_ref().and_then(|state| state.terminated.as_ref());
        let exit_code = terminated.map(|terminated| terminated.exit_code);
        Self {
            ready: status.ready,
            exit_code,
            has_ended: exit_code.is_some_and(|exit_code| !is_restarted(exit_code)),
        }
    }
}

impl ProbeKind {
    /// Returns the path of the field in a container.
    pub fn field(self) -> &'static str {
        match self {
            Self::Liveness => "livenessProbe",
            Self::Readiness => "readinessProbe",
            Self::Startup => "startupProbe",
            Self::PostStart => "lifecycle.postStart",
            Self::PreStop => "lifecycle.preStop",
        }
    }
}
