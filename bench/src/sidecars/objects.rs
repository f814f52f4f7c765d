//! The objects of `make bench-control-plane`: Namespaces, Services, injected Pods with the statuses that kubelets would
//! write, and tokens of their sidecars.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service, ServiceAccount};
use kermode_model::{DEFAULT_TOKEN_AUDIENCE, annotation};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::wait::await_condition;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

/// Number of namespaces that the Services are spread over.
const NAMESPACES: usize = 10;
/// Maximum number of concurrent requests.
const CONCURRENCY: usize = 32;
/// Lifetime of tokens, in seconds: longer than any benchmark.
const TOKEN_SECONDS: i64 = 6 * 3600;
/// Grace period of a termination, in seconds.
const GRACE_PERIOD: u32 = 30;
/// Number of spare Pods of each Service. Spare Pods have no simulated sidecar, so the benchmark may replace them.
const SPARE_PODS: usize = 1;

/// A simulated sidecar and its token.
#[derive(Clone, Debug)]
pub struct Sidecar {
    /// Namespace of the sidecar's Pod.
    pub namespace: String,
    /// Name of the sidecar's Pod.
    pub name: String,
    /// Name of Envoy's cluster for the Pod's Service.
    pub cluster: String,
    /// Value of the `authorization` header: `Bearer` and a token bound to the Pod.
    pub authorization: Arc<str>,
}

/// A Pod of the benchmark. Its name, namespace and address follow from its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BenchPod {
    /// Number of the Pod, unique in a run.
    number: usize,
    /// Number of its Service.
    service: usize,
}

/// Writes Pods. Cheap to clone.
#[derive(Clone)]
pub struct PodWriter(Client);

/// The Services and Pods that the benchmark has created.
#[derive(Debug)]
pub struct BenchObjects {
    writer: PodWriter,
    /// Number of Services.
    service_count: usize,
    /// Number of regular Pods, which are the Pods that are not spare. Regular Pods are numbered from 0.
    regular_pod_count: usize,
    /// Spare Pods, oldest first.
    spare: VecDeque<BenchPod>,
    /// Number of the next Pod to create.
    next_number: usize,
}

// === impl BenchPod ===

impl BenchPod {
    /// Returns the Pod's address, unique in a run.
    pub fn ip(&self) -> String {
        let [_, b, c, d] = u32::try_from(self.number + 1).unwrap_or(u32::MAX).to_be_bytes();
        format!("10.{}.{c}.{d}", b + 1)
    }

    /// Returns the name of the cluster and of the endpoints of the Pod's Service in Envoy.
    pub fn service_resource_name(&self) -> String {
        format!("service-{}_{}_svc_80", self.service, self.namespace())
    }

    fn name(&self) -> String {
        format!("pod-{}", self.number)
    }

    fn namespace(&self) -> String {
        namespace(self.service)
    }
}

fn namespace(service: usize) -> String {
    format!("bench-{}", service % NAMESPACES)
}

// === impl BenchObjects ===

impl BenchObjects {
    /// Creates `services` Services, `pods` regular Pods, and a spare Pod for each Service. All Pods are running and
    /// ready.
    ///
    /// # Errors
    /// When the API server rejects a request.
    pub async fn create(client: &Client, services: usize, pods: usize) -> Result<Self> {
        let mut objects = Self {
            writer: PodWriter(client.clone()),
            service_count: services,
            regular_pod_count: pods,
            spare: VecDeque::new(),
            next_number: pods,
        };
        objects.create_namespaces().await?;
        run_all((0..services).map(|service| objects.create_service(service))).await?;
        let regular_pods: Vec<_> = (0..pods).map(|number| objects.pod(number)).collect();
        run_all(regular_pods.iter().map(|pod| objects.writer.create_ready(pod))).await?;
        objects.create_spare_pods().await?;
        Ok(objects)
    }

    async fn create_spare_pods(&mut self) -> Result<()> {
        for number in 0..self.service_count * SPARE_PODS {
            let pod = self.next_pod(number % self.service_count);
            self.spare.push_back(pod);
        }
        run_all(self.spare.iter().map(|pod| self.writer.create_ready(pod))).await
    }

    /// Number of Pods, including spare Pods.
    pub fn pod_count(&self) -> usize {
        self.regular_pod_count + self.spare.len()
    }

    /// Returns a regular Pod.
    pub fn pod(&self, number: usize) -> BenchPod {
        BenchPod {
            number,
            service: number % self.service_count,
        }
    }

    /// Returns the oldest spare Pod, which the caller must delete, and a new spare Pod for the same Service, which the
    /// caller must create.
    ///
    /// # Errors
    /// When no spare Pod is left.
    pub fn replacement(&mut self) -> Result<(BenchPod, BenchPod)> {
        let old = self.spare.pop_front().context("no spare Pod is left")?;
        let new = self.next_pod(old.service);
        self.spare.push_back(new.clone());
        Ok((old, new))
    }

    fn next_pod(&mut self, service: usize) -> BenchPod {
        let number = self.next_number;
        self.next_number += 1;
        BenchPod { number, service }
    }

    /// Requests a token for each regular Pod. Returns a simulated sidecar for each of these Pods.
    ///
    /// # Errors
    /// When the API server rejects a request.
    pub async fn sidecars(&self) -> Result<Vec<Sidecar>> {
        futures::stream::iter(
            (0..self.regular_pod_count).map(|number| async move { self.sidecar(&self.pod(number)).await }),
        )
        .buffered(CONCURRENCY)
        .try_collect()
        .await
    }

    /// Requests a token for a Pod. Returns a simulated sidecar of the Pod.
    ///
    /// # Errors
    /// When the API server rejects a request.
    pub async fn sidecar(&self, pod: &BenchPod) -> Result<Sidecar> {
        let (namespace, name) = (pod.namespace(), pod.name());
        let uid = self.writer.api(pod).get(&name).await?.uid();
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![DEFAULT_TOKEN_AUDIENCE.to_owned()],
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(name.clone()),
                    uid,
                }),
                expiration_seconds: Some(TOKEN_SECONDS),
            },
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.writer.0.clone(), &namespace);
        let created = accounts
            .create_token_request("default", &PostParams::default(), &request)
            .await?;
        let status = created.status.context("the token request has no status")?;
        Ok(Sidecar {
            cluster: pod.service_resource_name(),
            namespace,
            name,
            authorization: format!("Bearer {}", status.token).into(),
        })
    }

    /// Returns the writer of Pods.
    pub fn pod_writer(&self) -> PodWriter {
        self.writer.clone()
    }

    /// Puts the first `count` Services on the list of services that a Pod calls, and waits until its Dataplane has the
    /// list.
    ///
    /// # Errors
    /// When the API server rejects a request, or when the wait takes longer than `timeout`.
    pub async fn list_services(&self, pod: &BenchPod, count: usize, timeout: Duration) -> Result<()> {
        let services = (0..count.min(self.regular_pod_count)).map(|number| self.pod(number));
        let services: Vec<_> = services.map(|pod| pod.service_resource_name()).collect();
        let annotations = json!({annotation::REACHABLE_SERVICES: services.join(",")});
        let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
        let pods = self.writer.api(pod);
        pods.patch(&pod.name(), &PatchParams::default(), &patch)
            .await
            .with_context(|| format!("cannot annotate Pod {}", pod.name()))?;
        let kind = GroupVersionKind::gvk("kuma.io", "v1alpha1", "Dataplane");
        let resource = ApiResource::from_gvk(&kind);
        let dataplanes: Api<DynamicObject> =
            Api::namespaced_with(self.writer.0.clone(), &pod.namespace(), &resource);
        let has_list = |dataplane: Option<&DynamicObject>| {
            let list = "/spec/networking/transparentProxying/reachableServices";
            let list = dataplane.and_then(|dataplane| dataplane.data.pointer(list)?.as_array());
            list.is_some_and(|list| list.len() == services.len())
        };
        tokio::time::timeout(timeout, await_condition(dataplanes, &pod.name(), has_list))
            .await
            .with_context(|| format!("Dataplane {} has no list of services", pod.name()))??;
        Ok(())
    }

    /// Writes `count` status updates that affect no configuration, as kubelets do from time to time.
    ///
    /// # Errors
    /// When the API server rejects a request.
    pub async fn heartbeats(&self, count: usize) -> Result<()> {
        let write_heartbeat = |heartbeat: usize| async move {
            let message = format!("heartbeat {heartbeat}");
            let condition = json!({"type": "PodScheduled", "status": "True", "message": message});
            let patch = json!({"status": {"conditions": [condition]}});
            self.writer
                .patch_status(&self.pod(heartbeat % self.regular_pod_count), patch)
                .await
        };
        run_all((0..count).map(write_heartbeat)).await
    }

    async fn create_namespaces(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.writer.0.clone());
        for number in 0..NAMESPACES {
            let name = namespace(number);
            let object = serde_json::from_value(json!({"metadata": {"name": name}}))?;
            namespaces.create(&PostParams::default(), &object).await?;
            // In a full cluster, the controller manager creates the default service account.
            let accounts: Api<ServiceAccount> = Api::namespaced(self.writer.0.clone(), &name);
            let account = serde_json::from_value(json!({"metadata": {"name": "default"}}))?;
            accounts.create(&PostParams::default(), &account).await?;
        }
        Ok(())
    }

    async fn create_service(&self, number: usize) -> Result<()> {
        let services: Api<Service> = Api::namespaced(self.writer.0.clone(), &namespace(number));
        let object = json!({
            "metadata": {"name": format!("service-{number}")},
            "spec": {
                "selector": {"app": format!("app-{number}")},
                "ports": [{"port": 80, "targetPort": "http", "appProtocol": "http"}],
            },
        });
        let object = serde_json::from_value(object)?;
        services.create(&PostParams::default(), &object).await?;
        Ok(())
    }
}

// === impl PodWriter ===

impl PodWriter {
    /// Creates a Pod and sets its status: running and ready.
    ///
    /// # Errors
    /// When the API server rejects a request.
    pub async fn create_ready(&self, pod: &BenchPod) -> Result<()> {
        self.create(pod).await?;
        self.set_ready(pod, true).await
    }

    /// Creates a Pod without a status.
    ///
    /// # Errors
    /// When the API server rejects a request.
    pub async fn create(&self, pod: &BenchPod) -> Result<()> {
        let object = serde_json::from_value(pod_manifest(pod))?;
        let created = self.api(pod).create(&PostParams::default(), &object).await;
        created.with_context(|| format!("cannot create Pod {}", pod.name()))?;
        Ok(())
    }

    /// Sets the status of a Pod: running, and ready or not.
    ///
    /// # Errors
    /// When the API server rejects a request.
    pub async fn set_ready(&self, pod: &BenchPod, ready: bool) -> Result<()> {
        self.patch_status(pod, json!({"status": running_status(&pod.ip(), ready)}))
            .await
    }

    /// Deletes a Pod without a grace period.
    ///
    /// # Errors
    /// When the API server rejects a request.
    pub async fn delete(&self, pod: &BenchPod) -> Result<()> {
        let deleted = self
            .api(pod)
            .delete(&pod.name(), &DeleteParams::default().grace_period(0))
            .await;
        deleted.with_context(|| format!("cannot delete Pod {}", pod.name()))?;
        Ok(())
    }

    /// Starts the termination of a Pod, which has a grace period, as `kubectl delete pod` does. The Pod exists until
    /// [`Self::delete`] is called, because no kubelet ends it.
    ///
    /// # Errors
    /// When the API server rejects a request.
    pub async fn terminate(&self, pod: &BenchPod) -> Result<()> {
        let parameters = DeleteParams::default().grace_period(GRACE_PERIOD);
        let terminated = self.api(pod).delete(&pod.name(), &parameters).await;
        terminated.with_context(|| format!("cannot terminate Pod {}", pod.name()))?;
        Ok(())
    }

    async fn patch_status(&self, pod: &BenchPod, patch: Value) -> Result<()> {
        let patched = self
            .api(pod)
            .patch_status(&pod.name(), &PatchParams::default(), &Patch::Merge(patch))
            .await;
        patched.with_context(|| format!("cannot set the status of Pod {}", pod.name()))?;
        Ok(())
    }

    fn api(&self, pod: &BenchPod) -> Api<Pod> {
        Api::namespaced(self.0.clone(), &pod.namespace())
    }
}

impl std::fmt::Debug for PodWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodWriter").finish_non_exhaustive()
    }
}

/// Runs requests concurrently until all have succeeded or one has failed.
async fn run_all<F: Future<Output = Result<()>>>(requests: impl Iterator<Item = F>) -> Result<()> {
    futures::stream::iter(requests)
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await
}

/// Returns a Pod as the injection webhook patches it.
fn pod_manifest(pod: &BenchPod) -> Value {
    json!({
        "metadata": {
            "name": pod.name(),
            "labels": {"app": format!("app-{}", pod.service), "version": "v1", "pod-template-hash": "5d8f6c7b9"},
            "annotations": {
                "kuma.io/mesh": "default",
                "kuma.io/sidecar-injected": "true",
                "kuma.io/sidecar-uid": "5678",
                "kuma.io/transparent-proxying": "enabled",
                "kuma.io/transparent-proxying-inbound-port": "15006",
                "kuma.io/transparent-proxying-inbound-v6-port": "15010",
                "kuma.io/transparent-proxying-outbound-port": "15001",
                "kuma.io/virtual-probes": "enabled",
                "kuma.io/virtual-probes-port": "9000",
                "kuma.io/envoy-admin-port": "9901",
            },
        },
        "spec": {
            // The API server deletes a Pod without a node at once, whatever its grace period.
            "nodeName": "node",
            "serviceAccountName": "default",
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "app", "image": "example/app:v1",
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "readinessProbe": {"httpGet": {"port": 9000, "path": "/8080/ready"}},
                },
                {"name": "kuma-sidecar", "image": "example/kuma-dp:v1"},
            ],
        },
    })
}

fn running_status(ip: &str, ready: bool) -> Value {
    let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    let container = |name: &str, ready: bool| {
        json!({"name": name, "ready": ready, "started": true, "restartCount": 0, "image": "example:v1",
            "imageID": "example", "state": running})
    };
    json!({
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "containerStatuses": [container("app", ready), container("kuma-sidecar", true)],
    })
}
