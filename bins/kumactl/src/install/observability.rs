//! `kumactl install observability`: the flags, and the objects that they ask for.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use clap::Args;
use kermode_model::is_dns_label;
use kermode_observability::Observability;
use serde_json::Value;

use super::DEFAULT_NAMESPACE;

/// Flags of `kumactl install observability`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ObservabilityArgs {
    /// Namespace of the control plane, in which the objects are created.
    #[arg(long, default_value = DEFAULT_NAMESPACE, value_name = "NAME")]
    namespace: String,

    /// Print ConfigMaps with rules and scrape configurations for a Prometheus without the Prometheus Operator.
    #[arg(long)]
    without_operator: bool,

    /// Label of the rules and monitors by which the operator selects them, KEY=VALUE; repeatable.
    #[arg(long = "label", value_name = "KEY=VALUE", conflicts_with = "without_operator")]
    labels: Vec<String>,

    /// URL of a copy of the runbooks. Each alert then has an annotation runbook_url with its section.
    #[arg(long, value_name = "URL")]
    runbooks_url: Option<String>,
}

/// Returns the objects.
pub(super) fn objects(args: ObservabilityArgs) -> Result<Vec<Value>> {
    if !is_dns_label(&args.namespace) {
        bail!(
            "--namespace {:?}: use the name of a namespace: lower case letters, digits and dashes",
            args.namespace
        );
    }
    let mut labels = BTreeMap::new();
    for label in &args.labels {
        match label.split_once('=') {
            Some((key, value)) if !key.is_empty() => _ = labels.insert(key.to_owned(), value.to_owned()),
            _ => bail!("--label {label:?}: use KEY=VALUE, for example release=monitoring"),
        }
    }
    let observability = Observability {
        namespace: args.namespace,
        has_operator: !args.without_operator,
        labels,
        runbooks_url: args.runbooks_url,
    };
    Ok(observability.objects()?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::install::control_plane_objects;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        args: ObservabilityArgs,
    }

    fn parse_objects(flags: &[&str]) -> Result<Vec<Value>> {
        objects(Flags::try_parse_from(["observability"].iter().chain(flags))?.args)
    }

    fn find<'o>(objects: &'o [Value], kind: &str, name: &str) -> &'o Value {
        let mut objects = objects.iter();
        objects
            .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
            .unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    #[test]
    fn service_monitor_selects_the_service_of_an_installation() {
        let installed = control_plane_objects(&["--namespace=mesh"]).expect("manifests");
        let service = find(&installed, "Service", "kuma-control-plane");
        let objects = parse_objects(&["--namespace=mesh"]).expect("objects");
        let monitor = find(&objects, "ServiceMonitor", "kuma-control-plane");
        assert_eq!(monitor["metadata"]["namespace"], service["metadata"]["namespace"]);
        let selected = monitor["spec"]["selector"]["matchLabels"].as_object();
        for (key, value) in selected.expect("labels") {
            assert_eq!(service["metadata"]["labels"][key], *value);
        }
        let ports = service["spec"]["ports"].as_array().expect("ports");
        let scraped = &monitor["spec"]["endpoints"][0]["port"];
        assert!(ports.iter().any(|port| port["name"] == *scraped), "{scraped}");
    }

    #[test]
    fn labels_of_the_operator_are_added() {
        let objects = parse_objects(&["--label=release=monitoring", "--label=team=mesh"]).expect("objects");
        let labels = &find(&objects, "PrometheusRule", "kermode")["metadata"]["labels"];
        assert_eq!(
            (&labels["release"], &labels["team"]),
            (&"monitoring".into(), &"mesh".into())
        );
    }

    #[test]
    fn invalid_flags_are_rejected_with_a_reason() {
        for (flag, reason) in [
            ("--namespace=Mesh", "--namespace"),
            ("--label=release", "KEY=VALUE"),
            ("--label==x", "KEY=VALUE"),
        ] {
            let error = parse_objects(&[flag]).expect_err(flag);
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
