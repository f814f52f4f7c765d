//! The pipeline from an incoming Pod to its patch (docs/reference/injection.md#mutation).

use std::collections::BTreeMap;
use std::fmt;

use kermode_crds::ContainerPatchSpec;
use kermode_crds::annotation as key;
use kermode_model::KubernetesVersion;
use kermode_netfilter::{PortSet, TrafficConfig};
use serde_json::Value;

use crate::container_patch::{self, ContainerRole, SelectedPatches};
use crate::decision::{InjectionDecision, ObjectMetadata, decide};
use crate::denial::Denial;
use crate::leftovers::{self, Leftovers};
use crate::names::{TMP_VOLUME, TOKEN_VOLUME};
use crate::patch::{self, PatchBuilder};
use crate::plan::{Placement, Plan};
use crate::pod::Pod;
use crate::probes::{self, FoundProbe};
use crate::reason::{InjectionSource, SkipReason};
use crate::render::{self, TokenAndRoots};
use crate::settings::Settings;
use crate::trace::{InjectionExplanation, Trace, TraceTopic};
use crate::values::Values;
use crate::{annotations, drain, ports, stop, timeline, uid, volumes, warnings};

/// Inputs of injection besides the Pod and the settings.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Namespace of the Pod.
    pub namespace: Namespace<'a>,
    /// URL of the control plane for sidecars, for example `https://kuma-control-plane.kong-mesh-system:5678`.
    pub control_plane_url: &'a str,
    /// CA certificates in PEM, which sidecars use to verify the control plane's certificate.
    pub control_plane_ca_pem: &'a str,
    /// Returns whether a Mesh exists.
    pub mesh_exists: &'a dyn Fn(&str) -> bool,
    /// Returns a ContainerPatch of the control plane's namespace by name.
    pub container_patch: &'a dyn Fn(&str) -> Option<ContainerPatchSpec>,
    /// Node with the oldest kubelet among those to which the Pod may be scheduled; `None` if no Node is known.
    pub oldest_node: Option<(&'a str, KubernetesVersion)>,
}

/// The Namespace of a Pod.
#[derive(Clone, Copy, Debug)]
pub struct Namespace<'a> {
    /// Name.
    pub name: &'a str,
    /// Labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Annotations.
    pub annotations: &'a BTreeMap<String, String>,
}

/// Result for a Pod that is admitted.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The Pod gets a sidecar.
    Injected(Injection),
    /// The Pod is admitted unchanged.
    Skipped(SkipReason),
}

/// Injection of a sidecar into a Pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// Operations on the incoming Pod.
    pub patch: json_patch::Patch,
    /// Warnings for the AdmissionReview response.
    pub warnings: Vec<String>,
    /// Label or annotation that requested injection.
    pub source: InjectionSource,
    /// Name of the mesh that the Pod joins.
    pub mesh: String,
}

/// Decides whether a Pod is injected. Renders the sidecar and builds the patch if so.
///
/// # Errors
/// When the Pod must be denied.
pub fn inject(pod: &Value, settings: &Settings, context: &Context<'_>) -> Result<Outcome, Denial> {
    inject_traced(pod, settings, context, &mut Trace::off())
}

/// Runs [`inject`] and records its steps.
pub fn explain(pod: &Value, settings: &Settings, context: &Context<'_>) -> InjectionExplanation {
    let mut trace = Trace::on();
    let result = inject_traced(pod, settings, context, &mut trace);
    trace.into_explanation(result)
}

fn inject_traced(
    json: &Value,
    settings: &Settings,
    context: &Context<'_>,
    trace: &mut Trace,
) -> Result<Outcome, Denial> {
    let pod = Pod::read(json)?;
    let pod_object = format!("Pod {}/{}", context.namespace.name, pod.name);
    let namespace_object = format!("Namespace {}", context.namespace.name);
    let metadata = ObjectMetadata {
        pod_labels: Values::labels(&pod.labels, &pod_object),
        pod_annotations: Values::annotations(&pod.annotations, &pod_object),
        namespace_labels: Values::labels(context.namespace.labels, &namespace_object),
        namespace_annotations: Values::annotations(context.namespace.annotations, &namespace_object),
    };
    let source = match decide(&pod, &metadata, &settings.exceptions.labels, trace)? {
        InjectionDecision::Skip(reason) => return Ok(Outcome::Skipped(reason)),
        InjectionDecision::Inject(source) => source,
    };
    let plan = Plan::resolve(settings, context, &metadata, pod.resources, trace)?;
    let rendering = Rendering {
        pod: &pod,
        plan: &plan,
        context,
        annotations: metadata.pod_annotations,
        source,
        was_injected: leftovers::is_annotated(json),
    };
    let earlier = rendering.without_earlier_containers(json)?;
    // The sidecar may keep its ports of an earlier injection, so only the ports of other containers are avoided.
    let application = match &earlier {
        Some((stripped, _)) => &Pod::read(stripped)?,
        None => &pod,
    };
    let found_probes = probes::find(application);
    let mut warnings = Vec::new();
    let mut plan = plan.clone();
    ports::avoid_used_ports(
        &mut plan,
        application,
        &found_probes,
        &metadata.pod_annotations,
        &mut warnings,
        trace,
    );
    warnings.extend(warnings::collect(&plan, source, &metadata));
    let rendering = Rendering {
        plan: &plan,
        ..rendering
    };
    let patch = match earlier {
        None => {
            let containers = rendering.containers(&mut warnings, trace)?;
            rendering.patch(containers, &found_probes, &mut warnings, trace)?
        }
        Some((stripped, leftovers)) => {
            let after = rendering.inject_again(stripped, &leftovers, &found_probes, &mut warnings, trace)?;
            patch::difference(json, &after)
        }
    };
    if patch.is_empty() {
        return Ok(Outcome::Skipped(SkipReason::AlreadyInjected));
    }
    Ok(Outcome::Injected(Injection {
        patch,
        warnings,
        source,
        mesh: plan.mesh,
    }))
}

/// Inputs of rendering for one Pod.
#[derive(Clone, Copy)]
struct Rendering<'a> {
    pod: &'a Pod<'a>,
    plan: &'a Plan<'a>,
    context: &'a Context<'a>,
    /// Annotations of the Pod.
    annotations: Values<'a>,
    /// Label or annotation that requested injection.
    source: InjectionSource,
    /// Whether the annotations of the Pod say that it was injected.
    was_injected: bool,
}

/// The containers to insert, to which the ContainerPatches were applied.
struct InjectedContainers {
    init: Value,
    sidecar: Value,
    /// Ports at which connections to the Pod do not reach the sidecar.
    excluded_inbound_ports: PortSet,
    /// Volume of the sidecar's token and roots; unused if a ContainerPatch removed its mount.
    token_volume: Value,
}

// === impl Rendering ===

impl Rendering<'_> {
    /// Returns the Pod without the containers of an earlier injection, and these containers. Returns `None` if the Pod
    /// was not injected before.
    ///
    /// A ContainerPatch may have renamed the containers, so new containers are rendered to learn the names. The names
    /// do not depend on the ports of the sidecar.
    fn without_earlier_containers(&self, json: &Value) -> Result<Option<(Value, Leftovers)>, Denial> {
        let Some((mut stripped, mut leftovers)) = leftovers::removed_from(json) else {
            return Ok(None);
        };
        if self.was_injected {
            let containers = Rendering {
                pod: &Pod::read(&stripped)?,
                ..*self
            }
            .containers(&mut Vec::new(), &mut Trace::off())?;
            leftovers.remove_renamed(&mut stripped, [&containers.init, &containers.sidecar]);
        }
        Ok(Some((stripped, leftovers)))
    }

    /// Injects a Pod from which the containers of an earlier injection were removed. Returns the injected Pod.
    fn inject_again(
        &self,
        mut stripped: Value,
        leftovers: &Leftovers,
        found_probes: &[FoundProbe],
        warnings: &mut Vec<String>,
        trace: &mut Trace,
    ) -> Result<Value, Denial> {
        trace.note(TraceTopic::Decision, || {
            "containers of an earlier injection are brought up to date".to_owned()
        });
        let containers = Rendering {
            pod: &Pod::read(&stripped)?,
            ..*self
        }
        .containers(warnings, trace)?;
        let containers = InjectedContainers {
            init: leftovers.up_to_date_or(containers.init),
            sidecar: leftovers.up_to_date_or(containers.sidecar),
            ..containers
        };
        let patch = Rendering {
            pod: &Pod::read(&stripped)?,
            ..*self
        }
        .patch(containers, found_probes, warnings, trace)?;
        json_patch::patch(&mut stripped, &patch).map_err(|error| Denial::InvalidPod {
            path: error.path.to_string(),
            expected: "a field that injection can change",
        })?;
        Ok(stripped)
    }

    /// Renders the containers and applies their ContainerPatches.
    fn containers(
        &self,
        warnings: &mut Vec<String>,
        trace: &mut Trace,
    ) -> Result<InjectedContainers, Denial> {
        let patches = SelectedPatches::look_up(
            self.annotations.list(key::CONTAINER_PATCHES),
            &self.plan.settings.container_patches,
            self.context.container_patch,
            trace,
        )?;
        let audience = &self.plan.settings.sidecar_container.token_audience;
        let token_and_roots =
            render::token_and_roots(self.pod, &self.annotations, audience, warnings, trace)?;
        let sidecar = self.sidecar(&patches, &token_and_roots, warnings, trace)?;
        let (init, excluded_inbound_ports) = self.init(&patches, trace)?;
        Ok(InjectedContainers {
            sidecar,
            init,
            excluded_inbound_ports,
            token_volume: token_and_roots.volume,
        })
    }

    /// Builds the patch that inserts the containers.
    fn patch(
        &self,
        containers: InjectedContainers,
        found_probes: &[FoundProbe],
        warnings: &mut Vec<String>,
        trace: &mut Trace,
    ) -> Result<json_patch::Patch, Denial> {
        let (pod, plan) = (self.pod, self.plan);
        uid::check(pod, plan.settings.sidecar_container.uid, warnings)?;
        let mut builder = PatchBuilder::new(pod);
        let sleep_hooks = stop::hooks(pod, plan, &containers.sidecar, warnings, trace);
        let mut new_annotations = self.new_annotations();
        new_annotations.extend(stop::record(pod, &sleep_hooks));
        builder.set_annotations(&pod.annotations, &new_annotations);
        if sleep_hooks.is_empty() && pod.annotations.contains_key(key::APPLICATION_STOP_DELAYED) {
            builder.remove_annotation(key::APPLICATION_STOP_DELAYED);
        }
        match annotations::networks_without_cni(plan, &self.annotations) {
            Some(networks) if networks.is_empty() => builder.remove_annotation(key::CNI_NETWORKS),
            Some(networks) => {
                let networks = BTreeMap::from([(key::CNI_NETWORKS.to_owned(), networks)]);
                builder.set_annotations(&pod.annotations, &networks);
            }
            None => {}
        }
        let InjectedContainers {
            init,
            mut sidecar,
            excluded_inbound_ports,
            token_volume,
        } = containers;
        let probes = if plan.virtual_probes {
            probes::rewrite(found_probes, plan, &excluded_inbound_ports, warnings, trace)
        } else {
            probes::restore(found_probes)
        };
        builder.change_probes(&probes);
        if let Some(min) = timeline::check(pod, plan, &sidecar, &sleep_hooks, warnings, trace) {
            drain::set_min_drain_time(&mut sidecar, min);
        }
        builder.add_sleep_hooks(&sleep_hooks);
        let volumes = needed_volumes(plan, token_volume, &sidecar);
        builder.change_volumes(volumes::changes(
            pod,
            self.annotations.object,
            volumes,
            self.was_injected,
        )?);
        builder.append_image_pull_secrets(&pod.image_pull_secrets, &plan.settings.image_pull_secrets);
        match plan.placement {
            Placement::Native => builder.insert_init_containers(vec![init, sidecar], /* first: */ true),
            Placement::Classic => {
                builder.insert_init_containers(vec![init], plan.init_is_first());
                builder.insert_first_container(sidecar);
            }
        }
        Ok(builder.finish())
    }

    fn new_annotations(&self) -> BTreeMap<String, String> {
        annotations::annotations_to_write(self.plan, self.source, &self.annotations)
    }

    fn sidecar(
        &self,
        patches: &SelectedPatches,
        token_and_roots: &TokenAndRoots,
        warnings: &mut Vec<String>,
        trace: &mut Trace,
    ) -> Result<Value, Denial> {
        let plan = self.plan;
        if plan.placement == Placement::Classic && plan.wait_for_ready {
            trace.note(TraceTopic::SidecarMode, || {
                "the application starts after the sidecar is ready: the sidecar's postStart hook waits"
                    .to_owned()
            });
        }
        let rendered = render::sidecar(plan, token_and_roots);
        let mut sidecar = container_patch::apply_traced(
            &rendered,
            &patches.sidecar_operations(),
            ContainerRole::KeepsRunning,
            trace,
        )?;
        if plan.placement == Placement::Native {
            // Overrides a ContainerPatch: with another policy, the kubelet would wait for the sidecar to terminate
            // before starting the next container.
            sidecar["restartPolicy"] = "Always".into();
        }
        drop_replaced_token_mount(&mut sidecar);
        drain::limit_drain_time(
            &mut sidecar,
            self.pod.termination_grace_period_seconds,
            plan.drain_time_is_annotated,
            warnings,
            trace,
        );
        drain::check_mode(&sidecar, warnings);
        if plan.placement == Placement::Native {
            drain::set_grace_period(&mut sidecar, self.pod.termination_grace_period_seconds);
        }
        Ok(sidecar)
    }

    /// Renders the init container. Also returns the ports at which inbound connections are not redirected.
    fn init(&self, patches: &SelectedPatches, trace: &mut Trace) -> Result<(Value, PortSet), Denial> {
        let mut annotations = self.pod.annotations.clone();
        annotations.extend(self.new_annotations());
        // Denies annotations that kuma-init or the CNI plugin would reject when the Pod starts.
        let traffic = TrafficConfig::from_annotations(&annotations).map_err(|error| {
            Denial::InvalidTrafficSettings {
                problem: error.to_string(),
                object: self.annotations.object.to_owned(),
            }
        })?;
        let init = render::init::init(self.plan, &annotations, self.pod.run_as_non_root)?;
        trace.note(TraceTopic::Init, || self.describe_init());
        let init = container_patch::apply_traced(
            &init,
            &patches.init_operations(),
            ContainerRole::RunsToCompletion,
            trace,
        )?;
        Ok((init, traffic.inbound.excluded_ports))
    }

    fn describe_init(&self) -> String {
        let plan = self.plan;
        let task = if plan.settings.cni_enabled {
            "the CNI plugin redirects traffic and kuma-validation checks the redirection"
        } else {
            "kuma-init redirects traffic"
        };
        let position = if plan.placement == Placement::Native || plan.init_is_first() {
            "before"
        } else {
            "after"
        };
        format!("{task}, {position} the Pod's own init containers")
    }
}

/// Removes the mount of [`TOKEN_VOLUME`] if a ContainerPatch has added another mount at the same path.
fn drop_replaced_token_mount(sidecar: &mut Value) {
    let Some(mounts) = sidecar.get_mut("volumeMounts").and_then(Value::as_array_mut) else {
        return;
    };
    let token_mounts = mounts
        .iter()
        .filter(|mount| render::is_token_mount(mount))
        .count();
    if token_mounts > 1 {
        mounts.retain(|mount| mount["name"] != TOKEN_VOLUME);
    }
}

/// Returns the volumes that the sidecar needs. The token's volume is omitted if the ContainerPatches removed its mount.
fn needed_volumes(plan: &Plan<'_>, token_volume: Value, sidecar: &Value) -> Vec<Value> {
    let mounts = sidecar.get("volumeMounts").and_then(Value::as_array);
    let mut mounts = mounts.into_iter().flatten();
    let is_mounted = mounts.any(|mount| mount["name"] == token_volume["name"]);
    let token_volume = is_mounted.then_some(token_volume);
    let tmp_volume = plan.has_tmp_volume().then(|| render::small_empty_dir(TMP_VOLUME));
    token_volume.into_iter().chain(tmp_volume).collect()
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Context")
            .field("namespace", &self.namespace)
            .field("control_plane_url", &self.control_plane_url)
            .finish_non_exhaustive()
    }
}
