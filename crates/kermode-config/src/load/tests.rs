//! Tests of the loader with a small configuration, which stands for the configuration of the control plane.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Deserialize;

use super::*;

#[derive(Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    server: Server,
    names: Vec<String>,
    labels: BTreeMap<String, String>,
    zone: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct Server {
    port: u16,
    tls: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: Server { port: 80, tls: true },
            names: Vec::new(),
            labels: BTreeMap::from([("a".into(), "b".into())]),
            zone: None,
        }
    }
}

const RULES: OverrideRules<'_> = OverrideRules {
    variables: &[
        ("APP_PORT", "server.port"),
        ("APP_TLS", "server.tls"),
        ("APP_NAMES", "names"),
        ("APP_LABELS", "labels"),
        ("APP_ZONE", "zone"),
    ],
    user_keyed_maps: &["labels"],
};

/// Loads a configuration from a file with this text, and from these environment variables.
fn try_load(file_text: &str, environment: &[(&str, &str)]) -> Result<Config, InvalidConfig> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(file_text.as_bytes()).expect("a writable file");
    let environment: BTreeMap<_, _> = environment.iter().copied().collect();
    load(RULES, Some(ConfigFile::Path(file.path())), |name| {
        environment.get(name).map(|&value| value.to_owned())
    })
}

#[test]
fn defaults_apply_without_file_and_environment() {
    assert_eq!(
        try_load("", &[]).expect("a valid configuration"),
        Config::default()
    );
    assert_eq!(
        load::<Config>(RULES, None, |_| None).expect("a valid configuration"),
        Config::default()
    );
}

#[test]
fn environment_overrides_the_file() {
    let config =
        try_load("server: {port: 81}\nzone: east\n", &[("APP_PORT", "82")]).expect("a valid configuration");
    assert_eq!(config.server, Server { port: 82, tls: true });
    assert_eq!(config.zone.as_deref(), Some("east"));
}

#[test]
fn variables_hold_lists_and_maps_as_text() {
    let environment = [("APP_NAMES", "x, y,"), ("APP_LABELS", "k:v,l:*")];
    let config = try_load("", &environment).expect("a valid configuration");
    assert_eq!(config.names, ["x", "y"]);
    assert_eq!(
        config.labels,
        BTreeMap::from([("k".into(), "v".into()), ("l".into(), "*".into())])
    );
}

#[test]
fn map_in_the_file_replaces_the_default_map() {
    let config = try_load("labels: {own: '1'}\n", &[]).expect("a valid configuration");
    assert_eq!(config.labels, BTreeMap::from([("own".into(), "1".into())]));
}

#[test]
fn all_problems_are_reported_at_once() {
    let error = try_load(
        "server: {prot: 1, port: many}\nfoo: 1\n",
        &[("APP_TLS", "perhaps"), ("APP_LABELS", "x"), ("APP_PORT", "70000")],
    )
    .expect_err("the configuration has six problems")
    .to_string();
    for part in [
        "unknown key server.prot",
        "server.port: ",
        "unknown key foo",
        "$APP_TLS: ",
        "$APP_LABELS: ",
        "$APP_PORT: ",
    ] {
        assert!(error.contains(part), "{part:?} is missing in {error}");
    }
}

#[test]
fn unreadable_file_and_invalid_yaml_are_errors() {
    let file = ConfigFile::Path(Path::new("/nowhere/config.yaml"));
    let error = load::<Config>(RULES, Some(file), |_| None).expect_err("the file does not exist");
    assert!(
        error.to_string().contains("/nowhere/config.yaml: cannot be read"),
        "{error}"
    );
    let error = try_load("a: [", &[]).expect_err("the file is not YAML");
    assert!(error.to_string().contains("is not valid YAML"), "{error}");
}
