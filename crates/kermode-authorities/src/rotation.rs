//! Rotation of CAs: starts a rotation when it is requested or due, and publishes the roots of each phase to proxies.
//!
//! Every replica runs a [`RotationController`]. The controller acts when a Mesh or a Secret changes, and when the next
//! phase of a rotation begins. A rotation starts with the creation of a Secret, and only one replica can create the
//! Secret.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ObjectReference;
use kermode_crds::{Mesh, annotation};
use kermode_identity::{Authority, Generation, Phase, RotationPlan, RotationReason, Schedule};
use kermode_k8s::controller::recorder::{EventRecorder, EventType};
use kermode_k8s::controller::secret;
use kermode_k8s::controller::watch::watch_config;
use kermode_model::{self as model, MeshName};
use kermode_protocol::certificates::RootsUpdate;
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::time::{Instant, sleep_until};

use super::secrets::{CaSecretNames, SECRET_TYPE};
use super::{Authorities, BackendId, Metrics};

/// Time after which a failed reconciliation is repeated.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Once a new CA signs, proxies replace certificates of the old CA within the certificate lifetime divided by this
/// number.
const RENEWAL_DIVISOR: u32 = 2;
/// Maximum time between reconciliations. Timers stop while a machine is suspended, but certificates continue to age.
const MAX_SLEEP: Duration = Duration::from_hours(1);

/// Event of the watch of Meshes.
pub(super) type MeshEvent = Result<watcher::Event<DeserializeGuard<Mesh>>, watcher::Error>;

/// Controller that rotates the CAs of all meshes.
pub(super) struct RotationController {
    pub(super) authorities: Authorities,
    pub(super) metrics: Metrics,
    pub(super) events: EventRecorder,
    /// Settings of each mesh with mTLS.
    pub(super) settings: HashMap<MeshName, CaSettings>,
    /// Last reported phase of each backend.
    pub(super) reported_phases: HashMap<BackendId, ReportedPhase>,
}

/// Phase of a rotation in the last report.
#[derive(Clone, Copy)]
pub(super) struct ReportedPhase {
    phase: Phase,
    /// Whether this replica started the rotation. Other replicas do not write Events about the rotation.
    is_own_rotation: bool,
}

/// CA settings of a Mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CaSettings {
    /// Name of the enabled mTLS backend.
    pub(super) backend: String,
    /// Lifetime of workload certificates.
    pub(super) certificate_lifetime: Duration,
    /// Value of the rotation annotation.
    pub(super) rotation_request: Option<String>,
    /// UID of the Mesh, for Events.
    pub(super) uid: Option<String>,
}

impl Authorities {
    /// Rotates the CAs until the future is dropped.
    pub async fn run_rotation(self, metrics: Metrics, events: EventRecorder) {
        let controller = RotationController {
            authorities: self,
            metrics,
            events,
            settings: HashMap::new(),
            reported_phases: HashMap::new(),
        };
        controller.run().await;
    }
}

impl RotationController {
    async fn run(mut self) {
        let state = self.authorities.state.clone();
        let mut secret_changes = pin!(secret::changes(&state.client, &state.namespace, SECRET_TYPE));
        let mesh_api: Api<DeserializeGuard<Mesh>> = Api::all(state.client.clone());
        let mut mesh_events = pin!(watcher(mesh_api, watch_config()).default_backoff());
        let mut listed = Vec::new();
        let mut next_change = Instant::now() + MAX_SLEEP;
        loop {
            self.wait_until_due(&mut secret_changes, &mut mesh_events, &mut listed, next_change)
                .await;
            let pause = self.reconcile_all().await;
            next_change = Instant::now() + pause;
        }
    }

    /// Applies events of the watches of Secrets and Meshes. Returns when the CAs have to be reconciled: after a change,
    /// or at `next_change`. Other events, such as errors of a watch, do not delay the return.
    pub(super) async fn wait_until_due(
        &mut self,
        secret_changes: &mut (impl Stream<Item = ()> + Unpin),
        mesh_events: &mut (impl Stream<Item = MeshEvent> + Unpin),
        listed: &mut Vec<DeserializeGuard<Mesh>>,
        next_change: Instant,
    ) {
        loop {
            tokio::select! {
                Some(()) = secret_changes.next() => {
                    self.authorities.invalidate_all().await;
                    return;
                }
                Some(event) = mesh_events.next() => {
                    if self.on_mesh_event(event, listed) {
                        return;
                    }
                }
                () = sleep_until(next_change) => return,
            }
        }
    }

    /// Applies an event of the watch of Meshes. Meshes of an initial list are collected in `listed` and applied when
    /// the list is complete. Returns whether `self.settings` may have changed.
    fn on_mesh_event(&mut self, event: MeshEvent, listed: &mut Vec<DeserializeGuard<Mesh>>) -> bool {
        let name_of = |mesh: &DeserializeGuard<Mesh>| MeshName::from(mesh.name_any().as_str());
        match event {
            // The engine watches the same objects and logs the error.
            Err(_) => return false,
            Ok(watcher::Event::Init) => {
                listed.clear();
                return false;
            }
            Ok(watcher::Event::InitApply(mesh)) => {
                listed.push(mesh);
                return false;
            }
            Ok(watcher::Event::InitDone) => {
                let listed_names: Vec<MeshName> = listed.iter().map(name_of).collect();
                for mesh in listed.drain(..) {
                    self.on_mesh(mesh);
                }
                let known: Vec<MeshName> = self.settings.keys().cloned().collect();
                for deleted in known.iter().filter(|mesh| !listed_names.contains(mesh)) {
                    self.set_settings(deleted, None);
                }
            }
            Ok(watcher::Event::Apply(mesh)) => self.on_mesh(mesh),
            Ok(watcher::Event::Delete(mesh)) => self.set_settings(&name_of(&mesh), None),
        }
        true
    }

    /// Applies a Mesh that was added or changed.
    fn on_mesh(&mut self, mesh: DeserializeGuard<Mesh>) {
        // An invalid Mesh is ignored; its last valid version stays in force.
        let Ok(mesh) = mesh.0 else { return };
        let Ok(converted) = model::Mesh::try_from(&mesh) else {
            return;
        };
        let rotation_request = mesh.annotations().get(annotation::ROTATE_CA).cloned();
        let settings = converted.mtls.map(|mtls| CaSettings {
            backend: mtls.backend,
            certificate_lifetime: mtls.certificate_lifetime,
            rotation_request,
            uid: mesh.uid(),
        });
        self.set_settings(&converted.name, settings);
    }

    /// Sets or removes the settings of a mesh.
    pub(super) fn set_settings(&mut self, mesh: &MeshName, settings: Option<CaSettings>) {
        let backend = settings.as_ref().map(|settings| settings.backend.clone());
        let request = settings
            .as_ref()
            .and_then(|settings| settings.rotation_request.clone());
        let mut requests = self.authorities.rotation_requests();
        match request {
            Some(request) => requests.insert(mesh.clone(), request),
            None => requests.remove(mesh),
        };
        drop(requests);
        let previous = match settings {
            Some(settings) => self.settings.insert(mesh.clone(), settings),
            None => self.settings.remove(mesh),
        };
        // Removing a backend ends the streams that send its roots. The proxies then open streams for the new backend.
        if let Some(previous) = previous
            && backend.as_ref() != Some(&previous.backend)
        {
            let id = BackendId::new(mesh, &previous.backend);
            self.reported_phases.remove(&id);
            self.metrics.remove_backend(&id);
            self.authorities.expiries().remove_mesh_roots(&id);
            self.authorities.backends().remove(&id);
        }
    }

    /// Reconciles the CAs of all meshes. Returns the time until the next call.
    pub(super) async fn reconcile_all(&mut self) -> Duration {
        let mut pause = MAX_SLEEP;
        for (mesh, settings) in self.settings.clone() {
            let id = BackendId::new(&mesh, &settings.backend);
            match self.reconcile(&id, &settings).await {
                Ok(until_change) => pause = pause.min(until_change),
                Err(error) => {
                    self.metrics.count_secret_failure();
                    tracing::warn!(mesh = %id.mesh, backend = id.backend, "CA cannot be reconciled: {error:#}");
                    pause = pause.min(RETRY_INTERVAL);
                }
            }
        }
        pause
    }

    /// Reconciles the CAs of a backend. Returns the time until their next change, but at most [`MAX_SLEEP`].
    async fn reconcile(&mut self, id: &BackendId, settings: &CaSettings) -> anyhow::Result<Duration> {
        let mut plan = self.authorities.get_cached(id).await?;
        let now = SystemTime::now();
        if let Some(reason) = plan.due_rotation(now, settings.rotation_request.as_deref()) {
            let is_own_rotation = self.start_rotation(id, settings, &plan, reason, now).await?;
            plan = self.authorities.get_cached(id).await?;
            self.report_phase(id, settings, &plan, now, Some(is_own_rotation));
        } else {
            self.report_phase(id, settings, &plan, now, None);
        }
        self.metrics.set_phase_and_root_expiry(id, &plan, now);
        let roots = plan
            .trusted(now)
            .map(|root| (root.number, root.authority.validity().not_after));
        self.authorities.expiries().set_mesh_roots(id, roots.collect());
        self.authorities
            .publish_roots(id, &plan, now, settings.certificate_lifetime);
        let next_change = plan.next_change(now);
        let pause = next_change.and_then(|change| change.duration_since(now).ok());
        Ok(pause.unwrap_or(MAX_SLEEP).min(MAX_SLEEP))
    }

    /// Starts a rotation. Returns whether this replica created the new CA.
    async fn start_rotation(
        &self,
        id: &BackendId,
        settings: &CaSettings,
        plan: &RotationPlan,
        reason: RotationReason,
        now: SystemTime,
    ) -> anyhow::Result<bool> {
        let newest = plan.newest();
        let generated = Generation {
            number: newest.number + 1,
            authority: Arc::new(Authority::generate(&id.mesh, now)?),
            schedule: Some(Schedule::generated_at(
                now,
                self.authorities.term(settings.certificate_lifetime),
            )),
            // A rotation that is due because of the CA's age also fulfils a pending request.
            request: settings.rotation_request.clone(),
        };
        let stored = self
            .authorities
            .create_secret(&CaSecretNames::of(&id.mesh, &id.backend), &generated)
            .await
            .inspect_err(|_| self.metrics.count_secret_failure())?;
        self.authorities.invalidate(id).await;
        let is_own_rotation = stored.authority.certificate() == generated.authority.certificate();
        if is_own_rotation {
            self.metrics.count_rotation(id, reason);
            tracing::info!(
                mesh = %id.mesh,
                backend = id.backend,
                generation = generated.number,
                ?reason,
                "CA created"
            );
        }
        Ok(is_own_rotation)
    }

    /// Logs a new phase of a rotation. If this replica started the rotation, also writes an Event.
    ///
    /// `is_own_rotation` is `None` unless this reconciliation has tried to start a rotation. It then says whether this
    /// replica, and not another one, started the rotation. With `None`, the value of the last report is used.
    fn report_phase(
        &mut self,
        id: &BackendId,
        settings: &CaSettings,
        plan: &RotationPlan,
        now: SystemTime,
        is_own_rotation: Option<bool>,
    ) {
        let phase = plan.phase(now);
        let last_report = self.reported_phases.get(id).copied();
        let is_own_rotation = is_own_rotation
            .or(last_report.map(|report| report.is_own_rotation))
            .unwrap_or_default();
        let reported = ReportedPhase {
            phase,
            is_own_rotation,
        };
        self.reported_phases.insert(id.clone(), reported);
        // The phase `Settled` of a new backend is not reported.
        let last_phase = last_report.map_or(Phase::Settled, |report| report.phase);
        if phase == last_phase {
            return;
        }
        let newest = plan.newest().number;
        let (reason, message) = match phase {
            Phase::Distributing => (
                "CARotationStarted",
                format!("CA {newest} was created. Its root is trusted now; the old CA still signs."),
            ),
            Phase::Reissuing => (
                "CARotationSigning",
                format!("CA {newest} signs now. Certificates of the old CA are being replaced."),
            ),
            Phase::Settled => (
                "CARotationFinished",
                format!(
                    "Only the root of CA {newest} is trusted now. Secrets of earlier CAs may be deleted."
                ),
            ),
        };
        tracing::info!(mesh = %id.mesh, backend = id.backend, ?phase, "{message}");
        if is_own_rotation {
            let mesh = ObjectReference {
                api_version: Some("kuma.io/v1alpha1".to_owned()),
                kind: Some("Mesh".to_owned()),
                name: Some(id.mesh.to_string()),
                uid: settings.uid.clone(),
                ..ObjectReference::default()
            };
            self.events
                .publish(mesh, EventType::Normal, "RotateCA", reason, &message);
        }
    }
}

// === impl Authorities ===

impl Authorities {
    /// Marks all cached CAs as outdated, because a Secret has changed.
    pub(super) async fn invalidate_all(&self) {
        let backends: Vec<_> = self.backends().values().cloned().collect();
        for backend in backends {
            backend.cache.lock().await.current_as_of = None;
        }
    }

    /// Marks the cached CAs of a backend as outdated.
    async fn invalidate(&self, id: &BackendId) {
        self.backend(id).cache.lock().await.current_as_of = None;
    }

    /// Publishes the roots of a mesh to its proxies, if the [`RootsUpdate`] differs from the last one.
    pub fn publish(&self, mesh: &MeshName, mtls: &model::Mtls, plan: &RotationPlan) {
        let id = BackendId::new(mesh, &mtls.backend);
        self.publish_roots(&id, plan, SystemTime::now(), mtls.certificate_lifetime);
    }

    fn publish_roots(
        &self,
        id: &BackendId,
        plan: &RotationPlan,
        now: SystemTime,
        certificate_lifetime: Duration,
    ) {
        let trust = plan.trust(now);
        let update = RootsUpdate {
            roots_der: trust.bundle.to_der(),
            roots_version: trust.version,
            signer: trust.signer,
            renew_within: u32::try_from((certificate_lifetime / RENEWAL_DIVISOR).as_secs())
                .unwrap_or(u32::MAX),
            // Differs between the proxies of the mesh, so each stream sets it.
            names: 0,
        };
        self.backend(id).roots.send_if_modified(|current| {
            let has_changed = current.as_deref() != Some(&update);
            if has_changed {
                *current = Some(Arc::new(update));
            }
            has_changed
        });
    }
}
