//! Namespaces, Services and injected Pods, with the statuses that kubelets would write, and tokens of their sidecars.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

/// Number of namespaces that the Services are spread over.
const NAMESPACES: usize = 10;
/// Maximum number of concurrent requests.
const CONCURRENCY: usize = 32;
/// Lifetime of tokens, in seconds: longer than any benchmark.
const TOKEN_SECONDS: i64 = 6 * 3600;
/// Number of spare Pods of each Service. They have no simulated sidecar and may be replaced.
const SPARE_PODS: usize = 1;

/// A simulated sidecar and its token.
#[derive(Clone, Debug)]
pub struct Sidecar {
    /// Namespace of its Pod.
    pub namespace: String,
    /// Name of its Pod.
    pub name: String,
    /// Name of the Service's resource in Envoy.
    pub service: String,
    /// Value of the `authorization` header: `Bearer` and a token bound to the Pod.
    pub authorization: Arc<str>,
}

/// A Pod, identified by its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    number: usize,
    service: usize,
}

/// Writes Pods. Cheap to clone.
#[derive(Clone)]
pub struct Pods(Client);

/// All objects of the benchmark.
#[derive(Debug)]
pub struct Population {
    writer: Pods,
    services: usize,
    pods: usize,
    spare: VecDeque<Member>,
    next: usize,
}

// === impl Member ===

impl Member {
    /// Returns the Pod's address. No two Pods of a run have the same.
    pub fn ip(&self) -> String {
        let [_, b, c, d] = u32::try_from(self.number + 1).unwrap_or(u32::MAX).to_be_bytes();
        format!("10.{}.{c}.{d}", b + 1)
    }

    /// Returns the name of its Service's resource in Envoy.
    pub fn resource(&self) -> String {
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

// === impl Population ===

impl Population {
    /// Creates Services and Pods, and a spare Pod for each Service. All Pods are running and ready.
    ///
    /// # Errors
    /// When the API server rejects a request.
    pub async fn make(client: &Client, services: usize, pods: usize) -> Result<Self> {
        let population = Self {
            writer: Pods(client.clone()),
            services,
            pods,
            spare: VecDeque::new(),
            next: pods,
        };
        population.make_namespaces().await?;
        all((0..services).map(|service| population.make_service(service))).await?;
        let members: Vec<_> = (0..pods).map(|number| population.member(number)).collect();
        all(members.iter().map(|member| population.writer.make(member))).await?;
        population.with_spares().await
    }

    async fn with_spares(mut self) -> Result<Self> {
        for number in 0..self.services * SPARE_PODS {
            let member = self.next_member(number % self.services);
            self.spare.push_back(member);
        }
        all(self.spare.iter().map(|member| self.writer.make(member))).await?;
        Ok(self)
    }

    /// Number of Pods, including spare ones.
    pub fn size(&self) -> usize {
        self.pods + self.spare.len()
    }

    /// Returns a Pod that is not spare.
    pub fn member(&self, number: usize) -> Member {
        Member {
            number,
            service: number % self.services,
        }
    }

    /// Returns a spare Pod to delete and a Pod of the same Service to create.
    ///
    /// # Errors
    /// When no spare Pod is left.
    pub fn replacement(&mut self) -> Result<(Member, Member)> {
        let old = self.spare.pop_front().context("no spare Pod is left")?;
        let new = self.next_member(old.service);
        self.spare.push_back(new.clone());
        Ok((old, new))
    }

    fn next_member(&mut self, service: usize) -> Member {
        let number = self.next;
        self.next += 1;
        Member { number, service }
    }

    /// Requests the tokens of all Pods that are not spare.
    ///
    /// # Errors
    /// When the API server rejects a request.
    pub async fn sidecars(&self) -> Result<Vec<Sidecar>> {
        futures::stream::iter((0..self.pods).map(|number| self.sidecar(self.member(number))))
            .buffered(CONCURRENCY)
            .try_collect()
            .await
    }

    async fn sidecar(&self, member: Member) -> Result<Sidecar> {
        let (namespace, name) = (member.namespace(), member.name());
        let pod = self.writer.of(&member).get(&name).await?;
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: Vec::new(),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(name.clone()),
                    uid: pod.uid(),
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
            service: member.resource(),
            namespace,
            name,
            authorization: format!("Bearer {}", status.token).into(),
        })
    }

    /// Returns the writer of Pods.
    pub fn pods(&self) -> Pods {
        self.writer.clone()
    }

    /// Writes `number` status updates that affect no configuration, as kubelets do from time to time.
    ///
    /// # Errors
    /// When the API server rejects a request.
    pub async fn heartbeats(&self, number: usize) -> Result<()> {
        let heartbeat = |beat: usize| async move {
            let condition =
                json!({"type": "PodScheduled", "status": "True", "message": format!("heartbeat {beat}")});
            let patch = json!({"status": {"conditions": [condition]}});
            self.writer
                .patch_status(&self.member(beat % self.pods), patch)
                .await
        };
        all((0..number).map(heartbeat)).await
    }

    async fn make_namespaces(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.writer.0.clone());
        for number in 0..NAMESPACES {
            let name = namespace(number);
            let object = serde_json::from_value(json!({"metadata": {"name": name}}))?;
            namespaces.create(&PostParams::default(), &object).await?;
            // In a full cluster, the controller manager creates it.
            let accounts: Api<ServiceAccount> = Api::namespaced(self.writer.0.clone(), &name);
            let account = serde_json::from_value(json!({"metadata": {"name": "default"}}))?;
            accounts.create(&PostParams::default(), &account).await?;
        }
        Ok(())
    }

    async fn make_service(&self, number: usize) -> Result<()> {
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

// === impl Pods ===

impl Pods {
    /// Creates a running and ready Pod.
    ///
    /// # Errors
    /// When the API server rejects a request.
    pub async fn make(&self, member: &Member) -> Result<()> {
        self.create(member).await?;
        self.set_ready(member, true).await
    }

    /// Creates a Pod without a status.
    ///
    /// # Errors
    /// When the API server rejects a request.
    pub async fn create(&self, member: &Member) -> Result<()> {
        let object = serde_json::from_value(pod(member))?;
        let created = self.of(member).create(&PostParams::default(), &object).await;
        created.with_context(|| format!("Pod {}", member.name()))?;
        Ok(())
    }

    /// Sets the status of a Pod: running, and ready or not.
    ///
    /// # Errors
    /// When the API server rejects a request.
    pub async fn set_ready(&self, member: &Member, ready: bool) -> Result<()> {
        self.patch_status(member, json!({"status": status(&member.ip(), ready)}))
            .await
    }

    /// Deletes a Pod without a grace period.
    ///
    /// # Errors
    /// When the API server rejects a request.
    pub async fn delete(&self, member: &Member) -> Result<()> {
        let deleted = self
            .of(member)
            .delete(&member.name(), &DeleteParams::default().grace_period(0))
            .await;
        deleted.with_context(|| format!("Pod {}", member.name()))?;
        Ok(())
    }

    async fn patch_status(&self, member: &Member, patch: Value) -> Result<()> {
        let patched = self
            .of(member)
            .patch_status(&member.name(), &PatchParams::default(), &Patch::Merge(patch))
            .await;
        patched.with_context(|| format!("status of Pod {}", member.name()))?;
        Ok(())
    }

    fn of(&self, member: &Member) -> Api<Pod> {
        Api::namespaced(self.0.clone(), &member.namespace())
    }
}

impl std::fmt::Debug for Pods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pods").finish_non_exhaustive()
    }
}

async fn all<F: Future<Output = Result<()>>>(requests: impl Iterator<Item = F>) -> Result<()> {
    futures::stream::iter(requests)
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await
}

/// Returns a Pod as the injection webhook patches it.
fn pod(member: &Member) -> Value {
    json!({
        "metadata": {
            "name": member.name(),
            "labels": {"app": format!("app-{}", member.service), "version": "v1", "pod-template-hash": "5d8f6c7b9"},
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

fn status(ip: &str, ready: bool) -> Value {
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
