//! Leader election by a Lease: at most one replica writes Dataplanes, default objects, the `caBundle` of the webhook
//! registrations, and Events about Dataplanes.
//!
//! As in client-go, a candidate measures with its own clock how long the Lease has been unchanged, so clock skew
//! between nodes has no effect. The holder stops leading several seconds before a candidate may acquire the Lease.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::core::ObjectMeta;
use kube::{Api, Client};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::Instant;

use super::failure::{describe, is_conflict, is_not_found};

/// Time after which a candidate may acquire a Lease that it has not seen renewed; client-go's default.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// Time after the last successful renewal after which the holder stops leading; client-go's default.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Timeout of one attempt to acquire or renew the Lease. Half of [`RENEW_DEADLINE`], so that the holder can try again
/// after an attempt that timed out.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between attempts to acquire or renew the Lease; client-go's default.
const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// Candidate in the election of a leader.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    observed: Option<ObservedLease>,
    /// 1 while this replica leads, else 0.
    leading: Gauge,
}

/// State of the Lease when it was last read.
#[derive(Debug)]
struct ObservedLease {
    holder: Option<String>,
    renew_time: Option<MicroTime>,
    /// Time at which this state was first read.
    since: Instant,
}

/// Runs `work` while this replica leads, and cancels `work` when this replica stops leading. Restarts `work` if it ends
/// earlier. Returns when the sender of `is_leader` is dropped.
pub async fn while_leading<F: Future<Output = ()>>(
    mut is_leader: watch::Receiver<bool>,
    work: impl Fn() -> F,
) {
    while is_leader.wait_for(|is_leader| *is_leader).await.is_ok() {
        tokio::select! {
            _ = is_leader.wait_for(|is_leader| !*is_leader) => {}
            () = work() => {}
        }
    }
}

impl Candidate {
    /// Creates a candidate for the named Lease. `identity` must be unique to this replica.
    pub fn new(client: Client, namespace: &str, name: &str, identity: String) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity,
            observed: None,
            leading: Gauge::default(),
        }
    }

    /// Registers the metric.
    pub fn register(&self, registry: &mut Registry) {
        let help = "1 while this replica holds the Lease of the leader, else 0";
        registry.register("leader", help, self.leading.clone());
    }

    /// Acquires and renews the Lease until `finished` completes, and sends to `is_leader` whether this replica leads.
    /// Finally releases the Lease, so that another replica can lead at once.
    pub async fn run(mut self, is_leader: watch::Sender<bool>, finished: impl Future<Output = ()>) {
        let mut finished = std::pin::pin!(finished);
        // Time at which the last successful attempt started. The time of its response would be too late: other
        // candidates measure from the write of the Lease, which may precede the response by seconds. The time is
        // used only while this replica holds the Lease, although an attempt that finds another holder sets it as well.
        let mut last_renewal = Instant::now();
        loop {
            let start = Instant::now();
            let mut deadline = start + ATTEMPT_TIMEOUT;
            if *is_leader.borrow() {
                deadline = deadline.min(last_renewal + RENEW_DEADLINE);
            }
            let holds_lease = match tokio::time::timeout_at(deadline, self.acquire_or_renew()).await {
                Ok(Ok(holds_lease)) => {
                    last_renewal = start;
                    holds_lease
                }
                Ok(Err(error)) => {
                    tracing::warn!(
                        "{}",
                        describe(
                            &format!("Lease {} cannot be acquired or renewed", self.name),
                            &error
                        )
                    );
                    *is_leader.borrow()
                }
                Err(_) => {
                    tracing::warn!(
                        "Lease {} cannot be acquired or renewed: the API server did not respond in time",
                        self.name
                    );
                    *is_leader.borrow()
                }
            };
            let leads_now = holds_lease && last_renewal.elapsed() < RENEW_DEADLINE;
            self.leading.set(i64::from(leads_now));
            if is_leader
                .send_if_modified(|leads_before| std::mem::replace(leads_before, leads_now) != leads_now)
            {
                tracing::info!(
                    leading = leads_now,
                    identity = self.identity,
                    "leadership changed"
                );
            }
            let pause = if leads_now {
                RETRY_PERIOD.min(RENEW_DEADLINE.saturating_sub(last_renewal.elapsed()))
            } else {
                RETRY_PERIOD
            };
            tokio::select! {
                () = &mut finished => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.leading.set(0);
        if is_leader.send_replace(false) {
            self.release().await;
        }
    }

    /// Tries to acquire or renew the Lease. Returns whether this replica then holds the Lease.
    async fn acquire_or_renew(&mut self) -> kube::Result<bool> {
        let lease = match self.api.get(&self.name).await {
            Ok(lease) => lease,
            Err(error) if is_not_found(&error) => {
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                };
                let lease = Lease {
                    metadata,
                    spec: Some(self.spec(None)),
                };
                return written_unless_conflict(self.api.create(&PostParams::default(), &lease).await);
            }
            Err(error) => return Err(error),
        };
        if !self.observe_and_may_acquire(&lease) {
            return Ok(false);
        }
        let spec = self.spec(lease.spec.as_ref());
        // The replacement contains the resourceVersion, so it fails after a concurrent write.
        let lease = Lease {
            spec: Some(spec),
            ..lease
        };
        written_unless_conflict(self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    /// Records the state of the Lease. Returns whether this replica may acquire or renew the Lease.
    fn observe_and_may_acquire(&mut self, lease: &Lease) -> bool {
        let spec = lease.spec.as_ref();
        let holder = spec
            .and_then(|spec| spec.holder_identity.clone())
            .filter(|holder| !holder.is_empty());
        let renew_time = spec.and_then(|spec| spec.renew_time.clone());
        let unchanged = self
            .observed
            .as_ref()
            .filter(|observed| observed.holder == holder && observed.renew_time == renew_time);
        let since = unchanged.map_or_else(Instant::now, |observed| observed.since);
        let is_expired = since.elapsed() >= LEASE_DURATION;
        let is_own = holder.as_ref() == Some(&self.identity);
        let is_free = holder.is_none();
        self.observed = Some(ObservedLease {
            holder,
            renew_time,
            since,
        });
        is_own || is_free || is_expired
    }

    /// Returns the spec with which this replica acquires or renews the Lease. `current` is the spec in the API server.
    fn spec(&self, current: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let own = current.filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity));
        let transitions = current.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            acquire_time: own
                .and_then(|spec| spec.acquire_time.clone())
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            // The first acquisition is not a transition.
            lease_transitions: Some(if own.is_some() || current.is_none() {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        }
    }

    /// Removes this replica as the holder of the Lease. Gives up after [`RETRY_PERIOD`], so that the shutdown is not
    /// delayed.
    async fn release(&self) {
        let release = async {
            let mut lease = self.api.get(&self.name).await?;
            if let Some(spec) = &mut lease.spec
                && spec.holder_identity.as_ref() == Some(&self.identity)
            {
                spec.holder_identity = None;
                self.api
                    .replace(&self.name, &PostParams::default(), &lease)
                    .await?;
            }
            Ok::<_, kube::Error>(())
        };
        if let Ok(Err(error)) = tokio::time::timeout(RETRY_PERIOD, release).await {
            tracing::debug!(
                lease = self.name,
                %error,
                "Lease cannot be released; another replica can acquire it once it has expired"
            );
        }
    }
}

/// Returns whether the Lease was written; `false` if another replica wrote the Lease concurrently.
fn written_unless_conflict(result: kube::Result<Lease>) -> kube::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if is_conflict(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
