//! Responses of the control plane's `/debug` endpoint, in JSON. `kuma-cp` serializes them, tools deserialize them.
//!
//! The order of fields is the order in the JSON. The response of `/debug/config` has its type in `kermode-config`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Path of the overview: a map from path to description.
pub const OVERVIEW: &str = "/debug";
/// Path of the replica's configuration.
pub const CONFIG: &str = "/debug/config";
/// Path of [`Proxies`].
pub const PROXIES: &str = "/debug/proxies";
/// Path of the list of [`Removal`]s.
pub const REMOVALS: &str = "/debug/removals";
/// Path of [`Resources`]; the query parameter `proxy` is `<pod>.<namespace>`.
pub const RESOURCES: &str = "/debug/resources";

/// Proxies that are connected to the replica, by name (`<pod>.<namespace>`).
pub type Proxies = BTreeMap<String, ConnectedProxy>;

/// Resources of one proxy by kind, sorted by name within a kind.
pub type Resources = BTreeMap<String, Vec<ResourceEntry>>;

/// Connected proxy. Unknown values are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectedProxy {
    /// State of the proxy's configuration.
    #[serde(default)]
    pub configuration: Configuration,
    /// Name of the replica that serves the proxy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub control_plane: String,
    /// Version of Envoy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub envoy_version: String,
    /// Version of `kuma-dp`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
}

/// State of a proxy's configuration. A version of the configuration is the decimal number of changes that the replica
/// has applied, so versions are comparable within one replica only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// Newest version that was acknowledged as a whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub acknowledged: String,
    /// Last rejection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rejection: Option<Rejection>,
    /// Newest version sent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sent: String,
}

/// Resources that Envoy rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Kind of the resources.
    pub kind: String,
    /// Envoy's explanation.
    pub message: String,
    /// Names of the resources.
    #[serde(default)]
    pub resources: Vec<String>,
    /// Time of the NACK (RFC 3339).
    pub time: String,
}

/// Endpoint removal that some proxies have not acknowledged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Removal {
    /// Proxy whose endpoint was removed, `<pod>.<namespace>`.
    pub proxy: String,
    /// Time since the removal, in seconds.
    pub age_seconds: f64,
    /// Number of proxies that have not acknowledged the removal.
    pub unacknowledged_by: usize,
    /// Names of some of these proxies.
    pub examples: Vec<String>,
}

/// Resource of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceEntry {
    /// Size of the encoded resource, in bytes.
    pub bytes: usize,
    /// Name of the resource.
    pub name: String,
    /// Sequence number with which this version was published to the store.
    #[serde(rename = "published")]
    pub sequence_number: u64,
    /// Version of the resource.
    pub version: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_of_proxies_is_stable() {
        let json = r#"{"web-0.shop":{"configuration":{"acknowledged":"7","lastRejection":{"kind":"Listener","message":"no such filter","resources":["inbound:10.0.0.1:80"],"time":"2026-01-01T00:00:00Z"},"sent":"9"},"controlPlane":"cp-1","envoyVersion":"1.40.0","version":"0.1.0"}}"#;
        let proxies: Proxies = serde_json::from_str(json).unwrap();
        assert_eq!(proxies["web-0.shop"].configuration.sent, "9");
        assert_eq!(serde_json::to_string(&proxies).unwrap(), json);
    }

    #[test]
    fn json_of_removals_is_stable() {
        let json =
            r#"[{"proxy":"web-0.shop","ageSeconds":1.5,"unacknowledgedBy":2,"examples":["db-0.shop"]}]"#;
        let removals: Vec<Removal> = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&removals).unwrap(), json);
    }

    #[test]
    fn json_of_resources_is_stable() {
        let json = r#"{"Cluster":[{"bytes":120,"name":"web","published":3,"version":"a1"}],"Listener":[]}"#;
        let resources: Resources = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&resources).unwrap(), json);
    }
}
