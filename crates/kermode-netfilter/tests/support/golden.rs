//! Reads the golden tests' inputs and builds their rules.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use kermode_netfilter::{DnsServers, IpFamilies, RuleSet, TrafficConfig, parse_virtual_network};
use serde::Deserialize;

/// One input and its golden file.
pub(crate) struct GoldenCase {
    input_path: PathBuf,
    settings: GoldenSettings,
}

/// Content of an input file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GoldenSettings {
    /// Description of the tested behaviour.
    #[serde(rename = "shows")]
    _shows: String,
    /// Whether the Pod has an IPv6 address.
    #[serde(default)]
    ipv6: bool,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    // Settings that have no annotation.
    #[serde(default)]
    dns_servers: Vec<IpAddr>,
    #[serde(default)]
    skip_conntrack_zone_split: bool,
    #[serde(default)]
    virtual_networks: Vec<String>,
}

/// Returns all cases, sorted by name.
pub(crate) fn cases() -> Vec<GoldenCase> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = fs::read_dir(folder).expect("the folder of the goldens");
    let paths = entries.map(|entry| entry.expect("a directory entry").path());
    let mut input_paths: Vec<_> = paths
        .filter(|path| path.to_string_lossy().ends_with(".input.yaml"))
        .collect();
    input_paths.sort();
    input_paths.into_iter().map(GoldenCase::read).collect()
}

impl GoldenCase {
    fn read(input_path: PathBuf) -> Self {
        let text = fs::read_to_string(&input_path).expect("a readable input");
        let settings =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", input_path.display()));
        Self { input_path, settings }
    }

    /// Returns the path of the golden file.
    pub(crate) fn golden_path(&self) -> PathBuf {
        PathBuf::from(
            self.input_path
                .to_string_lossy()
                .replace(".input.yaml", ".golden.nft"),
        )
    }

    /// Builds the rules of the input.
    pub(crate) fn rules(&self) -> RuleSet {
        let settings = &self.settings;
        let mut config = TrafficConfig::from_annotations(&settings.annotations).expect("valid annotations");
        if let Some(dns) = &mut config.dns {
            dns.split_conntrack_zones = !settings.skip_conntrack_zone_split;
            if !settings.dns_servers.is_empty() {
                dns.servers = DnsServers::Only(settings.dns_servers.clone());
            }
        }
        let networks = settings
            .virtual_networks
            .iter()
            .map(|text| parse_virtual_network("--vnet", text).expect("a valid network"));
        config.virtual_networks = networks.collect();
        let families = if settings.ipv6 {
            IpFamilies::DualStack
        } else {
            IpFamilies::V4
        };
        RuleSet::new(&config, families)
    }
}
