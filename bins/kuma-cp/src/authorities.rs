//! The builtin CA of each mesh, kept in Secrets of the system namespace under Kuma's names (BEHAVIOUR 6.7).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use kermode_identity::Authority;
use kermode_k8s::controller::secret;
use kermode_model::MeshName;
use kube::Client;
use tokio::sync::Mutex;

/// Type and key of the Secrets, as Kuma has them.
const SECRET_TYPE: &str = "system.kuma.io/secret";
const SECRET_KEY: &str = "value";

type Loaded = HashMap<(MeshName, String), Arc<Authority>>;

/// Finds the CA of a mesh, making it at first use.
pub(crate) struct Authorities {
    client: Client,
    namespace: String,
    loaded: Mutex<Loaded>,
}

impl Authorities {
    /// Authorities whose Secrets live in that namespace.
    pub(crate) fn new(client: Client, namespace: String) -> Self {
        Self {
            client,
            namespace,
            loaded: Mutex::default(),
        }
    }

    /// The CA of a mesh's backend.
    pub(crate) async fn get(&self, mesh: &MeshName, backend: &str) -> anyhow::Result<Arc<Authority>> {
        let id = (mesh.clone(), backend.to_owned());
        // Held while loading, so that a crowd of new proxies causes one read.
        let mut loaded = self.loaded.lock().await;
        if let Some(authority) = loaded.get(&id) {
            return Ok(authority.clone());
        }
        let authority = Arc::new(self.load(mesh, backend).await?);
        loaded.insert(id, authority.clone());
        Ok(authority)
    }

    async fn load(&self, mesh: &MeshName, backend: &str) -> anyhow::Result<Authority> {
        let generated = Authority::generate(mesh, SystemTime::now())?;
        // The key first: whoever makes it decides, and the certificate goes with it in one Secret.
        let name = format!("{mesh}.ca-builtin-key-{backend}");
        let data = secret::get_or_create(&self.client, &self.namespace, &name, SECRET_TYPE, || {
            secret::Data::from([
                (SECRET_KEY.to_owned(), generated.key_pem().into_bytes()),
                ("certificate".to_owned(), generated.certificate_pem().into_bytes()),
            ])
        })
        .await?;
        let text = |key: &str| {
            data.get(key)
                .and_then(|bytes| std::str::from_utf8(bytes).ok())
                .with_context(|| format!("Secret {}/{name} has no {key}", self.namespace))
        };
        let authority = Authority::from_pem(text("certificate")?, text(SECRET_KEY)?)
            .with_context(|| format!("Secret {}/{name} does not hold a CA", self.namespace))?;
        let certificate = authority.certificate_pem();
        // For people and tools that look for the certificate where Kuma keeps it.
        secret::get_or_create(
            &self.client,
            &self.namespace,
            &format!("{mesh}.ca-builtin-cert-{backend}"),
            SECRET_TYPE,
            || secret::Data::from([(SECRET_KEY.to_owned(), certificate.into_bytes())]),
        )
        .await?;
        Ok(authority)
    }
}
