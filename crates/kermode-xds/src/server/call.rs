//! One ADS call: authentication and admission of the stream, then the session that exchanges messages.
//!
//! A call carries one stream. An authenticated stream is admitted once the caller's Dataplane is indexed, the stream
//! has a start permit, and its first request names that Dataplane.

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
use kermode_limit::{Revoked, TotalLimitReached};
use kermode_protocol::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use kermode_removals::StreamAcknowledgements;
use prometheus_client::metrics::gauge::Gauge;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Sleep;
use tonic::{Code, Status};

use super::messages::{Requests, Responses};
use super::status::Reporter;
use super::{AdsServerState, Metrics, ProxyId};
use crate::store::{View, Watcher};
use crate::stream::{Event, Output, Response, Stream};

/// Maximum length of Envoy's error message for a rejected response, in bytes. The message is stored for each rejected
/// resource, logged, and shown in statuses.
const MAX_ERROR_MESSAGE_LENGTH: usize = 1024;
/// Maximum number of characters of an invalid node id in the error message. The caller may send an id of any length.
const MAX_SHOWN_ID_LENGTH: usize = 100;

/// An authenticated and authorized stream with a start permit.
struct AdmittedStream {
    identity: ProxyIdentity,
    proxy: ProxyId,
    first_request: DeltaDiscoveryRequest,
    watcher: Watcher,
    start_permit: StartPermit,
}

/// Permit to send a proxy its first configuration (see [`super::Settings::concurrent_starts`]). Held until the proxy
/// has the whole first configuration, or until the expiry.
struct StartPermit {
    _permit: OwnedSemaphorePermit,
    /// Completes when the permit must be released even if the proxy does not have its first configuration.
    expiry: Pin<Box<Sleep>>,
}

/// One ADS call.
pub(super) struct Call {
    pub(super) state: Arc<AdsServerState>,
    pub(super) requests: Requests,
    pub(super) responses: Responses,
}

impl Call {
    /// Serves the call until it ends.
    pub(super) async fn serve(mut self, metadata: http::HeaderMap) -> AfterCall {
        let (status, after) = match self.run(metadata).await {
            StreamEnd::ClientGone => (None, AfterCall::KeepConnection),
            StreamEnd::Status(status) => (Some(status), AfterCall::KeepConnection),
            StreamEnd::CloseConnection(status) => (Some(status), AfterCall::CloseConnection),
        };
        self.responses.end(status.as_ref());
        after
    }

    async fn run(&mut self, metadata: http::HeaderMap) -> StreamEnd {
        let authenticated = tokio::select! {
            authenticated = authenticate(&self.state, metadata) => authenticated,
            () = self.responses.wait_for_reset() => return StreamEnd::ClientGone,
        };
        let identity = match authenticated {
            Ok(identity) => identity,
            Err(status) => return StreamEnd::Status(record_denial(&self.state, status)),
        };
        let mut stream_permit = match self.state.open_streams.acquire_superseding(&identity.key) {
            Ok(stream_permit) => stream_permit,
            Err(reached) => {
                return StreamEnd::CloseConnection(record_denial(&self.state, limit_status(reached)));
            }
        };
        tokio::select! {
            end = self.serve_authenticated(identity) => end,
            revoked = stream_permit.revoked() => match revoked {
                Revoked::Superseded => StreamEnd::Status(Status::aborted("superseded by a newer stream of this proxy")),
                Revoked::Evicted => {
                    self.state.metrics.evicted.inc();
                    StreamEnd::CloseConnection(Status::unavailable(
                        "evicted to rebalance proxies among the replicas; connect again",
                    ))
                }
            },
        }
    }

    async fn serve_authenticated(&mut self, identity: ProxyIdentity) -> StreamEnd {
        let state = self.state.clone();
        let mut shutdown = ShutdownDeadline::new();
        shutdown.push(shutdown_deadline(state.shutdown.clone(), state.settings.shutdown_period).boxed());
        // The future is boxed, so that its memory is freed once the stream is admitted.
        let admission = Box::pin(admit(&state, identity, &mut self.requests));
        let admitted = tokio::select! {
            admitted = admission => admitted,
            Some(()) = shutdown.next() => Err(shutdown_status()),
            () = self.responses.wait_for_reset() => return StreamEnd::ClientGone,
        };
        let (mut session, first_step) = match admitted {
            Ok(admitted) => Session::open(&state, admitted),
            Err(status) => return StreamEnd::Status(record_denial(&state, status)),
        };
        let _connected = GaugeGuard::new(&state.metrics.connected);
        session.run(self, first_step, shutdown).await
    }
}

/// Authenticates the caller by the call's metadata. No message is read before authentication, so an unauthenticated
/// caller takes at most the memory of its receive window.
async fn authenticate(state: &AdsServerState, metadata: http::HeaderMap) -> Result<ProxyIdentity, Status> {
    let authenticated = state.authenticator.authenticate(&metadata);
    tokio::time::timeout(state.settings.authentication_timeout, authenticated)
        .await
        .map_err(|_| Status::unavailable("authentication timed out"))?
}

/// Counts and logs a denied stream. Returns the status.
fn record_denial(state: &AdsServerState, status: Status) -> Status {
    state.metrics.failed.inc();
    tracing::debug!(code = ?status.code(), "stream denied: {}", status.message());
    status
}

/// Waits for the caller's Dataplane and for a start permit, then checks that the first request names this Dataplane.
async fn admit(
    state: &AdsServerState,
    identity: ProxyIdentity,
    requests: &mut Requests,
) -> Result<AdmittedStream, Status> {
    let mut watcher = state.store.watch(&identity.key);
    let waiting_for_dataplane = wait_for_dataplane(state, &identity, &mut watcher);
    match tokio::time::timeout(state.settings.authentication_timeout, waiting_for_dataplane).await {
        Ok(authorized) => authorized?,
        // The wait has timed out. Unless the Dataplane has just been indexed, this last check fails, and its error is
        // the reason of the denial.
        Err(_) => state.authenticator.authorize(&identity)?,
    }
    let waiting = GaugeGuard::new(&state.metrics.waiting);
    let permit = state.start_permits.clone().acquire_owned();
    let permit = tokio::time::timeout(state.settings.start_queue_timeout, permit).await;
    drop(waiting);
    let Ok(Ok(permit)) = permit else {
        return Err(Status::unavailable(
            "too many proxies wait for their first configuration from this replica; try again",
        ));
    };
    let start_permit = StartPermit {
        _permit: permit,
        expiry: Box::pin(tokio::time::sleep(state.settings.start_timeout)),
    };
    let first_request = tokio::time::timeout(state.settings.start_timeout, requests.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the first request did not arrive in time"))??
        .ok_or_else(|| Status::cancelled("the call ended before its first request"))?;
    // The Pod may have been deleted while the stream waited, and another Pod may have its name.
    state.authenticator.authorize(&identity)?;
    let proxy = claimed_proxy(&first_request)?;
    if proxy.key != identity.key {
        tracing::warn!(caller = %identity.key, proxy = %proxy.key, "stream denied: the node id belongs to another proxy");
        return Err(Status::permission_denied(format!(
            "the token belongs to Pod {}, but the node id names Pod {}",
            identity.key, proxy.key
        )));
    }
    Ok(AdmittedStream {
        identity,
        proxy,
        first_request,
        watcher,
        start_permit,
    })
}

/// Returns the proxy that the request's node id names.
fn claimed_proxy(request: &DeltaDiscoveryRequest) -> Result<ProxyId, Status> {
    let id = request
        .node
        .as_ref()
        .map(|node| node.id.as_str())
        .unwrap_or_default();
    ProxyId::from_node_id(id).ok_or_else(|| {
        let id: String = id.chars().take(MAX_SHOWN_ID_LENGTH).collect();
        Status::invalid_argument(format!(
            "node id {id:?} is not of the form <mesh>.<pod>.<namespace>"
        ))
    })
}

/// Waits until the caller's Dataplane is indexed, because a sidecar may connect before the watch has delivered its Pod.
/// Publishing the proxy's resources wakes the watcher.
async fn wait_for_dataplane(
    state: &AdsServerState,
    identity: &ProxyIdentity,
    watcher: &mut Watcher,
) -> Result<(), Status> {
    loop {
        match state.authenticator.authorize(identity) {
            Err(status) if status.code() == Code::NotFound => watcher.changed().await,
            authorized => return authorized,
        }
    }
}

fn limit_status(TotalLimitReached(limit): TotalLimitReached) -> Status {
    Status::resource_exhausted(format!(
        "this replica serves {limit} streams, which is its limit: run more replicas"
    ))
}

fn shutdown_status() -> Status {
    Status::unavailable("this replica is shutting down; connect to another one")
}

fn truncate_error_message(request: &mut DeltaDiscoveryRequest) {
    if let Some(error) = &mut request.error_detail {
        let end = error.message.floor_char_boundary(MAX_ERROR_MESSAGE_LENGTH);
        error.message.truncate(end);
    }
}

/// Counts a stream in a gauge until the guard is dropped.
struct GaugeGuard<'a>(&'a Gauge);

impl<'a> GaugeGuard<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Reason why a stream ends.
enum StreamEnd {
    /// The client ended the stream, or the connection broke.
    ClientGone,
    /// The server ends the stream with this status.
    Status(Status),
    /// The server ends the stream with this status and then the connection, so that the proxy may reach another
    /// replica.
    CloseConnection(Status),
}

/// An admitted stream, apart from its transport.
struct Session {
    identity: ProxyIdentity,
    proxy: ProxyId,
    watcher: Watcher,
    stream: Stream,
    /// Present until the proxy has its first configuration or the permit expires.
    start_permit: Option<StartPermit>,
    hold_timer: HoldTimer,
    metrics: Metrics,
    /// Nonce and send time of each response in flight: at most one for each served kind.
    in_flight: Vec<(String, Instant)>,
    reporter: Reporter,
    acknowledgements: StreamAcknowledgements,
    /// Whether names beyond the limit on names without a resource were ignored, and this was logged.
    has_ignored_names: bool,
    /// Whether the session itself ended the stream with a status. If not, dropping the session logs that the proxy
    /// disconnected. The log line also covers superseded and evicted streams, whose sessions are dropped.
    has_ended_with_status: bool,
}

/// Result of a step of the session (a request, a change of the view, or a deadline of held resources): responses to
/// send, in this order, or the status that ends the stream.
type Step = Result<Vec<DeltaDiscoveryResponse>, Status>;

/// Completes when the stream has to end because of shutdown. All streams share the shutdown signal, so polling the
/// signal at every wake-up of a stream would cause contention. `FuturesUnordered` polls its only future only after the
/// signal has woken that future.
type ShutdownDeadline = FuturesUnordered<BoxFuture<'static, ()>>;

impl Session {
    /// Starts the session. Returns the session and the responses to the first request.
    fn open(state: &Arc<AdsServerState>, admitted: AdmittedStream) -> (Box<Self>, Step) {
        let AdmittedStream {
            identity,
            proxy,
            first_request,
            watcher,
            start_permit,
        } = admitted;
        tracing::info!(proxy = %proxy.key, mesh = %proxy.mesh, "proxy connected");
        let versions = first_request
            .node
            .as_ref()
            .map(Node::versions)
            .unwrap_or_default();
        let mut session = Box::new(Self {
            identity,
            watcher,
            start_permit: Some(start_permit),
            hold_timer: HoldTimer::default(),
            stream: Stream::new(state.settings.limits),
            metrics: state.metrics.clone(),
            acknowledgements: state.removals.on_stream_opened(&proxy.key, &proxy.mesh),
            in_flight: Vec::new(),
            reporter: Reporter::open(state.clone(), proxy.clone(), versions),
            proxy,
            has_ignored_names: false,
            has_ended_with_status: false,
        });
        let first_step = session.on_request(first_request);
        (session, first_step)
    }

    async fn run(&mut self, call: &mut Call, first_step: Step, shutdown: ShutdownDeadline) -> StreamEnd {
        let end = self.exchange(call, first_step, shutdown).await;
        if let StreamEnd::Status(status) = &end {
            // The shutdown of the replica and the deletion of the Pod are no failures of the stream.
            if !matches!(status.code(), Code::Unavailable | Code::NotFound) {
                call.state.metrics.failed.inc();
                tracing::warn!(proxy = %self.proxy.key, "stream ended: {}", status.message());
            }
            self.has_ended_with_status = true;
        }
        end
    }

    /// Exchanges messages until the stream ends. The initial `step` is the result of the first request.
    async fn exchange(
        &mut self,
        call: &mut Call,
        mut step: Step,
        mut shutdown: ShutdownDeadline,
    ) -> StreamEnd {
        loop {
            let responses = match step {
                Ok(responses) => responses,
                Err(status) => return StreamEnd::Status(status),
            };
            for response in responses {
                let mut sending = std::pin::pin!(call.responses.send(response));
                let sent = match futures::poll!(&mut sending) {
                    Poll::Ready(sent) => sent.map_err(|status| self.connection_broke(&status)),
                    // The future is boxed, so that it takes memory only while sending waits. Most responses are sent at
                    // once.
                    Poll::Pending => {
                        let timeout = call.state.settings.read_timeout;
                        Box::pin(self.finish_sending(sending, timeout, &mut shutdown)).await
                    }
                };
                if let Err(end) = sent {
                    return end;
                }
            }
            if self.start_permit.is_some() && self.stream.has_first_configuration() {
                self.start_permit = None;
            }
            let now = Instant::now();
            self.hold_timer.set(self.stream.next_deadline(now), now);
            step = tokio::select! {
                request = call.requests.message() => match request {
                    Ok(Some(request)) => self.on_request(request),
                    Ok(None) => return StreamEnd::ClientGone,
                    Err(status) => return self.connection_broke(&status),
                },
                () = self.watcher.changed() => match call.state.authenticator.authorize(&self.identity) {
                    Ok(()) => Ok(self.on_change()),
                    // The Pod was deleted, or another Pod has its name now.
                    Err(status) => Err(status),
                },
                () = start_permit_expiry(&mut self.start_permit) => {
                    self.start_permit = None;
                    Ok(Vec::new())
                }
                () = self.hold_timer.wait_for_expiry() => Ok(self.on_deadline()),
                Some(()) = shutdown.next() => Err(shutdown_status()),
            };
        }
    }

    /// Finishes sending to a proxy that reads slowly. Returns an error if the connection breaks, if the proxy does not
    /// read the response within `timeout`, or if the replica shuts down. Meanwhile, also releases the start permit at
    /// its expiry.
    async fn finish_sending(
        &mut self,
        mut sending: Pin<&mut impl Future<Output = Result<(), Status>>>,
        timeout: Duration,
        shutdown: &mut ShutdownDeadline,
    ) -> Result<(), StreamEnd> {
        let mut read_timeout = std::pin::pin!(tokio::time::sleep(timeout));
        loop {
            tokio::select! {
                sent = &mut sending => return sent.map_err(|status| self.connection_broke(&status)),
                () = start_permit_expiry(&mut self.start_permit) => self.start_permit = None,
                Some(()) = shutdown.next() => return Err(StreamEnd::Status(shutdown_status())),
                () = &mut read_timeout => {
                    let text = format!("the proxy did not read a response within {timeout:?}");
                    return Err(StreamEnd::Status(Status::deadline_exceeded(text)));
                }
            }
        }
    }

    fn on_request(&mut self, mut request: DeltaDiscoveryRequest) -> Step {
        truncate_error_message(&mut request);
        let position = self
            .in_flight
            .iter()
            .position(|(nonce, _)| *nonce == request.response_nonce);
        if let Some(position) = position {
            let (_, sent_at) = self.in_flight.swap_remove(position);
            self.metrics
                .of(ResourceKind::from_type_url(&request.type_url))
                .acknowledgement
                .observe(sent_at.elapsed().as_secs_f64());
        }
        let Self { watcher, stream, .. } = self;
        let (change_output, request_output, acknowledged) = watcher.read(|view, changes| {
            // The changes are applied before the request. The response to the request may contain a changed listener,
            // and the state machine delays the listener only for clusters whose changes it has already recorded.
            let change_output = stream.on_change(changes, view.as_ref());
            let request_output = stream.on_request(request, view.as_ref());
            (
                change_output,
                request_output,
                view.and_then(|view| stream.acknowledged_sequence(&view)),
            )
        });
        let request_output = request_output.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        self.acknowledgements.acknowledge(acknowledged);
        let mut responses = self.record(change_output);
        responses.append(&mut self.record(request_output));
        Ok(responses)
    }

    fn on_change(&mut self) -> Vec<DeltaDiscoveryResponse> {
        self.step(|_, _| Output::default())
    }

    /// Releases the held resources whose deadline has passed. Returns the responses that may be sent now.
    fn on_deadline(&mut self) -> Vec<DeltaDiscoveryResponse> {
        self.step(|stream, view| stream.on_deadline(Instant::now(), view))
    }

    /// Applies the changes of the view, then calls `handle`. Reports the acknowledged sequence number. Returns the
    /// responses to the changes, then the responses of `handle`.
    fn step(
        &mut self,
        handle: impl FnOnce(&mut Stream, Option<&View<'_>>) -> Output,
    ) -> Vec<DeltaDiscoveryResponse> {
        let Self { watcher, stream, .. } = self;
        let (output, acknowledged) = watcher.read(|view, changes| {
            let mut output = stream.on_change(changes, view.as_ref());
            output.responses.extend(handle(stream, view.as_ref()).responses);
            // While endpoints are in flight, the acknowledged sequence number is not reported, because the ACK of these
            // endpoints reports a higher number.
            let view_for_acknowledgement = view.filter(|_| !stream.is_in_flight(ResourceKind::Endpoints));
            (
                output,
                view_for_acknowledgement.and_then(|view| stream.acknowledged_sequence(&view)),
            )
        });
        self.acknowledgements.acknowledge(acknowledged);
        self.record(output)
    }

    /// Records the events and responses of a step in the metrics and in the status of the proxy. Returns the responses.
    fn record(&mut self, output: Output) -> Vec<DeltaDiscoveryResponse> {
        for event in output.events {
            self.record_event(&event);
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
            self.reporter.on_sent(&response);
            if kind.is_some() {
                self.in_flight.push((response.nonce.clone(), Instant::now()));
            }
            responses.push(response);
        }
        self.reporter.on_progress(&self.stream);
        responses
    }

    /// Logs the error of a broken connection. Returns the reason why the stream ends.
    fn connection_broke(&self, status: &Status) -> StreamEnd {
        tracing::debug!(proxy = %self.proxy.key, "connection of the stream broke: {}", status.message());
        StreamEnd::ClientGone
    }

    /// Counts, logs and reports a rejection. Counts ignored names, and logs the first ones of the stream. Ignores ACKs.
    fn record_event(&mut self, event: &Event) {
        match event {
            Event::Acknowledged { .. } => {}
            Event::Rejected {
                kind,
                resources,
                message,
            } => {
                self.metrics.of(Some(*kind)).rejections.inc();
                let names: Vec<_> = resources.iter().map(|resource| &*resource.name).collect();
                tracing::warn!(proxy = %self.proxy.key, ?kind, ?names, "Envoy rejected configuration: {message}");
                self.reporter.on_rejected(*kind, &names, message);
            }
            Event::NamesIgnored { kind, count } => {
                self.metrics.names_ignored.inc_by(*count as u64);
                if !std::mem::replace(&mut self.has_ignored_names, true) {
                    tracing::warn!(
                        proxy = %self.proxy.key,
                        ?kind,
                        "Envoy asked for too many resources that do not exist: the application may scan addresses; \
                         connections to further addresses without a service fail, also if one of them gets a service later"
                    );
                }
            }
        }
    }
}

// Logs in `drop`, because a session is dropped before it completes if its connection breaks, or if its stream is
// superseded or evicted.
impl Drop for Session {
    fn drop(&mut self) {
        if !self.has_ended_with_status {
            tracing::info!(proxy = %self.proxy.key, "proxy disconnected");
        }
    }
}

/// Timer for the held resources of a stream. A held resource is an on-demand resource that is not sent until the client
/// has ACKed or NACKed other resources, or until a deadline. The timer runs until the earliest deadline; without held
/// resources, it does not run.
#[derive(Default)]
struct HoldTimer {
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl HoldTimer {
    /// Sets the timer to the deadline, or stops it. Does nothing if the deadline has not changed.
    fn set(&mut self, deadline: Option<Instant>, now: Instant) {
        if self.deadline != deadline {
            self.deadline = deadline;
            let remaining = deadline.map(|deadline| deadline.saturating_duration_since(now));
            self.sleep = remaining.map(|remaining| Box::pin(tokio::time::sleep(remaining)));
        }
    }

    /// Completes at the deadline. Never completes without a deadline.
    async fn wait_for_expiry(&mut self) {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().await,
            None => std::future::pending().await,
        }
    }
}

/// Completes when the start permit expires. Never completes without a start permit.
async fn start_permit_expiry(start_permit: &mut Option<StartPermit>) {
    match start_permit {
        Some(permit) => permit.expiry.as_mut().await,
        None => std::future::pending().await,
    }
}

/// Completes at a random moment within `period` after the start of shutdown.
async fn shutdown_deadline(mut shutdown: watch::Receiver<bool>, period: Duration) {
    // An error means that the sender was dropped, which requests shutdown, too.
    let _ = shutdown.wait_for(|requested| *requested).await;
    tokio::time::sleep(period.mul_f64(fastrand::f64())).await;
}
