//! Changes CAs when it is asked for or due, and tells proxies of their roots. It sleeps until a Mesh or a Secret
//! changes, or a change of CA takes its next step.
//!
//! Every replica does this, whoever leads: a change begins with the creation of a Secret, which only one replica can do.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ObjectReference;
use kermode_crds::{Mesh, annotation};
use kermode_identity::{Authority, Due, Generation, Phase, Schedule, Succession};
use kermode_k8s::controller::recorder::{EventType, Events};
use kermode_k8s::controller::secret;
use kermode_k8s::controller::watch::watch_config;
use kermode_model::{self as model, MeshName};
use kermode_protocol::certificates::RootsUpdate;
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::time::sleep;

use super::secrets::{Names, SECRET_TYPE};
use super::{Authorities, Id, Metrics};

/// How long after a failure the next attempt is.
const RETRY: Duration = Duration::from_secs(2);
/// Certificates of an old CA are renewed over this part of their life once another one signs.
const RENEWALS: u32 = 2;
/// Longest sleep: timers stand still while a machine sleeps, CAs age.
const LONGEST_SLEEP: Duration = Duration::from_hours(1);

/// The task.
pub(super) struct Keeper {
    pub(super) authorities: Authorities,
    pub(super) metrics: Metrics,
    pub(super) events: Events,
    /// The meshes with mTLS.
    pub(super) meshes: HashMap<MeshName, Wanted>,
    /// The last phase seen, and whether this replica began the change and tells of it.
    pub(super) phases: HashMap<Id, (Phase, bool)>,
}

/// What a Mesh says of its CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) backend: String,
    pub(super) lifetime: Duration,
    pub(super) request: Option<String>,
    pub(super) uid: Option<String>,
}

impl Authorities {
    /// Keeps the CAs until dropped.
    pub async fn keep(self, metrics: Metrics, events: Events) {
        let keeper = Keeper {
            authorities: self,
            metrics,
            events,
            meshes: HashMap::new(),
            phases: HashMap::new(),
        };
        keeper.run().await;
    }
}

impl Keeper {
    async fn run(mut self) {
        let shared = self.authorities.shared.clone();
        let mut secrets = pin!(secret::changes(&shared.client, &shared.namespace, SECRET_TYPE));
        let meshes: Api<DeserializeGuard<Mesh>> = Api::all(shared.client.clone());
        let mut meshes = pin!(watcher(meshes, watch_config()).default_backoff());
        let mut listed = Vec::new();
        let mut wait = LONGEST_SLEEP;
        loop {
            tokio::select! {
                Some(()) = secrets.next() => self.authorities.secrets_changed().await,
                Some(event) = meshes.next() => match event {
                    // A watch that fails is logged where the engine's own one fails too.
                    Err(_) => continue,
                    Ok(watcher::Event::Init) => {
                        listed.clear();
                        continue;
                    }
                    Ok(watcher::Event::InitApply(mesh)) => {
                        listed.push(mesh);
                        continue;
                    }
                    Ok(watcher::Event::InitDone) => {
                        let there: Vec<MeshName> =
                            listed.iter().map(|mesh| MeshName::from(mesh.name_any().as_str())).collect();
                        for mesh in listed.drain(..) {
                            self.on_mesh(mesh);
                        }
                        let known: Vec<MeshName> = self.meshes.keys().cloned().collect();
                        for gone in known.iter().filter(|mesh| !there.contains(mesh)) {
                            self.set(gone, None);
                        }
                    }
                    Ok(watcher::Event::Apply(mesh)) => self.on_mesh(mesh),
                    Ok(watcher::Event::Delete(mesh)) => self.set(&MeshName::from(mesh.name_any().as_str()), None),
                },
                () = sleep(wait) => {}
            }
            wait = self.attend().await;
        }
    }

    fn on_mesh(&mut self, mesh: DeserializeGuard<Mesh>) {
        // What is not valid is not in force; what was before still is.
        let Ok(mesh) = mesh.0 else { return };
        let Ok(converted) = model::Mesh::try_from(&mesh) else {
            return;
        };
        let request = mesh.annotations().get(annotation::ROTATE_CA).cloned();
        let wanted = converted.mtls.map(|mtls| Wanted {
            backend: mtls.backend,
            lifetime: mtls.certificate_lifetime,
            request,
            uid: mesh.uid(),
        });
        self.set(&converted.name, wanted);
    }

    pub(super) fn set(&mut self, mesh: &MeshName, wanted: Option<Wanted>) {
        let backend = wanted.as_ref().map(|wanted| wanted.backend.clone());
        let request = wanted.as_ref().and_then(|wanted| wanted.request.clone());
        let mut requests = self.authorities.requests();
        match request {
            Some(request) => requests.insert(mesh.clone(), request),
            None => requests.remove(mesh),
        };
        drop(requests);
        let before = match wanted {
            Some(wanted) => self.meshes.insert(mesh.clone(), wanted),
            None => self.meshes.remove(mesh),
        };
        // Streams of the roots of another backend end, and come back for those of the one in use.
        if let Some(before) = before
            && backend.as_ref() != Some(&before.backend)
        {
            let id = (mesh.clone(), before.backend);
            self.phases.remove(&id);
            self.authorities.slots().remove(&id);
        }
    }

    /// Looks after all CAs; returns when to do so again.
    pub(super) async fn attend(&mut self) -> Duration {
        let mut wait = LONGEST_SLEEP;
        for (mesh, wanted) in self.meshes.clone() {
            let id = (mesh, wanted.backend.clone());
            match self.attend_to(&id, &wanted).await {
                Ok(again) => wait = wait.min(again),
                Err(error) => {
                    self.metrics.failed();
                    tracing::warn!(mesh = %id.0, backend = id.1, "CA is not looked after: {error:#}");
                    wait = wait.min(RETRY);
                }
            }
        }
        wait
    }

    async fn attend_to(&mut self, id: &Id, wanted: &Wanted) -> anyhow::Result<Duration> {
        let mut succession = self.authorities.unchanged(id).await?;
        let now = SystemTime::now();
        if let Some(due) = succession.due(now, wanted.request.as_deref()) {
            let mine = self.begin(id, wanted, &succession, due, now).await?;
            succession = self.authorities.unchanged(id).await?;
            self.tell(id, wanted, &succession, now, Some(mine));
        } else {
            self.tell(id, wanted, &succession, now, None);
        }
        self.metrics.show(id, &succession, now);
        self.authorities
            .tell_proxies(id, &succession, now, wanted.lifetime);
        let next = succession.next_change(now);
        let next = next.and_then(|next| next.duration_since(now).ok());
        Ok(next.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP))
    }

    /// Begins a change of CA; whether it was this replica that did.
    async fn begin(
        &self,
        id: &Id,
        wanted: &Wanted,
        succession: &Succession,
        due: Due,
        now: SystemTime,
    ) -> anyhow::Result<bool> {
        let newest = succession.newest();
        let next = Generation {
            number: newest.number + 1,
            authority: Arc::new(Authority::generate(&id.0, now)?),
            schedule: Some(Schedule::starting(now, wanted.lifetime)),
            // A CA that is merely old leaves what is asked for to be done, or is what was asked for.
            request: wanted.request.clone(),
        };
        let made = self
            .authorities
            .make(&Names::of(&id.0, &id.1), &next)
            .await
            .inspect_err(|_| self.metrics.failed())?;
        self.authorities.changed(id).await;
        let mine = made.authority.certificate() == next.authority.certificate();
        if mine {
            self.metrics.begun(id, due);
            tracing::info!(mesh = %id.0, backend = id.1, generation = next.number, ?due, "a new CA was made");
        }
        Ok(mine)
    }

    /// Says when a phase begins: in the log of each replica, and in an Event of the one that began the change.
    fn tell(
        &mut self,
        id: &Id,
        wanted: &Wanted,
        succession: &Succession,
        now: SystemTime,
        mine: Option<bool>,
    ) {
        let phase = succession.phase(now);
        let before = self.phases.get(id).copied();
        let mine = mine.or(before.map(|before| before.1)).unwrap_or_default();
        self.phases.insert(id.clone(), (phase, mine));
        if before.map(|before| before.0) == Some(phase) || (before.is_none() && phase == Phase::Settled) {
            return;
        }
        let newest = succession.newest().number;
        let (reason, message) = match phase {
            Phase::Distributing => (
                "CARotationStarted",
                format!("CA {newest} was made. Its root is trusted from now on; the old CA still signs."),
            ),
            Phase::Reissuing => (
                "CARotationSigning",
                format!("CA {newest} signs from now on. Certificates of the old one are replaced."),
            ),
            Phase::Settled => (
                "CARotationFinished",
                format!(
                    "Only the root of CA {newest} is trusted from now on. Secrets of earlier CAs may be deleted."
                ),
            ),
        };
        tracing::info!(mesh = %id.0, backend = id.1, ?phase, "{message}");
        if mine {
            let mesh = ObjectReference {
                api_version: Some("kuma.io/v1alpha1".to_owned()),
                kind: Some("Mesh".to_owned()),
                name: Some(id.0.to_string()),
                uid: wanted.uid.clone(),
                ..ObjectReference::default()
            };
            self.events
                .about(mesh, EventType::Normal, "RotateCA", reason, &message);
        }
    }
}

// === what the keeper tells the others ===

impl Authorities {
    /// Secrets may have changed: none is taken for fresh.
    pub(super) async fn secrets_changed(&self) {
        let slots: Vec<_> = self.slots().values().cloned().collect();
        for slot in slots {
            slot.known.lock().await.read = None;
        }
    }

    async fn changed(&self, id: &Id) {
        self.slot(id).known.lock().await.read = None;
    }

    /// Tells proxies of the roots, if they are others than before.
    pub fn publish(&self, mesh: &MeshName, mtls: &model::Mtls, succession: &Succession) {
        let id = (mesh.clone(), mtls.backend.clone());
        self.tell_proxies(&id, succession, SystemTime::now(), mtls.certificate_lifetime);
    }

    fn tell_proxies(&self, id: &Id, succession: &Succession, now: SystemTime, lifetime: Duration) {
        let trust = succession.trust(now);
        let update = RootsUpdate {
            roots_der: trust.bundle.to_der(),
            roots_version: trust.version,
            signer: trust.signer,
            renew_within: u32::try_from((lifetime / RENEWALS).as_secs()).unwrap_or(u32::MAX),
        };
        self.slot(id).roots.send_if_modified(|current| {
            let is_new = current.as_deref() != Some(&update);
            if is_new {
                *current = Some(Arc::new(update));
            }
            is_new
        });
    }
}
