//! Certificates of the control plane's own servers: one CA for all replicas, stored in Secrets, and a short-lived serving
//! certificate that each replica issues to itself and renews.
//!
//! The CA is rotated like the CA of a mesh (docs/reference/certificates.md#rotation-of-the-ca-of-the-servers). Every
//! replica follows the Secrets, publishes the roots of the current phase, and issues its certificate anew when another CA
//! signs.

mod certificate;
mod metrics;
mod secrets;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::ObjectReference;
use kermode_crds::annotation;
use kermode_identity::{Generation, Phase, RotationReason, Schedule, ServingAuthority, Term};
use kermode_k8s::controller::recorder::{EventRecorder, EventType};
use kermode_k8s::controller::roots::RootsReceiver;
use kermode_k8s::controller::secret;
use kermode_runtime::shutdown::Shutdown;
use kermode_runtime::tls::ServingCertificate;
use kube::Client;
use tokio::sync::watch;

use crate::expiries::Expiries;

use self::certificate::{ReissueReason, ReplicaCertificate};
pub use self::metrics::Metrics;
pub use self::secrets::CA_SECRET;
use self::secrets::{CaSecrets, LATER_TYPE, ServingPlan};

/// Maximum time between reconciliations. Timers stop while a machine is suspended, but certificates continue to age.
const MAX_PAUSE: Duration = Duration::from_hours(1);
/// Time after which a failed reconciliation is repeated.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// Time in which a root reaches sidecars: the kubelet updates a projected ConfigMap within two minutes. The rest is for
/// Nodes that cannot be reached meanwhile. The duration of a phase follows from this time ([`Schedule::generated_at`]).
const DISTRIBUTION_TIME: Duration = Duration::from_hours(1);

/// Serving certificate of this replica, and the CA that issues it.
pub struct ServingIdentity {
    secrets: CaSecrets,
    plan: ServingPlan,
    certificate: ReplicaCertificate,
    clock_tolerance: Duration,
    roots: watch::Sender<Arc<str>>,
}

/// Reports of the rotations: logs, metrics, and Events about the Secret [`CA_SECRET`].
pub struct RotationReports {
    metrics: Metrics,
    events: EventRecorder,
    expiries: Expiries,
    /// Last reported phase.
    phase: Phase,
    /// Whether this replica started the rotation. Other replicas do not write Events about the rotation.
    is_own_rotation: bool,
}

impl ServingIdentity {
    /// Reads the CAs from their Secrets, or creates the Secret with the first CA. Issues a certificate for `names` (DNS
    /// names and IP addresses). `clock_tolerance` is the [`Term::clock_tolerance`] of the certificate.
    pub async fn load(
        client: &Client,
        namespace: &str,
        names: Vec<String>,
        clock_tolerance: Duration,
    ) -> anyhow::Result<Self> {
        let secrets = CaSecrets {
            client: client.clone(),
            namespace: namespace.to_owned(),
        };
        let plan = secrets.read(None).await?;
        let now = SystemTime::now();
        let signer = &plan.signer(now).authority;
        let certificate = ReplicaCertificate::issue(signer, names, clock_tolerance, now)?;
        let roots = watch::Sender::new(plan.trust(now).bundle.to_pem().into());
        Ok(Self {
            secrets,
            plan,
            certificate,
            clock_tolerance,
            roots,
        })
    }

    /// Returns the roots that the API server and sidecars have to trust.
    pub fn roots(&self) -> RootsReceiver {
        self.roots.subscribe()
    }

    /// Returns the certificate that the servers present. A renewal replaces the content of the returned value.
    pub fn certificate(&self) -> Arc<ServingCertificate> {
        self.certificate.presented()
    }

    /// Until shutdown, follows the Secrets of the CA: restores deleted ones, rotates the CA, publishes its roots, and
    /// issues the certificate anew before it expires or when another CA signs.
    pub async fn run(mut self, mut reports: RotationReports, shutdown: Shutdown) {
        let mut shutdown = std::pin::pin!(shutdown.wait());
        let (client, namespace) = (&self.secrets.client, &self.secrets.namespace);
        let mut changes = std::pin::pin!(stream::select(
            secret::changes_of_name(client, namespace, CA_SECRET),
            secret::changes(client, namespace, LATER_TYPE),
        ));
        loop {
            let pause = match self.reconcile(&mut reports).await {
                Ok(pause) => pause,
                Err(error) => {
                    reports.metrics.count_secret_failure();
                    tracing::warn!("CA of the control plane cannot be reconciled: {error:#}; retrying");
                    RETRY_PAUSE
                }
            };
            tokio::select! {
                () = &mut shutdown => return,
                () = tokio::time::sleep(pause) => {}
                Some(()) = changes.next() => {}
            }
        }
    }

    /// Reads the Secrets, starts a rotation if one is due, and applies the current phase. Returns the time until the next
    /// change, but at most [`MAX_PAUSE`].
    async fn reconcile(&mut self, reports: &mut RotationReports) -> anyhow::Result<Duration> {
        let read = self.read_and_rotate(reports).await;
        // While the Secrets cannot be read, the CAs in memory continue their schedule.
        let now = SystemTime::now();
        self.apply(now)?;
        reports.metrics.set(&self.plan, now);
        let roots = self
            .plan
            .trusted(now)
            .map(|root| (root.number, root.authority.validity().not_after));
        reports
            .expiries
            .set_control_plane(roots.collect(), self.certificate.not_after());
        let secret = self.reference(read?);
        reports.report_phase(&self.plan, now, secret);
        let next_change = self.plan.next_change(now);
        let pause = next_change.and_then(|change| change.duration_since(now).ok());
        Ok(pause.unwrap_or(MAX_PAUSE).min(MAX_PAUSE))
    }

    /// Reads the Secrets and starts a rotation if one is due. Returns the UID of the Secret with the annotation.
    async fn read_and_rotate(&mut self, reports: &mut RotationReports) -> anyhow::Result<Option<String>> {
        self.plan = self.secrets.read(Some(&self.plan)).await?;
        let metadata = self.secrets.metadata().await?;
        let request = metadata.annotations.get(annotation::ROTATE_CA).cloned();
        let now = SystemTime::now();
        if let Some(reason) = self.plan.due_rotation(now, request.as_deref()) {
            reports.is_own_rotation = self.start_rotation(request, reason, now).await?;
            self.plan = self.secrets.read(Some(&self.plan)).await?;
        }
        Ok(metadata.uid)
    }

    /// Starts a rotation. Returns whether this replica created the new CA.
    async fn start_rotation(
        &self,
        request: Option<String>,
        reason: RotationReason,
        now: SystemTime,
    ) -> anyhow::Result<bool> {
        let term = Term {
            lifetime: DISTRIBUTION_TIME,
            clock_tolerance: self.clock_tolerance,
        };
        let generated = Generation {
            number: self.plan.newest().number + 1,
            authority: Arc::new(ServingAuthority::generate(now)?),
            schedule: Some(Schedule::generated_at(now, term)),
            // A rotation that is due because of the CA's age also fulfils a pending request.
            request,
        };
        let stored = self.secrets.create(&generated).await?;
        let is_own_rotation = stored.authority.certificate() == generated.authority.certificate();
        if is_own_rotation {
            let generation = generated.number;
            tracing::info!(generation, ?reason, "CA of the control plane created");
        }
        Ok(is_own_rotation)
    }

    /// Issues the certificate anew if it is due, and publishes the roots if they have changed.
    fn apply(&mut self, now: SystemTime) -> anyhow::Result<()> {
        let roots: Arc<str> = self.plan.trust(now).bundle.to_pem().into();
        // A new root is published before the first certificate of its CA is presented.
        self.roots.send_if_modified(|current| {
            let has_changed = *current != roots;
            *current = roots;
            has_changed
        });
        let signer = self.plan.signer(now);
        match self.certificate.reissue_if_due(&signer.authority, now)? {
            None => {}
            Some(ReissueReason::Ageing) => tracing::info!("serving certificate renewed"),
            Some(ReissueReason::OtherCa) => {
                let generation = signer.number;
                tracing::info!(
                    generation,
                    "serving certificate issued by another CA of the control plane"
                );
            }
        }
        Ok(())
    }

    /// Returns a reference to the Secret with the annotation, for Events.
    fn reference(&self, uid: Option<String>) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            namespace: Some(self.secrets.namespace.clone()),
            name: Some(CA_SECRET.to_owned()),
            uid,
            ..ObjectReference::default()
        }
    }
}

impl RotationReports {
    /// Creates the reports of a control plane without a rotation.
    pub fn new(metrics: Metrics, events: EventRecorder, expiries: Expiries) -> Self {
        Self {
            metrics,
            events,
            expiries,
            phase: Phase::Settled,
            is_own_rotation: false,
        }
    }

    /// Logs a new phase of the rotation. If this replica started the rotation, also writes an Event.
    fn report_phase(&mut self, plan: &ServingPlan, now: SystemTime, secret: ObjectReference) {
        let phase = plan.phase(now);
        if phase == std::mem::replace(&mut self.phase, phase) {
            return;
        }
        let newest = plan.newest().number;
        let (reason, message) = match phase {
            Phase::Distributing => (
                "CARotationStarted",
                format!(
                    "CA {newest} of the control plane was created. Its root is published; the old CA still signs."
                ),
            ),
            Phase::Reissuing => (
                "CARotationSigning",
                format!("CA {newest} of the control plane signs now. The old root is still published."),
            ),
            Phase::Settled => (
                "CARotationFinished",
                format!("Only the root of CA {newest} of the control plane is published now."),
            ),
        };
        tracing::info!(?phase, "{message}");
        if self.is_own_rotation {
            self.events
                .publish(secret, EventType::Normal, "RotateCA", reason, &message);
        }
    }
}
