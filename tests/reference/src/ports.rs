//! Table of ports, from the defaults of the configuration and the manifests of the installation.

use kermode_config::Config;
use kermode_install::{PORTS, Port};

use crate::{GeneratedTable, code, render_table};

/// A port that a Service of the installation exposes, the key of the port's setting, and the use of the port.
type ServicePort = (Port, &'static str, &'static str);
/// The process that listens on a port that no Service exposes, the port, the key of the port's setting, and the use of
/// the port. Keys of a sidecar's ports are relative to `runtime.kubernetes.injector`.
type PodPort = (&'static str, u16, &'static str, &'static str);

pub(crate) fn tables() -> Vec<GeneratedTable> {
    let config = Config::default();
    let rows = service_ports()
        .into_iter()
        .map(service_port_row)
        .chain(pod_ports(&config).into_iter().map(pod_port_row));
    vec![GeneratedTable {
        file: "names-and-ports.md",
        name: "ports".to_owned(),
        markdown: render_table(["process", "port", "setting", "use"], rows),
    }]
}

/// Returns the ports of [`PORTS`] in the same order, each with its setting and use.
fn service_ports() -> [ServicePort; 3] {
    [
        (
            PORTS[0],
            "runtime.kubernetes.admissionServer.port",
            "admission webhooks, HTTPS",
        ),
        (
            PORTS[1],
            "dpServer.port",
            "delta ADS, certificates, names, endpoint removals, ends of applications and reports for proxies, gRPC over TLS",
        ),
        (
            PORTS[2],
            "diagnostics.serverPort",
            "`/healthy`, `/ready`, `/metrics`",
        ),
    ]
}

fn service_port_row((port, key, usage): ServicePort) -> [String; 4] {
    let port_cell = format!(
        "{} (Service `{}`: {})",
        port.container_port, port.service_name, port.service_port
    );
    ["`kuma-cp`".to_owned(), port_cell, code(key), usage.to_owned()]
}

fn pod_ports(config: &Config) -> [PodPort; 7] {
    let injector = config.injector();
    let sidecar = &injector.sidecar_container;
    [
        (
            "`kuma-cp`",
            config.diagnostics.debug_port,
            "diagnostics.debugPort",
            "`/debug` and the page, on loopback",
        ),
        (
            "Envoy",
            sidecar.redirect_port_outbound,
            "sidecarContainer.redirectPortOutbound",
            "outbound traffic, redirected",
        ),
        (
            "Envoy",
            sidecar.redirect_port_inbound,
            "sidecarContainer.redirectPortInbound",
            "inbound IPv4 traffic, redirected",
        ),
        (
            "Envoy",
            sidecar.redirect_port_inbound_v6,
            "sidecarContainer.redirectPortInboundV6",
            "inbound IPv6 traffic, redirected",
        ),
        (
            "Envoy",
            sidecar.admin_port,
            "sidecarContainer.adminPort",
            "admin interface on loopback, `/ready` on the Pod's IP",
        ),
        (
            "Envoy",
            injector.virtual_probes_port,
            "virtualProbesPort",
            "probes of the application, on the Pod's IP",
        ),
        (
            "`kuma-dp`",
            injector.builtin_dns.port,
            "builtinDNS.port",
            "DNS, redirected from 53",
        ),
    ]
}

fn pod_port_row((process, port, key, usage): PodPort) -> [String; 4] {
    [process.to_owned(), port.to_string(), code(key), usage.to_owned()]
}
