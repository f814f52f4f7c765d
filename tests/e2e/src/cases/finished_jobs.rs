//! Jobs with a classic sidecar: a Job that succeeds, a Job that fails, and a Job whose container is restarted after a
//! failure. The sidecar ends when the application has ended for good, so the Pod gets its final phase.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerState, Pod, Service};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::fixture::{APP_NAMESPACE, Fixture, SERVER_URL};
use crate::harness::runner::Note;
use crate::harness::wait::{Progress, done_if, wait_for};
use crate::pods::SIDECAR;

/// Time limit of each wait. The first restart of a failed container takes 10 s.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Name of the only container of the application.
const APPLICATION: &str = "caller";
/// Name of a Service that has no servers at first.
const LATE_SERVICE: &str = "late";
/// URL of [`LATE_SERVICE`].
const LATE_URL: &str = "http://late.e2e-mesh.svc/";

/// Job with a classic sidecar.
struct ClassicJob {
    name: &'static str,
    restart_policy: &'static str,
    /// Arguments of the demo program.
    args: &'static [&'static str],
    /// Final phase of the Pod.
    phase: &'static str,
}

const SUCCEEDING: ClassicJob = ClassicJob {
    name: "classic-succeeding",
    restart_policy: "Never",
    args: &["get", SERVER_URL],
    phase: "Succeeded",
};

/// The demo program exits with 1, because the request does not fail.
const FAILING: ClassicJob = ClassicJob {
    name: "classic-failing",
    restart_policy: "Never",
    args: &["get", SERVER_URL, "--expect-fail"],
    phase: "Failed",
};

/// Fails until [`LATE_SERVICE`] has servers.
const RETRIED: ClassicJob = ClassicJob {
    name: "classic-retried",
    restart_policy: "OnFailure",
    args: &["get", LATE_URL],
    phase: "Succeeded",
};

pub(super) async fn classic_sidecar_ends_when_the_application_of_its_job_has_ended_for_good(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let client = fixture.cluster.client.clone();
    let services = Api::<Service>::namespaced(client.clone(), APP_NAMESPACE);
    let jobs = Api::<Job>::namespaced(client, APP_NAMESPACE);
    services.create(&PostParams::default(), &late_service()?).await?;
    let outcome = check(fixture, &services, &jobs).await;
    for job in [SUCCEEDING, FAILING, RETRIED] {
        delete(&jobs, job.name).await?;
    }
    delete(&services, LATE_SERVICE).await?;
    outcome
}

async fn check(fixture: &Fixture, services: &Api<Service>, jobs: &Api<Job>) -> Result<Note> {
    for job in [SUCCEEDING, FAILING, RETRIED] {
        jobs.create(&PostParams::default(), &job.to_object(fixture)?)
            .await
            .with_context(|| format!("cannot create Job {}", job.name))?;
    }
    let mut notes = Vec::new();
    for job in [SUCCEEDING, FAILING] {
        notes.push(job.wait_for_phase(fixture).await?);
    }
    RETRIED.wait_for_restart(fixture).await?;
    let selector = json!({"spec": {"selector": {"app": "server"}}});
    services
        .patch(LATE_SERVICE, &PatchParams::default(), &Patch::Merge(selector))
        .await?;
    notes.push(RETRIED.wait_for_phase(fixture).await?);
    Ok(notes.join("; "))
}

impl ClassicJob {
    fn to_object(&self, fixture: &Fixture) -> Result<Job> {
        let image = fixture.cluster.image("kermode-demo")?;
        let annotations = json!({
            "kuma.io/sidecar-mode": "classic",
            "kuma.io/wait-for-dataplane-ready": "true",
        });
        let template = json!({
            "metadata": {"annotations": annotations},
            "spec": {
                "restartPolicy": self.restart_policy,
                "containers": [{"name": APPLICATION, "image": image, "args": self.args}],
            },
        });
        // The restarts of a container count as failures of its Job.
        let backoff_limit = if self.restart_policy == "Never" { 0 } else { 6 };
        Ok(serde_json::from_value(json!({
            "metadata": {"name": self.name},
            "spec": {"backoffLimit": backoff_limit, "template": template},
        }))?)
    }

    /// Waits for the first restart of the application, and checks that the sidecar has not ended.
    async fn wait_for_restart(&self, fixture: &Fixture) -> Result<()> {
        let condition = format!("the restart of the container of {}", self.name);
        let pod = wait_for(&condition, TIMEOUT, async || {
            let pod = self.pod(fixture).await?;
            let restarts = container_status(&pod, APPLICATION)["restartCount"].as_u64();
            Ok(done_if(restarts > Some(0), pod.clone(), || {
                format!("{:?}", pod.status)
            }))
        })
        .await?;
        let sidecar = container_status(&pod, SIDECAR);
        ensure!(
            sidecar["state"]["running"].is_object() && sidecar["restartCount"] == 0,
            "the sidecar of {} does not run while its application is restarted: {sidecar}",
            self.name
        );
        Ok(())
    }

    /// Waits for the final phase of the Pod. Returns the time from the end of the application to the phase.
    async fn wait_for_phase(&self, fixture: &Fixture) -> Result<Note> {
        let condition = format!("the phase {} of the Pod of {}", self.phase, self.name);
        let (pod, at) = wait_for(&condition, TIMEOUT, async || {
            let pod = self.pod(fixture).await?;
            let status = pod.status.clone().unwrap_or_default();
            let phase = status.phase.as_deref().unwrap_or_default();
            ensure!(
                ["Pending", "Running", self.phase].contains(&phase),
                "the Pod of {} has the phase {phase}: {status:?}",
                self.name
            );
            Ok(done_if(phase == self.phase, (pod, Timestamp::now()), || {
                format!("{status:?}")
            }))
        })
        .await?;
        let sidecar: ContainerState =
            serde_json::from_value(container_status(&pod, SIDECAR)["state"].clone())?;
        let exit_code = sidecar.terminated.map(|terminated| terminated.exit_code);
        ensure!(
            exit_code == Some(0),
            "the sidecar of {} has the exit code {exit_code:?}",
            self.name
        );
        let took = at.duration_since(end_of_application(fixture, &pod).await?);
        Ok(format!(
            "{} {:.1} s after the end of the application",
            self.phase,
            took.as_secs_f64()
        ))
    }

    async fn pod(&self, fixture: &Fixture) -> Result<Pod> {
        let pods = fixture.pods(APP_NAMESPACE);
        let condition = format!("the Pod of Job {}", self.name);
        wait_for(&condition, TIMEOUT, async || {
            let selector = ListParams::default().labels(&format!("job-name={}", self.name));
            Ok(match pods.list(&selector).await?.items.into_iter().next() {
                Some(pod) => Progress::Done(pod),
                None => Progress::NotYet("the Job has no Pod".to_owned()),
            })
        })
        .await
    }
}

/// Returns the time of the last line that the application printed. The status of a container has only seconds.
async fn end_of_application(fixture: &Fixture, pod: &Pod) -> Result<Timestamp> {
    let (namespace, container) = (
        format!("--namespace={APP_NAMESPACE}"),
        format!("--container={APPLICATION}"),
    );
    let arguments = ["logs", "--timestamps", &pod.name_any(), &namespace, &container];
    let log = fixture.cluster.kubectl.run(&arguments).await?;
    let last = log.lines().last().and_then(|line| line.split(' ').next());
    let last = last.context("the application has printed nothing")?;
    last.parse().with_context(|| format!("no time: {last}"))
}

/// Returns the status of an ordinary container; null if the kubelet has not reported it.
fn container_status(pod: &Pod, name: &str) -> Value {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let mut statuses = statuses.filter(|status| status.name == name);
    json!(statuses.next())
}

/// Returns the Service, whose selector matches no Pod.
fn late_service() -> Result<Service> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": LATE_SERVICE},
        "spec": {
            "selector": {"app": "nothing"},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"}],
        },
    }))?)
}

/// Deletes an object and its dependents. The object may be missing.
async fn delete<K>(api: &Api<K>, name: &str) -> Result<()>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    if api.get_opt(name).await?.is_some() {
        api.delete(name, &DeleteParams::background()).await?;
    }
    Ok(())
}
