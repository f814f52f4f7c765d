//! The builtin CAs of each mesh, stored in Secrets of the system namespace under Kuma's names
//! (docs/reference/certificates.md#secrets).
//!
//! All replicas must sign with the same CA and trust the same roots. The Secrets are the source of truth and are never
//! updated: each generation of a CA has its own Secret, with the times at which this generation takes over. When
//! several replicas start a rotation at once, one creates the Secret and the others read it; from then on the phases
//! depend on the clock alone. A deleted Secret of a CA in use is restored from memory. A key that is missing while its
//! certificate exists is never replaced by a new CA, because proxies that trust the old certificate would not trust the
//! new one.
//!
//! [`Authorities::run_rotation`] rotates the CAs and publishes the roots. The CA of the control plane's own servers is
//! in [`serving`].

mod metrics;
mod rotation;
mod secrets;
pub mod serving;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use kermode_identity::{Authority, Generation, MAX_STALENESS, RotationPlan};
use kermode_k8s::controller::secret;
use kermode_model::MeshName;
use kermode_protocol::certificates::RootsUpdate;
use kube::Client;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

pub use self::metrics::Metrics;
use self::secrets::{SECRET_TYPE, SecretNames, VALUE_ENTRY, decode, encode, reconcile};

/// Maximum age of cached CAs with which a certificate is issued without reading the Secrets.
const CACHE_TTL: Duration = Duration::from_secs(10);
/// Minimum interval between a failed read of the Secrets and the next one.
const READ_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit for reading and creating the Secrets of a backend.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Mesh and name of its mTLS backend. The names of the Secrets contain both.
type BackendId = (MeshName, String);
/// Roots of a backend as they are sent to proxies; `None` before they are read. The channel closes when the mesh uses
/// another backend.
pub type RootsReceiver = watch::Receiver<Option<Arc<RootsUpdate>>>;

/// CAs of all meshes; cheap to clone. The first CA of a mesh is created at first use.
#[derive(Clone)]
pub struct Authorities {
    state: Arc<AuthoritiesState>,
}

struct AuthoritiesState {
    client: Client,
    namespace: String,
    backends: Mutex<HashMap<BackendId, Arc<BackendEntry>>>,
    /// Value of the rotation annotation of each Mesh that has one.
    rotation_requests: Mutex<HashMap<MeshName, String>>,
}

/// CAs of one backend. The lock is held while the Secrets are read, so that concurrent requests cause one read. Other
/// backends are not affected.
struct BackendEntry {
    cache: tokio::sync::Mutex<CachedPlan>,
    roots: watch::Sender<Option<Arc<RootsUpdate>>>,
}

#[derive(Default)]
struct CachedPlan {
    plan: Option<Arc<RotationPlan>>,
    /// Time of the last successful read; `None` after the Secrets changed.
    read_at: Option<Instant>,
    /// Time of the last successful read, kept when the Secrets change.
    confirmed_at: Option<Instant>,
    /// Time of the last failed read.
    failed_at: Option<Instant>,
}

// === impl Authorities ===

impl Authorities {
    /// Creates the authorities. `namespace` contains the Secrets.
    pub fn new(client: Client, namespace: String) -> Self {
        Self {
            state: Arc::new(AuthoritiesState {
                client,
                namespace,
                backends: Mutex::default(),
                rotation_requests: Mutex::default(),
            }),
        }
    }

    /// Returns the CAs of a mesh's backend.
    ///
    /// # Errors
    /// When the Secrets cannot be read or created, or are inconsistent, and the cached CAs are older than
    /// [`MAX_STALENESS`]. Younger cached CAs are returned. Older ones are not, because a rotation that is unknown to
    /// this replica may have started since.
    pub async fn get(&self, mesh: &MeshName, backend: &str) -> anyhow::Result<Arc<RotationPlan>> {
        let id = (mesh.clone(), backend.to_owned());
        let backend = self.backend(&id);
        let mut cache = backend.cache.lock().await;
        let is_fresh = cache.read_at.is_some_and(|at| at.elapsed() < CACHE_TTL);
        self.read_unless_fresh(&id, &mut cache, is_fresh).await
    }

    /// Returns the CAs from the cache at any age, and reads them only if the Secrets have changed since.
    async fn get_cached(&self, id: &BackendId) -> anyhow::Result<Arc<RotationPlan>> {
        let backend = self.backend(id);
        let mut cache = backend.cache.lock().await;
        let is_fresh = cache.read_at.is_some();
        self.read_unless_fresh(id, &mut cache, is_fresh).await
    }

    /// Subscribes to the roots of a mesh's backend.
    pub fn roots(&self, mesh: &MeshName, backend: &str) -> RootsReceiver {
        self.backend(&(mesh.clone(), backend.to_owned()))
            .roots
            .subscribe()
    }

    /// Returns the cached CAs if they are fresh, and otherwise reads the Secrets.
    async fn read_unless_fresh(
        &self,
        id: &BackendId,
        cache: &mut CachedPlan,
        is_fresh: bool,
    ) -> anyhow::Result<Arc<RotationPlan>> {
        if let Some(plan) = cache.plan.as_ref().filter(|_| is_fresh) {
            return Ok(plan.clone());
        }
        let failed_recently = cache
            .failed_at
            .is_some_and(|at| at.elapsed() < READ_RETRY_INTERVAL);
        let result = if failed_recently {
            Err(anyhow::anyhow!(
                "reading the Secrets of the CA has just failed; they are not read again for {READ_RETRY_INTERVAL:?}"
            ))
        } else {
            timeout(READ_TIMEOUT, self.read(id, cache.plan.as_deref()))
                .await
                .unwrap_or_else(|_| {
                    Err(anyhow::anyhow!(
                        "the API server did not respond within {READ_TIMEOUT:?}"
                    ))
                })
        };
        match result {
            Ok(plan) => {
                let now = Instant::now();
                let plan = Arc::new(plan);
                *cache = CachedPlan {
                    plan: Some(plan.clone()),
                    read_at: Some(now),
                    confirmed_at: Some(now),
                    failed_at: None,
                };
                Ok(plan)
            }
            Err(error) => {
                if !failed_recently {
                    cache.failed_at = Some(Instant::now());
                    let (mesh, backend) = id;
                    tracing::warn!(%mesh, backend, "Secrets of the CA cannot be read: {error:#}");
                }
                let is_usable = cache.confirmed_at.is_some_and(|at| at.elapsed() < MAX_STALENESS);
                let plan = cache.plan.clone().filter(|_| is_usable);
                plan.ok_or(error)
            }
        }
    }

    /// Reads the Secrets of a backend, creates the first CA if there is none, and restores lost Secrets.
    async fn read(&self, id: &BackendId, in_memory: Option<&RotationPlan>) -> anyhow::Result<RotationPlan> {
        let AuthoritiesState {
            client, namespace, ..
        } = &*self.state;
        let names = SecretNames::of(&id.0, &id.1);
        let mut found = Vec::new();
        if let Some(data) = secret::get(client, namespace, &names.first).await? {
            found.push(self.decode(&names, 1, &data)?);
        }
        for (name, data) in secret::list(client, namespace, SECRET_TYPE).await? {
            if let Some(number) = names.generation_number(&name) {
                found.push(self.decode(&names, number, &data)?);
            }
        }
        let found_first = found.iter().find(|generation| generation.number == 1).cloned();
        let Some(reconciled) = reconcile(found, in_memory, SystemTime::now()) else {
            let first = self.create_first(id, &names).await?;
            return RotationPlan::new(vec![first]).context("the first CA was not created");
        };
        for lost in &reconciled.lost {
            let name = names.of_generation(lost.number);
            tracing::warn!(
                namespace,
                name,
                "Secret was deleted: it is created again from memory"
            );
            self.create_secret(&names, lost).await?;
        }
        if let Some(first) = found_first {
            self.create_certificate_secret(&names, &first.authority).await?;
        }
        Ok(reconciled.plan)
    }

    /// Creates the first CA of a backend, unless its key was lost.
    async fn create_first(&self, id: &BackendId, names: &SecretNames) -> anyhow::Result<Generation> {
        let AuthoritiesState {
            client, namespace, ..
        } = &*self.state;
        let (key_secret, certificate_secret) = (&names.first, &names.first_certificate);
        anyhow::ensure!(
            secret::get(client, namespace, certificate_secret)
                .await?
                .is_none(),
            "Secret {namespace}/{key_secret} is missing but {certificate_secret} exists: restore it from a backup; or \
             delete {certificate_secret} to get a new CA, and restart all Pods of the mesh"
        );
        let generated = Generation {
            number: 1,
            authority: Arc::new(Authority::generate(&id.0, SystemTime::now())?),
            schedule: None,
            request: self.rotation_requests().get(&id.0).cloned(),
        };
        let first = self.create_secret(names, &generated).await?;
        self.create_certificate_secret(names, &first.authority).await?;
        Ok(first)
    }

    /// Creates the Secret of a CA. Returns the CA in the Secret, which is another replica's CA if that replica created
    /// the Secret first.
    async fn create_secret(
        &self,
        names: &SecretNames,
        generation: &Generation,
    ) -> anyhow::Result<Generation> {
        let AuthoritiesState {
            client, namespace, ..
        } = &*self.state;
        let name = names.of_generation(generation.number);
        let data =
            secret::get_or_create(client, namespace, &name, SECRET_TYPE, || encode(generation)).await?;
        self.decode(names, generation.number, &data)
    }

    /// Creates the Secret with the certificate of the first CA. Users and tools read this Secret under Kuma's name.
    async fn create_certificate_secret(
        &self,
        names: &SecretNames,
        authority: &Authority,
    ) -> anyhow::Result<()> {
        let AuthoritiesState {
            client, namespace, ..
        } = &*self.state;
        let certificate = authority.certificate_pem().into_bytes();
        let contents = || secret::SecretData::from([(VALUE_ENTRY.to_owned(), certificate)]);
        secret::get_or_create(client, namespace, &names.first_certificate, SECRET_TYPE, contents).await?;
        Ok(())
    }

    /// Decodes the Secret of a generation. Errors name the Secret.
    fn decode(
        &self,
        names: &SecretNames,
        number: u32,
        data: &secret::SecretData,
    ) -> anyhow::Result<Generation> {
        let namespace = &self.state.namespace;
        decode(number, data).with_context(|| format!("Secret {namespace}/{}", names.of_generation(number)))
    }

    fn backend(&self, id: &BackendId) -> Arc<BackendEntry> {
        let new_entry = || {
            Arc::new(BackendEntry {
                cache: tokio::sync::Mutex::default(),
                roots: watch::Sender::new(None),
            })
        };
        self.backends()
            .entry(id.clone())
            .or_insert_with(new_entry)
            .clone()
    }

    fn backends(&self) -> MutexGuard<'_, HashMap<BackendId, Arc<BackendEntry>>> {
        self.state.backends.lock()
    }

    fn rotation_requests(&self) -> MutexGuard<'_, HashMap<MeshName, String>> {
        self.state.rotation_requests.lock()
    }
}

#[cfg(test)]
mod tests;
