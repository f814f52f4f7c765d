//! `kumactl uninstall`: prints the objects of the control plane for their deletion. The command contacts a cluster only to
//! check it for Pods with a sidecar.

mod meshed;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use kermode_install::{CustomResources, removal};
use kermode_manifests::yaml;
use kermode_model::is_dns_label;
use serde_json::Value;

use crate::cluster::ClusterArgs;
use crate::install::DEFAULT_NAMESPACE;
use crate::output;

/// Exit code if Pods have a sidecar.
const EXIT_MESHED: u8 = 3;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the cluster cannot be read
  2  wrong flags
  3  with --check: Pods have a sidecar; no object is printed";

/// Notice about the Pods that the deletion leaves as they are.
const RESTART_NOTICE: &str =
    "the deletion does not remove sidecars from running Pods; restart their workloads";

/// Subcommands of `kumactl uninstall`.
#[derive(Debug, Subcommand)]
pub(crate) enum UninstallCommand {
    /// Print the objects of the control plane for `kubectl delete --ignore-not-found -f -`.
    ///
    /// The webhooks are deleted first, so new Pods start during and after the deletion. The objects are those of any
    /// installation in the namespace, whatever its flags were. If only the namespace was deleted
    /// (`kubectl delete namespace`), the webhooks remain and deny Pods. The same command then deletes the other
    /// objects.
    ControlPlane(ControlPlaneArgs),
}

/// Flags of `kumactl uninstall control-plane`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ControlPlaneArgs {
    /// Namespace of the control plane. It is deleted.
    #[arg(long, default_value = DEFAULT_NAMESPACE, value_name = "NAME")]
    namespace: String,

    /// Keep the custom resource definitions, and with them all Meshes. ContainerPatches and MeshTrafficPermissions are
    /// in the namespace of the control plane and are deleted with it.
    #[arg(long)]
    keep_custom_resources: bool,

    /// Read the Pods of the cluster first. If Pods have a sidecar, list them and print no object.
    #[arg(long)]
    check: bool,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs a subcommand.
pub(crate) fn run(command: &UninstallCommand) -> Result<ExitCode> {
    let UninstallCommand::ControlPlane(args) = command;
    let objects = objects(args)?;
    if args.check {
        let meshed = meshed::read(&args.cluster)?;
        if !meshed.is_empty() {
            output::print_notice("Error", &meshed::description(&meshed));
            return Ok(ExitCode::from(EXIT_MESHED));
        }
    }
    output::print_result(&yaml::documents(&objects)?)?;
    if !args.check {
        output::print_notice("Note", RESTART_NOTICE);
    }
    Ok(ExitCode::SUCCESS)
}

fn objects(args: &ControlPlaneArgs) -> Result<Vec<Value>> {
    if !is_dns_label(&args.namespace) {
        bail!(
            "--namespace {:?}: use the name of a namespace: lower case letters, digits and dashes",
            args.namespace
        );
    }
    let custom_resources = if args.keep_custom_resources {
        CustomResources::Keep
    } else {
        CustomResources::Remove
    };
    Ok(removal(&args.namespace, custom_resources)?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::install::control_plane_objects;

    fn parse_objects(flags: &[&str]) -> Result<Vec<Value>> {
        let command_line = ["kumactl", "uninstall", "control-plane"].iter().chain(flags);
        let Command::Uninstall(UninstallCommand::ControlPlane(args)) =
            Cli::try_parse_from(command_line)?.command
        else {
            bail!("the subcommand is not uninstall");
        };
        objects(&args)
    }

    fn removed(flags: &[&str]) -> Vec<Value> {
        parse_objects(flags).expect("objects")
    }

    fn object_id(object: &Value) -> String {
        let metadata = &object["metadata"];
        format!(
            "{} {} {} {}",
            object["apiVersion"], object["kind"], metadata["namespace"], metadata["name"]
        )
    }

    fn position(objects: &[Value], kind: &str) -> usize {
        let mut objects = objects.iter();
        objects
            .position(|object| object["kind"] == kind)
            .unwrap_or_else(|| panic!("no object is a {kind}"))
    }

    #[test]
    fn each_object_of_any_installation_is_removed() {
        for flags in [
            &[][..],
            &["--replicas=3"],
            &["--without-deployment", "--webhook-url=https://192.0.2.1:5443"],
            &["--mode=zone", "--zone=east", "--injector-failure-policy=Ignore"],
            &["--image-pull-secret=credentials"],
            &["--replicas=2", "--network-policies"],
            &["--cni-enabled"],
        ] {
            for namespace_flags in [&[][..], &["--namespace=mesh"]] {
                let removed: Vec<String> = removed(namespace_flags).iter().map(object_id).collect();
                let installed = control_plane_objects(&[flags, namespace_flags].concat()).expect("manifests");
                for object in installed {
                    let object = object_id(&object);
                    assert!(removed.contains(&object), "{object} is missing in {removed:?}");
                }
            }
        }
    }

    #[test]
    fn webhooks_are_removed_first_and_definitions_after_the_control_plane() {
        let objects = removed(&[]);
        let first: Vec<&Value> = objects.iter().take(2).map(|object| &object["kind"]).collect();
        assert_eq!(
            first,
            ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]
        );
        assert_eq!(objects[2]["kind"], "Deployment");
        let definition = position(&objects, "CustomResourceDefinition");
        for kind in ["Service", "Role", "ClusterRole", "ConfigMap"] {
            assert!(position(&objects, kind) < definition, "{kind}");
        }
        assert_eq!(position(&objects, "Namespace"), objects.len() - 1);
    }

    #[test]
    fn removed_objects_have_no_content() {
        for object in removed(&["--namespace=mesh"]) {
            let members: Vec<&String> = object.as_object().expect("an object").keys().collect();
            assert_eq!(members, ["apiVersion", "kind", "metadata"], "{object}");
            assert_eq!(object["metadata"].get("labels"), None, "{object}");
        }
    }

    #[test]
    fn custom_resource_definitions_are_kept_on_request() {
        let other_objects = removed(&["--keep-custom-resources"]);
        assert!(
            other_objects
                .iter()
                .all(|object| object["kind"] != "CustomResourceDefinition")
        );
        let definitions = kermode_crds::definition::all().len();
        assert_eq!(removed(&[]).len() - other_objects.len(), definitions);
    }

    #[test]
    fn invalid_namespace_is_rejected() {
        for name in ["", "Mesh", "a.b", "a b"] {
            let error = parse_objects(&[&format!("--namespace={name}")]).expect_err(name);
            assert!(error.to_string().contains("--namespace"), "{error}");
        }
    }
}
