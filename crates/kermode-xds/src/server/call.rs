//! One call of ADS, and the session of a proxy that was let in.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use kermode_authentication::ProxyIdentity;
use kermode_envoy::ResourceKind;
use kermode_http2::AfterCall;
use kermode_limit::{LimitReached, Revoked};
use kermode_protocol::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use kermode_removals::StreamAcknowledgements;
use prometheus_client::metrics::gauge::Gauge;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Sleep;
use tonic::{Code, Status};

use super::messages::{Requests, Responses};
use super::status::Reporter;
use super::{Metrics, ProxyId, Shared};
use crate::store::Watcher;
use crate::stream::{Event, Output, Response, Stream};

/// Envoy's explanation of a rejection is kept, logged and shown: that much of it, in bytes.
const LONGEST_EXPLANATION: usize = 1024;
/// How much of a node id that makes no sense is told back, in characters.
const LONGEST_ID: usize = 100;

/// A stream that was let in.
struct Introduced {
    identity: ProxyIdentity,
    proxy: ProxyId,
    first: DeltaDiscoveryRequest,
    subscription: Watcher,
    starting: Starting,
}

/// A stream that does not have its whole configuration yet.
struct Starting {
    _permit: OwnedSemaphorePermit,
    /// When it does not count as such any more.
    end: Pin<Box<Sleep>>,
}

/// One call, of whoever makes it.
pub(super) struct Call {
    pub(super) shared: Arc<Shared>,
    pub(super) requests: Requests,
    pub(super) responses: Responses,
}

impl Call {
    /// Serves it to its end.
    pub(super) async fn serve(mut self, metadata: http::HeaderMap) -> AfterCall {
        let (status, after) = match self.run(metadata).await {
            End::Gone => (None, AfterCall::KeepConnection),
            End::Status(status) => (Some(status), AfterCall::KeepConnection),
            End::Elsewhere(status) => (Some(status), AfterCall::CloseConnection),
        };
        self.responses.end(status.as_ref());
        after
    }

    async fn run(&mut self, metadata: http::HeaderMap) -> End {
        let authenticated = tokio::select! {
            authenticated = authenticate(&self.shared, metadata) => authenticated,
            () = self.responses.unwanted() => return End::Gone,
        };
        let identity = match authenticated {
            Ok(identity) => identity,
            Err(status) => return End::Status(refused(&self.shared, status)),
        };
        let mut permit = match self.shared.open.acquire_superseding(&identity.key) {
            Ok(permit) => permit,
            Err(reached) => return End::Elsewhere(refused(&self.shared, full(reached))),
        };
        tokio::select! {
            end = self.serve_authenticated(identity) => end,
            revoked = permit.revoked() => match revoked {
                Revoked::Superseded => End::Status(Status::aborted("a newer stream of this proxy took its place")),
                Revoked::Evicted => {
                    self.shared.metrics.handed_over.inc();
                    End::Elsewhere(Status::unavailable(
                        "this replica has more proxies than its share; another one serves",
                    ))
                }
            },
        }
    }

    async fn serve_authenticated(&mut self, identity: ProxyIdentity) -> End {
        let shared = self.shared.clone();
        let mut handover = Handover::new();
        handover.push(hand_over(shared.shutdown.clone(), shared.settings.handover).boxed());
        // In a box, as what takes long and is then over.
        let introducing = Box::pin(introduce(&shared, identity, &mut self.requests));
        let introduced = tokio::select! {
            introduced = introducing => introduced,
            Some(()) = handover.next() => Err(shutting_down()),
            () = self.responses.unwanted() => return End::Gone,
        };
        let (mut session, first) = match introduced {
            Ok(introduced) => Session::open(&shared, introduced),
            Err(status) => return End::Status(refused(&shared, status)),
        };
        let _connected = Counted::by(&shared.metrics.connected);
        session.run(self, first, handover).await
    }
}

/// Learns who calls. Nothing of the stream but its metadata has been read yet: a stranger costs no more than its window.
async fn authenticate(shared: &Shared, metadata: http::HeaderMap) -> Result<ProxyIdentity, Status> {
    let authenticated = shared.authenticator.authenticate(&metadata);
    tokio::time::timeout(shared.settings.first_request, authenticated)
        .await
        .map_err(|_| Status::unavailable("authentication took too long"))?
}

/// Notes that a stream is not let in; returns why.
fn refused(shared: &Shared, status: Status) -> Status {
    shared.metrics.refused.inc();
    tracing::debug!(code = ?status.code(), "stream refused: {}", status.message());
    status
}

/// Waits until the caller's Dataplane is known and it is its turn, then learns whether the stream is for that Dataplane.
async fn introduce(
    shared: &Shared,
    identity: ProxyIdentity,
    requests: &mut Requests,
) -> Result<Introduced, Status> {
    let mut subscription = shared.store.watch(&identity.key);
    let known = known(shared, &identity, &mut subscription);
    match tokio::time::timeout(shared.settings.first_request, known).await {
        Ok(known) => known?,
        // The reason why it had to wait.
        Err(_) => shared.authenticator.authorize(&identity)?,
    }
    let waiting = Counted::by(&shared.metrics.waiting);
    let turn = shared.starting.clone().acquire_owned();
    let turn = tokio::time::timeout(shared.settings.turn, turn).await;
    drop(waiting);
    let Ok(Ok(permit)) = turn else {
        return Err(Status::unavailable(
            "too many proxies get their first configuration",
        ));
    };
    let starting = Starting {
        _permit: permit,
        end: Box::pin(tokio::time::sleep(shared.settings.start)),
    };
    let first = tokio::time::timeout(shared.settings.start, requests.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no request came"))??
        .ok_or_else(|| Status::cancelled("no request came"))?;
    // Its Pod may have gone while it waited, and another one have its name.
    shared.authenticator.authorize(&identity)?;
    let proxy = named(&first)?;
    if proxy.key != identity.key {
        tracing::warn!(caller = %identity.key, proxy = %proxy.key, "proxy refused: it asks for what is another's");
        return Err(Status::permission_denied(format!(
            "the token is that of Pod {}, the node id that of {}",
            identity.key, proxy.key
        )));
    }
    Ok(Introduced {
        identity,
        proxy,
        first,
        subscription,
        starting,
    })
}

fn named(request: &DeltaDiscoveryRequest) -> Result<ProxyId, Status> {
    let id = request
        .node
        .as_ref()
        .map(|node| node.id.as_str())
        .unwrap_or_default();
    ProxyId::from_node_id(id).ok_or_else(|| {
        let id: String = id.chars().take(LONGEST_ID).collect();
        Status::invalid_argument(format!(
            "node id {id:?} is not of the form <mesh>.<pod>.<namespace>"
        ))
    })
}

/// Waits until the caller's Dataplane is there: a sidecar may be faster than the watch that tells of its Pod. What
/// publishes for the proxy wakes us, so nobody polls.
async fn known(shared: &Shared, identity: &ProxyIdentity, subscription: &mut Watcher) -> Result<(), Status> {
    loop {
        match shared.authenticator.authorize(identity) {
            Err(status) if status.code() == Code::NotFound => subscription.changed().await,
            decided => return decided,
        }
    }
}

fn full(reached: LimitReached) -> Status {
    let (LimitReached::Total(most) | LimitReached::PerKey(most)) = reached;
    Status::resource_exhausted(format!(
        "this replica has {most} streams, which is all that it may have: run more replicas"
    ))
}

fn shutting_down() -> Status {
    Status::unavailable("this replica shuts down; another one serves")
}

fn shorten_explanation(request: &mut DeltaDiscoveryRequest) {
    if let Some(error) = &mut request.error_detail {
        let end = error.message.floor_char_boundary(LONGEST_EXPLANATION);
        error.message.truncate(end);
    }
}

/// Counts a stream while it lives.
struct Counted<'a>(&'a Gauge);

impl<'a> Counted<'a> {
    fn by(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What ends a stream from our side.
enum End {
    /// The client has gone.
    Gone,
    /// We end it, and say why.
    Status(Status),
    /// We end it, since another replica is better for the proxy, and say why.
    Elsewhere(Status),
}

/// A stream that was let in, apart from its messages.
struct Session {
    identity: ProxyIdentity,
    proxy: ProxyId,
    subscription: Watcher,
    stream: Stream,
    starting: Option<Starting>,
    metrics: Metrics,
    /// Nonces of responses that are not acknowledged yet, and when they were sent. At most one of each kind that we serve.
    sent: Vec<(String, Instant)>,
    reporter: Reporter,
    acknowledgements: StreamAcknowledgements,
    /// Whether the end has been logged, or another place does that.
    told: bool,
}

/// What is to be sent, in this order, or why the stream has to end.
type Step = Result<Vec<DeltaDiscoveryResponse>, Status>;

/// When the stream is to be served by another replica: one moment, polled only when it may have come. What it waits for is
/// one for all streams.
type Handover = FuturesUnordered<BoxFuture<'static, ()>>;

impl Session {
    /// Returns what its first request leads to as well.
    fn open(shared: &Arc<Shared>, introduced: Introduced) -> (Box<Self>, Step) {
        let Introduced {
            identity,
            proxy,
            first,
            subscription,
            starting,
        } = introduced;
        tracing::info!(proxy = %proxy.key, mesh = %proxy.mesh, "proxy connected");
        let versions = first.node.as_ref().map(Node::versions).unwrap_or_default();
        let mut session = Box::new(Self {
            identity,
            subscription,
            starting: Some(starting),
            stream: Stream::new(shared.settings.limits),
            metrics: shared.metrics.clone(),
            acknowledgements: shared.removals.stream_opened(&proxy.key, &proxy.mesh),
            sent: Vec::new(),
            reporter: Reporter::open(shared.clone(), proxy.clone(), versions),
            proxy,
            told: false,
        });
        let step = session.on_request(first);
        (session, step)
    }

    async fn run(&mut self, call: &mut Call, first: Step, handover: Handover) -> End {
        let end = self.work(call, first, handover).await;
        if let End::Status(status) = &end {
            if !matches!(status.code(), Code::Unavailable | Code::NotFound) {
                call.shared.metrics.refused.inc();
                tracing::warn!(proxy = %self.proxy.key, "stream ended: {}", status.message());
            }
            self.told = true;
        }
        end
    }

    async fn work(&mut self, call: &mut Call, mut step: Step, mut handover: Handover) -> End {
        loop {
            let responses = match step {
                Ok(responses) => responses,
                Err(status) => return End::Status(status),
            };
            for response in responses {
                let mut sending = std::pin::pin!(call.responses.send(response));
                let sent = match futures::poll!(&mut sending) {
                    Poll::Ready(sent) => sent.map_err(|status| self.broken(&status)),
                    // In a box, since it is seldom.
                    Poll::Pending => {
                        let reading = call.shared.settings.reading;
                        Box::pin(self.send_slowly(sending, reading, &mut handover)).await
                    }
                };
                if let Err(end) = sent {
                    return end;
                }
            }
            if self.starting.is_some() && self.stream.is_started() {
                self.starting = None;
            }
            step = tokio::select! {
                request = call.requests.message() => match request {
                    Ok(Some(request)) => self.on_request(request),
                    Ok(None) => return End::Gone,
                    Err(status) => return self.broken(&status),
                },
                () = self.subscription.changed() => match call.shared.authenticator.authorize(&self.identity) {
                    Ok(()) => Ok(self.on_change()),
                    // Its Pod has gone, or another one has its name now.
                    Err(status) => Err(status),
                },
                () = ended(&mut self.starting) => {
                    self.starting = None;
                    Ok(Vec::new())
                }
                Some(()) = handover.next() => Err(shutting_down()),
            };
        }
    }

    /// Goes on sending to a proxy that does not read as fast, while which nothing else is lost sight of that has an end.
    async fn send_slowly(
        &mut self,
        mut sending: Pin<&mut impl Future<Output = Result<(), Status>>>,
        patience: Duration,
        handover: &mut Handover,
    ) -> Result<(), End> {
        let mut late = std::pin::pin!(tokio::time::sleep(patience));
        loop {
            tokio::select! {
                sent = &mut sending => return sent.map_err(|status| self.broken(&status)),
                () = ended(&mut self.starting) => self.starting = None,
                Some(()) = handover.next() => return Err(End::Status(shutting_down())),
                () = &mut late => {
                    let text = format!("the proxy did not read a response within {patience:?}");
                    return Err(End::Status(Status::deadline_exceeded(text)));
                }
            }
        }
    }

    fn on_request(&mut self, mut request: DeltaDiscoveryRequest) -> Step {
        shorten_explanation(&mut request);
        let answered = self
            .sent
            .iter()
            .position(|(nonce, _)| *nonce == request.response_nonce);
        if let Some(answered) = answered {
            let (_, sent) = self.sent.swap_remove(answered);
            self.metrics
                .of(ResourceKind::from_type_url(&request.type_url))
                .acknowledged
                .observe(sent.elapsed().as_secs_f64());
        }
        let Self {
            subscription, stream, ..
        } = self;
        let (changed, output, confirmed) = subscription.read(|view, changes| {
            // The machine has to know what changed before it acts on a view that holds the change: a listener would
            // not wait for a cluster that nobody told it of.
            let changed = stream.on_change(changes, view.as_ref());
            let output = stream.on_request(request, view.as_ref());
            (
                changed,
                output,
                view.and_then(|view| stream.acknowledged_sequence(&view)),
            )
        });
        let output = output.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        self.acknowledgements.acknowledge(confirmed);
        let mut responses = self.emit(changed);
        responses.append(&mut self.emit(output));
        Ok(responses)
    }

    fn on_change(&mut self) -> Vec<DeltaDiscoveryResponse> {
        let Self {
            subscription, stream, ..
        } = self;
        let (output, confirmed) = subscription.read(|view, changes| {
            let output = stream.on_change(changes, view.as_ref());
            // What is on its way is confirmed by its answer: no need to say now what was confirmed before it.
            let confirmed = view.filter(|_| !stream.is_in_flight(ResourceKind::Endpoints));
            (
                output,
                confirmed.and_then(|view| stream.acknowledged_sequence(&view)),
            )
        });
        self.acknowledgements.acknowledge(confirmed);
        self.emit(output)
    }

    /// Notes what comes of a step.
    fn emit(&mut self, output: Output) -> Vec<DeltaDiscoveryResponse> {
        for event in output.events {
            self.report(&event);
        }
        let mut responses = Vec::with_capacity(output.responses.len());
        for Response {
            kind,
            message: response,
        } in output.responses
        {
            let metrics = self.metrics.of(kind);
            metrics.responses.inc();
            metrics.response_bytes.inc_by(response.encoded_len() as u64);
            self.reporter.sent(&response);
            if kind.is_some() {
                self.sent.push((response.nonce.clone(), Instant::now()));
            }
            responses.push(response);
        }
        self.reporter.progress(&self.stream);
        responses
    }

    fn broken(&self, status: &Status) -> End {
        tracing::debug!(proxy = %self.proxy.key, "stream broke: {}", status.message());
        End::Gone
    }

    fn report(&self, event: &Event) {
        if let Event::Rejected {
            kind,
            resources,
            message,
        } = event
        {
            self.metrics.of(Some(*kind)).rejections.inc();
            let names: Vec<_> = resources.iter().map(|resource| &*resource.name).collect();
            tracing::warn!(proxy = %self.proxy.key, ?kind, ?names, "configuration rejected: {message}");
            self.reporter.rejected(*kind, &names, message);
        }
    }
}

/// A stream ends with its connection too, and then nothing of it runs any more.
impl Drop for Session {
    fn drop(&mut self) {
        if !self.told {
            tracing::info!(proxy = %self.proxy.key, "proxy disconnected");
        }
    }
}

/// Completes when a stream has been starting for too long, else never.
async fn ended(starting: &mut Option<Starting>) {
    match starting {
        Some(starting) => starting.end.as_mut().await,
        None => std::future::pending().await,
    }
}

/// Completes some time after shutdown is asked for, a different time for each stream.
async fn hand_over(mut shutdown: watch::Receiver<bool>, span: std::time::Duration) {
    // An error means that the sender is gone, which asks as well.
    let _ = shutdown.wait_for(|requested| *requested).await;
    tokio::time::sleep(span.mul_f64(fastrand::f64())).await;
}
