//! Keeps the workload's certificate fresh: makes keys, has them certified by the control plane, publishes the result.
//! The shell around [`kermode_identity::Rotation`].

mod held;
mod roots;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use http::uri::PathAndQuery;
use kermode_identity::{IssuedCertificate, Remaining, Rotation, Step, TrustBundle, Validity, WorkloadKey};
use kermode_model::{MeshName, ObjectKey};
use kermode_protocol::certificates::{
    ISSUE_CERTIFICATE, IssueCertificateRequest, IssueCertificateResponse, RootsUpdate,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use self::held::{Held, Roots};
use self::roots::Following;
use crate::sds::Identity;
use crate::token::TokenFile;

/// How long the control plane may take to answer, connecting included.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest sleep before the clock is looked at again. Timers stand still while a machine sleeps, certificates age.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);

/// The component that renews the certificate.
pub(crate) struct Renewal {
    pub(crate) mesh: MeshName,
    pub(crate) proxy: ObjectKey,
    pub(crate) channel: Channel,
    pub(crate) token: TokenFile,
    /// Where the result goes.
    pub(crate) identity: watch::Sender<Option<Arc<Identity>>>,
    /// Notified when Envoy waits for a certificate.
    pub(crate) wanted: Arc<Notify>,
}

/// How one attempt went.
enum Outcome {
    Issued(Held),
    /// The mesh has no mTLS.
    Declined(Status),
    Failed(anyhow::Error),
}

/// What a running renewal remembers.
struct State {
    rotation: Rotation,
    held: Option<Held>,
    /// The last answer was that there are no certificates.
    declined: bool,
    /// What was last said of the certificate's end.
    said: Option<Said>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Soon,
    Expired,
}

impl Renewal {
    /// Renews until dropped.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let (sender, mut updates) = mpsc::channel(1);
        let following = Following {
            mesh: self.mesh.clone(),
            proxy: self.proxy.clone(),
            channel: self.channel.clone(),
            token: self.token.clone(),
            identity: self.identity.subscribe(),
            updates: sender,
        };
        tokio::select! {
            () = following.run() => anyhow::bail!("nobody follows the roots of the mesh any more"),
            () = self.renew_for_ever(&mut updates) => Ok(()),
        }
    }

    async fn renew_for_ever(&self, updates: &mut mpsc::Receiver<RootsUpdate>) {
        let mut state = State {
            rotation: Rotation::new(SystemTime::now()),
            held: None,
            declined: false,
            said: None,
        };
        loop {
            match state.rotation.next(SystemTime::now()) {
                Step::Wait(wait) => tokio::select! {
                    () = sleep(wait.min(LONGEST_SLEEP)) => {}
                    () = self.wanted.notified() => state.rotation.wanted(SystemTime::now()),
                    Some(update) = updates.recv() => self.on_update(&mut state, &update),
                },
                Step::Renew => {
                    let outcome = self.renew(state.held.as_ref()).await;
                    state.on_outcome(outcome, SystemTime::now());
                }
            }
        }
    }

    fn on_update(&self, state: &mut State, update: &RootsUpdate) {
        let Some(held) = &mut state.held else { return };
        let reaction = held.on_update(update);
        if reaction.publish {
            let roots = held.roots.bundle.to_pem();
            tracing::info!(
                roots = held.roots.bundle.roots().len(),
                "roots of the mesh changed"
            );
            self.identity.send_modify(|current| {
                if let Some(identity) = current {
                    *current = Some(Arc::new(Identity {
                        version: identity.version + 1,
                        chain: identity.chain.clone(),
                        key: identity.key.clone(),
                        roots,
                    }));
                }
            });
        }
        if let Some(window) = reaction.renew_within {
            tracing::info!(within = ?window, "the mesh has a new CA: the certificate is renewed early");
            let now = SystemTime::now();
            state.rotation.renew_within(window, now, fastrand::f64());
        }
    }

    async fn renew(&self, held: Option<&Held>) -> Outcome {
        let Ok(issued) = timeout(PATIENCE, self.issue(held)).await else {
            return Outcome::Failed(anyhow::anyhow!(
                "the control plane did not answer within {PATIENCE:?}"
            ));
        };
        match issued {
            Ok(held) => Outcome::Issued(held),
            Err(error) => match error.downcast::<Status>() {
                Ok(status) if status.code() == Code::FailedPrecondition => Outcome::Declined(status),
                Ok(status) => Outcome::Failed(anyhow::anyhow!(describe(&status))),
                Err(error) => Outcome::Failed(error),
            },
        }
    }

    /// Has a new key certified and publishes both. Every certificate gets a key of its own.
    async fn issue(&self, before: Option<&Held>) -> anyhow::Result<Held> {
        let key = WorkloadKey::generate()?;
        let name = self.proxy.proxy_name();
        let mut request = Request::new(IssueCertificateRequest {
            mesh: self.mesh.to_string(),
            name: name.clone(),
            csr_der: key.csr_der_of(&name)?,
        });
        request
            .metadata_mut()
            .insert("authorization", self.token.authorization().await?);
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.context("connecting to the control plane")?;
        let codec = ProstCodec::<IssueCertificateRequest, IssueCertificateResponse>::default();
        let path = PathAndQuery::from_static(ISSUE_CERTIFICATE);
        let response = client.unary(request, path, codec).await?.into_inner();
        let (signer, version) = (response.signer, response.roots_version);
        let certificate = IssuedCertificate {
            chain: response.chain_der.into_iter().map(Into::into).collect(),
            validity: Validity::from_unix(response.not_before, response.not_after),
        };
        let bundle = TrustBundle::new(response.roots_der.into_iter().map(Into::into));
        ensure!(
            !certificate.chain.is_empty(),
            "the control plane answered without a certificate"
        );
        ensure!(!bundle.is_empty(), "the control plane answered without roots");
        let held = Held::after(before, certificate.validity, signer, Roots { bundle, version });
        self.publish(&key, &certificate, &held);
        tracing::info!(
            not_after = held.validity.to_unix().1,
            signer,
            "certificate issued"
        );
        Ok(held)
    }

    fn publish(&self, key: &WorkloadKey, certificate: &IssuedCertificate, held: &Held) {
        self.identity.send_modify(|current| {
            let version = current.as_ref().map_or(0, |identity| identity.version) + 1;
            let (chain, roots) = (certificate.chain_pem(), held.roots.bundle.to_pem());
            *current = Some(Arc::new(Identity {
                version,
                chain,
                key: key.private_key_pem(),
                roots,
            }));
        });
    }
}

impl State {
    fn on_outcome(&mut self, outcome: Outcome, now: SystemTime) {
        let declined = std::mem::take(&mut self.declined);
        match outcome {
            Outcome::Issued(held) => {
                self.rotation.issued(held.validity, now, fastrand::f64());
                self.held = Some(held);
                self.said = None;
            }
            Outcome::Declined(status) => {
                if !declined {
                    tracing::info!(
                        reason = status.message(),
                        "no certificate: mTLS is off in the mesh"
                    );
                }
                self.rotation.declined(now, fastrand::f64());
                self.declined = true;
            }
            Outcome::Failed(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "certificate was not issued, trying again"
                );
                self.rotation.failed(now, fastrand::f64());
                self.say_when_it_ends(now);
            }
        }
    }

    /// Once when little is left of the certificate, and once when it has expired. Envoy counts the days by itself:
    /// `server.days_until_first_cert_expiring`.
    fn say_when_it_ends(&mut self, now: SystemTime) {
        let Some(held) = &self.held else { return };
        let not_after = held.validity.to_unix().1;
        let said = match Remaining::of(held.validity, now) {
            Remaining::Enough => return,
            Remaining::Little(left) => {
                if self.said != Some(Said::Soon) {
                    tracing::error!(
                        not_after,
                        seconds_left = left.as_secs(),
                        "the certificate expires soon and cannot be renewed"
                    );
                }
                Said::Soon
            }
            Remaining::Nothing => {
                if self.said != Some(Said::Expired) {
                    tracing::error!(not_after, "the certificate has expired: peers refuse it");
                }
                Said::Expired
            }
        };
        self.said = Some(said);
    }
}

/// A refusal with everything beneath it: a lost connection says why only at the bottom.
fn describe(status: &Status) -> String {
    let mut text = format!(
        "the control plane answered {:?}: {}",
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

    fn mk_held(validity: Validity) -> Held {
        let roots = Roots {
            bundle: TrustBundle::new([vec![1].into()]),
            version: 3,
        };
        Held::after(None, validity, 1, roots)
    }

    /// With the control plane away from 4/5 of a certificate's life on: attempts that back off, one word when little
    /// is left, one at the end, and a new start when it is back.
    #[test]
    fn an_outage_is_survived_with_the_certificate_that_is_there_and_said_twice() {
        let mut state = State {
            rotation: Rotation::new(at(0)),
            held: None,
            declined: false,
            said: None,
        };
        let validity = Validity::from_unix(0, 1000);
        state.on_outcome(Outcome::Issued(mk_held(validity)), at(0));
        let Step::Wait(wait) = state.rotation.next(at(0)) else {
            panic!("it is fresh")
        };
        assert!((700..=800).contains(&wait.as_secs()), "{wait:?}");
        let (mut now, mut said) = (at(0) + wait, Vec::new());
        while now < at(1200) {
            match state.rotation.next(now) {
                Step::Wait(wait) => now += wait,
                Step::Renew => {
                    let before = state.said;
                    let away = anyhow::anyhow!("no route");
                    state.on_outcome(Outcome::Failed(away), now);
                    if state.said != before {
                        said.push((state.said, now > at(1000)));
                    }
                    assert_eq!(state.held.as_ref().map(|held| held.validity), Some(validity));
                }
            }
        }
        assert!(said == [(Some(Said::Soon), false), (Some(Said::Expired), true)]);
        state.on_outcome(
            Outcome::Issued(mk_held(Validity::from_unix(1200, 2200))),
            at(1200),
        );
        assert!(state.said.is_none());
        assert!(matches!(state.rotation.next(at(1200)), Step::Wait(wait) if wait.as_secs() >= 700));
    }
}
