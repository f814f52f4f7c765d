//! The two sides of a comparison: the same application in the mesh and in a plain namespace of the same cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kermode_harness::demo::{self, Counters};
use kermode_harness::deployment::{ready_pods, wait_for_rollout};
use kermode_harness::kubectl::Kubectl;
use kermode_harness::wait::{done_if, wait_for};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::Value;

use crate::case::{Case, Plan, Protocol};
use crate::objects::{self, CLIENT, Marks, SERVER};
use crate::settings::Settings;

/// Time limit of a rollout, and of a change of the servers.
const ROLLOUT_TIMEOUT: Duration = Duration::from_mins(4);
/// Time limit of a condition of the clients.
const CLIENT_TIMEOUT: Duration = Duration::from_mins(1);

/// Cluster that the scenarios run on.
#[derive(Clone)]
pub struct Target {
    /// kubectl, configured for the cluster.
    pub kubectl: Kubectl,
    /// API client with administrator rights.
    pub client: kube::Client,
    /// Image of the demo program, which clients and servers run.
    pub image: String,
}

/// The application in one namespace.
pub(crate) struct Side {
    pub(crate) namespace: &'static str,
    target: Target,
    namespace_marks: Marks,
    /// Labels and annotations of all Pods.
    pod_marks: Marks,
    /// Whether the variants apply.
    is_mesh: bool,
}

/// Counters of the clients, by protocol.
pub(crate) type ClientCounters = BTreeMap<Protocol, Counters>;

// === impl Side ===

impl Side {
    /// Returns the side in the mesh.
    pub(crate) fn mesh(target: &Target, settings: &Settings) -> Self {
        Self {
            namespace: "lifecycle-mesh",
            target: target.clone(),
            namespace_marks: Marks {
                labels: settings.namespace_labels.clone(),
                annotations: settings.namespace_annotations.clone(),
            },
            pod_marks: Marks {
                labels: settings.pod_labels.clone(),
                annotations: settings.pod_annotations.clone(),
            },
            is_mesh: true,
        }
    }

    /// Returns the side without a mesh.
    pub(crate) fn plain(target: &Target) -> Self {
        Self {
            namespace: "lifecycle-plain",
            target: target.clone(),
            namespace_marks: Marks::default(),
            pod_marks: Marks::default(),
            is_mesh: false,
        }
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.target.client.clone(), self.namespace)
    }

    pub(crate) fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.target.client.clone(), self.namespace)
    }

    /// Creates the namespace, the Service and the clients. The clients send requests from their start, which fail until
    /// servers are deployed.
    pub(crate) async fn deploy_clients(&self, settings: &Settings, plan: &Plan) -> Result<()> {
        let image = &self.target.image;
        self.apply(&objects::namespace(self.namespace, &self.namespace_marks))
            .await?;
        self.apply(&objects::service(
            self.namespace,
            &plan.protocols,
            &settings.app_protocols,
        ))
        .await?;
        self.apply(&objects::disruption_budget(self.namespace)).await?;
        self.apply(&objects::clients(self.namespace, image, &self.pod_marks, plan))
            .await
    }

    /// Deploys the servers of a case, and waits until they and the clients are ready, and servers of an earlier case are
    /// gone.
    pub(crate) async fn deploy_servers(&self, case: &Case, plan: &Plan) -> Result<()> {
        let mut marks = self.pod_marks.clone();
        if self.is_mesh {
            marks.labels.extend(case.variant.labels.clone());
            marks.annotations.extend(case.variant.annotations.clone());
        }
        let image = &self.target.image;
        self.apply(&objects::servers(
            self.namespace,
            image,
            case.application,
            &marks,
            plan,
        ))
        .await?;
        for deployment in [CLIENT, SERVER] {
            wait_for_rollout(&self.deployments(), deployment, ROLLOUT_TIMEOUT)
                .await
                .with_context(|| format!("namespace {}", self.namespace))?;
        }
        self.wait_for_ended_servers(plan).await
    }

    /// Waits until no server is being deleted.
    pub(crate) async fn wait_for_ended_servers(&self, plan: &Plan) -> Result<()> {
        let grace_period = Duration::from_secs(u64::try_from(plan.grace_period)?);
        let selector = ListParams::default().labels(&format!("app={SERVER}"));
        let condition = format!("the end of the deleted servers in {}", self.namespace);
        wait_for(&condition, grace_period + ROLLOUT_TIMEOUT, async || {
            let pods = self.pods().list(&selector).await?.items;
            let mut ending = pods
                .iter()
                .filter(|pod| pod.metadata.deletion_timestamp.is_some());
            let first = ending.next().map(ResourceExt::name_any);
            Ok(done_if(first.is_none(), (), || {
                format!("{} has not ended", first.unwrap_or_default())
            }))
        })
        .await
    }

    /// Waits until the Deployment of the servers is rolled out.
    pub(crate) async fn wait_for_servers(&self) -> Result<()> {
        wait_for_rollout(&self.deployments(), SERVER, ROLLOUT_TIMEOUT)
            .await
            .with_context(|| format!("namespace {}", self.namespace))
    }

    /// Waits until as many servers as planned are ready, none of them evicted.
    pub(crate) async fn wait_for_replacements(&self, evicted: &[String], plan: &Plan) -> Result<()> {
        let condition = format!("replacements of {evicted:?} in {}", self.namespace);
        wait_for(&condition, ROLLOUT_TIMEOUT, async || {
            let servers = self.ready_servers().await?;
            let done = servers.len() == usize::try_from(plan.replicas)?
                && servers.iter().all(|pod| !evicted.contains(&pod.name_any()));
            Ok(done_if(done, (), || {
                format!("{} servers are ready", servers.len())
            }))
        })
        .await
    }

    pub(crate) async fn ready_servers(&self) -> Result<Vec<Pod>> {
        ready_pods(&self.pods(), SERVER).await
    }

    /// Reads the counters of all clients.
    pub(crate) async fn counters(&self, plan: &Plan) -> Result<ClientCounters> {
        let clients = ready_pods(&self.pods(), CLIENT).await?;
        let pod = clients
            .first()
            .with_context(|| format!("no client is ready in namespace {}", self.namespace))?
            .name_any();
        let reads = plan.protocols.iter().map(async |protocol| {
            let url = format!("http://127.0.0.1:{}/", protocol.counters_port());
            let container = protocol.client_container();
            let counters =
                demo::counters_at(&self.target.kubectl, self.namespace, &pod, &container, &url).await?;
            anyhow::Ok((*protocol, counters))
        });
        Ok(try_join_all(reads).await?.into_iter().collect())
    }

    /// Waits until the requests that started before this call have ended, and each client has then had responses, and no
    /// failure, for about a second. Returns the counters then.
    pub(crate) async fn wait_for_responses(&self, plan: &Plan) -> Result<ClientCounters> {
        let first = self.counters(plan).await?;
        let mut before = first.clone();
        let condition = format!("responses to the clients in {}", self.namespace);
        wait_for(&condition, CLIENT_TIMEOUT, async || {
            let now = self.counters(plan).await?;
            let mut increases = now
                .iter()
                .map(|(protocol, counters)| (*protocol, counters.since(&before[protocol])));
            let lacking = increases.find(|(protocol, increase)| {
                increase.failed > 0
                    || increase.succeeded < plan.responses_in_a_second(*protocol)
                    || now[protocol].settled < first[protocol].started
            });
            let state =
                lacking.map(|(protocol, increase)| (increase.failed, protocol, increase.request_summary()));
            let progress = done_if(state.is_none(), now.clone(), || format!("{state:?}"));
            if state.is_some_and(|(failed, ..)| failed > 0) {
                before = now;
            }
            Ok(progress)
        })
        .await
    }

    /// Deletes the namespace, without time for its Pods to end, and waits until it is gone.
    pub(crate) async fn delete(&self) -> Result<()> {
        let (all, at_once) = (ListParams::default(), DeleteParams::default().grace_period(0));
        self.deployments()
            .delete_collection(&DeleteParams::default(), &all)
            .await?;
        self.pods().delete_collection(&at_once, &all).await?;
        let namespaces: Api<Namespace> = Api::all(self.target.client.clone());
        match namespaces.delete(self.namespace, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            outcome => drop(outcome?),
        }
        let condition = format!("the deletion of namespace {}", self.namespace);
        wait_for(&condition, ROLLOUT_TIMEOUT, async || {
            let namespace = namespaces.get_opt(self.namespace).await?;
            Ok(done_if(namespace.is_none(), (), || "it exists".to_owned()))
        })
        .await
    }

    async fn apply(&self, object: &Value) -> Result<()> {
        self.target.kubectl.apply(&object.to_string()).await.map(drop)
    }
}
