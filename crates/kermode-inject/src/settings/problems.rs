//! Validation of decoded settings; reports all problems at once (docs/reference/configuration.md#validation).

use kermode_model::is_dns_subdomain;

use super::{ProbeSettings, Settings};

/// Highest user or group ID that the API server accepts in a security context.
const MAX_ID: u32 = 2_147_483_647;

impl Settings {
    /// Returns all problems, each with the path of its setting.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        self.check_images(&mut problems);
        for name in &self.image_pull_secrets {
            if !is_dns_subdomain(name) {
                problems.push(format!("imagePullSecrets: {name:?} is not the name of a Secret"));
            }
        }
        self.check_ports(&mut problems);
        self.check_sidecar(&mut problems);
        if self.ebpf.enabled {
            problems.push("ebpf.enabled: eBPF mode is not supported; set it to false".to_owned());
        }
        problems
    }

    fn check_images(&self, problems: &mut Vec<String>) {
        for (path, image) in [
            ("sidecarContainer.image", &self.sidecar_container.image),
            ("initContainer.image", &self.init_container.image),
        ] {
            if image.trim().is_empty() {
                problems.push(format!("{path}: must not be empty"));
            }
        }
    }

    fn check_ports(&self, problems: &mut Vec<String>) {
        let sidecar = &self.sidecar_container;
        for (path, port) in [
            (
                "sidecarContainer.redirectPortInbound",
                sidecar.redirect_port_inbound,
            ),
            (
                "sidecarContainer.redirectPortInboundV6",
                sidecar.redirect_port_inbound_v6,
            ),
            (
                "sidecarContainer.redirectPortOutbound",
                sidecar.redirect_port_outbound,
            ),
            ("sidecarContainer.adminPort", sidecar.admin_port),
            ("virtualProbesPort", self.virtual_probes_port),
            ("builtinDNS.port", self.builtin_dns.port),
        ] {
            if port == 0 {
                problems.push(format!("{path}: must be a port from 1 to 65535"));
            }
        }
        // As in Kuma, the sidecar's environment variables name this port and the two ports after it. `kuma-dp` listens
        // only on this port.
        if self.builtin_dns.port > u16::MAX - 2 {
            problems.push(
                "builtinDNS.port: must be at most 65533, because the sidecar's variables also name the two ports after it"
                    .to_owned(),
            );
        }
    }

    fn check_sidecar(&self, problems: &mut Vec<String>) {
        let sidecar = &self.sidecar_container;
        if sidecar.drain_time.is_zero() {
            problems.push("sidecarContainer.drainTime: must be above zero".to_owned());
        }
        if sidecar.token_audience.is_empty() {
            problems.push(
                "sidecarContainer.tokenAudience: must not be empty, because a token without an audience is valid for the API server".to_owned(),
            );
        }
        if sidecar.uid == 0 {
            problems.push(
                "sidecarContainer.uid: must not be 0, since the traffic of root would not be redirected"
                    .to_owned(),
            );
        }
        for (path, id) in [
            ("sidecarContainer.uid", sidecar.uid),
            ("sidecarContainer.gid", sidecar.gid),
        ] {
            if id > MAX_ID {
                problems.push(format!(
                    "{path}: must be at most {MAX_ID}, since the API server rejects Pods with higher IDs"
                ));
            }
        }
        check_probe("readinessProbe", &sidecar.readiness_probe, 1, problems);
        check_probe("livenessProbe", &sidecar.liveness_probe, 1, problems);
        check_probe("startupProbe", &sidecar.startup_probe, 0, problems);
    }
}

fn check_probe(name: &str, probe: &ProbeSettings, min_initial_delay: u32, problems: &mut Vec<String>) {
    for (field, value, min) in [
        (
            "initialDelaySeconds",
            probe.initial_delay_seconds,
            min_initial_delay,
        ),
        ("timeoutSeconds", probe.timeout_seconds, 1),
        ("periodSeconds", probe.period_seconds, 1),
        ("successThreshold", probe.success_threshold, 1),
        ("failureThreshold", probe.failure_threshold, 1),
    ] {
        if value < min {
            problems.push(format!("sidecarContainer.{name}.{field}: must be at least {min}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(Settings::default().problems(), Vec::<String>::new());
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let mut settings = Settings::default();
        settings.sidecar_container.image = String::new();
        settings.sidecar_container.drain_time = std::time::Duration::ZERO;
        settings.sidecar_container.liveness_probe.period_seconds = 0;
        settings.builtin_dns.port = 65534;
        settings.sidecar_container.token_audience = String::new();
        settings.ebpf.enabled = true;
        settings.image_pull_secrets = vec!["mirror.credentials".to_owned(), "Mirror".to_owned()];
        assert_eq!(settings.problems().len(), 7, "{:?}", settings.problems());
    }

    #[test]
    fn ids_that_the_api_server_rejects_are_problems() {
        let mut settings = Settings::default();
        settings.sidecar_container.uid = MAX_ID;
        settings.sidecar_container.gid = MAX_ID;
        assert_eq!(settings.problems(), Vec::<String>::new());
        settings.sidecar_container.uid += 1;
        settings.sidecar_container.gid += 1;
        let problems = settings.problems();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("sidecarContainer.uid: must be at most 2147483647"));
    }
}
