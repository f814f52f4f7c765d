//! `kumactl inspect dataplane` against a cluster: what it says about a running sidecar, and without permissions.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::fixture::{APP_NAMESPACE, Fixture};
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};

/// Time limit of each condition.
const TIMEOUT: Duration = Duration::from_mins(1);

/// A user who may read Pods of the application's namespace, but not forward their ports.
const READER_OF_PODS: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: inspector, namespace: e2e-mesh}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: inspector, namespace: e2e-mesh}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: inspector, namespace: e2e-mesh}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: inspector}
subjects: [{kind: ServiceAccount, name: inspector, namespace: e2e-mesh}]
"#;

/// Output of `kumactl inspect dataplane`.
struct Output {
    stdout: String,
    stderr: String,
    is_success: bool,
}

pub(super) async fn sidecar_is_inspected_through_a_port_forward(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let server = fixture.ready_pod_name(APP_NAMESPACE, "server").await?;
    let client = fixture.ready_pod_name(APP_NAMESPACE, "client").await?;

    // The client sends requests all the time, and Envoy updates its histograms every five seconds.
    wait_for("requests in the statistics of the client", TIMEOUT, async || {
        let traffic = report(fixture, &client, &["--stats"]).await?;
        let mut outbounds = traffic.as_array().into_iter().flatten();
        let has_requests = outbounds.any(|outbound| {
            outbound["name"] == "server_e2e-mesh_svc_80"
                && outbound["direction"] == "outbound"
                && outbound["requests"].as_u64() > Some(0)
        });
        Ok(done_if(has_requests, (), || traffic.to_string()))
    })
    .await?;

    let clusters = report(fixture, &client, &["--clusters"]).await?;
    let cluster = clusters.as_array().into_iter().flatten();
    let cluster = cluster
        .clone()
        .find(|cluster| cluster["name"] == "server_e2e-mesh_svc_80")
        .context("the client has no cluster of the server")?;
    let endpoints = cluster["endpoints"].as_array().map_or(0, Vec::len);
    ensure!(endpoints == 3, "the cluster of the server is {cluster:#}");

    let certificates = report(fixture, &server, &["--certs"]).await?;
    let identity = &certificates[0];
    ensure!(
        identity["kind"] == "identity"
            && identity["uris"][0] == "spiffe://default/server_e2e-mesh_svc_80"
            && identity["remainingSeconds"].as_i64() > Some(0),
        "the certificates are {certificates:#}"
    );

    let configuration = inspect(fixture, &server, &["--config", "--output=json"])
        .await?
        .stdout;
    ensure!(
        configuration.contains("inbound:") && configuration.contains("identity_cert:secret:default"),
        "the configuration lacks a listener or a secret"
    );
    for secret in ["PRIVATE KEY", "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS"] {
        ensure!(
            !configuration.contains(secret),
            "the configuration contains a private key"
        );
    }

    let permissions = report(fixture, &server, &["--permissions"]).await?;
    ensure!(
        permissions["mtls"] == "strict"
            && permissions["inbounds"][0]["permissions"][0]["rules"][0]
                == json!({"action": "Allow", "from": "every caller of the mesh"}),
        "the permissions are {permissions:#}"
    );

    let summary = inspect(fixture, &server, &[]).await?.stdout;
    for expected in [
        "state LIVE",
        "spiffe://default/server_e2e-mesh_svc_80",
        "mesh: default",
    ] {
        ensure!(summary.contains(expected), "{expected:?} is missing in {summary}");
    }
    Ok(String::new())
}

pub(super) async fn sidecar_that_cannot_be_inspected_is_an_error_that_names_the_reason(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let opted_out = fixture.ready_pod_name(APP_NAMESPACE, "opted-out").await?;
    let output = run(
        fixture,
        fixture.cluster.kubectl.kubeconfig(),
        &opted_out,
        &["--certs"],
    )
    .await?;
    ensure!(
        !output.is_success && output.stderr.contains("has no container kuma-sidecar"),
        "without a sidecar, the error is {}",
        output.stderr
    );

    let server = fixture.ready_pod_name(APP_NAMESPACE, "server").await?;
    let kubectl = &fixture.cluster.kubectl;
    kubectl.apply(READER_OF_PODS).await?;
    let folder = tempfile::tempdir()?;
    let kubeconfig = folder.path().join("kubeconfig");
    kubectl
        .write_kubeconfig_of_account(APP_NAMESPACE, "inspector", &kubeconfig)
        .await?;
    let output = run(fixture, &kubeconfig, &server, &["--certs"]).await?;
    kubectl
        .run(&[
            "delete",
            "serviceaccount,role,rolebinding",
            "inspector",
            "--namespace=e2e-mesh",
        ])
        .await?;
    ensure!(
        !output.is_success
            && output
                .stderr
                .contains("ask for a role with verb get on pods/portforward in namespace e2e-mesh"),
        "without the permission, the error is {}",
        output.stderr
    );
    Ok(String::new())
}

/// Returns a report as JSON.
async fn report(fixture: &Fixture, pod: &str, flags: &[&str]) -> Result<Value> {
    let output = inspect(fixture, pod, &[flags, &["--output=json"]].concat()).await?;
    serde_json::from_str(&output.stdout).with_context(|| format!("{flags:?} printed {}", output.stdout))
}

async fn inspect(fixture: &Fixture, pod: &str, flags: &[&str]) -> Result<Output> {
    let output = run(fixture, fixture.cluster.kubectl.kubeconfig(), pod, flags).await?;
    ensure!(output.is_success, "{flags:?} failed: {}", output.stderr);
    Ok(output)
}

async fn run(fixture: &Fixture, kubeconfig: &Path, pod: &str, flags: &[&str]) -> Result<Output> {
    let program = fixture.config.checkout.release_binary("kumactl");
    let output = Command::new(&program)
        .args(["inspect", "dataplane", &format!("{APP_NAMESPACE}/{pod}")])
        .args(flags)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .output()
        .await
        .with_context(|| format!("{} cannot be started", program.display()))?;
    Ok(Output {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        is_success: output.status.success(),
    })
}
