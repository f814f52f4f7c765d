//! `/inject-sidecar`: injects the sidecar into a new Pod, skips the Pod, or denies it.

use serde_json::Value;

use kermode_inject::{Context, Denial, Injection, Namespace, Outcome};

use super::deadline::Deadlines;
use super::lookup::FoundObjects;
use super::review::{Request, Response};
use super::workloads::has_controller;
use super::{DecisionKind, Webhooks};
use crate::directory::NamespaceRecord;

/// Value of the metrics label `webhook`.
const WEBHOOK: &str = "inject";
/// Maximum number of times that missing objects of a Pod are looked up: once for the Mesh, and once for all
/// ContainerPatches. The lookup of the Namespace is not included.
const MAX_LOOKUPS: usize = 2;

impl Webhooks {
    #[tracing::instrument(level = "debug", skip_all, fields(namespace = request.namespace, name = request.name))]
    pub(super) async fn inject(&self, request: Request, deadlines: Deadlines) -> Response {
        if let Some(response) = self.respond_unless_pod_creation(&request) {
            return response;
        }
        let namespace = match request.namespace.as_str() {
            "" => "default",
            name => name,
        };
        let record = match self.find_namespace(namespace, deadlines).await {
            Ok(record) => record,
            Err(lookup_error) => {
                self.metrics.count(WEBHOOK, "refused", "NamespaceNotFound");
                let message = format!("could not retrieve namespace for pod: {lookup_error}");
                tracing::warn!(namespace, pod = request.pod_name(), "Pod denied: {message}");
                self.remember(
                    &request,
                    namespace,
                    DecisionKind::Denied,
                    "NamespaceNotFound",
                    &message,
                );
                return Response::deny(request.uid, 500, message);
            }
        };
        match self
            .decide_with_lookups(&request.object, namespace, &record, deadlines)
            .await
        {
            Ok(Outcome::Skipped(reason)) => {
                self.metrics.count(WEBHOOK, "skipped", reason.as_str());
                let pod = request.pod_name();
                tracing::debug!(namespace, pod, reason = reason.as_str(), "sidecar not injected");
                self.events.report_skipped(&request, namespace, &record, reason);
                self.remember(&request, namespace, DecisionKind::Skipped, reason.as_str(), "");
                Response::allow(request.uid).with_warnings(reason.warning().into_iter().collect())
            }
            Ok(Outcome::Injected(injection)) => self.respond_injected(&request, namespace, injection),
            Err((denial, lookup_error)) => self.respond_denied(&request, namespace, &denial, lookup_error),
        }
    }

    /// Returns the response to a request that is not the creation of a Pod; `None` for the creation of a Pod. A custom
    /// webhook registration may send other requests. A request without kind or operation counts as the creation of a
    /// Pod.
    fn respond_unless_pod_creation(&self, request: &Request) -> Option<Response> {
        let kind = request.kind.kind.as_str();
        if !matches!(kind, "" | "Pod") {
            self.metrics.count(WEBHOOK, "refused", "NotAPod");
            let message = format!(
                "a sidecar can be injected into Pods only, and this is a {kind}: correct the rules of the webhook \
                 registration"
            );
            return Some(Response::deny(request.uid.clone(), 400, message));
        }
        // The containers of an existing Pod cannot change.
        let is_creation =
            matches!(request.operation.as_str(), "" | "CREATE") && request.sub_resource.is_empty();
        (!is_creation).then(|| {
            self.metrics.count(WEBHOOK, "skipped", "NotACreation");
            Response::allow(request.uid.clone())
        })
    }

    /// Decides on the Pod. If objects are missing in the directory, looks up these objects in the API server and
    /// repeats the decision. For a Pod without a controller, adds the warnings about services that do not exist.
    ///
    /// # Errors
    /// The denial, and the error message of the lookup if the lookup failed.
    pub(super) async fn decide_with_lookups(
        &self,
        pod: &Value,
        namespace: &str,
        record: &NamespaceRecord,
        deadlines: Deadlines,
    ) -> Result<Outcome, (Denial, Option<String>)> {
        let mut found = FoundObjects::default();
        let mut result = self.decide(pod, namespace, record, &found);
        for _ in 0..MAX_LOOKUPS {
            let Err(denial) = result else { break };
            result = match self.look_up(&denial, &mut found, deadlines).await {
                Ok(true) => self.decide(pod, namespace, record, &found),
                Ok(false) => return Err((denial, None)),
                Err(lookup_error) => return Err((denial, Some(lookup_error))),
            };
        }
        let mut outcome = result.map_err(|denial| (denial, None))?;
        // The template of a Pod with a controller was checked when the workload was applied.
        if let Outcome::Injected(injection) = &mut outcome
            && !has_controller(pod)
        {
            let warnings = self
                .warnings_of_pod(pod, injection.mesh.as_str(), deadlines)
                .await;
            injection.warnings.extend(warnings);
        }
        Ok(outcome)
    }

    /// Decides with the objects of the directory and the objects that were looked up.
    fn decide(
        &self,
        pod: &Value,
        namespace: &str,
        record: &NamespaceRecord,
        found: &FoundObjects,
    ) -> Result<Outcome, Denial> {
        let directory = || self.directory.read();
        let oldest_node = directory().nodes.oldest();
        let roots = self.control_plane_roots.borrow().clone();
        let context = Context {
            namespace: Namespace {
                name: namespace,
                labels: &record.labels,
                annotations: &record.annotations,
            },
            control_plane_url: &self.control_plane_url,
            control_plane_ca_pem: &roots,
            mesh_exists: &|mesh| found.meshes.contains(mesh) || directory().meshes.contains(mesh),
            container_patch: &|name| {
                let looked_up = found.container_patches.get(name).cloned();
                looked_up.or_else(|| directory().container_patches.get(name).cloned())
            },
            oldest_node: oldest_node.as_ref().map(|(node, version)| (&**node, *version)),
        };
        kermode_inject::inject(pod, &self.settings, &context)
    }

    /// Adds a decision to the recent ones, unless the review is a dry run, which creates no Pod.
    fn remember(
        &self,
        request: &Request,
        namespace: &str,
        kind: DecisionKind,
        reason: &'static str,
        message: &str,
    ) {
        if !request.dry_run {
            self.recent
                .add(kind, reason, namespace, request.pod_name(), message);
        }
    }

    fn respond_injected(&self, request: &Request, namespace: &str, injection: Injection) -> Response {
        let reason = injection.source.as_str();
        self.metrics.count(WEBHOOK, "injected", reason);
        let (pod, mesh) = (request.pod_name(), injection.mesh.as_str());
        tracing::debug!(namespace, pod, mesh, reason, "sidecar injected");
        self.remember(request, namespace, DecisionKind::Injected, reason, "");
        Response::allow(request.uid.clone())
            .with_patch(injection.patch)
            .with_warnings(injection.warnings)
    }

    fn respond_denied(
        &self,
        request: &Request,
        namespace: &str,
        denial: &Denial,
        lookup_error: Option<String>,
    ) -> Response {
        let reason = denial.reason();
        self.metrics.count(WEBHOOK, "refused", reason);
        let pod = request.pod_name();
        tracing::debug!(namespace, pod, reason, "Pod denied: {denial}");
        self.events.report_denied(request, namespace, denial);
        let message = match lookup_error {
            Some(lookup_error) => {
                format!("{denial} ({lookup_error}; if the missing object was created just now, retry)")
            }
            None => denial.to_string(),
        };
        self.remember(request, namespace, DecisionKind::Denied, reason, &message);
        Response::deny(request.uid.clone(), 500, message)
    }
}
