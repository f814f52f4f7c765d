//! Watches the removal of this sidecar's endpoint, from the start of the drain until no proxy sends requests to the
//! endpoint.
//!
//! Each replica of the control plane tracks the acknowledgements of its own proxies only, so the agent calls all
//! replicas. The result goes to the log: an operator sees how much of the drain time was needed. The drain of a native
//! sidecar, and of drain mode `acknowledged`, may end earlier with this result (`docs/reference/sidecar.md#shutdown`).

mod replicas;

use kermode_protocol::client::Client;
use kermode_protocol::removals::WatchRemovalResponse;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::replicas::{CalledReplicas, Progress, Replica};
use crate::backoff::Backoff;
use crate::control_plane::ControlPlane;
use crate::token::TokenFile;

/// Limit on queued reports of all replicas. Replicas report seldom, so a small queue suffices.
const MAX_QUEUED_REPORTS: usize = 16;

/// Watch of the removal of this sidecar's endpoint; cheap to clone.
#[derive(Clone)]
pub struct RemovalWatch {
    /// Creates the channels to single replicas.
    pub control_plane: ControlPlane,
    /// Client that calls the control plane by its Service, which selects a replica.
    pub client: Client,
    /// Token of the proxy.
    pub token: TokenFile,
}

/// Message from the task that calls one replica to the watch.
enum Report {
    Response(WatchRemovalResponse),
    /// The call failed or ended. The task repeats the call after a backoff.
    Disconnected,
}

impl RemovalWatch {
    /// Completes once every proxy has acknowledged the removal. Repeats calls that fail, also those to a replica of an
    /// older version, which does not implement the call: during an upgrade, a newer one takes its place.
    pub async fn run(self) {
        let (sender, mut reports) = mpsc::channel(MAX_QUEUED_REPORTS);
        // Dropping the set ends all calls.
        let mut calls = JoinSet::new();
        calls.spawn(
            self.clone()
                .call_repeatedly(Replica::SelectedByService, sender.clone()),
        );
        let mut replicas = CalledReplicas::default();
        while let Some((replica, report)) = reports.recv().await {
            let progress = match report {
                Report::Response(response) => replicas.on_response(replica, response),
                Report::Disconnected => replicas.on_disconnected(replica),
            };
            match progress {
                Progress::Call(addresses) => {
                    for address in addresses {
                        calls.spawn(self.clone().call_repeatedly(Replica::At(address), sender.clone()));
                    }
                }
                Progress::Pending { unacknowledged_by } => {
                    tracing::debug!(
                        proxies = unacknowledged_by,
                        "proxies may still send requests to this endpoint"
                    );
                }
                Progress::Finished { took, replica_count } => {
                    tracing::info!(
                        took_ms = took.as_millis(),
                        replicas = replica_count,
                        "every proxy has acknowledged that this endpoint is gone"
                    );
                    return;
                }
            }
        }
        // Not reached: the calls end only when they are dropped.
        std::future::pending::<()>().await;
    }

    /// Calls one replica repeatedly, with a backoff between calls. Sends a report for each response and for the end of
    /// each call. Returns when the receiver of `reports` is dropped.
    async fn call_repeatedly(self, replica: Replica, reports: mpsc::Sender<(Replica, Report)>) {
        let client = match replica {
            Replica::SelectedByService => self.client.clone(),
            Replica::At(address) => Client::new(self.control_plane.channel_to_replica(address)),
        };
        let mut backoff = Backoff::default();
        loop {
            let result = self
                .forward_responses(&client, replica, &reports, &mut backoff)
                .await;
            if let Err(error) = result {
                tracing::debug!(%replica, error = format!("{error:#}"), "watching the endpoint removal failed");
            }
            if reports.send((replica, Report::Disconnected)).await.is_err() {
                return;
            }
            sleep(backoff.next(fastrand::f64())).await;
        }
    }

    /// Forwards the responses of one call until the call ends.
    async fn forward_responses(
        &self,
        client: &Client,
        replica: Replica,
        reports: &mpsc::Sender<(Replica, Report)>,
        backoff: &mut Backoff,
    ) -> anyhow::Result<()> {
        let authorization = self.token.authorization().await?;
        let mut responses = client.watch_removal(authorization).await?;
        while let Some(response) = responses.message().await? {
            backoff.reset();
            // An error is ignored: the receiver is dropped only when the watch ends, which also ends this task.
            let _ = reports.send((replica, Report::Response(response))).await;
        }
        Ok(())
    }
}
