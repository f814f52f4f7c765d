//! One stream, from the first request to its end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use prost::Message;
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use super::metrics::KindLabels;
use super::status::Reporter;
use super::{Metrics, ProxyId, Shared};
use crate::store::Subscription;
use crate::stream::{Event, Output, Stream};
use crate::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};

/// Where responses go.
type Responses = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

pub(super) async fn serve(
    shared: Arc<Shared>,
    metadata: http::HeaderMap,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    responses: Responses,
) {
    let (proxy, first) = match introduce(&shared, &metadata, &mut requests).await {
        Ok(introduced) => introduced,
        Err(status) => {
            shared.metrics.refused.inc();
            tracing::debug!(code = ?status.code(), "stream refused: {}", status.message());
            let _ = responses.send(Err(status)).await;
            return;
        }
    };
    tracing::info!(proxy = %proxy.key, mesh = %proxy.mesh, "proxy connected");
    let connected = Connected::new(&shared.metrics);
    let versions = first.node.as_ref().map(Node::versions).unwrap_or_default();
    let reporter = Reporter::open(shared.clone(), proxy.clone(), versions);
    let connection = Connection {
        subscription: shared.store.subscribe(&proxy.key),
        stream: Stream::new(shared.settings.limits),
        metrics: shared.metrics.clone(),
        sent: HashMap::new(),
        reporter,
        proxy,
        responses,
    };
    connection.run(&shared, first, requests).await;
    drop(connected);
}

/// Learns who calls, and whether that is true.
async fn introduce(
    shared: &Shared,
    metadata: &http::HeaderMap,
    requests: &mut Streaming<DeltaDiscoveryRequest>,
) -> Result<(ProxyId, DeltaDiscoveryRequest), Status> {
    let first = tokio::time::timeout(shared.settings.first_request, requests.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no request came"))??
        .ok_or_else(|| Status::cancelled("no request came"))?;
    let id = first
        .node
        .as_ref()
        .map(|node| node.id.as_str())
        .unwrap_or_default();
    let proxy = ProxyId::from_node_id(id).ok_or_else(|| {
        Status::invalid_argument(format!(
            "node id {id:?} is not of the form <mesh>.<pod>.<namespace>"
        ))
    })?;
    shared.authenticator.authenticate(metadata, &proxy).await?;
    Ok((proxy, first))
}

/// Counts a stream while it lives.
struct Connected<'a>(&'a Metrics);

impl<'a> Connected<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.connected.inc();
        Self(metrics)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.connected.dec();
    }
}

/// What ends a stream from our side.
enum End {
    /// The client has gone.
    Gone,
    /// We end it, and say why.
    Status(Status),
}

struct Connection {
    proxy: ProxyId,
    subscription: Subscription,
    stream: Stream,
    responses: Responses,
    metrics: Metrics,
    /// When responses that are not acknowledged yet were sent, by nonce. At most one a kind.
    sent: HashMap<String, Instant>,
    reporter: Reporter,
}

impl Connection {
    async fn run(
        mut self,
        shared: &Shared,
        first: DeltaDiscoveryRequest,
        requests: Streaming<DeltaDiscoveryRequest>,
    ) {
        let end = match self.on_request(first).await {
            Ok(()) => self.work(requests, shared).await,
            Err(end) => end,
        };
        match end {
            End::Gone => tracing::info!(proxy = %self.proxy.key, "proxy disconnected"),
            End::Status(status) => {
                if status.code() != tonic::Code::Unavailable {
                    shared.metrics.refused.inc();
                    tracing::warn!(proxy = %self.proxy.key, "stream ended: {}", status.message());
                }
                let _ = self.responses.send(Err(status)).await;
            }
        }
    }

    async fn work(&mut self, mut requests: Streaming<DeltaDiscoveryRequest>, shared: &Shared) -> End {
        let mut handover = std::pin::pin!(handover(shared.shutdown.clone(), shared.settings.handover));
        loop {
            let step = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.on_request(request).await,
                    Ok(None) => return End::Gone,
                    Err(status) => {
                        tracing::debug!(proxy = %self.proxy.key, "stream broke: {}", status.message());
                        return End::Gone;
                    }
                },
                () = self.subscription.changed() => self.on_change().await,
                () = &mut handover => {
                    return End::Status(Status::unavailable("this replica shuts down; another one serves"));
                }
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn on_request(&mut self, request: DeltaDiscoveryRequest) -> Result<(), End> {
        if let Some(sent) = self.sent.remove(&request.response_nonce) {
            self.metrics.acknowledged.observe(sent.elapsed().as_secs_f64());
        }
        let Self {
            subscription, stream, ..
        } = self;
        let (changed, output) = subscription.read(|view, changes| {
            // The machine has to know what changed before it acts on a view that holds the change: a listener would
            // not wait for a cluster that nobody told it of.
            let changed = stream.on_change(changes, view.as_ref());
            (changed, stream.on_request(request, view.as_ref()))
        });
        let output = output.map_err(|error| End::Status(Status::resource_exhausted(error.to_string())))?;
        self.emit(changed).await?;
        self.emit(output).await
    }

    async fn on_change(&mut self) -> Result<(), End> {
        let Self {
            subscription, stream, ..
        } = self;
        let output = subscription.read(|view, changes| stream.on_change(changes, view.as_ref()));
        self.emit(output).await
    }

    async fn emit(&mut self, output: Output) -> Result<(), End> {
        for event in output.events {
            self.report(&event);
        }
        for reply in output.replies {
            let labels = KindLabels::from(reply.kind);
            self.metrics.responses.get_or_create(&labels).inc();
            let bytes = reply.response.encoded_len() as u64;
            self.metrics.response_bytes.get_or_create(&labels).inc_by(bytes);
            self.reporter.sent(&reply.response);
            self.sent.insert(reply.response.nonce.clone(), Instant::now());
            self.responses
                .send(Ok(reply.response))
                .await
                .map_err(|_| End::Gone)?;
        }
        self.reporter.progress(&self.stream);
        Ok(())
    }

    fn report(&self, event: &Event) {
        if let Event::Rejected {
            kind,
            resources,
            message,
        } = event
        {
            self.metrics
                .rejections
                .get_or_create(&KindLabels::from(Some(*kind)))
                .inc();
            let names: Vec<_> = resources.iter().map(|stamp| &*stamp.name).collect();
            tracing::warn!(proxy = %self.proxy.key, ?kind, ?names, "configuration rejected: {message}");
            self.reporter.rejected(*kind, &names, message);
        }
    }
}

/// Completes some time after shutdown is asked for, a different time for each stream.
async fn handover(mut shutdown: watch::Receiver<bool>, span: std::time::Duration) {
    // An error means that the sender is gone, which asks as well.
    let _ = shutdown.wait_for(|requested| *requested).await;
    tokio::time::sleep(span.mul_f64(fastrand::f64())).await;
}
