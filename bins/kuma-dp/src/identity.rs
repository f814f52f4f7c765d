//! Keeps the workload's certificate fresh: makes keys, has them certified by the control plane, publishes the result.
//! The shell around [`kermode_identity::Rotation`].

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use http::uri::PathAndQuery;
use kermode_identity::api::{ISSUE_CERTIFICATE_PATH, IssueCertificateRequest, IssueCertificateResponse};
use kermode_identity::{Rotation, Step, Validity, WorkloadKey};
use kermode_model::{MeshName, ObjectKey};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

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
    Issued(Validity),
    /// The mesh has no mTLS.
    Declined(Status),
    Failed(anyhow::Error),
}

impl Renewal {
    /// Renews until dropped.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut rotation = Rotation::new(SystemTime::now());
        let mut declined = false;
        loop {
            match rotation.next(SystemTime::now()) {
                Step::Wait(wait) => tokio::select! {
                    () = sleep(wait.min(LONGEST_SLEEP)) => {}
                    () = self.wanted.notified() => rotation.wanted(SystemTime::now()),
                },
                Step::Renew => {
                    let outcome = self.renew().await;
                    let now = SystemTime::now();
                    match outcome {
                        Outcome::Issued(validity) => rotation.issued(validity, now),
                        Outcome::Declined(status) => {
                            if !declined {
                                tracing::info!(
                                    reason = status.message(),
                                    "no certificate: mTLS is off in the mesh"
                                );
                            }
                            rotation.declined(now, fastrand::f64());
                            declined = true;
                            continue;
                        }
                        Outcome::Failed(error) => {
                            tracing::warn!(
                                error = format!("{error:#}"),
                                "certificate was not issued, trying again"
                            );
                            rotation.failed(now, fastrand::f64());
                        }
                    }
                    declined = false;
                }
            }
        }
    }

    async fn renew(&self) -> Outcome {
        let Ok(issued) = timeout(PATIENCE, self.issue()).await else {
            return Outcome::Failed(anyhow::anyhow!(
                "the control plane did not answer within {PATIENCE:?}"
            ));
        };
        match issued {
            Ok(validity) => Outcome::Issued(validity),
            Err(error) => match error.downcast::<Status>() {
                Ok(status) if status.code() == Code::FailedPrecondition => Outcome::Declined(status),
                Ok(status) => Outcome::Failed(anyhow::anyhow!(describe(&status))),
                Err(error) => Outcome::Failed(error),
            },
        }
    }

    /// Has a new key certified and publishes both. Every certificate gets a key of its own.
    async fn issue(&self) -> anyhow::Result<Validity> {
        let key = WorkloadKey::generate()?;
        let mut request = Request::new(IssueCertificateRequest {
            mesh: self.mesh.to_string(),
            name: self.proxy.proxy_name(),
            csr_der: key.csr_der()?,
        });
        request
            .metadata_mut()
            .insert("authorization", self.token.authorization().await?);
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.context("connecting to the control plane")?;
        let codec = ProstCodec::<IssueCertificateRequest, IssueCertificateResponse>::default();
        let path = PathAndQuery::from_static(ISSUE_CERTIFICATE_PATH);
        let (certificate, roots) = client
            .unary(request, path, codec)
            .await?
            .into_inner()
            .into_parts();
        ensure!(
            !certificate.chain.is_empty(),
            "the control plane answered without a certificate"
        );
        ensure!(!roots.is_empty(), "the control plane answered without roots");
        let validity = certificate.validity;
        self.identity.send_modify(|current| {
            let version = current.as_ref().map_or(0, |identity| identity.version) + 1;
            let (chain, roots) = (certificate.chain_pem(), roots.to_pem());
            *current = Some(Arc::new(Identity {
                version,
                chain,
                key: key.private_key_pem(),
                roots,
            }));
        });
        tracing::info!(not_after = validity.to_unix().1, "certificate issued");
        Ok(validity)
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
