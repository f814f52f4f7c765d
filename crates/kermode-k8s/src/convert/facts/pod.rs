//! What is kept of a Pod.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus, Probe};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kermode_crds::annotation;
use kermode_model::ObjectKey;

use super::{Pairs, SIDECAR, Share, Workload, is_tcp, port_number};

/// What is kept of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Tells it from an earlier Pod of the same name.
    pub uid: Arc<str>,
    /// Its labels.
    pub labels: Pairs,
    /// Its annotations with `kuma.io/` in the key.
    pub annotations: Pairs,
    /// Its first IP, once it has one.
    pub ip: Option<IpAddr>,
    /// Whether it still runs.
    pub phase: PodPhase,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// The service account it runs as.
    pub service_account: Arc<str>,
    /// Its long-running containers: the ordinary ones, then the native sidecars, each in the Pod's order.
    pub containers: Box<[ContainerFacts]>,
    /// HTTP probes by port number, when the Pod says that the proxy answers for the application.
    pub probes: Box<[ProbeFacts]>,
    /// What controls it.
    pub owner: Option<Workload>,
    /// Whether ended containers are started again.
    pub restart_policy: Option<RestartPolicy>,
}

/// As much of a Pod's phase as matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodPhase {
    /// Pending, Running or unknown.
    #[default]
    Active,
    /// All containers have ended well.
    Succeeded,
    /// All containers have ended, one of them badly.
    Failed,
    /// Failed, because the node was short of something.
    Evicted,
}

/// Whether ended containers are started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Always.
    Always,
    /// Only those that ended badly.
    OnFailure,
    /// Never.
    Never,
}

/// One long-running container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerFacts {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it is a native sidecar: an init container that keeps running.
    pub native_sidecar: bool,
    /// The TCP ports it declares, and their names.
    pub ports: Box<[(Option<Arc<str>>, u16)]>,
    /// What the kubelet says of it; nothing before it has been looked at.
    pub state: Option<ContainerState>,
}

/// What the kubelet says of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerState {
    /// Whether its readiness probe passes.
    pub ready: bool,
    /// Its exit code, when it has ended.
    pub exit_code: Option<i32>,
}

/// One HTTP probe by port number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFacts {
    /// Index of the container in the Pod's `containers`.
    pub container: usize,
    /// Which of its probes.
    pub kind: ProbeKind,
    /// The port asked.
    pub port: u16,
    /// The path asked for.
    pub path: Arc<str>,
}

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// `livenessProbe`.
    Liveness,
    /// `readinessProbe`.
    Readiness,
    /// `startupProbe`.
    Startup,
}

// === impl PodFacts ===

impl PodFacts {
    /// Whether it has been given a sidecar. An annotation tells, so that pods injected earlier stay in the mesh
    /// whatever the labels say now.
    pub fn is_injected(&self) -> bool {
        let key = annotation::SIDECAR_INJECTED;
        self.annotations
            .get(key)
            .is_some_and(|value| annotation::parse_bool(key, value) == Ok(true))
    }

    /// The sidecar.
    pub fn sidecar(&self) -> Option<&ContainerFacts> {
        self.containers.iter().find(|container| container.is_sidecar())
    }

    /// All long-running containers but the sidecar.
    pub fn application(&self) -> impl Iterator<Item = &ContainerFacts> {
        self.containers.iter().filter(|container| !container.is_sidecar())
    }

    /// Shares whatever other pods are likely to have too.
    pub(crate) fn share(&mut self, with: &mut impl Share) {
        with.text(&mut self.key.namespace);
        with.text(&mut self.service_account);
        with.pairs(&mut self.labels);
        with.pairs(&mut self.annotations);
        for container in &mut self.containers {
            with.text(&mut container.name);
            for name in container.ports.iter_mut().filter_map(|(name, _)| name.as_mut()) {
                with.text(name);
            }
        }
        for probe in &mut self.probes {
            with.text(&mut probe.path);
        }
        if let Some(owner) = &mut self.owner {
            with.text(&mut owner.kind);
            with.text(&mut owner.name);
        }
    }
}

impl From<&Pod> for PodFacts {
    fn from(pod: &Pod) -> Self {
        let (no_spec, no_status) = (PodSpec::default(), PodStatus::default());
        let spec = pod.spec.as_ref().unwrap_or(&no_spec);
        let status = pod.status.as_ref().unwrap_or(&no_status);
        let annotations = Pairs::kuma_only(pod.metadata.annotations.as_ref());
        let virtual_probes = annotations.get(annotation::VIRTUAL_PROBES).is_some();
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
            phase: phase(status),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            service_account: service_account.unwrap_or("default").into(),
            containers: containers(spec, status),
            probes: if virtual_probes {
                probes(spec)
            } else {
                Box::default()
            },
            owner: Workload::controlling(&pod.metadata),
            restart_policy: match spec.restart_policy.as_deref() {
                Some("Always") => Some(RestartPolicy::Always),
                Some("OnFailure") => Some(RestartPolicy::OnFailure),
                Some("Never") => Some(RestartPolicy::Never),
                _ => None,
            },
        }
    }
}

/// Namespace and name of an object.
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

fn phase(status: &PodStatus) -> PodPhase {
    match (status.phase.as_deref(), status.reason.as_deref()) {
        (Some("Succeeded"), _) => PodPhase::Succeeded,
        (Some("Failed"), Some("Evicted")) => PodPhase::Evicted,
        (Some("Failed"), _) => PodPhase::Failed,
        _ => PodPhase::Active,
    }
}

fn containers(spec: &PodSpec, status: &PodStatus) -> Box<[ContainerFacts]> {
    let ordinary = status.container_statuses.as_deref().unwrap_or_default();
    let init = status.init_container_statuses.as_deref().unwrap_or_default();
    let native = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut all: Vec<_> = spec
        .containers
        .iter()
        .map(|container| ContainerFacts::new(container, false, ordinary))
        .collect();
    // A status whose container is not in the spec: the API server sends none, but what it says still holds.
    let stray = ordinary.iter().filter(|status| {
        let mut names = spec.containers.iter().map(|container| &container.name);
        !names.any(|name| *name == status.name)
    });
    all.extend(stray.map(ContainerFacts::of_status));
    all.extend(native.map(|container| ContainerFacts::new(container, true, init)));
    all.into()
}

fn probes(spec: &PodSpec) -> Box<[ProbeFacts]> {
    let mut probes = Vec::new();
    for (index, container) in spec.containers.iter().enumerate() {
        if container.name == SIDECAR {
            continue;
        }
        let of_container = [
            (ProbeKind::Liveness, &container.liveness_probe),
            (ProbeKind::Readiness, &container.readiness_probe),
            (ProbeKind::Startup, &container.startup_probe),
        ];
        for (kind, probe) in of_container {
            probes.extend(probe.as_ref().and_then(|probe| http_probe(index, kind, probe)));
        }
    }
    probes.into()
}

fn http_probe(container: usize, kind: ProbeKind, probe: &Probe) -> Option<ProbeFacts> {
    let get = probe.http_get.as_ref()?;
    let IntOrString::Int(port) = &get.port else {
        return None;
    };
    Some(ProbeFacts {
        container,
        kind,
        port: port_number(*port)?,
        path: get.path.as_deref().unwrap_or_default().into(),
    })
}

// === impl ContainerFacts ===

impl ContainerFacts {
    /// Whether it is our sidecar.
    pub fn is_sidecar(&self) -> bool {
        &*self.name == SIDECAR
    }

    fn new(container: &Container, native_sidecar: bool, statuses: &[ContainerStatus]) -> Self {
        let ports = container.ports.iter().flatten();
        let status = statuses.iter().find(|status| status.name == container.name);
        Self {
            name: container.name.as_str().into(),
            native_sidecar,
            ports: ports
                .filter(|port| is_tcp(port.protocol.as_ref()))
                .filter_map(|port| {
                    let name = port.name.as_deref().map(Into::into);
                    Some((name, port_number(port.container_port)?))
                })
                .collect(),
            state: status.map(ContainerState::from),
        }
    }

    fn of_status(status: &ContainerStatus) -> Self {
        Self {
            name: status.name.as_str().into(),
            native_sidecar: false,
            ports: Box::default(),
            state: Some(status.into()),
        }
    }
}

impl From<&ContainerStatus> for ContainerState {
    fn from(status: &ContainerStatus) -> Self {
        let ended = status.state.as_ref().and_then(|state| state.terminated.as_ref());
        Self {
            ready: status.ready,
            exit_code: ended.map(|ended| ended.exit_code),
        }
    }
}

impl ProbeKind {
    /// Name of the field in a container.
    pub fn field(self) -> &'static str {
        match self {
            Self::Liveness => "livenessProbe",
            Self::Readiness => "readinessProbe",
            Self::Startup => "startupProbe",
        }
    }
}
