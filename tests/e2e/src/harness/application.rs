//! Ordinary applications in images of Debian packages (`images/applications.json`): servers in the mesh, a client in the
//! mesh, and a client outside of it.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;

use super::envoy::Envoy;
use super::runner::Note;
use super::wait::{done_if, wait_for};
use crate::fixture::{APPLICATIONS_NAMESPACE, Fixture, OUTSIDE_NAMESPACE};

/// Manifests of the clients of an application. `NAME` stands for the application, `IMAGE` for the clients' image.
const CLIENTS: &str = include_str!("../../manifests/applications/clients.yaml");
/// Label selector of the clients outside of the mesh.
const OUTSIDERS: &str = "--selector=e2e-outsider";
/// Container of a client.
const CONTAINER: &str = "client";
/// Time limit of each condition. It is long, so that a busy machine does not exceed it.
pub(crate) const TIMEOUT: Duration = Duration::from_mins(3);
/// Time limit of a client outside of the mesh, in seconds. In mode PERMISSIVE, a client that waits for the server to send
/// first gets a response after a second, and later on a busy machine.
const PROBE_SECONDS: u32 = 10;
/// Number of bytes of a client after which the server is under load.
const LOAD_BYTES: u64 = 100_000;

/// Application with its clients. All commands are scripts of `sh`.
pub(crate) struct Application {
    /// Name in the manifests of the clients, and value of the label `app` of the server's Pods.
    pub(crate) name: &'static str,
    /// Deployment or StatefulSet of the server, as `kind/name`.
    pub(crate) workload: &'static str,
    /// Manifests of the server. They name images as `app-<image>`.
    pub(crate) manifests: &'static str,
    /// Images of the server and of the clients.
    pub(crate) images: &'static [&'static str],
    /// Image of the clients.
    pub(crate) client_image: &'static str,
    /// Services of the server.
    pub(crate) services: &'static [Service],
}

/// Service of an application.
pub(crate) struct Service {
    /// Value of `kuma.io/service`.
    pub(crate) name: &'static str,
    /// Command of a client that succeeds if the service responds.
    pub(crate) probe: &'static str,
}

/// End of a command in a client.
#[derive(Debug)]
pub(crate) struct Run {
    /// Whether the exit code was 0.
    pub(crate) succeeded: bool,
    /// Standard output, then standard error.
    pub(crate) output: String,
}

/// Deploys applications, runs a check, and deletes the applications. After a failure they stay for the diagnosis. The
/// deletion ends after this function; the next call waits for it.
pub(crate) async fn with_applications(
    fixture: &Fixture,
    applications: &[&Application],
    check: impl AsyncFnOnce() -> Result<Note>,
) -> Result<Note> {
    fixture.ensure_application().await?;
    wait_until_deleted(fixture).await?;
    // One after the other, because they share a namespace, and because a server can start while the next image is loaded.
    for application in applications {
        application.apply(fixture).await?;
    }
    let servers = applications.iter();
    try_join_all(servers.map(|application| application.wait_until_ready(fixture))).await?;
    let note = check().await?;
    for application in applications {
        application.delete(fixture).await?;
    }
    Ok(note)
}

/// Checks that clients outside of the mesh get no response in mode STRICT. For comparison, the same clients first get a
/// response in mode PERMISSIVE.
pub(crate) async fn check_that_outsiders_get_no_response(
    fixture: &Fixture,
    applications: &[&Application],
) -> Result<()> {
    let permissive = [
        "patch",
        "mesh",
        "default",
        "--type=json",
        "--patch=[{\"op\": \"replace\", \"path\": \"/spec/mtls/backends/0/mode\", \"value\": \"PERMISSIVE\"}]",
    ];
    fixture.cluster.kubectl.run(&permissive).await?;
    let comparison = wait_for_outsiders(fixture, applications, true).await;
    fixture.apply_strict_mesh().await?;
    comparison?;
    wait_for_outsiders(fixture, applications, false).await
}

/// Waits until each service responds to a client outside of the mesh, or until none does.
async fn wait_for_outsiders(fixture: &Fixture, applications: &[&Application], responds: bool) -> Result<()> {
    let (state, mode) = if responds {
        ("a response", "PERMISSIVE")
    } else {
        ("no response", "STRICT")
    };
    let services = applications.iter().flat_map(|application| {
        application
            .services
            .iter()
            .map(move |service| (application, service))
    });
    let waits = services.map(async |(application, service)| {
        let condition = format!(
            "{state} of {} to a client outside of the mesh in mode {mode}",
            service.name
        );
        wait_for(&condition, TIMEOUT, async || {
            let run = application.probe_from_outside(fixture, service).await?;
            Ok(done_if(run.succeeded == responds, (), || format!("{run:?}")))
        })
        .await
    });
    try_join_all(waits).await?;
    Ok(())
}

/// Waits until the applications of an earlier test are deleted.
async fn wait_until_deleted(fixture: &Fixture) -> Result<()> {
    let namespace = format!("namespace/{APPLICATIONS_NAMESPACE}");
    let arguments = ["wait", "--for=delete", &namespace, "--timeout=180s"];
    fixture.cluster.kubectl.run(&arguments).await?;
    let namespace = format!("--namespace={OUTSIDE_NAMESPACE}");
    let arguments = [
        "wait",
        "--for=delete",
        "pod",
        OUTSIDERS,
        &namespace,
        "--timeout=180s",
    ];
    fixture.cluster.kubectl.run(&arguments).await?;
    Ok(())
}

// === impl Application ===

impl Application {
    /// Runs a command in the client.
    ///
    /// # Errors
    /// The exit code is not 0; the error contains the output.
    pub(crate) async fn client(&self, fixture: &Fixture, command: &str) -> Result<String> {
        let run = self.client_run(fixture, command).await?;
        ensure!(run.succeeded, "{command}: {}", run.output);
        Ok(run.output)
    }

    /// Runs a command in the client. A failure of the command is not an error.
    pub(crate) async fn client_run(&self, fixture: &Fixture, command: &str) -> Result<Run> {
        let pod = format!("{}-client", self.name);
        run(fixture, APPLICATIONS_NAMESPACE, &pod, &["sh", "-c", command]).await
    }

    /// Runs the probe of a service in the client outside of the mesh.
    ///
    /// # Errors
    /// The probe did not run. A probe that ran and failed is no error.
    async fn probe_from_outside(&self, fixture: &Fixture, service: &Service) -> Result<Run> {
        let pod = format!("{}-outsider", self.name);
        // kubectl fails also if it cannot run the command, so the client prints the exit code of the probe.
        let script = format!("timeout {PROBE_SECONDS} sh -c \"$0\"; printf '\\nexit code %s\\n' $?");
        let mut run = run(
            fixture,
            OUTSIDE_NAMESPACE,
            &pod,
            &["sh", "-c", &script, service.probe],
        )
        .await?;
        let exit_code = run
            .output
            .lines()
            .find_map(|line| line.strip_prefix("exit code "));
        let exit_code = exit_code.with_context(|| format!("the probe did not run: {run:?}"))?;
        run.succeeded = exit_code == "0";
        Ok(run)
    }

    /// Checks that the client's sidecar has made TLS handshakes with each service, and each server's sidecar with clients.
    /// Returns the numbers of handshakes.
    pub(crate) async fn check_mtls(&self, fixture: &Fixture) -> Result<Note> {
        let client = self.client_envoy(fixture).statistics("ssl.handshake").await?;
        let mut outgoing = 0;
        for Service { name, .. } in self.services {
            let handshakes = client.sum(&format!("cluster.{name}"), ".ssl.handshake");
            ensure!(
                handshakes > 0,
                "the client's Envoy made no TLS handshake with {name}"
            );
            outgoing += handshakes;
        }
        let mut incoming = 0;
        for server in fixture.ready_pods(APPLICATIONS_NAMESPACE, self.name).await? {
            let name = server.metadata.name.as_deref().unwrap_or_default();
            let envoy = Envoy::by_port_forward(&fixture.cluster.kubectl, APPLICATIONS_NAMESPACE, name);
            let handshakes = envoy
                .statistics("ssl.handshake")
                .await?
                .sum("listener.", ".ssl.handshake");
            ensure!(handshakes > 0, "the Envoy of server {name} made no TLS handshake");
            incoming += handshakes;
        }
        ensure!(incoming > 0, "{} has no ready server", self.name);
        Ok(format!(
            "{outgoing} handshakes by the client, {incoming} by servers"
        ))
    }

    /// Repeats a command in the client until `change` is complete. `change` starts when the server is under load. Returns
    /// the runs of the command.
    pub(crate) async fn under_load(
        &self,
        fixture: &Fixture,
        command: &str,
        change: impl AsyncFnOnce() -> Result<()>,
    ) -> Result<Vec<Run>> {
        let is_complete = Cell::new(false);
        let load = async {
            let mut runs = Vec::new();
            while !is_complete.get() {
                runs.push(self.client_run(fixture, command).await?);
            }
            Ok(runs)
        };
        let change = async {
            let outcome = async {
                self.wait_for_load(fixture).await?;
                change().await
            };
            let outcome = outcome.await;
            is_complete.set(true);
            outcome
        };
        let (runs, outcome) = tokio::join!(load, change);
        outcome?;
        runs
    }

    /// Restarts the server as `kubectl rollout restart` does, and waits until the new Pods are ready.
    pub(crate) async fn restart(&self, fixture: &Fixture) -> Result<()> {
        let namespace = format!("--namespace={APPLICATIONS_NAMESPACE}");
        let arguments = ["rollout", "restart", self.workload, &namespace];
        fixture.cluster.kubectl.run(&arguments).await?;
        self.wait_for_rollout(fixture).await
    }

    /// Waits until the client has sent a few more bytes.
    async fn wait_for_load(&self, fixture: &Fixture) -> Result<()> {
        let before = self.sent_bytes(fixture).await?;
        wait_for("load on the server", TIMEOUT, async || {
            let sent = self.sent_bytes(fixture).await?.saturating_sub(before);
            Ok(done_if(sent >= LOAD_BYTES, (), || format!("{sent} bytes")))
        })
        .await
    }

    /// Returns the number of bytes that the client's sidecar has sent to the services.
    async fn sent_bytes(&self, fixture: &Fixture) -> Result<u64> {
        let statistics = self
            .client_envoy(fixture)
            .statistics("upstream_cx_tx_bytes_total")
            .await?;
        let bytes = |service: &Service| {
            let cluster = format!("cluster.{}", service.name);
            statistics.sum(&cluster, ".upstream_cx_tx_bytes_total")
        };
        Ok(self.services.iter().map(bytes).sum())
    }

    fn client_envoy<'f>(&self, fixture: &'f Fixture) -> Envoy<'f> {
        let pod = format!("{}-client", self.name);
        Envoy::by_port_forward(&fixture.cluster.kubectl, APPLICATIONS_NAMESPACE, &pod)
    }

    async fn apply(&self, fixture: &Fixture) -> Result<()> {
        let references = fixture.cluster.load_application_images(self.images).await?;
        let mut manifests = self.all_manifests();
        for (name, reference) in references {
            manifests = manifests.replace(&format!("image: app-{name}\n"), &format!("image: {reference}\n"));
        }
        fixture.cluster.kubectl.apply(&manifests).await?;
        Ok(())
    }

    async fn wait_until_ready(&self, fixture: &Fixture) -> Result<()> {
        self.wait_for_rollout(fixture).await?;
        for (namespace, pod) in [
            (APPLICATIONS_NAMESPACE, "client"),
            (OUTSIDE_NAMESPACE, "outsider"),
        ] {
            let (pod, namespace) = (
                format!("pod/{}-{pod}", self.name),
                format!("--namespace={namespace}"),
            );
            let arguments = [
                "wait",
                "--for=condition=Ready",
                &pod,
                &namespace,
                "--timeout=180s",
            ];
            fixture.cluster.kubectl.run(&arguments).await?;
        }
        for service in self.services {
            let condition = format!("a response of {}", service.name);
            wait_for(&condition, TIMEOUT, async || {
                let run = self.client_run(fixture, service.probe).await?;
                Ok(done_if(run.succeeded, (), || format!("{run:?}")))
            })
            .await?;
        }
        Ok(())
    }

    async fn wait_for_rollout(&self, fixture: &Fixture) -> Result<()> {
        let namespace = format!("--namespace={APPLICATIONS_NAMESPACE}");
        let arguments = ["rollout", "status", self.workload, &namespace, "--timeout=180s"];
        fixture.cluster.kubectl.run(&arguments).await?;
        Ok(())
    }

    /// Begins to delete the application and its namespace.
    async fn delete(&self, fixture: &Fixture) -> Result<()> {
        let manifests = self.all_manifests();
        fixture.cluster.kubectl.delete(&manifests, false).await?;
        Ok(())
    }

    fn all_manifests(&self) -> String {
        let clients = CLIENTS
            .replace("NAME", self.name)
            .replace("IMAGE", self.client_image);
        format!("{clients}---\n{}", self.manifests)
    }
}

async fn run(fixture: &Fixture, namespace: &str, pod: &str, command: &[&str]) -> Result<Run> {
    let namespace = format!("--namespace={namespace}");
    let container = format!("--container={CONTAINER}");
    let mut arguments = vec!["exec", pod, &namespace, &container, "--"];
    arguments.extend(command);
    let output = fixture.cluster.kubectl.output(&arguments, "").await?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(Run {
        succeeded: output.status.success(),
        output: text,
    })
}
