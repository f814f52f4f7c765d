//! The control plane's own TLS: one CA for all replicas, kept in a Secret, and a short-lived certificate that each
//! replica issues to itself and renews while it runs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use kermode_identity::ServingAuthority;
use kermode_k8s::controller::secret;
use kermode_runtime::shutdown::Shutdown;
use kermode_runtime::tls::ServingCertificate;
use kube::Client;
use rustls_pki_types::PrivateKeyDer;

/// Name of the Secret with the CA.
pub(crate) const CA_SECRET: &str = "kuma-control-plane-ca";
const CERTIFICATE_KEY: &str = "ca.crt";
const PRIVATE_KEY: &str = "ca.key";
/// Lifetime of a replica's own certificate.
const LIFETIME: Duration = Duration::from_hours(24 * 7);
/// How often the age of the certificate is looked at.
const CHECK: Duration = Duration::from_hours(1);

/// Issues and renews this replica's certificate.
pub(crate) struct Serving {
    authority: ServingAuthority,
    names: Vec<String>,
    issued: kermode_identity::ServingCertificate,
    current: Arc<ServingCertificate>,
}

impl Serving {
    /// Reads the CA from its Secret, making it first if need be, and issues a certificate for the names (DNS names
    /// and IP addresses).
    pub(crate) async fn load(client: &Client, namespace: &str, names: Vec<String>) -> anyhow::Result<Self> {
        let generated = ServingAuthority::generate(SystemTime::now())?;
        let data = secret::get_or_create(client, namespace, CA_SECRET, "Opaque", || {
            secret::Data::from([
                (
                    CERTIFICATE_KEY.to_owned(),
                    generated.certificate_pem().into_bytes(),
                ),
                (PRIVATE_KEY.to_owned(), generated.key_pem().into_bytes()),
            ])
        })
        .await?;
        let text = |key: &str| {
            let bytes = data.get(key).with_context(|| {
                format!(
                    "Secret {namespace}/{CA_SECRET} has no {key}: delete it and restart, and it is made anew"
                )
            })?;
            Ok::<_, anyhow::Error>(std::str::from_utf8(bytes)?)
        };
        let authority = ServingAuthority::from_pem(text(CERTIFICATE_KEY)?, text(PRIVATE_KEY)?)
            .with_context(|| format!("Secret {namespace}/{CA_SECRET} does not hold a CA"))?;
        let issued = authority.issue(&names, LIFETIME, SystemTime::now())?;
        let current = ServingCertificate::new(issued.certificate.chain.clone(), key(&issued))?;
        Ok(Self {
            authority,
            names,
            issued,
            current,
        })
    }

    /// The CA as PEM: what API server and proxies have to trust.
    pub(crate) fn ca_pem(&self) -> String {
        self.authority.certificate_pem()
    }

    /// What the servers present.
    pub(crate) fn certificate(&self) -> Arc<ServingCertificate> {
        self.current.clone()
    }

    /// Renews the certificate in time, until shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut finished = std::pin::pin!(shutdown.wait());
        loop {
            tokio::select! {
                () = &mut finished => return Ok(()),
                () = tokio::time::sleep(CHECK) => {}
            }
            if self.renew_if_due(SystemTime::now())? {
                tracing::info!("serving certificate renewed");
            }
        }
    }

    /// Whether the certificate was old enough to be replaced.
    fn renew_if_due(&mut self, now: SystemTime) -> anyhow::Result<bool> {
        if !self.issued.needs_rotation(now) {
            return Ok(false);
        }
        self.issued = self.authority.issue(&self.names, LIFETIME, now)?;
        self.current
            .replace(self.issued.certificate.chain.clone(), key(&self.issued))?;
        Ok(true)
    }
}

fn key(issued: &kermode_identity::ServingCertificate) -> PrivateKeyDer<'static> {
    issued.private_key().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_replaced_before_it_expires_and_not_earlier() {
        let start = SystemTime::now();
        let authority = ServingAuthority::generate(start).expect("a CA");
        let names = vec!["localhost".to_owned()];
        let issued = authority.issue(&names, LIFETIME, start).expect("a certificate");
        let first = issued.certificate.chain.clone();
        let current = ServingCertificate::new(first.clone(), key(&issued)).expect("fits");
        let mut serving = Serving {
            authority,
            names,
            issued,
            current,
        };

        assert!(!serving.renew_if_due(start + LIFETIME / 2).expect("nothing to do"));
        assert_eq!(serving.issued.certificate.chain, first);
        let late = start + LIFETIME - CHECK;
        assert!(serving.renew_if_due(late).expect("renewed"));
        assert_ne!(serving.issued.certificate.chain, first);
        assert!(serving.issued.certificate.validity.contains(late + LIFETIME / 2));
    }
}
