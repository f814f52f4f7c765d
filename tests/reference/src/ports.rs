//! Table of ports, from the defaults of the configuration and the manifests of the installation.

use kermode_config::Config;
use kermode_install::PORTS;

use crate::{Part, code, table};

pub(crate) fn parts() -> Vec<Part> {
    let config = Config::default();
    let injector = config.injector();
    let sidecar = &injector.sidecar_container;
    let mut rows = Vec::new();
    for (port, key, meaning) in [
        (
            PORTS[0],
            "runtime.kubernetes.admissionServer.port",
            "admission webhooks, HTTPS",
        ),
        (
            PORTS[1],
            "dpServer.port",
            "delta ADS, certificates and endpoint removals for proxies, gRPC over TLS",
        ),
        (
            PORTS[2],
            "diagnostics.serverPort",
            "`/healthy`, `/ready`, `/metrics`",
        ),
    ] {
        let container = format!(
            "{} (Service `{}`: {})",
            port.container, port.service_name, port.service
        );
        rows.push(["`kuma-cp`".to_owned(), container, code(key), meaning.to_owned()]);
    }
    let dns = injector.builtin_dns.port;
    for (process, port, key, meaning) in [
        (
            "kuma-cp",
            config.diagnostics.debug_port,
            "diagnostics.debugPort",
            "`/debug`, on loopback",
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
            "HTTP probes of the application, on the Pod's IP",
        ),
        ("kuma-dp", dns, "builtinDNS.port", "DNS, redirected from 53"),
    ] {
        let process = if process == "Envoy" {
            process.to_owned()
        } else {
            code(process)
        };
        rows.push([process, port.to_string(), code(key), meaning.to_owned()]);
    }
    vec![Part {
        file: "names-and-ports.md",
        name: "ports".to_owned(),
        text: table(["process", "port", "setting", "use"], rows),
    }]
}
