//! Ingredients of a sidecar's configuration that may cost something, and configurations of sidecars without them.

use kermode_model::Protocol;
use serde_json::{Value, json};

use super::WORKERS;
use super::sidecars::{Configs, for_each_object, remove};

/// A part of the configuration of sidecars.
#[derive(Clone, Copy)]
pub struct Ingredient {
    /// Name, for the table.
    pub name: &'static str,
    scope: Scope,
    /// Removes the ingredient from the configuration of a sidecar.
    remove: fn(&mut Value),
    /// Number of worker threads without the ingredient.
    pub(super) workers: u32,
}

/// The protocols that an ingredient may cost something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Any,
    Http,
    Http1,
    Tcp,
}

/// All ingredients. Bare Envoys have the ingredients after `all of the above`, too.
pub const INGREDIENTS: &[Ingredient] = &[
    ingredient("HTTP/2 between sidecars", Scope::Http1, use_http1),
    ingredient("removal of headers", Scope::Http, |config| {
        remove_everywhere(config, &["requestHeadersToRemove", "responseHeadersToRemove"]);
    }),
    ingredient("x-forwarded-client-cert", Scope::Http, |config| {
        remove_everywhere(
            config,
            &["forwardClientCertDetails", "setCurrentClientCertDetails"],
        );
    }),
    ingredient("retries", Scope::Http, |config| {
        remove_everywhere(config, &["retryPolicy"]);
    }),
    ingredient("own responses", Scope::Http, |config| {
        remove_everywhere(config, &["localReplyConfig"]);
    }),
    ingredient("upgrades", Scope::Http, |config| {
        remove_everywhere(config, &["upgradeConfigs"]);
    }),
    ingredient("timeout of headers", Scope::Http, |config| {
        remove_everywhere(config, &["requestHeadersTimeout"]);
    }),
    ingredient("limits of headers", Scope::Http, |config| {
        let limits = [
            "maxHeadersCount",
            "maxHeaderFieldSizeKb",
            "maxRequestHeadersKb",
            "maxResponseHeadersKb",
        ];
        remove_everywhere(config, &limits);
    }),
    ingredient("exported statistics of endpoints", Scope::Http, |config| {
        remove_everywhere(config, &["trackClusterStats"]);
    }),
    ingredient("ejection of endpoints", Scope::Any, |config| {
        remove_everywhere(config, &["outlierDetection"]);
    }),
    ingredient("circuit breakers without limits", Scope::Any, |config| {
        remove_everywhere(config, &["circuitBreakers"]);
    }),
    ingredient("PINGs and keepalive", Scope::Any, |config| {
        let fields = ["connectionKeepalive", "upstreamConnectionOptions", "tcpKeepalive"];
        remove_everywhere(config, &fields);
    }),
    ingredient("connection attempts", Scope::Tcp, |config| {
        remove_everywhere(config, &["maxConnectAttempts"]);
    }),
    ingredient("source address", Scope::Any, |config| {
        remove_everywhere(config, &["upstreamBindConfig"]);
    }),
    ingredient("one accept queue", Scope::Any, |config| {
        remove_everywhere(config, &["enableReusePort"]);
    }),
    ingredient("deferred statistics", Scope::Any, |config| {
        remove(config, "deferred_stat_options");
    }),
    ingredient("options of the bootstrap", Scope::Any, keep_minimal_bootstrap),
    ingredient("all of the above", Scope::Any, remove_all),
    ingredient("mTLS", Scope::Any, |config| {
        remove_everywhere(config, &["transportSocket"]);
    }),
    ingredient("statistics for each status", Scope::Http, |config| {
        for_each_filter(config, "envoy.filters.http.router", |router| {
            router["dynamicStats"] = json!(false);
        });
    }),
    ingredient("x-request-id", Scope::Http, |config| {
        for_each_filter(
            config,
            "envoy.filters.network.http_connection_manager",
            |manager| {
                manager["generateRequestId"] = json!(false);
            },
        );
    }),
    ingredient("statistics", Scope::Any, |config| {
        config["stats_config"] = json!({ "stats_matcher": { "reject_all": true } });
    }),
    ingredient("Envoy's other HTTP/2 codec", Scope::Http, |config| {
        set_runtime(config, "envoy.reloadable_features.http2_use_oghttp2", true);
    }),
    ingredient("buffers over 32 KiB", Scope::Any, limit_buffers),
    Ingredient {
        workers: 1,
        ..ingredient("second worker thread", Scope::Any, |_| {})
    },
];

const fn ingredient(name: &'static str, scope: Scope, remove: fn(&mut Value)) -> Ingredient {
    Ingredient {
        name,
        scope,
        remove,
        workers: WORKERS,
    }
}

// === impl Ingredient ===

impl Ingredient {
    /// Whether the ingredient may cost something for callers of a protocol.
    pub fn concerns(&self, protocol: Protocol) -> bool {
        match self.scope {
            Scope::Any => true,
            Scope::Http => protocol.is_http(),
            Scope::Http1 => protocol == Protocol::Http,
            Scope::Tcp => protocol == Protocol::Tcp,
        }
    }

    /// Returns configurations without the ingredient.
    pub(super) fn removed_from(&self, mut configs: Configs) -> Configs {
        (self.remove)(&mut configs.client);
        (self.remove)(&mut configs.server);
        configs
    }
}

/// Makes sidecars forward requests to HTTP/1.1 applications by HTTP/1.1.
fn use_http1(config: &mut Value) {
    for_each_object(config, &mut |object| {
        let name = object.get("name").and_then(Value::as_str).unwrap_or_default();
        let is_to_sidecar = object.contains_key("transportSocket") && name.starts_with("http_");
        if let Some(options) = object
            .get_mut("typedExtensionProtocolOptions")
            .filter(|_| is_to_sidecar)
        {
            for_each_object(options, &mut |options| {
                if let Some(protocol) = options.get_mut("explicitHttpConfig") {
                    *protocol = json!({ "httpProtocolOptions": { "enableTrailers": true } });
                }
            });
        }
    });
}

/// Removes everything that bare Envoys lack, except HTTP/2 between sidecars.
fn remove_all(config: &mut Value) {
    let above = INGREDIENTS
        .iter()
        .take_while(|ingredient| ingredient.name != "all of the above");
    for ingredient in above.filter(|ingredient| ingredient.scope != Scope::Http1) {
        (ingredient.remove)(config);
    }
}

/// Leaves node, listeners and clusters.
fn keep_minimal_bootstrap(config: &mut Value) {
    if let Some(fields) = config.as_object_mut() {
        fields.retain(|field, _| ["node", "static_resources"].contains(&field.as_str()));
    }
}

fn limit_buffers(config: &mut Value) {
    for list in ["listeners", "clusters"] {
        let resources = config["static_resources"][list].as_array_mut();
        for resource in resources.into_iter().flatten() {
            resource["perConnectionBufferLimitBytes"] = json!(32 << 10);
        }
    }
}

fn set_runtime(config: &mut Value, key: &str, value: bool) {
    let layer = json!({ "name": "benchmark", "static_layer": { key: value } });
    if let Some(layers) = config["layered_runtime"]["layers"].as_array_mut() {
        layers.push(layer);
    }
}

/// Removes fields, at any depth of a configuration.
fn remove_everywhere(config: &mut Value, fields: &[&str]) {
    for_each_object(config, &mut |object| {
        object.retain(|field, _| !fields.contains(&field.as_str()));
    });
}

/// Calls `change` with the configuration of each filter with a name.
fn for_each_filter(config: &mut Value, name: &str, change: fn(&mut Value)) {
    for_each_object(config, &mut |object| {
        let has_name = object.get("name").is_some_and(|value| value == name);
        if let Some(filter) = object.get_mut("typedConfig").filter(|_| has_name) {
            change(filter);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_ingredients_leave_the_rest_of_the_configuration() {
        let mut config = json!({ "static_resources": { "listeners": [{ "filters": [
            { "name": "other", "typedConfig": { "retryPolicy": {}, "kept": true } },
        ]}]}});
        remove_everywhere(&mut config, &["retryPolicy"]);
        let listeners = json!([{ "filters": [{ "name": "other", "typedConfig": { "kept": true } }] }]);
        assert_eq!(config["static_resources"]["listeners"], listeners);
    }
}
