//! `kumactl validate containerpatch`: runs the checks of the validating webhook and, with `--against`, the checks of
//! the injector.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use kermode_config::Config;
use kermode_crds::annotation::{CONTAINER_PATCHES, SIDECAR_INJECTION};
use kermode_inject::workload::pod_pointer;
use kermode_inject::{
    Context, InjectionExplanation, Namespace, Outcome, RenderedContainer, explain, validate_container_patch,
};
use kermode_manifests::{ClusterObjects, documents, yaml};
use serde_json::{Value, json};

use super::diff;
use crate::inject::config::{self, ConfigArgs};
use crate::output;

/// Exit code for a denied ContainerPatch, and with `--against` for a Pod that is denied or not injected.
const EXIT_INVALID: u8 = 3;

const EXIT_CODES: &str = "\
Exit codes:
  0  the ContainerPatches can be used
  1  a file cannot be read, is not valid, or lacks a ContainerPatch or a Pod
  2  wrong flags
  3  a ContainerPatch or the Pod would be denied, or the Pod would not be injected";

/// Flags of `kumactl validate containerpatch`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ContainerPatchArgs {
    /// File with ContainerPatches as YAML or JSON; - is the standard input. With `--against`, they are applied in the
    /// order of the file.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,

    /// File with a Pod, or with a workload that has a Pod template. The command prints the changes that the
    /// ContainerPatches make to the sidecar and the init container of this Pod. Without this flag, each
    /// ContainerPatch is applied alone to a Pod with a single container.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,

    #[command(flatten)]
    config: ConfigArgs,
}

/// Result of the checks.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Text to print.
    pub(super) text: String,
    /// Whether all ContainerPatches can be used: each alone and, with `--against`, all with the Pod.
    pub(super) is_valid: bool,
}

// === impl Report ===

impl Report {
    fn push_line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}

/// Runs the command.
pub(crate) fn run(args: &ContainerPatchArgs) -> Result<ExitCode> {
    let config = config::load(&args.config)?;
    let objects = documents::objects(&documents::read(&args.file)?);
    let pod = args.against.as_deref().map(first_pod).transpose()?;
    let report =
        check_all(&objects, pod.as_ref(), &config).with_context(|| args.file.display().to_string())?;
    output::print_result(&report.text)?;
    Ok(if report.is_valid {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_INVALID)
    })
}

fn first_pod(file: &Path) -> Result<Value> {
    let objects = documents::objects(&documents::read(file)?);
    let mut pods = objects
        .iter()
        .filter_map(|object| object.pointer(pod_pointer(object)?));
    let pod = pods.next().cloned();
    pod.with_context(|| format!("{} contains no Pod and no Pod template", file.display()))
}

/// Checks each ContainerPatch among the objects. If all are valid, applies all of them to the Pod. If no Pod is given,
/// applies each of them alone to a Pod with a single container, because ContainerPatches of one file may be for
/// different Pods.
pub(super) fn check_all(objects: &[Value], pod: Option<&Value>, config: &Config) -> Result<Report> {
    let patches: Vec<Value> = objects
        .iter()
        .filter(|object| object["kind"] == "ContainerPatch")
        .map(|patch| with_namespace(patch, config.system_namespace()))
        .collect();
    ensure!(!patches.is_empty(), "the file contains no ContainerPatch");
    let mut report = Report {
        is_valid: true,
        ..Report::default()
    };
    for patch in &patches {
        check_patch(patch, config, &mut report);
    }
    if report.is_valid {
        let single_container_pod =
            json!({"metadata": {"name": "example"}, "spec": {"containers": [{"name": "app"}]}});
        match pod {
            Some(pod) => check_with_pod(pod, &patches, config, &mut report)?,
            None => {
                for patch in patches.chunks(1) {
                    check_with_pod(&single_container_pod, patch, config, &mut report)?;
                }
            }
        }
    }
    Ok(report)
}

/// Returns the patch with a namespace: its own, or the control plane's namespace if it has none.
fn with_namespace(patch: &Value, system_namespace: &str) -> Value {
    let mut patch = patch.clone();
    if let Some(metadata) = patch.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata
            .entry("namespace")
            .or_insert_with(|| system_namespace.into());
    }
    patch
}

fn name_of(patch: &Value) -> &str {
    patch["metadata"]["name"].as_str().unwrap_or_default()
}

fn check_patch(patch: &Value, config: &Config, report: &mut Report) {
    let problems = validate_container_patch(patch, config.system_namespace())
        .err()
        .unwrap_or_default();
    report.is_valid &= problems.is_empty();
    let verdict = if problems.is_empty() { "valid" } else { "invalid" };
    report.push_line(&format!("ContainerPatch {}: {verdict}", name_of(patch)));
    for problem in problems {
        report.push_line(&format!("  {problem}"));
    }
}

fn check_with_pod(pod: &Value, patches: &[Value], config: &Config, report: &mut Report) -> Result<()> {
    let names: Vec<&str> = patches.iter().map(name_of).collect();
    let cluster = ClusterObjects::new(patches, config.system_namespace())?;
    let explanation = explain_injection(&with_injection_request(pod, &names), &cluster, config);
    for container in &explanation.containers {
        report.text.push_str(&format_changes(container, &names)?);
    }
    match &explanation.result {
        Ok(Outcome::Injected(injection)) => {
            for warning in &injection.warnings {
                report.push_line(&format!("warning: {warning}"));
            }
        }
        Ok(Outcome::Skipped(reason)) => {
            report.is_valid = false;
            report.push_line(&format!(
                "the Pod would not be injected ({reason}): use another Pod with --against"
            ));
        }
        Err(denial) => {
            report.is_valid = false;
            report.push_line(&format!("denied: {denial}"));
        }
    }
    Ok(())
}

/// Returns the Pod with the label and the annotation that request injection with exactly these ContainerPatches.
fn with_injection_request(pod: &Value, names: &[&str]) -> Value {
    let mut pod = pod.clone();
    if pod["metadata"].is_null() {
        pod["metadata"] = json!({});
    }
    let requested = [
        ("labels", SIDECAR_INJECTION, "enabled".to_owned()),
        ("annotations", CONTAINER_PATCHES, names.join(",")),
    ];
    for (map, key, value) in requested {
        if let Some(metadata) = pod["metadata"].as_object_mut() {
            let entries = metadata.entry(map).or_insert(Value::Null);
            if entries.is_null() {
                *entries = json!({});
            }
            if let Some(entries) = entries.as_object_mut() {
                entries.insert(key.to_owned(), value.into());
            }
        }
    }
    pod
}

fn explain_injection(pod: &Value, cluster: &ClusterObjects, config: &Config) -> InjectionExplanation {
    let no_entries = BTreeMap::new();
    let url = config.control_plane_url();
    let context = Context {
        namespace: Namespace {
            name: pod["metadata"]["namespace"].as_str().unwrap_or("default"),
            labels: &no_entries,
            annotations: &no_entries,
        },
        control_plane_url: &url,
        control_plane_ca_pem: "",
        // Treats every mesh as existing, because ContainerPatches do not depend on the mesh.
        mesh_exists: &|_| true,
        container_patch: &|name| cluster.container_patch(name),
        oldest_node: cluster.oldest_node(),
    };
    explain(pod, config.injector(), &context)
}

/// Formats the changes that the ContainerPatches `names` make to a container.
fn format_changes(container: &RenderedContainer, names: &[&str]) -> Result<String> {
    let (before, after) = (
        yaml::document(&container.before)?,
        yaml::document(&container.after)?,
    );
    let hunks = diff::unified(&before, &after);
    let name = &container.name;
    if hunks.is_empty() {
        return Ok(format!("{name}: unchanged\n"));
    }
    let names = names.join(", ");
    Ok(format!("--- {name}\n+++ {name} with {names}\n{hunks}"))
}

#[cfg(test)]
mod tests;
