//! Certificates of the control plane's own servers: one CA for all replicas, stored in a Secret, and a short-lived
//! serving certificate that each replica issues to itself and renews.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use futures::StreamExt;
use kermode_identity::{ServingAuthority, Term};
use kermode_k8s::controller::secret;
use kermode_runtime::shutdown::Shutdown;
use kermode_runtime::tls::ServingCertificate;
use kube::Client;
use rustls_pki_types::PrivateKeyDer;

/// Name of the Secret with the CA.
pub const CA_SECRET: &str = "kuma-control-plane-ca";
/// Entry of the Secret with the certificate.
const CERTIFICATE_ENTRY: &str = "ca.crt";
/// Entry of the Secret with the private key.
const PRIVATE_KEY_ENTRY: &str = "ca.key";
/// Lifetime of a serving certificate.
const CERTIFICATE_LIFETIME: Duration = Duration::from_hours(24 * 7);
/// Interval at which a replica checks whether the renewal of its certificate is due.
const CHECK_INTERVAL: Duration = Duration::from_hours(1);

/// Renews the serving certificate of this replica, and watches the Secret of its CA.
pub struct ServingIdentity {
    client: Client,
    namespace: String,
    certificate: ReplicaCertificate,
}

/// Serving certificate of this replica, with the data from which its successor is issued.
struct ReplicaCertificate {
    /// CA that issues the certificate.
    authority: ServingAuthority,
    /// DNS names and IP addresses in the certificate.
    names: Vec<String>,
    /// Lifetime and clock tolerance of each issued certificate.
    term: Term,
    /// Last issued certificate.
    issued: kermode_identity::IssuedServingCertificate,
    /// The certificate in `issued`, in the form that the servers present.
    presented: Arc<ServingCertificate>,
}

impl ServingIdentity {
    /// Reads the CA from its Secret, or creates the Secret with a new CA. Issues a certificate for `names` (DNS names
    /// and IP addresses). `clock_tolerance` is the [`Term::clock_tolerance`] of the certificate.
    pub async fn load(
        client: &Client,
        namespace: &str,
        names: Vec<String>,
        clock_tolerance: Duration,
    ) -> anyhow::Result<Self> {
        let generated = ServingAuthority::generate(SystemTime::now())?;
        let data =
            secret::get_or_create(client, namespace, CA_SECRET, "Opaque", || encode_ca(&generated)).await?;
        let authority = decode_ca(&data).with_context(|| format!("Secret {namespace}/{CA_SECRET}"))?;
        let term = Term {
            lifetime: CERTIFICATE_LIFETIME,
            clock_tolerance,
        };
        let certificate = ReplicaCertificate::issue(authority, names, term, SystemTime::now())?;
        Ok(Self {
            client: client.clone(),
            namespace: namespace.to_owned(),
            certificate,
        })
    }

    /// Returns the certificate of the CA in PEM. The API server and sidecars trust this CA.
    pub fn ca_pem(&self) -> String {
        self.certificate.authority.certificate_pem()
    }

    /// Returns the certificate that the servers present. A renewal replaces the content of the returned value.
    pub fn certificate(&self) -> Arc<ServingCertificate> {
        self.certificate.presented.clone()
    }

    /// Until shutdown, renews the certificate before it expires, and restores the Secret of the CA if the Secret is
    /// deleted.
    ///
    /// # Errors
    /// If the certificate cannot be renewed, the Secret cannot be restored, or the Secret holds a different CA than
    /// this replica. In the last case, the replica has to restart, because clients may trust only the CA in the Secret.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut shutdown = std::pin::pin!(shutdown.wait());
        let mut secrets = std::pin::pin!(secret::follow(&self.client, &self.namespace, CA_SECRET));
        loop {
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
                Some(found) = secrets.next() => self.check_secret(found).await?,
            }
            if self.certificate.renew_if_due(SystemTime::now())? {
                tracing::info!("serving certificate renewed");
            }
        }
    }

    /// Handles a change of the Secret. `found` is the data of the Secret, or `None` if the Secret was deleted.
    async fn check_secret(&self, found: Option<secret::SecretData>) -> anyhow::Result<()> {
        let (client, namespace) = (&self.client, &self.namespace);
        let found = if let Some(found) = found {
            found
        } else {
            tracing::warn!(
                namespace,
                name = CA_SECRET,
                "Secret was deleted: it is created again from memory"
            );
            let data = || encode_ca(&self.certificate.authority);
            secret::get_or_create(client, namespace, CA_SECRET, "Opaque", data).await?
        };
        anyhow::ensure!(
            decode_ca(&found).is_ok_and(|ca| ca.certificate_pem() == self.ca_pem()),
            "Secret {namespace}/{CA_SECRET} now holds a different CA: this replica restarts to use the new CA; restart \
             all Pods with a sidecar, because they trust only the previous CA"
        );
        Ok(())
    }
}

impl ReplicaCertificate {
    fn issue(
        authority: ServingAuthority,
        names: Vec<String>,
        term: Term,
        now: SystemTime,
    ) -> anyhow::Result<Self> {
        let issued = authority.issue(&names, term, now)?;
        let presented = ServingCertificate::new(issued.certificate.chain.clone(), private_key(&issued))?;
        Ok(Self {
            authority,
            names,
            term,
            issued,
            presented,
        })
    }

    /// Renews the certificate if the renewal is due. Returns whether the certificate was renewed.
    fn renew_if_due(&mut self, now: SystemTime) -> anyhow::Result<bool> {
        if !self.issued.needs_renewal(now) {
            return Ok(false);
        }
        self.issued = self.authority.issue(&self.names, self.term, now)?;
        self.presented
            .replace(self.issued.certificate.chain.clone(), private_key(&self.issued))?;
        Ok(true)
    }
}

/// Reads the CA from the data of its Secret.
fn decode_ca(data: &secret::SecretData) -> anyhow::Result<ServingAuthority> {
    let text = |entry: &str| {
        let text = data.get(entry).and_then(|bytes| std::str::from_utf8(bytes).ok());
        text.with_context(|| {
            format!(
                "it has no {entry}: restore the Secret from a backup; if there is no backup, delete the Secret, then \
                 restart the control plane and all Pods with a sidecar"
            )
        })
    };
    ServingAuthority::from_pem(text(CERTIFICATE_ENTRY)?, text(PRIVATE_KEY_ENTRY)?)
        .context("it does not hold a CA")
}

/// Encodes the CA as the data of its Secret.
fn encode_ca(authority: &ServingAuthority) -> secret::SecretData {
    secret::SecretData::from([
        (
            CERTIFICATE_ENTRY.to_owned(),
            authority.certificate_pem().into_bytes(),
        ),
        (PRIVATE_KEY_ENTRY.to_owned(), authority.key_pem().into_bytes()),
    ])
}

fn private_key(issued: &kermode_identity::IssuedServingCertificate) -> PrivateKeyDer<'static> {
    issued.private_key().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_is_dated_back_by_the_clock_tolerance() {
        let start = SystemTime::now();
        let authority = ServingAuthority::generate(start).expect("a CA");
        let clock_tolerance = Duration::from_mins(20);
        let term = Term {
            lifetime: CERTIFICATE_LIFETIME,
            clock_tolerance,
        };
        let certificate = ReplicaCertificate::issue(authority, vec!["localhost".to_owned()], term, start);
        let validity = certificate.expect("a certificate").issued.certificate.validity;
        assert!(validity.contains(start - clock_tolerance));
        // The margin of 2 s is for the rounding to whole seconds.
        assert!(!validity.contains(start - clock_tolerance - Duration::from_secs(2)));
    }

    #[test]
    fn certificate_is_renewed_shortly_before_it_expires_but_not_at_half_its_lifetime() {
        let start = SystemTime::now();
        let authority = ServingAuthority::generate(start).expect("a CA");
        let names = vec!["localhost".to_owned()];
        let term = Term::of(CERTIFICATE_LIFETIME);
        let mut certificate =
            ReplicaCertificate::issue(authority, names, term, start).expect("a certificate");
        let first = certificate.issued.certificate.chain.clone();

        assert!(
            !certificate
                .renew_if_due(start + CERTIFICATE_LIFETIME / 2)
                .expect("the check succeeds")
        );
        assert_eq!(certificate.issued.certificate.chain, first);
        let shortly_before_expiry = start + CERTIFICATE_LIFETIME - CHECK_INTERVAL;
        assert!(
            certificate
                .renew_if_due(shortly_before_expiry)
                .expect("the renewal succeeds")
        );
        assert_ne!(certificate.issued.certificate.chain, first);
        assert!(
            certificate
                .issued
                .certificate
                .validity
                .contains(shortly_before_expiry + CERTIFICATE_LIFETIME / 2)
        );
    }
}
