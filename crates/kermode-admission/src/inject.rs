//! `/inject-sidecar`: decides on a Pod and answers with a patch, a refusal, or nothing.

use kermode_inject::{Context, Denial, Injection, Namespace, Outcome};

use super::Webhooks;
use super::deadline::Deadline;
use super::look_up::Found;
use super::review::{Request, Response};
use crate::directory::NamespaceRecord;

const WEBHOOK: &str = "inject";
/// What may be missing on the way to an answer: the Mesh, then ContainerPatches.
const LOOK_UPS: usize = 2;

impl Webhooks {
    #[tracing::instrument(level = "debug", skip_all, fields(namespace = request.namespace, name = request.name))]
    pub(super) async fn inject(&self, request: Request, deadline: Deadline) -> Response {
        if let Some(response) = self.not_a_new_pod(&request) {
            return response;
        }
        let namespace = match request.namespace.as_str() {
            "" => "default",
            name => name,
        };
        let record = match self.namespace(namespace, deadline).await {
            Ok(record) => record,
            Err(problem) => {
                self.metrics.count(WEBHOOK, "refused", "NamespaceNotFound");
                let message = format!("could not retrieve namespace for pod: {problem}");
                tracing::warn!(namespace, pod = request.pod_name(), "Pod refused: {message}");
                return Response::deny(request.uid, 500, message);
            }
        };
        match self.decide_fully(&request, namespace, &record, deadline).await {
            Ok(Outcome::Skipped(reason)) => {
                self.metrics.count(WEBHOOK, "skipped", reason.as_str());
                let pod = request.pod_name();
                tracing::debug!(namespace, pod, reason = reason.as_str(), "sidecar not injected");
                self.reasons.skipped(&request, namespace, &record, reason);
                Response::allow(request.uid)
            }
            Ok(Outcome::Injected(injection)) => self.injected(&request, namespace, injection),
            Err((refusal, note)) => self.refused(&request, namespace, &refusal, note),
        }
    }

    /// A registration of somebody's own may send anything: what has no place for a sidecar is answered here.
    fn not_a_new_pod(&self, request: &Request) -> Option<Response> {
        let kind = request.kind.kind.as_str();
        if !matches!(kind, "" | "Pod") {
            self.metrics.count(WEBHOOK, "refused", "NotAPod");
            let message = format!(
                "only Pods can be given a sidecar, and this is a {kind}: correct the webhook's rules"
            );
            return Some(Response::deny(request.uid.clone(), 400, message));
        }
        // The containers of a Pod that exists cannot change.
        let creates = matches!(request.operation.as_str(), "" | "CREATE") && request.sub_resource.is_empty();
        (!creates).then(|| {
            self.metrics.count(WEBHOOK, "skipped", "NotACreation");
            Response::allow(request.uid.clone())
        })
    }

    /// Decides, and once more for each thing that memory did not have and the API server does. With a refusal comes
    /// what kept the API server from telling.
    async fn decide_fully(
        &self,
        request: &Request,
        namespace: &str,
        record: &NamespaceRecord,
        deadline: Deadline,
    ) -> Result<Outcome, (Denial, Option<String>)> {
        let mut found = Found::default();
        let mut result = self.decide(request, namespace, record, &found);
        for _ in 0..LOOK_UPS {
            let Err(refusal) = result else { break };
            result = match self.look_up(&refusal, &mut found, deadline).await {
                Ok(true) => self.decide(request, namespace, record, &found),
                Ok(false) => return Err((refusal, None)),
                Err(problem) => return Err((refusal, Some(problem))),
            };
        }
        result.map_err(|refusal| (refusal, None))
    }

    fn decide(
        &self,
        request: &Request,
        namespace: &str,
        record: &NamespaceRecord,
        found: &Found,
    ) -> Result<Outcome, Denial> {
        let directory = || self.directory.read();
        let context = Context {
            namespace: Namespace {
                name: namespace,
                labels: &record.labels,
                annotations: &record.annotations,
            },
            control_plane_url: &self.control_plane_url,
            control_plane_ca_pem: &self.control_plane_ca_pem,
            mesh_exists: &|mesh| found.meshes.contains(mesh) || directory().meshes.contains(mesh),
            container_patch: &|name| {
                let looked_up = found.container_patches.get(name).cloned();
                looked_up.or_else(|| directory().container_patches.get(name).cloned())
            },
        };
        kermode_inject::inject(&request.object, &self.settings, &context)
    }

    fn injected(&self, request: &Request, namespace: &str, injection: Injection) -> Response {
        let reason = injection.reason.as_str();
        self.metrics.count(WEBHOOK, "injected", reason);
        let (pod, mesh) = (request.pod_name(), injection.mesh.as_str());
        tracing::debug!(namespace, pod, mesh, reason, "sidecar injected");
        Response::allow(request.uid.clone())
            .with_patch(injection.patch)
            .with_warnings(injection.warnings)
    }

    fn refused(
        &self,
        request: &Request,
        namespace: &str,
        refusal: &Denial,
        note: Option<String>,
    ) -> Response {
        let reason = refusal.reason();
        self.metrics.count(WEBHOOK, "refused", reason);
        let pod = request.pod_name();
        // A controller tries again and again: the log need not say so each time.
        if self.reasons.refused(request, namespace, refusal) {
            tracing::warn!(namespace, pod, reason, "Pod refused: {refusal}");
        } else {
            tracing::debug!(namespace, pod, reason, "Pod refused: {refusal}");
        }
        let message = match note {
            Some(note) => format!("{refusal} (if it was made just now, try again: {note})"),
            None => refusal.to_string(),
        };
        Response::deny(request.uid.clone(), 500, message)
    }
}
