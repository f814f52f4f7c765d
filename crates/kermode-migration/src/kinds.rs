//! Kinds of Kuma that Kermode does not install.

use serde_json::Value;

use crate::report::Finding;
use crate::rule::{self, Rule};

/// Name of the controller in GatewayClasses of Kuma.
const GATEWAY_CONTROLLER: &str = "gateways.kuma.io/controller";

/// Consequence and remedy of a group of kinds.
struct Group {
    rule: &'static Rule,
    kinds: &'static [&'static str],
    consequence: &'static str,
    remedy: &'static str,
}

const GROUPS: &[Group] = &[
    Group {
        rule: &rule::TRAFFIC_PERMISSION,
        kinds: &["TrafficPermission"],
        consequence: "permissions of this kind are not enforced; MeshTrafficPermission allow-all-<mesh> allows all traffic \
                      of the mesh until you change it",
        remedy: "write a MeshTrafficPermission with the same sources and destinations, then delete allow-all-<mesh>",
    },
    Group {
        rule: &rule::ROUTE,
        kinds: &[
            "TrafficRoute",
            "MeshHTTPRoute",
            "MeshTCPRoute",
            "MeshGatewayRoute",
            "VirtualOutbound",
        ],
        consequence: "requests go to all ready endpoints of the Service that the client names; there is no split by \
                      weight, match or tag",
        remedy: "use one Kubernetes Service for each destination, and names that end in .mesh in place of virtual \
                 outbounds",
    },
    Group {
        rule: &rule::RESILIENCE,
        kinds: &[
            "Timeout",
            "Retry",
            "HealthCheck",
            "CircuitBreaker",
            "RateLimit",
            "FaultInjection",
            "MeshTimeout",
            "MeshRetry",
            "MeshHealthCheck",
            "MeshCircuitBreaker",
            "MeshRateLimit",
            "MeshFaultInjection",
            "MeshLoadBalancingStrategy",
            "MeshGlobalRateLimit",
        ],
        consequence: "the sidecar has its fixed behaviour: it retries only requests that no application can have seen, \
                      and avoids endpoints that fail; it has no rate limits and injects no faults",
        remedy: "set time limits, retries and limits in the applications",
    },
    Group {
        rule: &rule::TELEMETRY,
        kinds: &[
            "TrafficLog",
            "TrafficTrace",
            "MeshAccessLog",
            "MeshTrace",
            "MeshMetric",
        ],
        consequence: "sidecars write no access logs and no traces; metrics are requested by annotations",
        remedy: "annotate the Pods with prometheus.metrics.kuma.io/port for metrics; trace and log in the applications",
    },
    Group {
        rule: &rule::PROXY_CHANGE,
        kinds: &["ProxyTemplate", "MeshProxyPatch"],
        consequence: "the configuration of Envoy cannot be changed",
        remedy: "use ContainerPatches for the container of the sidecar; there is nothing in place of other changes",
    },
    Group {
        rule: &rule::EXTERNAL_SERVICE,
        kinds: &["ExternalService", "MeshExternalService", "MeshPassthrough"],
        consequence: "traffic to addresses outside of the mesh passes through unchanged, unless the Mesh turns off \
                      spec.networking.outbound.passthrough",
        remedy: "call the external service by its own name",
    },
    Group {
        rule: &rule::GATEWAY,
        kinds: &["MeshGateway", "MeshGatewayInstance", "MeshGatewayConfig"],
        consequence: "there are no builtin gateways",
        remedy: "run another gateway with the annotation kuma.io/gateway: enabled, as a delegated gateway",
    },
    Group {
        rule: &rule::ZONE,
        kinds: &["Zone", "ZoneIngress", "ZoneEgress", "MeshMultiZoneService"],
        consequence: "each cluster is a mesh of its own; the setting multizone.zone.name only adds the tag kuma.io/zone",
        remedy: "call services of other clusters through gateways",
    },
    Group {
        rule: &rule::SERVICE_OBJECT,
        kinds: &["MeshService", "HostnameGenerator", "Workload"],
        consequence: "services are those of Kubernetes, with the tag kuma.io/service; their names end in .mesh",
        remedy: "nothing; policies name services by kuma.io/service",
    },
    Group {
        rule: &rule::IDENTITY,
        kinds: &["MeshIdentity", "MeshTrust", "MeshTLS"],
        consequence: "identities are those of spec.mtls of the Mesh: spiffe://<mesh>/<service>",
        remedy: "enable a backend of type builtin in spec.mtls of the Mesh",
    },
    Group {
        rule: &rule::STATE,
        kinds: &[
            "DataplaneInsight",
            "MeshInsight",
            "ServiceInsight",
            "ZoneInsight",
            "ZoneIngressInsight",
            "ZoneEgressInsight",
        ],
        consequence: "the state of proxies is in the status of their Dataplanes, and that of meshes in the status of \
                      their Mesh",
        remedy: "nothing; do not copy these objects",
    },
];

/// Returns the finding about an object of a kind that Kermode does not install.
pub(crate) fn finding(kind: &str) -> Finding {
    let group = GROUPS.iter().find(|group| group.kinds.contains(&kind));
    match group {
        Some(group) => {
            let text = format!("Kermode does not install the kind {kind}: {}", group.consequence);
            Finding::new(group.rule, text).with_remedy(group.remedy)
        }
        None => Finding::new(
            &rule::UNKNOWN_KIND,
            format!("Kermode does not install the kind {kind}, so kubectl apply fails and the object has no effect"),
        )
        .with_remedy("remove the object from the manifests for Kermode"),
    }
}

/// Returns the finding about a GatewayClass of Kuma; `None` for the GatewayClass of another controller.
pub(crate) fn gateway_class(object: &Value) -> Option<Vec<Finding>> {
    (object["spec"]["controllerName"] == GATEWAY_CONTROLLER).then(|| {
        let text = "Kermode has no controller for the Gateway API; Gateways of this class stay without an address";
        let remedy = "use the GatewayClass of another gateway, with the annotation kuma.io/gateway: enabled on its Pods";
        vec![Finding::new(&rule::GATEWAY, text).with_remedy(remedy)]
    })
}
