//! Tests of the whole configuration: the table of settings is complete, every section is accepted, problems are
//! reported.

use std::collections::BTreeSet;
use std::io::Write;

use serde_json::Value;

use super::*;

/// Loads the configuration from a file with this text, without environment variables.
fn load_text(text: &str) -> Result<Config, InvalidConfig> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("a writable file");
    Config::load(Some(file.path()), |_| None)
}

/// Collects the paths of all leaves. A map whose keys are chosen by the user counts as a leaf.
fn collect_leaves(value: &Value, path: &str, leaves: &mut BTreeSet<String>) {
    match value {
        Value::Object(entries) if !USER_KEYED_MAPS.contains(&path) => {
            for (key, child) in entries {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                collect_leaves(child, &path, leaves);
            }
        }
        _ => {
            leaves.insert(path.to_owned());
        }
    }
}

#[test]
fn table_lists_every_setting_and_no_other() {
    let defaults = serde_json::to_value(Config::default()).expect("JSON");
    let mut expected = BTreeSet::new();
    collect_leaves(&defaults, "", &mut expected);
    let listed: Vec<String> = settings().into_iter().map(|setting| setting.path).collect();
    assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), expected);
    assert_eq!(listed.len(), expected.len(), "a setting is listed twice");
}

#[test]
fn every_variable_overrides_a_listed_setting() {
    let settings = settings();
    for (variable, path) in settings::variables() {
        // A variable may also override a section: all settings whose paths begin with the path of the section.
        let listed = settings
            .iter()
            .any(|setting| setting.path == path || setting.path.starts_with(&format!("{path}.")));
        assert!(listed, "{variable} overrides {path}, which is not a setting");
    }
}

#[test]
fn default_url_for_proxies_names_the_service_in_the_system_namespace() {
    assert_eq!(
        Config::default().control_plane_url(),
        "https://kuma-control-plane.kong-mesh-system:5678"
    );
}

#[test]
fn file_with_all_defaults_is_accepted() {
    let text = serde_json::to_string(&Config::default()).expect("JSON");
    assert_eq!(
        load_text(&text).expect("a valid configuration"),
        Config::default()
    );
}

#[test]
fn clock_tolerance_of_more_than_an_hour_is_rejected() {
    let error = load_text("general: {clockTolerance: 1h1s}").expect_err("rejected");
    assert_eq!(
        error.to_string(),
        "configuration: general.clockTolerance (KUMA_GENERAL_CLOCK_TOLERANCE): 1h0m1s is more than 1h0m0s; synchronise \
         the clocks of the nodes"
    );
    let config = load_text("general: {clockTolerance: 0s}").expect("valid");
    assert!(config.general.clock_tolerance.is_zero());
}

#[test]
fn sampling_ratio_above_1_is_rejected() {
    let error = load_text("tracing: {openTelemetry: {samplingRatio: 2}}").expect_err("the ratio is above 1");
    assert_eq!(
        error.to_string(),
        "configuration: tracing.openTelemetry.samplingRatio (KUMA_TRACING_OPENTELEMETRY_SAMPLING_RATIO): 2 is not \
         between 0 and 1"
    );
}

#[test]
fn unsupported_settings_of_mesh_names_are_reported() {
    let text = "dnsServer: { CIDR: 10.0.0.0/31, domain: internal, serviceVipPort: 8080 }";
    let problems = load_text(text).expect_err("three problems").to_string();
    for problem in [
        "dnsServer.CIDR (KUMA_DNS_SERVER_CIDR): 10.0.0.0/31 has too few addresses",
        "dnsServer.domain (KUMA_DNS_SERVER_DOMAIN): \"internal\" is not supported; the domain is always \"mesh\"",
        "dnsServer.serviceVipPort (KUMA_DNS_SERVER_SERVICE_VIP_PORT): 8080 is not supported; the port is always 80",
    ] {
        assert!(problems.contains(problem), "{problem:?} is missing: {problems}");
    }
}

#[test]
fn services_have_virtual_ips_of_the_configured_range_unless_disabled() {
    let range = |text| load_text(text).expect("a valid configuration").virtual_ip_range();
    assert_eq!(range("{}"), Some(VirtualIpRange::default()));
    assert_eq!(
        range("dnsServer: { CIDR: 241.0.0.0/8 }"),
        "241.0.0.0/8".parse().ok()
    );
    assert_eq!(range("dnsServer: { serviceVipEnabled: false }"), None);
}
