//! Tests of ContainerPatches, alone and with a Pod.

use serde_json::{Value, json};

use super::{Report, check_all};
use crate::inject::config::{self, ConfigArgs};

fn mk_patch(spec: Value) -> Value {
    json!({
        "apiVersion": "kuma.io/v1alpha1",
        "kind": "ContainerPatch",
        "metadata": {"name": "p"},
        "spec": spec,
    })
}

fn mk_pod() -> Value {
    json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "a"}]}})
}

fn check(patches: &[Value], pod: Option<&Value>) -> Report {
    let config = config::load(&ConfigArgs::default()).expect("defaults");
    check_all(patches, pod, &config).expect("a report")
}

#[test]
fn invalid_operation_is_reported_with_its_path() {
    let patch = mk_patch(json!({"sidecarPatch": [{"op": "add", "path": "/image", "value": "bare"}]}));
    let report = check(&[patch], Some(&mk_pod()));
    assert!(!report.is_valid);
    let expected = "ContainerPatch p: invalid\n  spec.sidecarPatch[0] (add /image): value is not valid JSON";
    assert!(report.text.starts_with(expected), "{}", report.text);
}

#[test]
fn namespace_defaults_to_the_system_namespace_and_any_other_namespace_is_rejected() {
    let mut patch = mk_patch(json!({}));
    assert!(check(std::slice::from_ref(&patch), None).is_valid);
    patch["metadata"]["namespace"] = "shop".into();
    let report = check(&[patch], None);
    assert!(
        report.text.contains("can only be placed in kong-mesh-system"),
        "{}",
        report.text
    );
}

#[test]
fn changes_of_the_sidecar_and_of_the_init_container_are_printed() {
    let patch = mk_patch(json!({
        "sidecarPatch": [{"op": "add", "path": "/securityContext/privileged", "value": "true"}],
        "initPatch": [{"op": "remove", "path": "/args"}],
    }));
    let report = check(&[patch], Some(&mk_pod()));
    assert!(report.is_valid, "{}", report.text);
    for line in [
        "--- kuma-sidecar",
        "+++ kuma-sidecar with p",
        "+  privileged: true",
        "+++ kuma-init with p",
        "-- --redirect-inbound=true",
    ] {
        assert!(
            report.text.lines().any(|found| found == line),
            "{line}\nis missing in\n{}",
            report.text
        );
    }
    let unchanged = check(&[mk_patch(json!({}))], Some(&mk_pod()));
    assert!(unchanged.text.ends_with("unchanged\n"), "{}", unchanged.text);
}

#[test]
fn patch_that_does_not_apply_is_reported_with_and_without_a_pod() {
    let patch = mk_patch(json!({"sidecarPatch": [{"op": "replace", "path": "/none/there", "value": "1"}]}));
    for pod in [None, Some(&mk_pod())] {
        let report = check(std::slice::from_ref(&patch), pod);
        assert!(!report.is_valid);
        assert!(
            report.text.contains("denied: could not apply patches [\"p\"]"),
            "{}",
            report.text
        );
    }
}

#[test]
fn each_patch_is_applied_alone_if_no_pod_is_given() {
    // After one of the patches has removed `/args` from a container, the other patch cannot be applied to it.
    let remove_args = json!({"sidecarPatch": [{"op": "remove", "path": "/args"}]});
    let mut other = mk_patch(remove_args.clone());
    other["metadata"]["name"] = "q".into();
    let patches = [mk_patch(remove_args), other];
    let alone = check(&patches, None);
    assert!(alone.is_valid, "{}", alone.text);
    assert!(!check(&patches, Some(&mk_pod())).is_valid);
}

#[test]
fn file_without_container_patches_is_rejected() {
    let config = config::load(&ConfigArgs::default()).expect("defaults");
    assert!(check_all(&[mk_pod()], None, &config).is_err());
}
