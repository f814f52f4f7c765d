//! Suite `install`: the manifests that `kumactl install control-plane` prints.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use crate::corpus::Case;
use crate::suite::{Outcome, Runner};

/// Runner of the suite.
pub(crate) struct Install;

impl Runner for Install {
    fn suite(&self) -> &'static str {
        "install"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["manifest", "manifest-fragment"]
    }

    fn run(&self, case: &Case<'_>) -> Result<Outcome> {
        let expected = case.document("expected")?;
        let objects = printed_objects(case)?;
        let (expected, actual) = match case.kind() {
            "manifest" => {
                let actual = find_object(&objects, &expected)?;
                (normalized(&expected), normalized(actual))
            }
            // Kind `manifest-fragment`: the expected document lists the environment variables of the control plane.
            _ => (expected, control_plane_env(&objects)?),
        };
        Ok(Outcome::Compared { expected, actual })
    }
}

/// Returns the objects that `kumactl install control-plane` prints with the arguments of the case. The namespace is set
/// to Kuma's default, which differs from Kermode's default.
fn printed_objects(case: &Case<'_>) -> Result<Vec<Value>> {
    let mut flags = vec!["--namespace=kuma-system".to_owned()];
    if !case.at("/inputs/args").is_null() {
        flags.extend(case.decode::<Vec<String>>("/inputs/args")?);
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    kumactl::control_plane_objects(&flags)
}

fn find_object<'o>(objects: &'o [Value], expected: &Value) -> Result<&'o Value> {
    let is_expected = |object: &&Value| {
        object["kind"] == expected["kind"] && object["metadata"]["name"] == expected["metadata"]["name"]
    };
    let found = objects.iter().find(is_expected);
    found.with_context(|| {
        format!(
            "kumactl prints no {} {}",
            expected["kind"], expected["metadata"]["name"]
        )
    })
}

/// Returns the environment variables of the control plane's container.
fn control_plane_env(objects: &[Value]) -> Result<Value> {
    let deployment = objects.iter().find(|object| object["kind"] == "Deployment");
    let env = deployment.and_then(|object| object.pointer("/spec/template/spec/containers/0/env"));
    match env {
        Some(env) => Ok(env.clone()),
        None => bail!("kumactl prints no Deployment with environment variables"),
    }
}

/// Normalizes an object for the comparison: removes the namespace, the labels `app.kubernetes.io/*`, the caBundles, and
/// values that the API server sets by default.
fn normalized(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("namespace");
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.retain(|key, _| !key.starts_with("app.kubernetes.io/"));
        }
    }
    for webhook in object["webhooks"].as_array_mut().into_iter().flatten() {
        remove_if_default(webhook, "timeoutSeconds", &10.into());
        for rule in webhook["rules"].as_array_mut().into_iter().flatten() {
            remove_if_default(rule, "scope", &"*".into());
        }
        if let Some(config) = webhook.get_mut("clientConfig") {
            config.as_object_mut().map(|config| config.remove("caBundle"));
            if let Some(service) = config.get_mut("service") {
                remove_if_default(service, "port", &443.into());
            }
        }
    }
    object
}

fn remove_if_default(object: &mut Value, key: &str, default: &Value) {
    if object.get(key) == Some(default) {
        object
            .as_object_mut()
            .map(|members: &mut Map<_, _>| members.remove(key));
    }
}
