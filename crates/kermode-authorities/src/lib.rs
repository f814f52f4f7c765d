//! The builtin CAs of each mesh, kept in Secrets of the system namespace under Kuma's names (BEHAVIOUR 6.7).
//!
//! All replicas must sign with the same CA and trust the same roots. The Secrets decide, and none is ever changed: a CA
//! that follows another one comes in a Secret of its own, with the moments at which it takes over. Of replicas that
//! begin such a change at once, one creates that Secret and the others find it; from then on the clock is all that
//! is needed. A lost Secret is restored from memory, and a key that is lost while its certificate is still there is
//! never quietly replaced, because proxies that trust the old certificate would no longer trust the new ones.

mod keeper;
mod metrics;
mod secrets;
pub mod serving;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use kermode_identity::{Authority, Generation, STALENESS, Succession};
use kermode_k8s::controller::secret;
use kermode_model::MeshName;
use kermode_protocol::certificates::RootsUpdate;
use kube::Client;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};

pub use self::metrics::Metrics;
use self::secrets::{Names, SECRET_TYPE, VALUE, contents, parse, reconcile};

/// How long CAs are used before their Secrets are looked at again for a certificate.
const FRESH: Duration = Duration::from_secs(10);
/// How long after a failed look the next one is.
const RETRY: Duration = Duration::from_secs(1);
/// How long the API server may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A mesh's backend; the two name the Secrets.
type Id = (MeshName, String);
/// What proxies are told of roots.
pub type Roots = watch::Receiver<Option<Arc<RootsUpdate>>>;

/// Finds the CAs of a mesh, making the first one at first use; cheap to clone.
#[derive(Clone)]
pub struct Authorities {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    namespace: String,
    slots: StdMutex<HashMap<Id, Arc<Slot>>>,
    /// What operators ask for, by mesh.
    requests: StdMutex<HashMap<MeshName, String>>,
}

/// The CAs of one backend. The lock is held while they are read, so that a crowd of new proxies causes one read; other
/// meshes do not wait for it.
struct Slot {
    known: Mutex<Known>,
    roots: watch::Sender<Option<Arc<RootsUpdate>>>,
}

#[derive(Default)]
struct Known {
    succession: Option<Arc<Succession>>,
    /// When the Secrets were read; nothing after they changed.
    read: Option<Instant>,
    /// When the Secrets were read at all.
    confirmed: Option<Instant>,
    /// When reading them failed.
    failed: Option<Instant>,
}

// === impl Authorities ===

impl Authorities {
    /// Authorities whose Secrets live in that namespace.
    pub fn new(client: Client, namespace: String) -> Self {
        Self {
            shared: Arc::new(Shared {
                client,
                namespace,
                slots: StdMutex::default(),
                requests: StdMutex::default(),
            }),
        }
    }

    /// The CAs of a mesh's backend.
    ///
    /// # Errors
    /// When the Secrets cannot be read or made, or do not belong together; at once when nothing is in memory, and
    /// after [`STALENESS`] otherwise, since a change of CA may have begun.
    pub async fn get(&self, mesh: &MeshName, backend: &str) -> anyhow::Result<Arc<Succession>> {
        let id = (mesh.clone(), backend.to_owned());
        let slot = self.slot(&id);
        let mut known = slot.known.lock().await;
        let fresh = known.read.is_some_and(|read| read.elapsed() < FRESH);
        self.refreshed(&id, &mut known, fresh).await
    }

    /// The same, however long ago it was read, unless its Secrets have changed since.
    async fn unchanged(&self, id: &Id) -> anyhow::Result<Arc<Succession>> {
        let slot = self.slot(id);
        let mut known = slot.known.lock().await;
        let fresh = known.read.is_some();
        self.refreshed(id, &mut known, fresh).await
    }

    /// What proxies are told of the roots of a mesh's backend. The sender goes when the mesh has another backend.
    pub fn roots(&self, mesh: &MeshName, backend: &str) -> Roots {
        self.slot(&(mesh.clone(), backend.to_owned())).roots.subscribe()
    }

    async fn refreshed(&self, id: &Id, known: &mut Known, fresh: bool) -> anyhow::Result<Arc<Succession>> {
        if let Some(succession) = known.succession.as_ref().filter(|_| fresh) {
            return Ok(succession.clone());
        }
        let lately = known.failed.is_some_and(|failed| failed.elapsed() < RETRY);
        let read = if lately {
            Err(anyhow::anyhow!("the API server has just failed"))
        } else {
            let read = self.read(id, known.succession.as_deref());
            timeout(TIMEOUT, read)
                .await
                .unwrap_or_else(|_| Err(anyhow::anyhow!("the API server does not answer")))
        };
        match read {
            Ok(succession) => {
                let (now, succession) = (Instant::now(), Arc::new(succession));
                *known = Known {
                    succession: Some(succession.clone()),
                    read: Some(now),
                    confirmed: Some(now),
                    failed: None,
                };
                Ok(succession)
            }
            Err(error) => {
                if !lately {
                    known.failed = Some(Instant::now());
                    let (mesh, backend) = id;
                    tracing::warn!(%mesh, backend, "CA cannot be looked at: {error:#}");
                }
                let usable = known.confirmed.is_some_and(|read| read.elapsed() < STALENESS);
                let succession = known.succession.clone().filter(|_| usable);
                succession.ok_or(error)
            }
        }
    }

    async fn read(&self, id: &Id, in_memory: Option<&Succession>) -> anyhow::Result<Succession> {
        let Shared {
            client, namespace, ..
        } = &*self.shared;
        let names = Names::of(&id.0, &id.1);
        let mut found = Vec::new();
        if let Some(data) = secret::get(client, namespace, &names.key).await? {
            found.push(self.parse(&names, 1, &data)?);
        }
        for (name, data) in secret::list(client, namespace, SECRET_TYPE).await? {
            if let Some(number) = names.number(&name) {
                found.push(self.parse(&names, number, &data)?);
            }
        }
        let first = found.iter().find(|generation| generation.number == 1).cloned();
        let Some(reconciled) = reconcile(found, in_memory, SystemTime::now()) else {
            let first = self.make_first(id, &names).await?;
            return Succession::new(vec![first]).context("there is one");
        };
        for lost in &reconciled.lost {
            let name = names.of_generation(lost.number);
            tracing::warn!(namespace, name, "Secret is gone: restored from memory");
            self.make(&names, lost).await?;
        }
        if let Some(first) = first {
            self.show_certificate(&names, &first.authority).await?;
        }
        Ok(reconciled.succession)
    }

    async fn make_first(&self, id: &Id, names: &Names) -> anyhow::Result<Generation> {
        let Shared {
            client, namespace, ..
        } = &*self.shared;
        let Names { key, certificate, .. } = names;
        anyhow::ensure!(
            secret::get(client, namespace, certificate).await?.is_none(),
            "Secret {namespace}/{key} is gone but {certificate} is there: restore it from a backup; or delete \
             {certificate} for a new CA and restart all Pods of the mesh"
        );
        let generated = Generation {
            number: 1,
            authority: Arc::new(Authority::generate(&id.0, SystemTime::now())?),
            schedule: None,
            request: self.requests().get(&id.0).cloned(),
        };
        let first = self.make(names, &generated).await?;
        self.show_certificate(names, &first.authority).await?;
        Ok(first)
    }

    /// Creates the Secret of a CA. Another replica may have been faster: what is there then counts.
    async fn make(&self, names: &Names, generation: &Generation) -> anyhow::Result<Generation> {
        let Shared {
            client, namespace, ..
        } = &*self.shared;
        let name = names.of_generation(generation.number);
        let made =
            secret::get_or_create(client, namespace, &name, SECRET_TYPE, || contents(generation)).await?;
        self.parse(names, generation.number, &made)
    }

    /// For people and tools that look for the first certificate where Kuma keeps it.
    async fn show_certificate(&self, names: &Names, authority: &Authority) -> anyhow::Result<()> {
        let Shared {
            client, namespace, ..
        } = &*self.shared;
        let certificate = authority.certificate_pem().into_bytes();
        let contents = || secret::SecretData::from([(VALUE.to_owned(), certificate)]);
        secret::get_or_create(client, namespace, &names.certificate, SECRET_TYPE, contents).await?;
        Ok(())
    }

    fn parse(&self, names: &Names, number: u32, data: &secret::SecretData) -> anyhow::Result<Generation> {
        let namespace = &self.shared.namespace;
        parse(number, data).with_context(|| format!("Secret {namespace}/{}", names.of_generation(number)))
    }

    fn slot(&self, id: &Id) -> Arc<Slot> {
        let slot = || {
            Arc::new(Slot {
                known: Mutex::default(),
                roots: watch::Sender::new(None),
            })
        };
        self.slots().entry(id.clone()).or_insert_with(slot).clone()
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Id, Arc<Slot>>> {
        self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<MeshName, String>> {
        self.shared
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
