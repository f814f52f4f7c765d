//! The builtin CAs of each mesh, stored in Secrets of the system namespace under Kuma's names
//! (docs/reference/certificates.md#secrets).
//!
//! All replicas must sign with the same CA and trust the same roots. The Secrets are the source of truth and are never
//! updated: each generation of a CA has its own Secret, with the times at which it takes over. When several replicas
//! start a rotation at once, one creates the Secret and the others read it; from then on the phases depend on the clock
//! alone. A deleted Secret of a CA in use is restored from memory. A key that is missing while its certificate exists is
//! never replaced by a new CA, because proxies that trust the old certificate would not trust the new one.
//!
//! [`Authorities::run_rotation`] rotates the CAs and publishes the roots. The CA of the control plane's own servers is in
//! [`serving`].

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
use self::secrets::{SECRET_TYPE, SecretNames, VALUE, contents, parse, reconcile};

/// Maximum age of cached CAs with which a certificate is issued without reading the Secrets.
const CACHE_TTL: Duration = Duration::from_secs(10);
/// Minimum interval between a failed read of the Secrets and the next one.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit for reading and creating the Secrets of a backend.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Mesh and name of its mTLS backend. The names of the Secrets contain both.
type BackendId = (MeshName, String);
/// Roots of a backend as they are sent to proxies; `None` before they are read. The channel closes when the mesh uses
/// another backend.
pub type Roots = watch::Receiver<Option<Arc<RootsUpdate>>>;

/// CAs of all meshes; cheap to clone. The first CA of a mesh is created at first use.
#[derive(Clone)]
pub struct Authorities {
    state: Arc<AuthoritiesState>,
}

struct AuthoritiesState {
    client: Client,
    namespace: String,
    backends: Mutex<HashMap<BackendId, Arc<BackendEntry>>>,
    /// Value of the rotation annotation, by mesh.
    requests: Mutex<HashMap<MeshName, String>>,
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
    /// Time of the last read; `None` after the Secrets changed.
    read_at: Option<Instant>,
    /// Time of the last read, kept when the Secrets change.
    confirmed_at: Option<Instant>,
    /// Time of the last failed read.
    failed_at: Option<Instant>,
}

// === impl Authorities ===

impl Authorities {
    /// Creates the authorities; `namespace` is that of the Secrets.
    pub fn new(client: Client, namespace: String) -> Self {
        Self {
            state: Arc::new(AuthoritiesState {
                client,
                namespace,
                backends: Mutex::default(),
                requests: Mutex::default(),
            }),
        }
    }

    /// Returns the CAs of a mesh's backend.
    ///
    /// # Errors
    /// When the Secrets cannot be read or created, or are inconsistent. With CAs in the cache, the error is returned only
    /// after [`MAX_STALENESS`], since a rotation may have started.
    pub async fn get(&self, mesh: &MeshName, backend: &str) -> anyhow::Result<Arc<RotationPlan>> {
        let id = (mesh.clone(), backend.to_owned());
        let backend = self.backend(&id);
        let mut cache = backend.cache.lock().await;
        let fresh = cache.read_at.is_some_and(|at| at.elapsed() < CACHE_TTL);
        self.read_unless_fresh(&id, &mut cache, fresh).await
    }

    /// Returns the CAs from the cache at any age, and reads them only if the Secrets have changed since.
    async fn get_cached(&self, id: &BackendId) -> anyhow::Result<Arc<RotationPlan>> {
        let backend = self.backend(id);
        let mut cache = backend.cache.lock().await;
        let fresh = cache.read_at.is_some();
        self.read_unless_fresh(id, &mut cache, fresh).await
    }

    /// Subscribes to the roots of a mesh's backend.
    pub fn roots(&self, mesh: &MeshName, backend: &str) -> Roots {
        self.backend(&(mesh.clone(), backend.to_owned()))
            .roots
            .subscribe()
    }

    async fn read_unless_fresh(
        &self,
        id: &BackendId,
        cache: &mut CachedPlan,
        fresh: bool,
    ) -> anyhow::Result<Arc<RotationPlan>> {
        if let Some(plan) = cache.plan.as_ref().filter(|_| fresh) {
            return Ok(plan.clone());
        }
        let failed_recently = cache.failed_at.is_some_and(|at| at.elapsed() < RETRY_INTERVAL);
        let read = if failed_recently {
            Err(anyhow::anyhow!("the API server has just failed"))
        } else {
            let read = self.read(id, cache.plan.as_deref());
            timeout(READ_TIMEOUT, read)
                .await
                .unwrap_or_else(|_| Err(anyhow::anyhow!("the API server does not answer")))
        };
        match read {
            Ok(plan) => {
                let (now, plan) = (Instant::now(), Arc::new(plan));
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
                let usable = cache.confirmed_at.is_some_and(|at| at.elapsed() < MAX_STALENESS);
                let plan = cache.plan.clone().filter(|_| usable);
                plan.ok_or(error)
            }
        }
    }

    async fn read(&self, id: &BackendId, in_memory: Option<&RotationPlan>) -> anyhow::Result<RotationPlan> {
        let AuthoritiesState {
            client, namespace, ..
        } = &*self.state;
        let names = SecretNames::of(&id.0, &id.1);
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
            let first = self.create_first(id, &names).await?;
            return RotationPlan::new(vec![first]).context("a first generation");
        };
        for lost in &reconciled.lost {
            let name = names.of_generation(lost.number);
            tracing::warn!(namespace, name, "Secret was deleted: restored from memory");
            self.create(&names, lost).await?;
        }
        if let Some(first) = first {
            self.write_certificate(&names, &first.authority).await?;
        }
        Ok(reconciled.plan)
    }

    async fn create_first(&self, id: &BackendId, names: &SecretNames) -> anyhow::Result<Generation> {
        let AuthoritiesState {
            client, namespace, ..
        } = &*self.state;
        let SecretNames { key, certificate, .. } = names;
        anyhow::ensure!(
            secret::get(client, namespace, certificate).await?.is_none(),
            "Secret {namespace}/{key} is missing but {certificate} exists: restore it from a backup; or delete \
             {certificate} to get a new CA, and restart all Pods of the mesh"
        );
        let generated = Generation {
            number: 1,
            authority: Arc::new(Authority::generate(&id.0, SystemTime::now())?),
            schedule: None,
            request: self.requests().get(&id.0).cloned(),
        };
        let first = self.create(names, &generated).await?;
        self.write_certificate(names, &first.authority).await?;
        Ok(first)
    }

    /// Creates the Secret of a CA and returns the CA in it: the CA of another replica if that created the Secret first.
    async fn create(&self, names: &SecretNames, generation: &Generation) -> anyhow::Result<Generation> {
        let AuthoritiesState {
            client, namespace, ..
        } = &*self.state;
        let name = names.of_generation(generation.number);
        let data =
            secret::get_or_create(client, namespace, &name, SECRET_TYPE, || contents(generation)).await?;
        self.parse(names, generation.number, &data)
    }

    /// Creates the Secret with the certificate of the first CA, which users and tools read under Kuma's name.
    async fn write_certificate(&self, names: &SecretNames, authority: &Authority) -> anyhow::Result<()> {
        let AuthoritiesState {
            client, namespace, ..
        } = &*self.state;
        let certificate = authority.certificate_pem().into_bytes();
        let contents = || secret::SecretData::from([(VALUE.to_owned(), certificate)]);
        secret::get_or_create(client, namespace, &names.certificate, SECRET_TYPE, contents).await?;
        Ok(())
    }

    fn parse(
        &self,
        names: &SecretNames,
        number: u32,
        data: &secret::SecretData,
    ) -> anyhow::Result<Generation> {
        let namespace = &self.state.namespace;
        parse(number, data).with_context(|| format!("Secret {namespace}/{}", names.of_generation(number)))
    }

    fn backend(&self, id: &BackendId) -> Arc<BackendEntry> {
        let entry = || {
            Arc::new(BackendEntry {
                cache: tokio::sync::Mutex::default(),
                roots: watch::Sender::new(None),
            })
        };
        self.backends().entry(id.clone()).or_insert_with(entry).clone()
    }

    fn backends(&self) -> MutexGuard<'_, HashMap<BackendId, Arc<BackendEntry>>> {
        self.state.backends.lock()
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<MeshName, String>> {
        self.state.requests.lock()
    }
}

#[cfg(test)]
mod tests;
