//! The builtin CA of each mesh, kept in Secrets of the system namespace under Kuma's names (BEHAVIOUR 6.7).
//!
//! All replicas must sign with the same CA. The Secret decides: it is looked at again now and then, a lost one is
//! restored from memory, and a key that is lost while its certificate is still there is never quietly replaced,
//! because proxies that trust the old certificate would no longer trust the new ones.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use kermode_identity::Authority;
use kermode_k8s::controller::secret;
use kermode_model::MeshName;
use kube::Client;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// Type and keys of the Secrets; type and first key as Kuma has them.
const SECRET_TYPE: &str = "system.kuma.io/secret";
const VALUE: &str = "value";
const CERTIFICATE: &str = "certificate";
/// How long a CA is used before its Secret is looked at again.
const FRESH: Duration = Duration::from_secs(30);
/// How long the API server may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A mesh's backend; the two name the Secrets.
type Id = (MeshName, String);

/// Finds the CA of a mesh, making it at first use.
pub(crate) struct Authorities {
    client: Client,
    namespace: String,
    slots: StdMutex<HashMap<Id, Arc<Slot>>>,
}

/// One CA. The lock is held while it is read, so that a crowd of new proxies causes one read; other meshes do not
/// wait for it.
type Slot = Mutex<Option<Known>>;

struct Known {
    authority: Arc<Authority>,
    checked: Instant,
}

impl Authorities {
    /// Authorities whose Secrets live in that namespace.
    pub(crate) fn new(client: Client, namespace: String) -> Self {
        Self {
            client,
            namespace,
            slots: StdMutex::default(),
        }
    }

    /// The CA of a mesh's backend.
    ///
    /// # Errors
    /// When there is none in memory and the Secrets cannot be read or made, or do not belong together.
    pub(crate) async fn get(&self, mesh: &MeshName, backend: &str) -> anyhow::Result<Arc<Authority>> {
        let slot = self.slot(mesh, backend);
        let mut known = slot.lock().await;
        if let Some(known) = known.as_ref().filter(|known| known.checked.elapsed() < FRESH) {
            return Ok(known.authority.clone());
        }
        let in_memory = known.as_ref().map(|known| known.authority.clone());
        let read = self.read(mesh, backend, in_memory.as_deref());
        let read = timeout(TIMEOUT, read)
            .await
            .unwrap_or_else(|_| anyhow::bail!("the API server does not answer"));
        let authority = match (read, in_memory) {
            (Ok(authority), _) => Arc::new(authority),
            (Err(error), Some(authority)) => {
                tracing::warn!(%mesh, backend, "CA in memory is used: {error:#}");
                authority
            }
            (Err(error), None) => return Err(error),
        };
        *known = Some(Known {
            authority: authority.clone(),
            checked: Instant::now(),
        });
        Ok(authority)
    }

    fn slot(&self, mesh: &MeshName, backend: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots
            .entry((mesh.clone(), backend.to_owned()))
            .or_default()
            .clone()
    }

    async fn read(
        &self,
        mesh: &MeshName,
        backend: &str,
        in_memory: Option<&Authority>,
    ) -> anyhow::Result<Authority> {
        let key_name = format!("{mesh}.ca-builtin-key-{backend}");
        let certificate_name = format!("{mesh}.ca-builtin-cert-{backend}");
        let namespace = &self.namespace;
        let data = if let Some(data) = secret::get(&self.client, namespace, &key_name).await? {
            data
        } else {
            let lost = secret::get(&self.client, namespace, &certificate_name)
                .await?
                .is_some();
            anyhow::ensure!(
                in_memory.is_some() || !lost,
                "Secret {namespace}/{key_name} is gone but {certificate_name} is there: restore it from a backup; or \
                 delete {certificate_name} for a new CA and restart all Pods of the mesh"
            );
            let generated = Authority::generate(mesh, SystemTime::now())?;
            let authority = in_memory.unwrap_or(&generated);
            self.make(&key_name, || contents(authority)).await?
        };
        let authority = parse(&data).with_context(|| format!("Secret {namespace}/{key_name}"))?;
        // For people and tools that look for the certificate where Kuma keeps it.
        let certificate = authority.certificate_pem().into_bytes();
        self.make(&certificate_name, || {
            secret::Data::from([(VALUE.to_owned(), certificate)])
        })
        .await?;
        Ok(authority)
    }

    async fn make(
        &self,
        name: &str,
        contents: impl FnOnce() -> secret::Data + Send,
    ) -> anyhow::Result<secret::Data> {
        Ok(secret::get_or_create(&self.client, &self.namespace, name, SECRET_TYPE, contents).await?)
    }
}

fn contents(authority: &Authority) -> secret::Data {
    secret::Data::from([
        (VALUE.to_owned(), authority.key_pem().into_bytes()),
        (CERTIFICATE.to_owned(), authority.certificate_pem().into_bytes()),
    ])
}

fn parse(data: &secret::Data) -> anyhow::Result<Authority> {
    let text = |key: &str| {
        let text = data.get(key).and_then(|bytes| std::str::from_utf8(bytes).ok());
        text.with_context(|| format!("it has no {key}"))
    };
    Authority::from_pem(text(CERTIFICATE)?, text(VALUE)?).context("it does not hold a CA")
}
