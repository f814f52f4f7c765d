//! Conversion of the flags of `kumactl install control-plane` to an installation. All problems are reported at once.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use kermode_install::{Images, Installation, WebhookAddress};
use kermode_model::{is_dns_label, is_dns_subdomain};

use super::args::{ControlPlaneArgs, ImageArgs, ModeArg};
use super::env_var;

/// Checks the flags and converts them to an installation.
///
/// # Errors
/// When flags are wrong. The error names all wrong flags.
pub(super) fn from_args(args: ControlPlaneArgs) -> Result<Installation> {
    let mut problems = Vec::new();
    check_mode_and_cni(&args, &mut problems);
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
        with_deployment: !args.without_deployment,
    })
}

fn check_mode_and_cni(args: &ControlPlaneArgs, problems: &mut Vec<String>) {
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
    if args.cni_enabled {
        problems.push(
            "--cni-enabled: installing the CNI plugin is not supported yet: leave the flag out, and an init container \
             redirects the traffic of each Pod"
                .to_owned(),
        );
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

fn images(args: &ImageArgs, problems: &mut Vec<String>) -> Images {
    let mut image = |registry: &Option<String>, repository: &str, version: &str| {
        let registry = registry
            .as_deref()
            .unwrap_or(&args.registry)
            .trim_end_matches('/');
        let name = format!("{registry}/{repository}:{version}");
        let has_empty_part = registry.is_empty() || repository.is_empty() || version.is_empty();
        if has_empty_part || name.contains(char::is_whitespace) {
            problems.push(format!(
                "image {name:?}: registry, repository and version must not be empty or contain whitespace"
            ));
        }
        name
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
