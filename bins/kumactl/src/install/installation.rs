//! Conversion of the flags of `kumactl install control-plane` to an installation. All problems are reported at once.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use kermode_install::{Cni, Images, Installation, WebhookAddress};
use kermode_model::{is_dns_label, is_dns_subdomain};

use super::args::{CniArgs, ControlPlaneArgs, ImageArgs, ModeArg};
use super::env_var;

/// Checks the flags and converts them to an installation.
///
/// # Errors
/// When flags are wrong. The error names all wrong flags.
pub(super) fn from_args(args: ControlPlaneArgs) -> Result<Installation> {
    let mut problems = Vec::new();
    check_mode(&args, &mut problems);
    check_dns_label("--namespace", &args.namespace, &mut problems);
    if let Some(zone) = &args.zone {
        check_dns_label("--zone", zone, &mut problems);
    }
    let mut environment = BTreeMap::new();
    for value in &args.env_var {
        if let Err(error) = env_var::parse(value, &mut environment) {
            problems.push(error.to_string());
        }
    }
    let webhook_address = webhook_address(args.webhook_url.as_deref(), &mut problems);
    let images = images(&args.images, &mut problems);
    let cni = cni(&args.cni, &args.images.registry, &mut problems);
    for name in &args.images.image_pull_secrets {
        if !is_dns_subdomain(name) {
            problems.push(format!(
                "--image-pull-secret {name:?}: use the name of a Secret: lower case letters, digits, dashes and dots"
            ));
        }
    }
    if !problems.is_empty() {
        // The spaces align each line with the text after `Error: `.
        bail!("{}", problems.join("\n       "));
    }
    Ok(Installation {
        namespace: args.namespace,
        zone: args.zone,
        replicas: args.replicas,
        images,
        image_pull_secrets: args.images.image_pull_secrets,
        injector_failure_policy: args.injector_failure_policy.into(),
        environment,
        assignments: args.set,
        webhook_address,
        cni,
        with_deployment: !args.without_deployment,
    })
}

fn check_mode(args: &ControlPlaneArgs, problems: &mut Vec<String>) {
    if args.mode == ModeArg::Global || args.kds_global_address.is_some() {
        problems.push(
            "several zones under one global control plane are not supported yet: leave out --mode global and \
             --kds-global-address; each cluster has its own control plane and meshes"
                .to_owned(),
        );
    }
    if args.mode == ModeArg::Zone && args.zone.is_none() {
        problems.push("--mode zone: name the zone with --zone".to_owned());
    }
}

/// Checks the name of a Namespace or a zone, which is a DNS label (RFC 1123).
fn check_dns_label(flag: &str, value: &str, problems: &mut Vec<String>) {
    if !is_dns_label(value) {
        problems.push(format!(
            "{flag} {value:?}: use at most 63 lower case letters, digits and dashes, with a letter or digit at both ends"
        ));
    }
}

/// Returns the address of the webhooks: the URL, or the Service if there is no URL. Checks the URL by the rules of the
/// API server for `clientConfig.url`.
fn webhook_address(url: Option<&str>, problems: &mut Vec<String>) -> WebhookAddress {
    let Some(url) = url else {
        return WebhookAddress::Service;
    };
    // Empty if the scheme is not https.
    let after_scheme = url.strip_prefix("https://").unwrap_or_default();
    let is_misplaced = |character: char| matches!(character, '@' | '?' | '#') || character.is_whitespace();
    if after_scheme.is_empty() || after_scheme.starts_with(['/', ':']) || after_scheme.contains(is_misplaced)
    {
        problems.push(format!(
            "--webhook-url {url:?}: write it as https://HOST:PORT, without user, query and fragment"
        ));
    }
    WebhookAddress::Url(url.trim_end_matches('/').to_owned())
}

/// Returns the installation of the CNI plugin, if it is enabled. Checks paths and names.
fn cni(args: &CniArgs, registry: &str, problems: &mut Vec<String>) -> Option<Cni> {
    if !args.cni_enabled {
        return None;
    }
    let (networks, programs) = if args.cni_chained {
        ("/etc/cni/net.d", "/opt/cni/bin")
    } else {
        ("/etc/cni/multus/net.d", "/var/lib/cni/bin")
    };
    let mut folder = |flag: &str, value: &Option<String>, default: &str| {
        let folder = value.as_deref().unwrap_or(default);
        let has_forbidden_part = folder.split('/').any(|part| part == "..") || folder.contains(':');
        let is_root = folder.split('/').all(|part| matches!(part, "" | "."));
        if !folder.starts_with('/') || is_root || has_forbidden_part {
            problems.push(format!(
                "{flag} {folder:?}: use an absolute path other than / without \"..\" and \":\""
            ));
        }
        folder.trim_end_matches('/').to_owned()
    };
    let network_folder = folder("--cni-net-dir", &args.cni_net_dir, networks);
    let program_folder = folder("--cni-bin-dir", &args.cni_bin_dir, programs);
    if let Some(name) = &args.cni_conf_name {
        let has_extension = [".conf", ".conflist", ".json"]
            .iter()
            .any(|end| name.ends_with(end));
        if name.contains('/') || !has_extension {
            problems.push(format!(
                "--cni-conf-name {name:?}: use the name of a file in --cni-net-dir that ends in .conf, .conflist or .json"
            ));
        } else if !args.cni_chained && name.ends_with(".conflist") {
            problems.push(format!(
                "--cni-conf-name {name:?}: with --cni-chained=false, the file contains no list of plugins; use a name \
                 that ends in .conf or .json"
            ));
        }
    }
    let registry = args.cni_registry.as_deref().unwrap_or(registry);
    Some(Cni {
        image: image(registry, &args.cni_repository, &args.cni_version, problems),
        network_folder,
        program_folder,
        network_name: args.cni_conf_name.clone(),
        is_chained: args.cni_chained,
    })
}

/// Returns the full name of an image. Checks its parts.
fn image(registry: &str, repository: &str, version: &str, problems: &mut Vec<String>) -> String {
    let registry = registry.trim_end_matches('/');
    let name = format!("{registry}/{repository}:{version}");
    let has_empty_part = registry.is_empty() || repository.is_empty() || version.is_empty();
    if has_empty_part || name.contains(char::is_whitespace) {
        problems.push(format!(
            "image {name:?}: registry, repository and version must not be empty or contain whitespace"
        ));
    }
    name
}

fn images(args: &ImageArgs, problems: &mut Vec<String>) -> Images {
    let mut image = |registry: &Option<String>, repository: &str, version: &str| {
        let registry = registry.as_deref().unwrap_or(&args.registry);
        image(registry, repository, version, problems)
    };
    Images {
        control_plane: image(
            &args.control_plane_registry,
            &args.control_plane_repository,
            &args.control_plane_version,
        ),
        sidecar: image(
            &args.dataplane_registry,
            &args.dataplane_repository,
            &args.dataplane_version,
        ),
        init: image(
            &args.dataplane_init_registry,
            &args.dataplane_init_repository,
            &args.dataplane_init_version,
        ),
    }
}
