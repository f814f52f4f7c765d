//! `kumactl explain` and `kumactl get` against a cluster: what they say about Pods, a Deployment, a Namespace and
//! Dataplanes, and without permissions.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::fixture::{APP_NAMESPACE, Fixture};
use crate::harness::host;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{create_until_ready, demo_pod};

/// Time limit of each condition.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Namespace of the Pods of this file. It requests injection only after its first Pod was created.
const NAMESPACE: &str = "e2e-explain";
/// Exit code of an explanation with findings.
const FINDINGS: i32 = 3;

/// A Service whose target port no container has, and a Deployment whose Pods are denied.
const WRONG_OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: mismatch, namespace: e2e-explain}
spec: {selector: {app: mismatch}, ports: [{port: 80, targetPort: web}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: denied, namespace: e2e-explain}
spec:
  selector: {matchLabels: {app: denied}}
  template:
    metadata: {labels: {app: denied}, annotations: {kuma.io/mesh: no-such-mesh}}
    spec: {containers: [{name: app, image: none}]}
";

/// A user who may only read Pods of one namespace.
const READER_OF_PODS: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: e2e-explain}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: e2e-explain}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: e2e-explain}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: e2e-explain}]
"#;

/// Output of `kumactl explain`.
struct Output {
    code: Option<i32>,
    /// The explanation, or null if there is none.
    explanation: Value,
    stderr: String,
}

pub(super) async fn pods_of_the_application_are_explained_without_a_problem(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let server = fixture.ready_pod_name(APP_NAMESPACE, "server").await?;
    let name = format!("{APP_NAMESPACE}/{server}");
    // The control plane writes the status of a Dataplane some time after its Pod is ready.
    let output = wait_for("no problem of the server", TIMEOUT, async || {
        let output = explain(fixture, &["pod", &name]).await?;
        let state = output.explanation["findings"].to_string();
        Ok(done_if(output.code == Some(0), output, || state))
    })
    .await?;
    let injection = &output.explanation["injection"];
    ensure!(
        *injection
            == json!({"injected": true, "decision": "injected", "reason": "NamespaceLabel", "mesh": "default"}),
        "the injection is {injection}"
    );
    check_lines(
        &output,
        &[
            "the Pod has a sidecar; it was injected because of NamespaceLabel",
            "today, a new Pod like this would get the same sidecar",
            "webhook namespace-kuma-injector.kuma.io is called (failure policy Fail)",
            "inbound 8080: port 80 of Service server, whose target http is a port of container server",
            "ready: the Pod is ready",
            "kuma.io/service: server_e2e-mesh_svc_80  # name, namespace and port of the Service",
            "ready inbounds: 1/1",
            "connected to kuma-control-plane-",
            "the sidecar has rejected nothing of its newest configuration",
            "at 0s, the endpoint leaves the clients' configuration, and the sidecar starts to drain",
        ],
    )?;
    ensure!(
        output.explanation["assumptions"] == json!([]),
        "something was assumed: {}",
        output.explanation["assumptions"]
    );
    let opted_out = fixture.ready_pod_name(APP_NAMESPACE, "opted-out").await?;
    let output = explain(fixture, &["pod", &opted_out, "-n", APP_NAMESPACE]).await?;
    check_findings(&output, &[])?;
    let injection = &output.explanation["injection"];
    ensure!(
        *injection == json!({"injected": false, "decision": "skipped", "reason": "DisabledByPodLabel"}),
        "the injection is {injection}"
    );
    let output = explain(fixture, &["deployment", &format!("{APP_NAMESPACE}/server")]).await?;
    check_findings(&output, &[])?;
    let summary = output.explanation["summary"].as_str().unwrap_or_default();
    ensure!(
        summary.ends_with("3 of 3 Pods have a sidecar, 3 are wanted"),
        "the summary is {summary}"
    );
    Ok(String::new())
}

pub(super) async fn dataplanes_are_listed_with_the_state_of_their_sidecars(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let server = fixture.ready_pod_name(APP_NAMESPACE, "server").await?;
    let program = fixture.config.checkout.release_binary("kumactl");
    let kubeconfig = format!("--kubeconfig={}", fixture.cluster.kubectl.kubeconfig().display());
    // The control plane writes the status of a Dataplane some time after its Pod is ready.
    wait_for("the Dataplane of the server in the table", TIMEOUT, async || {
        let table = host::run(&program, &["get", "dataplanes", &kubeconfig]).await?;
        let mut rows = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let head = rows.next().unwrap_or_default();
        let row = rows
            .find(|row| row.get(1) == Some(&server.as_str()))
            .unwrap_or_default();
        let cell = |column: &str| {
            let index = head.iter().position(|name| *name == column)?;
            row.get(index).copied()
        };
        let is_complete = cell("NAMESPACE") == Some(APP_NAMESPACE)
            && cell("READY") == Some("1/1")
            && cell("CONNECTED") == Some("True")
            && cell("ACCEPTED") == Some("True");
        Ok(done_if(is_complete, (), || table.clone()))
    })
    .await?;
    Ok(String::new())
}

pub(super) async fn problems_of_pods_and_of_a_deployment_are_explained(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    fixture.wait_for_default_mesh().await?;
    let kubectl = &fixture.cluster.kubectl;
    kubectl.run(&["create", "namespace", NAMESPACE]).await?;
    let outcome = check_problems(fixture).await;
    kubectl.run(&["delete", "namespace", NAMESPACE]).await?;
    outcome
}

async fn check_problems(fixture: &Fixture) -> Result<Note> {
    let kubectl = &fixture.cluster.kubectl;
    create_until_ready(
        fixture,
        &demo_pod(fixture, NAMESPACE, "early", &["server"])?,
        TIMEOUT,
    )
    .await?;
    check_findings(&explain(fixture, &["pod", "e2e-explain/early"]).await?, &[])?;
    // The times of objects are whole seconds, so the label must be set in a later second than that of the creation.
    wait_for_next_second().await;
    kubectl
        .run(&[
            "label",
            "namespace",
            NAMESPACE,
            "kuma.io/sidecar-injection=enabled",
        ])
        .await?;
    kubectl.apply(WRONG_OBJECTS).await?;

    let output = explain(fixture, &["pod", "e2e-explain/early"]).await?;
    check_findings(&output, &["NotInjected"])?;
    let problem = output.explanation["findings"][0]["problem"]
        .as_str()
        .unwrap_or_default();
    ensure!(
        problem.contains("before kuma.io/sidecar-injection of Namespace e2e-explain was last set"),
        "the problem is {problem}"
    );

    let mismatch = demo_pod(fixture, NAMESPACE, "mismatch", &["server"])?;
    create_until_ready(fixture, &mismatch, TIMEOUT).await?;
    let output = explain(fixture, &["pod", "e2e-explain/mismatch"]).await?;
    check_findings(&output, &["ServiceWithoutInbound"])?;
    check_lines(
        &output,
        &[
            "port 80 of Service mismatch yields no inbound: no container has a TCP port named web",
            "inbound 49151: no Service gives the Pod an inbound",
        ],
    )?;

    wait_for(
        "the denial in the status of the ReplicaSet",
        TIMEOUT,
        async || {
            let output = explain(fixture, &["deployment", "e2e-explain/denied"]).await?;
            let findings = output.explanation["findings"].clone();
            let is_explained = findings[0]["id"] == "PodsNotCreated"
                && findings[0]["problem"]
                    .as_str()
                    .is_some_and(|text| text.contains("no-such-mesh"))
                && findings[1]["id"] == "WouldBeDenied";
            Ok(done_if(is_explained, (), || format!("{findings:#}")))
        },
    )
    .await?;

    let output = explain(fixture, &["namespace", NAMESPACE]).await?;
    check_findings(&output, &["PodsNotCreated", "PodsWithProblems"])?;
    let titles: Vec<&str> = sections(&output)
        .iter()
        .filter_map(|section| section["title"].as_str())
        .collect();
    ensure!(
        titles.contains(&"Pods without a sidecar that would get one today"),
        "the sections are {titles:?}"
    );
    check_missing_permissions(fixture).await
}

/// Waits until the second of the clock changes.
async fn wait_for_next_second() {
    let second = || {
        std::time::UNIX_EPOCH
            .elapsed()
            .map(|elapsed| elapsed.as_secs())
            .unwrap_or_default()
    };
    let first = second();
    while second() <= first {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Checks what a user sees who may read Pods and nothing else, and one who may read nothing.
async fn check_missing_permissions(fixture: &Fixture) -> Result<Note> {
    let kubectl = &fixture.cluster.kubectl;
    kubectl.apply(READER_OF_PODS).await?;
    let folder = tempfile::tempdir()?;
    let kubeconfig = folder.path().join("kubeconfig");
    for (account, expected_code) in [("reader", FINDINGS), ("default", 1)] {
        kubectl
            .write_kubeconfig_of_account(NAMESPACE, account, &kubeconfig)
            .await?;
        let output = explain_as(fixture, &kubeconfig, &["pod", "e2e-explain/mismatch"]).await?;
        ensure!(
            output.code == Some(expected_code),
            "as {account}, the exit code is {:?}: {} {}",
            output.code,
            output.explanation,
            output.stderr
        );
        let found = if expected_code == 1 {
            output.stderr
        } else {
            output.explanation["assumptions"].to_string()
        };
        let expected = if expected_code == 1 {
            "ask for a role with verb get on pods in namespace e2e-explain"
        } else {
            "ask for a role with verb list on services in namespace e2e-explain"
        };
        ensure!(
            found.contains(expected),
            "as {account}, {expected:?} is missing in {found}"
        );
    }
    Ok(String::new())
}

async fn explain(fixture: &Fixture, arguments: &[&str]) -> Result<Output> {
    explain_as(fixture, fixture.cluster.kubectl.kubeconfig(), arguments).await
}

async fn explain_as(fixture: &Fixture, kubeconfig: &Path, arguments: &[&str]) -> Result<Output> {
    let program = fixture.config.checkout.release_binary("kumactl");
    let output = Command::new(&program)
        .arg("explain")
        .args(arguments)
        .args(["--output=json", "--kubeconfig"])
        .arg(kubeconfig)
        .output()
        .await
        .with_context(|| format!("{} cannot be started", program.display()))?;
    Ok(Output {
        code: output.status.code(),
        explanation: serde_json::from_slice(&output.stdout).unwrap_or_default(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn sections(output: &Output) -> &[Value] {
    output.explanation["sections"]
        .as_array()
        .map_or(&[], Vec::as_slice)
}

/// Checks the ids of the findings, and that the exit code says whether there are any.
fn check_findings(output: &Output, expected: &[&str]) -> Result<()> {
    let findings = &output.explanation["findings"];
    let ids: Vec<&str> = findings
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|finding| finding["id"].as_str())
        .collect();
    let code = if expected.is_empty() { 0 } else { FINDINGS };
    ensure!(
        ids == expected && output.code == Some(code),
        "the exit code is {:?} and the findings are {findings:#}, but {expected:?} was expected; {}",
        output.code,
        output.stderr
    );
    Ok(())
}

/// Checks that the sections contain lines that start with these texts.
fn check_lines(output: &Output, expected: &[&str]) -> Result<()> {
    let mut texts = Vec::new();
    for section in sections(output) {
        collect_texts(&section["lines"], &mut texts);
    }
    for expected in expected {
        ensure!(
            texts.iter().any(|text| text.starts_with(expected)),
            "no line starts with {expected:?}: {texts:#?}"
        );
    }
    Ok(())
}

fn collect_texts<'a>(lines: &'a Value, texts: &mut Vec<&'a str>) {
    for line in lines.as_array().into_iter().flatten() {
        texts.extend(line["text"].as_str());
        collect_texts(&line["details"], texts);
    }
}
