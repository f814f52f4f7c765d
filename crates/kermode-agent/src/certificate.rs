//! Renewal of the workload's certificate: generates keys, has the control plane issue certificates for them, and
//! publishes keys and certificates to SDS. [`kermode_identity::RenewalTimer`] decides when to renew; this module
//! performs the IO.

mod current;
mod roots;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::ensure;
use kermode_identity::{
    IssuedCertificate, RemainingLifetime, RenewalStep, RenewalTimer, TrustBundle, Validity, WorkloadKey,
};
use kermode_model::{MeshName, ObjectKey};
use kermode_protocol::certificates::{IssueCertificateRequest, RootsUpdate};
use kermode_protocol::client::Client;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use self::current::{CurrentCertificate, Roots};
use self::roots::RootsWatch;
use crate::metrics::SidecarMetrics;
use crate::sds::SecretMaterial;
use crate::token::TokenFile;

/// Timeout of a call to the control plane, connecting included.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Upper bound of one sleep, after which the wall clock is read. Timers pause while a machine is suspended;
/// certificates still age.
const MAX_SLEEP: Duration = Duration::from_mins(1);

/// Renewal of the workload's certificate.
pub struct Renewal {
    /// Mesh of the proxy.
    pub mesh: MeshName,
    /// Namespace and name of the proxy's Dataplane.
    pub proxy: ObjectKey,
    /// Client of the control plane.
    pub client: Client,
    /// Token of the proxy.
    pub token: TokenFile,
    /// Publishes each new certificate and trust bundle to SDS.
    pub secrets: watch::Sender<Option<Arc<SecretMaterial>>>,
    /// Notified when Envoy has subscribed to secrets and no certificate has been issued yet.
    pub secrets_wanted: Arc<Notify>,
    /// Metrics that record the validity of each new certificate.
    pub metrics: SidecarMetrics,
}

/// Result of one attempt to get a certificate.
enum Outcome {
    Issued(CurrentCertificate),
    /// mTLS is disabled in the mesh.
    MtlsDisabled(Status),
    Failed(anyhow::Error),
}

/// State of a running renewal.
struct State {
    timer: RenewalTimer,
    current: Option<CurrentCertificate>,
    /// Whether the last attempt found mTLS disabled.
    is_mtls_disabled: bool,
    /// Last warning that was logged about the expiry of the current certificate.
    last_warning: Option<ExpiryWarning>,
    metrics: SidecarMetrics,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ExpiryWarning {
    ExpiresSoon,
    Expired,
}

impl Renewal {
    /// Renews the certificate until the returned future is dropped.
    ///
    /// # Errors
    /// Fails when the watch of the trust bundle ends, which is a bug.
    pub async fn run(self) -> anyhow::Result<()> {
        let (updates_sender, mut updates) = mpsc::channel(1);
        let watch = RootsWatch {
            mesh: self.mesh.clone(),
            proxy: self.proxy.clone(),
            client: self.client.clone(),
            token: self.token.clone(),
            secrets: self.secrets.subscribe(),
            updates: updates_sender,
        };
        tokio::select! {
            () = watch.run() => anyhow::bail!("the watch of the mesh's trust bundle ended"),
            () = self.renew_forever(&mut updates) => Ok(()),
        }
    }

    async fn renew_forever(&self, updates: &mut mpsc::Receiver<RootsUpdate>) {
        let mut state = State {
            timer: RenewalTimer::new(SystemTime::now()),
            current: None,
            is_mtls_disabled: false,
            last_warning: None,
            metrics: self.metrics.clone(),
        };
        loop {
            match state.timer.next_step(SystemTime::now()) {
                RenewalStep::Wait(wait) => tokio::select! {
                    () = sleep(wait.min(MAX_SLEEP)) => {}
                    () = self.secrets_wanted.notified() => state.timer.on_envoy_waiting(SystemTime::now()),
                    Some(update) = updates.recv() => self.on_update(&mut state, &update),
                },
                RenewalStep::Request => {
                    let outcome = self.renew(state.current.as_ref()).await;
                    state.on_outcome(outcome, SystemTime::now());
                }
            }
        }
    }

    /// Handles an update of the mesh's trust bundle. Ignores updates before the first certificate, because the trust
    /// bundle comes with the certificate.
    fn on_update(&self, state: &mut State, update: &RootsUpdate) {
        let Some(current) = &mut state.current else { return };
        let reaction = current.on_update(update);
        if reaction.must_publish {
            let roots = current.roots.bundle.to_pem();
            tracing::info!(
                roots = current.roots.bundle.roots().len(),
                "the trust bundle of the mesh changed"
            );
            self.secrets.send_modify(|published| {
                if let Some(previous) = published {
                    *published = Some(Arc::new(SecretMaterial {
                        version: previous.version + 1,
                        chain: previous.chain.clone(),
                        key: previous.key.clone(),
                        roots,
                    }));
                }
            });
        }
        if let Some(window) = reaction.renew_within {
            tracing::info!(within = ?window, "the mesh has a new CA, or the certificate needs other names: it is renewed early");
            let now = SystemTime::now();
            state.timer.renew_within(window, now, fastrand::f64());
        }
    }

    /// Attempts to get a certificate once, within [`CALL_TIMEOUT`].
    async fn renew(&self, previous: Option<&CurrentCertificate>) -> Outcome {
        let Ok(result) = timeout(CALL_TIMEOUT, self.request_certificate(previous)).await else {
            return Outcome::Failed(anyhow::anyhow!(
                "the control plane did not respond within {CALL_TIMEOUT:?}"
            ));
        };
        match result {
            Ok(current) => Outcome::Issued(current),
            Err(error) => match error.downcast::<Status>() {
                Ok(status) if status.code() == Code::FailedPrecondition => Outcome::MtlsDisabled(status),
                Ok(status) => Outcome::Failed(anyhow::anyhow!(describe(&status))),
                Err(error) => Outcome::Failed(error),
            },
        }
    }

    /// Requests a certificate for a new key, and publishes key and certificate.
    async fn request_certificate(
        &self,
        previous: Option<&CurrentCertificate>,
    ) -> anyhow::Result<CurrentCertificate> {
        let key = WorkloadKey::generate()?;
        let name = self.proxy.proxy_name();
        let request = IssueCertificateRequest {
            mesh: self.mesh.to_string(),
            name: name.clone(),
            csr: key.csr_der_of(&name)?,
        };
        let authorization = self.token.authorization().await?;
        let response = self.client.issue_certificate(authorization, request).await?;
        let ca_generation = response.signer;
        let roots_version = response.roots_version;
        let certificate = IssuedCertificate {
            chain: response.chain_der.into_iter().map(Into::into).collect(),
            validity: Validity::from_unix(response.not_before, response.not_after),
        };
        let bundle = TrustBundle::new(response.roots_der.into_iter().map(Into::into));
        ensure!(
            !certificate.chain.is_empty(),
            "the response of the control plane has no certificate"
        );
        ensure!(
            !bundle.is_empty(),
            "the response of the control plane has no roots"
        );
        let current = CurrentCertificate::with_new_certificate(
            previous,
            certificate.validity,
            ca_generation,
            response.names,
            Roots {
                bundle,
                version: roots_version,
            },
        );
        self.publish(&key, &certificate, &current);
        tracing::info!(
            not_after = current.validity.to_unix().1,
            ca_generation,
            "certificate issued"
        );
        Ok(current)
    }

    fn publish(&self, key: &WorkloadKey, certificate: &IssuedCertificate, current: &CurrentCertificate) {
        self.secrets.send_modify(|published| {
            let version = published.as_ref().map_or(0, |previous| previous.version) + 1;
            *published = Some(Arc::new(SecretMaterial {
                version,
                chain: certificate.chain_pem(),
                key: key.private_key_pem(),
                roots: current.roots.bundle.to_pem(),
            }));
        });
    }
}

impl State {
    fn on_outcome(&mut self, outcome: Outcome, now: SystemTime) {
        let was_mtls_disabled = std::mem::take(&mut self.is_mtls_disabled);
        match outcome {
            Outcome::Issued(current) => {
                self.metrics.set_certificate(current.validity);
                self.timer.on_issued(current.validity, now, fastrand::f64());
                self.current = Some(current);
                self.last_warning = None;
            }
            Outcome::MtlsDisabled(status) => {
                if !was_mtls_disabled {
                    tracing::info!(
                        reason = status.message(),
                        "no certificate: mTLS is off in the mesh"
                    );
                }
                self.metrics.clear_certificate();
                self.timer.on_mtls_disabled(now, fastrand::f64());
                self.is_mtls_disabled = true;
            }
            Outcome::Failed(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "certificate was not issued; the agent retries"
                );
                self.timer.on_failure(now, fastrand::f64());
                self.warn_about_expiry(now);
            }
        }
    }

    /// Logs once when the certificate expires soon and once when it has expired. Envoy exports the remaining days as
    /// `server.days_until_first_cert_expiring`.
    fn warn_about_expiry(&mut self, now: SystemTime) {
        let Some(current) = &self.current else { return };
        let not_after = current.validity.to_unix().1;
        let warning = match RemainingLifetime::of(current.validity, now) {
            RemainingLifetime::Sufficient => return,
            RemainingLifetime::Short(left) => {
                if self.last_warning != Some(ExpiryWarning::ExpiresSoon) {
                    tracing::error!(
                        not_after,
                        seconds_left = left.as_secs(),
                        "the certificate expires soon and cannot be renewed"
                    );
                }
                ExpiryWarning::ExpiresSoon
            }
            RemainingLifetime::Expired => {
                if self.last_warning != Some(ExpiryWarning::Expired) {
                    tracing::error!(not_after, "the certificate has expired: peers reject it");
                }
                ExpiryWarning::Expired
            }
        };
        self.last_warning = Some(warning);
    }
}

/// Formats a status with its sources. The status of a lost connection has the cause as its last source.
fn describe(status: &Status) -> String {
    let mut text = format!(
        "the control plane responded with {:?}: {}",
        status.code(),
        status.message()
    );
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second)
    }

    fn mk_current(validity: Validity) -> CurrentCertificate {
        let roots = Roots {
            bundle: TrustBundle::new([vec![1].into()]),
            version: 3,
        };
        let ca_generation = 1;
        let names = 5;
        CurrentCertificate::with_new_certificate(None, validity, ca_generation, names, roots)
    }

    fn mk_state(metrics: SidecarMetrics) -> State {
        State {
            timer: RenewalTimer::new(at(0)),
            current: None,
            is_mtls_disabled: false,
            last_warning: None,
            metrics,
        }
    }

    #[test]
    fn certificate_is_removed_from_the_metrics_when_mtls_is_turned_off() {
        let metrics = SidecarMetrics::default();
        let mut state = mk_state(metrics.clone());
        let validity = Validity::from_unix(1, 1000);
        state.on_outcome(Outcome::Issued(mk_current(validity)), at(1));
        assert_eq!(metrics.certificate(), (1, 1000));
        let disabled = Status::failed_precondition("mTLS is off");
        state.on_outcome(Outcome::MtlsDisabled(disabled), at(700));
        assert_eq!(metrics.certificate(), (0, 0));
    }

    /// The control plane is unavailable when the renewal is due, and remains so until after the certificate's expiry.
    #[test]
    fn certificate_is_kept_in_an_outage_with_a_warning_before_and_a_warning_after_its_expiry() {
        let mut state = mk_state(SidecarMetrics::default());
        let validity = Validity::from_unix(0, 1000);
        state.on_outcome(Outcome::Issued(mk_current(validity)), at(0));
        let RenewalStep::Wait(wait) = state.timer.next_step(at(0)) else {
            panic!("a new certificate is renewed immediately")
        };
        // Renewal is due at a random moment between 7/10 and 4/5 of the validity.
        assert!((700..=800).contains(&wait.as_secs()), "{wait:?}");
        let mut now = at(0) + wait;
        // Each new warning, and whether the certificate had expired by then.
        let mut warnings = Vec::new();
        while now < at(1200) {
            match state.timer.next_step(now) {
                RenewalStep::Wait(wait) => now += wait,
                RenewalStep::Request => {
                    let warning_before = state.last_warning;
                    let error = anyhow::anyhow!("no route");
                    state.on_outcome(Outcome::Failed(error), now);
                    if state.last_warning != warning_before {
                        warnings.push((state.last_warning, now > at(1000)));
                    }
                    assert_eq!(
                        state.current.as_ref().map(|current| current.validity),
                        Some(validity)
                    );
                }
            }
        }
        assert!(
            warnings
                == [
                    (Some(ExpiryWarning::ExpiresSoon), false),
                    (Some(ExpiryWarning::Expired), true)
                ]
        );
        state.on_outcome(
            Outcome::Issued(mk_current(Validity::from_unix(1200, 2200))),
            at(1200),
        );
        assert!(state.last_warning.is_none());
        assert!(matches!(state.timer.next_step(at(1200)), RenewalStep::Wait(wait) if wait.as_secs() >= 700));
    }
}
