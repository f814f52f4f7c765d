//! The builtin CAs of each mesh, stored in Secrets of the control plane's namespace under Kuma's names
//! (docs/reference/certificates.md#secrets).
//!
//! All replicas must sign with the same CA and trust the same roots. The Secrets are the source of truth and are never
//! updated. Each generation of a CA has its own Secret with the certificate, the key, and the schedule of the rotation
//! to this generation. If several replicas start a rotation at once, only one replica creates the Secret, and the other
//! replicas read the Secret. A deleted Secret of a CA in use is restored from memory.
//!
//! As in Kuma, a further Secret contains only the certificate of the first generation. If this Secret exists but there
//! is no Secret with a key, no new CA is created, because proxies that trust the lost CA would not trust the new CA.
//!
//! [`Authorities::run_rotation`] rotates the CAs and publishes their roots to [`RootsReceiver`]s. The CA of the control
//! plane's own servers is in [`serving`].

mod expiries;
mod metrics;
pub mod roots_file;
mod rotation;
mod secrets;
pub mod serving;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use kermode_crds::Mesh;
use kermode_identity::{Authority, Generation, MAX_STALENESS, RotationPlan, Term};
use kermode_k8s::controller::defaults::mesh_reference;
use kermode_k8s::controller::secret;
use kermode_model::MeshName;
use kermode_protocol::certificates::RootsUpdate;
use kube::{Api, Client};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

pub use self::expiries::{CertificateSubject, Expiries, KnownCertificate};
pub use self::metrics::Metrics;
use self::secrets::{CaSecretNames, SECRET_TYPE, VALUE_ENTRY, decode, encode, reconcile};

/// Maximum age at which [`Authorities::get`] returns cached CAs without reading the Secrets.
const CACHE_TTL: Duration = Duration::from_secs(10);
/// Minimum interval between a failed read of the Secrets and the next read.
const READ_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit for reading and creating the Secrets of a backend.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Identifies an mTLS backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct BackendId {
    mesh: MeshName,
    /// Name of the backend in the Mesh.
    backend: String,
}

/// Receiver of the roots of a backend. The value is `None` before the first publication. The channel closes when the
/// mesh no longer uses the backend.
pub type RootsReceiver = watch::Receiver<Option<Arc<RootsUpdate>>>;

/// CAs of all meshes; cheap to clone. The first CA of a mesh is created at first use.
#[derive(Clone)]
pub struct Authorities {
    state: Arc<AuthoritiesState>,
}

struct AuthoritiesState {
    client: Client,
    namespace: String,
    clock_tolerance: Duration,
    backends: Mutex<HashMap<BackendId, Arc<BackendEntry>>>,
    /// Value of the rotation annotation of each Mesh with this annotation.
    rotation_requests: Mutex<HashMap<MeshName, String>>,
    expiries: Expiries,
}

/// CAs of one backend.
struct BackendEntry {
    /// The lock is held while the Secrets are read, so that concurrent requests share one read.
    cache: tokio::sync::Mutex<CachedPlan>,
    roots: watch::Sender<Option<Arc<RootsUpdate>>>,
}

#[derive(Default)]
struct CachedPlan {
    plan: Option<Arc<RotationPlan>>,
    /// Time of the last successful read, or `None` if a Secret has changed since then.
    current_as_of: Option<Instant>,
    /// Time of the last successful read, whether or not a Secret has changed since then.
    last_read_at: Option<Instant>,
    /// Time of the last failed read.
    failed_at: Option<Instant>,
}

// === impl Authorities ===

impl Authorities {
    /// Creates the authorities. `namespace` contains the Secrets. `clock_tolerance` is the [`Term::clock_tolerance`] of
    /// workload certificates.
    pub fn new(client: Client, namespace: String, clock_tolerance: Duration) -> Self {
        Self {
            state: Arc::new(AuthoritiesState {
                client,
                namespace,
                clock_tolerance,
                backends: Mutex::default(),
                rotation_requests: Mutex::default(),
                expiries: Expiries::default(),
            }),
        }
    }

    /// Returns the table of the certificates that this replica knows. [`serving::RotationReports`] and the service that
    /// issues certificates add theirs.
    pub fn expiries(&self) -> &Expiries {
        &self.state.expiries
    }

    /// Returns the term (lifetime and clock tolerance) of a workload certificate with this lifetime.
    pub fn term(&self, lifetime: Duration) -> Term {
        Term {
            lifetime,
            clock_tolerance: self.state.clock_tolerance,
        }
    }

    /// Returns the CAs of a mesh's backend.
    ///
    /// # Errors
    /// If the Secrets cannot be read or created, or are inconsistent, and no CAs younger than [`MAX_STALENESS`] are
    /// cached. Older CAs are not used, because another replica may have started a rotation.
    pub async fn get(&self, mesh: &MeshName, backend: &str) -> anyhow::Result<Arc<RotationPlan>> {
        let id = BackendId::new(mesh, backend);
        let entry = self.backend(&id);
        let mut cache = entry.cache.lock().await;
        let is_fresh = cache.current_as_of.is_some_and(|at| at.elapsed() < CACHE_TTL);
        self.read_unless_fresh(&id, &mut cache, is_fresh).await
    }

    /// Returns the cached CAs regardless of their age, unless a Secret has changed or no CAs are cached. Then reads the
    /// Secrets, as [`Self::get`] does.
    async fn get_cached(&self, id: &BackendId) -> anyhow::Result<Arc<RotationPlan>> {
        let entry = self.backend(id);
        let mut cache = entry.cache.lock().await;
        let is_fresh = cache.current_as_of.is_some();
        self.read_unless_fresh(id, &mut cache, is_fresh).await
    }

    /// Subscribes to the roots of a mesh's backend.
    pub fn roots(&self, mesh: &MeshName, backend: &str) -> RootsReceiver {
        self.backend(&BackendId::new(mesh, backend)).roots.subscribe()
    }

    /// Returns the cached CAs if `is_fresh`, and otherwise reads the Secrets. If the read fails, returns the cached CAs
    /// unless they are older than [`MAX_STALENESS`].
    async fn read_unless_fresh(
        &self,
        id: &BackendId,
        cache: &mut CachedPlan,
        is_fresh: bool,
    ) -> anyhow::Result<Arc<RotationPlan>> {
        if let Some(plan) = cache.plan.as_ref().filter(|_| is_fresh) {
            return Ok(plan.clone());
        }
        let has_failed_recently = cache
            .failed_at
            .is_some_and(|at| at.elapsed() < READ_RETRY_INTERVAL);
        let result = if has_failed_recently {
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
                    current_as_of: Some(now),
                    last_read_at: Some(now),
                    failed_at: None,
                };
                Ok(plan)
            }
            Err(error) => {
                if !has_failed_recently {
                    cache.failed_at = Some(Instant::now());
                    let BackendId { mesh, backend } = id;
                    tracing::warn!(%mesh, backend, "Secrets of the CA cannot be read: {error:#}");
                }
                let is_usable = cache.last_read_at.is_some_and(|at| at.elapsed() < MAX_STALENESS);
                let plan = cache.plan.clone().filter(|_| is_usable);
                plan.ok_or(error)
            }
        }
    }

    /// Reads the Secrets of a backend. Creates the first CA if there is no CA, and restores lost Secrets of the CAs
    /// `in_memory`.
    async fn read(&self, id: &BackendId, in_memory: Option<&RotationPlan>) -> anyhow::Result<RotationPlan> {
        let AuthoritiesState {
            client, namespace, ..
        } = &*self.state;
        let names = CaSecretNames::of(&id.mesh, &id.backend);
        let mut found = Vec::new();
        if let Some(data) = secret::get(client, namespace, &names.first).await? {
            found.push(self.decode(&names, 1, &data)?);
        }
        for (name, data) in secret::list(client, namespace, SECRET_TYPE).await? {
            if let Some(number) = names.later_generation_number(&name) {
                found.push(self.decode(&names, number, &data)?);
            }
        }
        let found_first = found.iter().find(|generation| generation.number == 1).cloned();
        let Some(reconciled) = reconcile(found, in_memory, SystemTime::now()) else {
            let first = self.create_first(id, &names).await?;
            return RotationPlan::new(vec![first]).context("the rotation plan has no CA");
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

    /// Creates the first CA of a backend. Fails if the Secret with the certificate of an earlier first CA exists: the
    /// key of this earlier CA was lost.
    async fn create_first(&self, id: &BackendId, names: &CaSecretNames) -> anyhow::Result<Generation> {
        let AuthoritiesState {
            client, namespace, ..
        } = &*self.state;
        let (key_secret, certificate_secret) = (&names.first, &names.first_certificate);
        anyhow::ensure!(
            secret::get(client, namespace, certificate_secret)
                .await?
                .is_none(),
            "Secret {namespace}/{key_secret} is missing but {certificate_secret} exists: restore it from a backup; or \
             delete {certificate_secret} to get a new CA, then restart all Pods of the mesh"
        );
        let generated = Generation {
            number: 1,
            authority: Arc::new(Authority::generate(&id.mesh, SystemTime::now())?),
            schedule: None,
            request: self.rotation_requests().get(&id.mesh).cloned(),
        };
        let first = self.create_secret(names, &generated).await?;
        self.create_certificate_secret(names, &first.authority).await?;
        Ok(first)
    }

    /// Creates the Secret of a CA and returns the CA. If another replica has already created the Secret, returns the CA
    /// of that replica.
    async fn create_secret(
        &self,
        names: &CaSecretNames,
        generation: &Generation,
    ) -> anyhow::Result<Generation> {
        let name = names.of_generation(generation.number);
        let data = self.get_or_create(names, &name, || encode(generation)).await?;
        self.decode(names, generation.number, &data)
    }

    /// Creates the Secret with the certificate of the first CA, for users and tools.
    async fn create_certificate_secret(
        &self,
        names: &CaSecretNames,
        authority: &Authority,
    ) -> anyhow::Result<()> {
        let certificate = authority.certificate_pem().into_bytes();
        let contents = || secret::SecretData::from([(VALUE_ENTRY.to_owned(), certificate)]);
        self.get_or_create(names, &names.first_certificate, contents)
            .await?;
        Ok(())
    }

    /// Reads a Secret, or creates it with the Mesh as its owner: Kubernetes deletes the CA of a deleted Mesh.
    async fn get_or_create(
        &self,
        names: &CaSecretNames,
        secret: &str,
        create: impl FnOnce() -> secret::SecretData + Send,
    ) -> anyhow::Result<secret::SecretData> {
        let AuthoritiesState {
            client, namespace, ..
        } = &*self.state;
        if let Some(found) = secret::get(client, namespace, secret).await? {
            return Ok(found);
        }
        let mesh = names.mesh.as_str();
        let found = Api::<Mesh>::all(client.clone()).get_metadata_opt(mesh).await;
        let found =
            found.with_context(|| format!("Mesh {mesh}, the owner of Secret {secret}, cannot be read"))?;
        let uid = found.and_then(|mesh| mesh.metadata.uid);
        let uid =
            uid.with_context(|| format!("Mesh {mesh} does not exist, so it gets no Secret {secret}"))?;
        let owner = Some(mesh_reference(mesh, uid));
        Ok(secret::get_or_create_owned(client, namespace, secret, SECRET_TYPE, owner, create).await?)
    }

    /// Decodes the Secret of a generation. Errors name the Secret.
    fn decode(
        &self,
        names: &CaSecretNames,
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

// === impl BackendId ===

impl BackendId {
    fn new(mesh: &MeshName, backend: &str) -> Self {
        Self {
            mesh: mesh.clone(),
            backend: backend.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
