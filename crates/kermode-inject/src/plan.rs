//! Second stage of injection: resolves each option from the Pod's annotations, its Namespace and the settings.

use std::collections::BTreeMap;
use std::time::Duration;

use kermode_crds::annotation as key;
use kermode_model::DEFAULT_MESH;
use serde_json::Value;

use crate::Context;
use crate::decision::ObjectMetadata;
use crate::denial::Denial;
use crate::names::{DEFAULT_DNS_METRICS_PORT, DNS_METRICS_PORT_VARIABLE};
use crate::pod::PodResources;
use crate::quantity::Quantity;
use crate::reason::InjectionSource;
use crate::settings::{DrainMode, SecurityProfile, Settings, SidecarMode};
use crate::trace::{Trace, TraceTopic};
use crate::values::Values;

/// Label of a Namespace with the level of the Pod Security Standards that the API server enforces.
pub(crate) const ENFORCED_POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";

/// Resolved options of one Pod; the input of rendering.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // independent switches
pub(crate) struct Plan<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) control_plane_url: &'a str,
    pub(crate) control_plane_ca_pem: &'a str,
    /// Name of the mesh that the Pod joins.
    pub(crate) mesh: String,
    pub(crate) placement: Placement,
    /// Whether the containers get the security contexts of the profile `restricted`.
    pub(crate) restricted: bool,
    /// Envoy's admin port.
    pub(crate) admin_port: u16,
    /// Number of Envoy's worker threads; with 0, the argument `--concurrency` is omitted.
    pub(crate) concurrency: u32,
    pub(crate) drain_time: Duration,
    /// Whether an annotation of the Pod sets the drain time.
    pub(crate) drain_time_is_annotated: bool,
    pub(crate) drain_mode: DrainMode,
    /// Time between the start of the Pod's termination and the stop of the application; zero if there is no delay.
    pub(crate) application_stop_delay: Duration,
    /// Whether an annotation of the Pod sets the delay.
    pub(crate) application_stop_delay_is_annotated: bool,
    /// Whether the API server and every kubelet support the lifecycle handler `sleep`.
    pub(crate) supports_sleep_hooks: bool,
    /// Envoy's log level, if the Pod sets it.
    pub(crate) log_level: Option<String>,
    /// Environment variables of the sidecar that the Pod or the settings configure.
    pub(crate) env_vars: BTreeMap<String, String>,
    pub(crate) redirect_ports: RedirectPorts,
    /// Port that DNS is redirected to; `None` if DNS is not redirected.
    pub(crate) dns_port: Option<u16>,
    /// Port of the sidecar's DNS server, which runs if the setting `builtinDNS.enabled` is true.
    pub(crate) served_dns_port: u16,
    /// Port of the metrics of the sidecar's DNS server.
    pub(crate) dns_metrics_port: u16,
    /// Whether the application's probes and HTTP lifecycle hooks are redirected to the proxy.
    pub(crate) virtual_probes: bool,
    pub(crate) virtual_probes_port: u16,
    /// Whether the application waits until a classic sidecar is ready. The application always waits for a native one.
    pub(crate) wait_for_ready: bool,
    /// Whether the Pod requests that `kuma-init` precede the Pod's own init containers in classic mode.
    pub(crate) init_first_requested: bool,
    /// Whether `--experimental-transparent-proxy-engine` is passed to `kuma-init`, which ignores it.
    pub(crate) experimental_engine: bool,
    /// Pod-level resources (`spec.resources`).
    pub(crate) pod_resources: PodResources<'a>,
}

/// Ports of Envoy that the Pod's traffic is redirected to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RedirectPorts {
    pub(crate) inbound: u16,
    pub(crate) inbound_v6: u16,
    pub(crate) outbound: u16,
}

/// Placement of the sidecar in the Pod, resolved from [`SidecarMode`] and the versions of the kubelets and the API
/// server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// An init container with `restartPolicy: Always`, before the Pod's own.
    Native,
    /// The first ordinary container.
    Classic,
}

// === impl Plan ===

impl<'a> Plan<'a> {
    pub(crate) fn resolve(
        settings: &'a Settings,
        context: &Context<'a>,
        metadata: &ObjectMetadata<'_>,
        pod_resources: PodResources<'a>,
        trace: &mut Trace,
    ) -> Result<Self, Denial> {
        let annotations = metadata.pod_annotations;
        let (mesh, origin) = mesh_and_origin(metadata, trace);
        if !(context.mesh_exists)(&mesh) {
            return Err(Denial::MeshNotFound { mesh, origin });
        }
        let sidecar = &settings.sidecar_container;
        let is_gateway = annotations.is_gateway()?;
        let env_vars = env_vars(settings, &annotations)?;
        Ok(Self {
            settings,
            control_plane_url: context.control_plane_url,
            control_plane_ca_pem: context.control_plane_ca_pem,
            mesh,
            placement: placement(settings, context, &annotations, trace)?,
            restricted: is_restricted(settings, &metadata.namespace_labels, trace),
            admin_port: annotations
                .port(key::ENVOY_ADMIN_PORT)?
                .unwrap_or(sidecar.admin_port),
            concurrency: annotations
                .number(key::SIDECAR_PROXY_CONCURRENCY)?
                .unwrap_or_else(|| default_concurrency(settings, pod_resources)),
            drain_time: annotations
                .duration(key::SIDECAR_DRAIN_TIME)?
                .unwrap_or(sidecar.drain_time),
            drain_time_is_annotated: annotations.get(key::SIDECAR_DRAIN_TIME).is_some(),
            drain_mode: drain_mode(settings, &annotations)?,
            application_stop_delay: annotations
                .duration_or_zero(key::APPLICATION_STOP_DELAY)?
                .unwrap_or(settings.application_stop_delay),
            application_stop_delay_is_annotated: annotations.get(key::APPLICATION_STOP_DELAY).is_some(),
            supports_sleep_hooks: settings.sleep_hooks_supported
                && context
                    .oldest_node
                    .is_none_or(|(_, version)| version.supports_sleep_hooks()),
            log_level: annotations.get(key::ENVOY_LOG_LEVEL).map(str::to_owned),
            dns_metrics_port: configured_dns_metrics_port(&env_vars).unwrap_or(DEFAULT_DNS_METRICS_PORT),
            env_vars,
            redirect_ports: RedirectPorts {
                inbound: sidecar.redirect_port_inbound,
                inbound_v6: sidecar.redirect_port_inbound_v6,
                outbound: sidecar.redirect_port_outbound,
            },
            dns_port: dns_port(settings, &annotations)?,
            served_dns_port: settings.builtin_dns.port,
            virtual_probes: virtual_probes(settings, &annotations, is_gateway)?,
            virtual_probes_port: annotations
                .port(key::VIRTUAL_PROBES_PORT)?
                .unwrap_or(settings.virtual_probes_port),
            wait_for_ready: annotations
                .boolean(key::WAIT_FOR_DATAPLANE_READY)?
                .unwrap_or(sidecar.wait_for_dataplane_ready),
            init_first_requested: annotations.boolean(key::INIT_FIRST)?.unwrap_or(false),
            experimental_engine: annotations
                .boolean(key::EXPERIMENTAL_ENGINE)?
                .unwrap_or(settings.transparent_proxy_v2),
            pod_resources,
        })
    }

    /// Whether the injected init container precedes the Pod's own in classic mode. With the CNI plugin, the injected
    /// init container is `kuma-validation`, which always precedes them: no other container may send traffic before the
    /// check.
    pub(crate) fn init_is_first(&self) -> bool {
        self.init_first_requested || self.settings.cni_enabled
    }

    /// Whether the sidecar gets a volume for `/tmp`.
    pub(crate) fn has_tmp_volume(&self) -> bool {
        self.restricted || self.placement == Placement::Native
    }
}

/// Returns the mesh of the Pod, and the location of the label or annotation that names the mesh, for a message. The
/// mesh is the first value of [`key::MESH`] that is not empty, by
/// [precedence of the sources](InjectionSource::IN_ORDER). Without such a value, the mesh is [`DEFAULT_MESH`], and the
/// location covers all sources.
fn mesh_and_origin(metadata: &ObjectMetadata<'_>, trace: &mut Trace) -> (String, String) {
    for source in InjectionSource::IN_ORDER {
        let values = metadata.values_of(source);
        if let Some(mesh) = values.text(key::MESH) {
            trace.note(TraceTopic::Mesh, || {
                format!("{} is {mesh}", values.location(key::MESH))
            });
            return (mesh.to_owned(), values.location(key::MESH));
        }
    }
    trace.note(TraceTopic::Mesh, || {
        format!(
            "neither Pod nor Namespace has {}, so the mesh is {DEFAULT_MESH}",
            key::MESH
        )
    });
    let origin = format!("{} of {} or its Namespace", key::MESH, metadata.pod_labels.object);
    (DEFAULT_MESH.to_owned(), origin)
}

/// Returns the default number of Envoy's worker threads: the lower of the CPU limits of the sidecar and the Pod, in
/// whole CPUs, but at least 2. It is 2 if the sidecar has no CPU limit.
fn default_concurrency(settings: &Settings, pod_resources: PodResources<'_>) -> u32 {
    let sidecar_cpus = settings.sidecar_container.resources.limits.cpu.whole_units();
    let pod_cpus = pod_resources.limit("cpu").map(|limit| match limit {
        Value::String(text) => Quantity::new_unchecked(text).whole_units(),
        number => Quantity::new_unchecked(&number.to_string()).whole_units(),
    });
    sidecar_cpus.min(pod_cpus.unwrap_or(sidecar_cpus)).max(2)
}

/// Chooses the placement of the sidecar. Mode `auto` follows the oldest kubelet: a kubelet without support takes a
/// native sidecar for an ordinary init container and waits forever for its end. Mode `native` is the user's decision;
/// it is denied only if the API server would drop the field `restartPolicy` of the container. No kubelet is newer than
/// the API server. If every kubelet supports native sidecars, the API server therefore supports them too.
fn placement(
    settings: &Settings,
    context: &Context<'_>,
    annotations: &Values<'_>,
    trace: &mut Trace,
) -> Result<Placement, Denial> {
    let choices = [
        ("auto", SidecarMode::Auto),
        ("native", SidecarMode::Native),
        ("classic", SidecarMode::Classic),
    ];
    let annotated = annotations.choice(key::SIDECAR_MODE, &choices)?;
    let mode = annotated.unwrap_or(settings.sidecar_mode);
    trace.note(TraceTopic::SidecarMode, || {
        let choice = choices.iter().find(|(_, choice)| *choice == mode);
        let name = choice.map_or("", |(name, _)| *name);
        match annotated {
            Some(_) => format!("{} is {name}", annotations.location(key::SIDECAR_MODE)),
            None => format!("the setting sidecarMode is {name}"),
        }
    });
    let node_support = context
        .oldest_node
        .map(|(_, version)| version.supports_native_sidecars());
    // Without a known Node, the API server's version decides.
    let all_support = node_support.unwrap_or(settings.native_sidecars_supported);
    if mode != SidecarMode::Classic {
        trace.note(TraceTopic::SidecarMode, || {
            let verb = if all_support {
                "supports"
            } else {
                "does not support"
            };
            match context.oldest_node {
                Some((node, version)) => {
                    format!("the oldest kubelet, {version} of Node {node}, {verb} native sidecars")
                }
                None => format!("the API server {verb} native sidecars"),
            }
        });
    }
    let placement = match mode {
        SidecarMode::Auto if all_support => Placement::Native,
        SidecarMode::Classic | SidecarMode::Auto => Placement::Classic,
        SidecarMode::Native if all_support || settings.native_sidecars_supported => Placement::Native,
        SidecarMode::Native => {
            return Err(Denial::NativeUnsupported {
                object: annotations.object.to_owned(),
            });
        }
    };
    trace.note(TraceTopic::SidecarMode, || match placement {
        Placement::Native => "native: a restartable init container before the Pod's own".to_owned(),
        Placement::Classic => "classic: the first ordinary container".to_owned(),
    });
    Ok(placement)
}

fn is_restricted(settings: &Settings, namespace_labels: &Values<'_>, trace: &mut Trace) -> bool {
    if settings.security_profile == SecurityProfile::Restricted {
        trace.note(TraceTopic::SecurityProfile, || {
            "the setting securityProfile is restricted".to_owned()
        });
        return true;
    }
    let enforced = namespace_labels.get(ENFORCED_POD_SECURITY);
    let restricted = enforced == Some("restricted");
    trace.note(TraceTopic::SecurityProfile, || {
        let profile = if restricted { "restricted" } else { "default" };
        let location = namespace_labels.location(ENFORCED_POD_SECURITY);
        format!(
            "{location} is {}, so the profile is {profile}",
            enforced.unwrap_or("absent")
        )
    });
    restricted
}

fn drain_mode(settings: &Settings, annotations: &Values<'_>) -> Result<DrainMode, Denial> {
    let choices = [
        ("wait", DrainMode::Wait),
        ("acknowledged", DrainMode::Acknowledged),
    ];
    Ok(annotations
        .choice(key::DRAIN_MODE, &choices)?
        .unwrap_or(settings.drain_mode))
}

/// Returns the configured environment variables of the sidecar. The annotation overrides the settings.
fn env_vars(settings: &Settings, annotations: &Values<'_>) -> Result<BTreeMap<String, String>, Denial> {
    let mut variables = settings.sidecar_container.env_vars.clone();
    variables.extend(annotations.map(key::SIDECAR_ENV_VARS)?);
    Ok(variables)
}

/// Returns the port of the metrics of DNS that a configured variable sets. `kuma-dp` rejects a value that is not a port.
pub(crate) fn configured_dns_metrics_port(env_vars: &BTreeMap<String, String>) -> Option<u16> {
    let port = env_vars.get(DNS_METRICS_PORT_VARIABLE)?.parse().ok()?;
    (port != 0).then_some(port)
}

fn dns_port(settings: &Settings, annotations: &Values<'_>) -> Result<Option<u16>, Denial> {
    let enabled = annotations
        .first_boolean(&[key::BUILTIN_DNS, key::BUILTIN_DNS_DEPRECATED])?
        .unwrap_or(settings.builtin_dns.enabled);
    let port = annotations
        .first_port(&[key::BUILTIN_DNS_PORT, key::BUILTIN_DNS_PORT_DEPRECATED])?
        .unwrap_or(settings.builtin_dns.port);
    Ok(enabled.then_some(port))
}

fn virtual_probes(settings: &Settings, annotations: &Values<'_>, is_gateway: bool) -> Result<bool, Denial> {
    match (is_gateway, annotations.boolean(key::VIRTUAL_PROBES)?) {
        (true, Some(true)) => Err(Denial::VirtualProbesOnGateway),
        (true, _) => Ok(false),
        (false, requested) => Ok(requested.unwrap_or(settings.virtual_probes_enabled)),
    }
}
