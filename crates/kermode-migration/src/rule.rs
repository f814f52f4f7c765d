//! Identifiers of findings, each with its verdict. `docs/reference/migration.md` is generated from them.

use crate::report::Verdict;

/// One identifier of findings.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Stable identifier.
    pub id: &'static str,
    /// Verdict of all findings with this identifier.
    pub verdict: Verdict,
    /// Lines of the meaning.
    pub meaning: &'static [&'static str],
}

/// Declares one constant for each identifier, and a table of all of them.
macro_rules! rules {
    ($( $(#[doc = $doc:literal])+ $name:ident = $id:literal, $verdict:ident; )+) => {
        $( $(#[doc = $doc])+ pub(crate) const $name: Rule = Rule { id: $id, verdict: Verdict::$verdict, meaning: &[$($doc),+] }; )+

        /// All identifiers, in the order of the reference.
        pub const RULES: &[Rule] = &[$($name),+];
    };
}

rules! {
    /// Labels and annotations have the same meaning as in Kuma 2.x.
    KEYS_UNCHANGED = "KeysUnchanged", Works;
    /// Labels and annotations that Kermode writes itself.
    KEYS_WRITTEN = "KeysWritten", Works;
    /// Kermode has a function that Kuma 3 removes.
    REMOVED_IN_KUMA_3 = "RemovedInKuma3", Works;
    /// A label or annotation of Kuma 2.x that has no effect.
    KEY_WITHOUT_EFFECT = "KeyWithoutEffect", Ignored;
    /// A label or annotation whose key contains `kuma.io/`, and that neither Kuma 2.x nor Kermode reads on this object.
    UNKNOWN_KEY = "UnknownKey", Ignored;
    /// A label or annotation of a workload that only its Pod template may have.
    MISPLACED_KEY = "MisplacedKey", Ignored;
    /// An annotation requests injection. Kermode obeys it, as Kuma 2.1 does; Kuma 2.2 and later ignore it.
    INJECTED_BY_ANNOTATION = "InjectedByAnnotation", Differs;
    /// An annotation turns injection off. Kermode obeys it, as Kuma 2.1 does; Kuma 2.2 and later ignore it, so a Pod can
    /// lose its sidecar and mTLS.
    NOT_INJECTED_BY_ANNOTATION = "NotInjectedByAnnotation", Differs;
    /// The annotation with ContainerPatches replaces the default list; Kuma applies the default list, too.
    PATCHES_REPLACE_DEFAULTS = "PatchesReplaceDefaults", Differs;
    /// The Namespace requests injection for a Pod that cannot carry a sidecar: Kermode leaves the Pod as it is; Kuma
    /// injects.
    CANNOT_CARRY_SIDECAR = "CannotCarrySidecar", Differs;
    /// Injection succeeds with a warning.
    INJECTION_WARNING = "InjectionWarning", Differs;
    /// The Pod would be denied.
    POD_DENIED = "PodDenied", Refused;
    /// The Mesh is accepted, and all of its settings have their meaning.
    MESH_UNCHANGED = "MeshUnchanged", Works;
    /// With mTLS in mode STRICT, a port without an inbound closes plain text connections; Kuma lets them pass.
    STRICT_COVERS_EVERY_PORT = "StrictCoversEveryPort", Differs;
    /// The Mesh opts out of its initial policies, and Kermode creates a permission that allows all traffic.
    INITIAL_PERMISSION = "InitialPermission", Ignored;
    /// Metrics of the Mesh.
    MESH_METRICS = "MeshMetricsIgnored", Ignored;
    /// Access logs of the Mesh.
    MESH_LOGGING = "MeshLoggingIgnored", Ignored;
    /// Traces of the Mesh.
    MESH_TRACING = "MeshTracingIgnored", Ignored;
    /// Locality-aware load balancing and egress of the Mesh.
    MESH_ROUTING = "MeshRoutingIgnored", Ignored;
    /// Restrictions of which Dataplanes may join the Mesh.
    MESH_CONSTRAINTS = "MeshConstraintsIgnored", Ignored;
    /// Another setting of the Mesh.
    MESH_FIELD = "MeshFieldIgnored", Ignored;
    /// The Mesh would be denied.
    MESH_REFUSED = "MeshRefused", Refused;
    /// The MeshTrafficPermission has the same meaning as in Kuma 2.x.
    PERMISSION_UNCHANGED = "PermissionUnchanged", Works;
    /// The MeshTrafficPermission would be denied.
    PERMISSION_REFUSED = "PermissionRefused", Refused;
    /// The MeshTrafficPermission names a service by the name of a MeshService object. No Dataplane has this service, so the
    /// rule applies to nothing.
    PERMISSION_SERVICE = "PermissionNamesNoService", Ignored;
    /// A field of the MeshTrafficPermission that Kermode does not know. The permission can apply more widely without it.
    PERMISSION_FIELD = "PermissionFieldIgnored", Ignored;
    /// The ContainerPatch has the same meaning as in Kuma 2.x.
    PATCH_UNCHANGED = "PatchUnchanged", Works;
    /// The ContainerPatch would be denied.
    PATCH_REFUSED = "PatchRefused", Refused;
    /// A Dataplane of a Pod. The control plane writes it.
    DATAPLANE_OF_POD = "DataplaneOfPod", Works;
    /// A Dataplane that a user wrote. It is stored, and no proxy uses it.
    DATAPLANE_WITHOUT_POD = "DataplaneWithoutPod", Ignored;
    /// The Dataplane would be denied.
    DATAPLANE_REFUSED = "DataplaneRefused", Refused;
    /// A CA that Kermode keeps. Do not delete it.
    SECRET_OF_KERMODE = "SecretOfKermode", Works;
    /// A Secret of Kuma that Kermode does not read.
    SECRET_UNUSED = "SecretUnused", Ignored;
    /// A builtin CA of Kuma, where Kermode keeps its own. The mesh has no certificates while the Secret exists.
    SECRET_OF_CA = "CaSecretUnreadable", Refused;
    /// Permissions of Kuma before MeshTrafficPermission.
    TRAFFIC_PERMISSION = "TrafficPermissionNotInstalled", NotInstalled;
    /// Routes and virtual outbounds.
    ROUTE = "RouteNotInstalled", NotInstalled;
    /// Timeouts, retries, health checks, circuit breakers, limits, faults and load balancing.
    RESILIENCE = "ResilienceNotInstalled", NotInstalled;
    /// Access logs, traces and metrics.
    TELEMETRY = "TelemetryNotInstalled", NotInstalled;
    /// Changes of Envoy's configuration.
    PROXY_CHANGE = "ProxyChangeNotInstalled", NotInstalled;
    /// Services outside of the mesh.
    EXTERNAL_SERVICE = "ExternalServiceNotInstalled", NotInstalled;
    /// Builtin gateways.
    GATEWAY = "GatewayNotInstalled", NotInstalled;
    /// Zones, and the proxies between them.
    ZONE = "ZoneNotInstalled", NotInstalled;
    /// Services and host names as objects.
    SERVICE_OBJECT = "ServiceObjectNotInstalled", NotInstalled;
    /// Identities and trust as objects.
    IDENTITY = "IdentityNotInstalled", NotInstalled;
    /// State that Kuma's control plane writes.
    STATE = "StateOfKuma", NotInstalled;
    /// A kind of the API group `kuma.io` that Kermode does not install, and that this report does not know.
    UNKNOWN_KIND = "KindNotInstalled", NotInstalled;
    /// The settings of the control plane are accepted.
    SETTINGS_UNCHANGED = "SettingsUnchanged", Works;
    /// A variable `KUMA_*` that Kermode does not read.
    VARIABLE_IGNORED = "VariableIgnored", Ignored;
    /// A setting with which the control plane does not start.
    SETTING_REFUSED = "SettingRefused", Refused;
    /// A Helm value that the chart has. Its content is not checked.
    VALUES_UNCHANGED = "ValuesUnchanged", Works;
    /// A Helm value that the schema of the chart refuses.
    VALUE_REFUSED = "ValueRefused", Refused;
}
