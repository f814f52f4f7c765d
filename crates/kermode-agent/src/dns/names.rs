//! Names of the mesh (`.mesh`). The control plane is asked for a name when a client asks for it
//! ([`kermode_protocol::names`]), and its answer is kept for the TTL.
//!
//! While the control plane does not answer, the last known answers are served. Calls are paused after a failure, so that
//! the sidecars of a mesh do not burden a control plane that starts.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use kermode_limit::rate::{Rate, TokenBucket, Window};
use kermode_protocol::client::Client;
use kermode_protocol::names::{MAX_NAME_LENGTH, ResolveRequest, ResolveResponse};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use super::bounded::BoundedMap;
use super::message::{OWN_UDP_SIZE, Query};
use super::metrics::Metrics;
use crate::backoff::Backoff;
use crate::token::TokenFile;

/// Domain of all names of the mesh.
const DOMAIN: &str = "mesh";
/// Limit on known names.
const MAX_NAMES: usize = 1000;
/// Limit on the memory of all known names, in bytes.
const MAX_BYTES: usize = 256 * 1024;
/// Limit on the addresses of one name. Further addresses are not served.
const MAX_ADDRESSES: usize = 256;
/// Limit on concurrent calls. Each call is for another name.
const MAX_CALLS: usize = 64;
/// Rate limit of all calls to the control plane.
const CALL_RATE: Rate = Rate {
    burst: 200.0,
    per_second: 50.0,
};
/// Timeout of a call, connecting included. A client waits no longer than this.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for which a client waits for the control plane if the last known answer can be served instead.
const STALE_WAIT: Duration = Duration::from_millis(300);
/// TTL of an answer that the control plane did not confirm, in seconds.
const STALE_TTL: u32 = 5;
/// Upper bound of the TTL of an answer, in seconds.
const MAX_TTL: u32 = 300;
/// Upper bound of the pause of calls after a failure.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// TTL of negative responses that do not depend on the mesh, in seconds: for the domain itself, and for names that cannot
/// exist.
const CONSTANT_TTL: u32 = 60;
/// Period in which at most one failure of the control plane is logged.
const WARNING_PERIOD: Duration = Duration::from_mins(1);

/// Answer of the control plane about a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameAnswer {
    /// Whether the name exists. A name that exists may have no valid address.
    pub exists: bool,
    /// Addresses of both families.
    pub addresses: Vec<IpAddr>,
    /// Time for which the answer may be kept, in seconds.
    pub ttl: u32,
}

/// Source of answers about names of the mesh.
pub trait NameSource: Send + Sync + 'static {
    /// Returns the answer about a name, which is in lower case, without a dot at the end.
    fn resolve(&self, name: String) -> BoxFuture<'static, anyhow::Result<NameAnswer>>;
}

/// The control plane as the source of answers.
#[derive(Clone, Debug)]
pub struct ControlPlaneNames {
    /// Client of the control plane.
    pub client: Client,
    /// Token of the proxy.
    pub token: TokenFile,
}

/// Answers queries for names of the mesh.
pub(crate) struct MeshNames {
    source: Box<dyn NameSource>,
    state: Mutex<State>,
    metrics: Metrics,
}

struct State {
    known: BoundedMap<KnownName>,
    /// Running calls, by name.
    calls: HashMap<String, Call>,
    bucket: TokenBucket,
    backoff: Backoff,
    /// Last pause; `None` after a successful call.
    pause: Option<Pause>,
    warnings: Window,
    /// Whether a warning was logged since the last successful call.
    has_warned: bool,
}

/// Running call.
struct Call {
    started_at: Instant,
    /// Notified by the end of the call, which drops the sender.
    end: watch::Receiver<()>,
}

/// Pause of calls after a failure.
#[derive(Clone, Copy)]
struct Pause {
    since: Instant,
    until: Instant,
}

struct KnownName {
    answer: Arc<NameAnswer>,
    received_at: Instant,
}

/// Answer that is served, and the TTL of its records.
type ServedAnswer = (Arc<NameAnswer>, u32);

/// Subject of a query for a name that ends in the domain.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// The domain itself.
    Domain,
    /// A name that the control plane is asked for.
    Name(String),
    /// A name that cannot exist, because it is too long or has characters that no name of the mesh has.
    Impossible,
}

// === impl ControlPlaneNames ===

impl NameSource for ControlPlaneNames {
    fn resolve(&self, name: String) -> BoxFuture<'static, anyhow::Result<NameAnswer>> {
        let Self { client, token } = self.clone();
        Box::pin(async move {
            let authorization = token.authorization().await?;
            let response = match client.resolve_name(authorization, ResolveRequest { name }).await {
                Ok(response) => response,
                // A name that the control plane rejects is no failure, so it does not pause calls for other names.
                Err(status) if status.code() == Code::InvalidArgument => ResolveResponse {
                    ttl_seconds: CONSTANT_TTL,
                    ..ResolveResponse::default()
                },
                Err(status) => return Err(status).context("resolving a name failed"),
            };
            let addresses = response.addresses.iter().take(MAX_ADDRESSES);
            Ok(NameAnswer {
                exists: !response.addresses.is_empty(),
                addresses: addresses.filter_map(|address| address.parse().ok()).collect(),
                ttl: response.ttl_seconds,
            })
        })
    }
}

// === impl MeshNames ===

impl MeshNames {
    pub(crate) fn new(source: impl NameSource, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            source: Box::new(source),
            state: Mutex::new(State {
                known: BoundedMap::new(MAX_NAMES, MAX_BYTES),
                calls: HashMap::new(),
                bucket: TokenBucket::new(CALL_RATE, Instant::now().into_std()),
                backoff: Backoff::default(),
                pause: None,
                warnings: Window::new(1, WARNING_PERIOD),
                has_warned: false,
            }),
            metrics,
        })
    }

    /// Returns whether a query asks for a name of the mesh.
    pub(crate) fn has_name_of(query: &Query) -> bool {
        let last_label = query.question().name().iter().next_back();
        last_label.is_some_and(|label| label.eq_ignore_ascii_case(DOMAIN.as_bytes()))
    }

    /// Returns the response to a query for a name of the mesh, if it is known without asking the control plane.
    pub(crate) fn try_respond(&self, query: &Query) -> Option<Vec<u8>> {
        if let Some(code) = unsupported(query) {
            return Some(query.error_response(code));
        }
        let answer = match Target::of(query) {
            Target::Domain => {
                let domain = NameAnswer {
                    exists: true,
                    ..NameAnswer::default()
                };
                (Arc::new(domain), CONSTANT_TTL)
            }
            Target::Impossible => (Arc::default(), CONSTANT_TTL),
            Target::Name(name) => self.state.lock().fresh(&name, Instant::now())?,
        };
        Some(respond(query, &answer))
    }

    /// Returns the response to a query for a name of the mesh. Responds with `SERVFAIL` if the name is not known and the
    /// control plane does not answer.
    pub(crate) async fn respond(self: &Arc<Self>, query: &Query) -> Vec<u8> {
        if let Some(response) = self.try_respond(query) {
            return response;
        }
        let answer = match Target::of(query) {
            Target::Name(name) => self.resolve(&name).await,
            _ => None,
        };
        match answer {
            Some(answer) => respond(query, &answer),
            None => query.error_response(ResponseCode::ServFail),
        }
    }

    /// Asks the control plane, or waits for the call that another query caused.
    async fn resolve(self: &Arc<Self>, name: &str) -> Option<ServedAnswer> {
        let asked_at = Instant::now();
        let call = self.start_call(name);
        if let Some(mut call) = call {
            let wait = self.state.lock().wait_for_call(name, asked_at);
            // The channel carries no value: `changed` returns when the call has ended.
            let _ = timeout(wait, call.changed()).await;
        }
        let mut state = self.state.lock();
        let now = Instant::now();
        if let Some(answer) = state.fresh(name, now) {
            return Some(answer);
        }
        let (answer, received_at) = state.last_known(name)?;
        // An answer with TTL 0 is served only to queries that were waiting when it arrived.
        let ttl = if received_at >= asked_at { 0 } else { STALE_TTL };
        Some((answer, ttl))
    }

    /// Starts a call, unless one for the name is running. Returns `None` while calls are paused or at a limit.
    fn start_call(self: &Arc<Self>, name: &str) -> Option<watch::Receiver<()>> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if let Some(call) = state.calls.get(name) {
            return Some(call.end.clone());
        }
        let is_paused = state.pause.is_some_and(|pause| now < pause.until);
        if is_paused || state.calls.len() >= MAX_CALLS || !state.bucket.try_take(now.into_std()) {
            return None;
        }
        let (sender, receiver) = watch::channel(());
        let call = Call {
            started_at: now,
            end: receiver.clone(),
        };
        state.calls.insert(name.to_owned(), call);
        let names = self.clone();
        let name = name.to_owned();
        tokio::spawn(async move {
            names.call(&name, now).await;
            names.state.lock().calls.remove(&name);
            drop(sender);
        });
        Some(receiver)
    }

    /// Asks the control plane and stores its answer.
    async fn call(&self, name: &str, started_at: Instant) {
        let result = timeout(CALL_TIMEOUT, self.source.resolve(name.to_owned())).await;
        let result = result.unwrap_or_else(|_| {
            Err(anyhow::anyhow!(
                "the control plane did not answer within {CALL_TIMEOUT:?}"
            ))
        });
        // The control plane answers, although it has no address now.
        let is_refused = result
            .as_ref()
            .is_err_and(|error| has_code(error, Code::FailedPrecondition));
        self.metrics
            .count_control_plane_call(result.is_ok() || is_refused);
        let mut state = self.state.lock();
        match result {
            Ok(answer) => {
                state.on_success();
                state.insert(name, answer);
            }
            // An older control plane has no names. The answer of a newer replica is kept.
            Err(error) if has_code(&error, Code::Unimplemented) => {
                state.on_success();
                if state.last_known(name).is_none_or(|(known, _)| !known.exists) {
                    let absence = NameAnswer {
                        ttl: STALE_TTL,
                        ..NameAnswer::default()
                    };
                    state.insert(name, absence);
                }
            }
            Err(error) if is_refused => {
                state.on_success();
                tracing::debug!(
                    error = format!("{error:#}"),
                    "the control plane cannot resolve a name now"
                );
            }
            Err(error) => state.on_failure(&error, started_at),
        }
    }
}

fn has_code(error: &anyhow::Error, code: Code) -> bool {
    let status = error.downcast_ref::<Status>();
    status.is_some_and(|status| status.code() == code)
}

// === impl State ===

impl State {
    /// Returns the answer about a name until its TTL ends.
    fn fresh(&mut self, name: &str, now: Instant) -> Option<ServedAnswer> {
        let is_fresh = |known: &KnownName| known.remaining_ttl(now).is_some();
        let known = self.known.get(name.as_bytes(), is_fresh)?;
        Some((known.answer.clone(), known.remaining_ttl(now)?))
    }

    /// Returns the last answer about a name, however old it is, and when it was received.
    fn last_known(&mut self, name: &str) -> Option<(Arc<NameAnswer>, Instant)> {
        let known = self.known.get(name.as_bytes(), |_| true)?;
        Some((known.answer.clone(), known.received_at))
    }

    fn insert(&mut self, name: &str, mut answer: NameAnswer) {
        answer.ttl = answer.ttl.min(MAX_TTL);
        answer.addresses.truncate(MAX_ADDRESSES);
        answer.addresses.shrink_to_fit();
        let bytes =
            size_of::<KnownName>() + size_of::<NameAnswer>() + size_of_val(answer.addresses.as_slice());
        let known = KnownName {
            answer: Arc::new(answer),
            received_at: Instant::now(),
        };
        self.known.insert(name.as_bytes(), known, bytes);
    }

    /// Returns the time for which a query waits for a running call. If an answer is known, the time counts from the start
    /// of the call, so that only the first queries of a call that gets no answer wait.
    fn wait_for_call(&mut self, name: &str, now: Instant) -> Duration {
        if self.last_known(name).is_none() {
            return CALL_TIMEOUT;
        }
        let started_at = self.calls.get(name).map_or(now, |call| call.started_at);
        STALE_WAIT.saturating_sub(now.saturating_duration_since(started_at))
    }

    fn on_success(&mut self) {
        self.pause = None;
        self.backoff.reset();
        if std::mem::take(&mut self.has_warned) {
            tracing::info!("the control plane answers queries for names of the mesh again");
        }
    }

    /// Pauses calls. Failures of calls that started before the pause do not lengthen it.
    fn on_failure(&mut self, error: &anyhow::Error, started_at: Instant) {
        if self.pause.is_some_and(|pause| started_at <= pause.since) {
            return;
        }
        let error = format!("{error:#}");
        let suppressed = self.warnings.try_pass(Instant::now().into_std());
        if let Some(suppressed) = suppressed {
            self.has_warned = true;
            tracing::warn!(
                error,
                suppressed,
                "the control plane does not answer queries for names of the mesh; known answers are still served"
            );
        } else {
            tracing::debug!(
                error,
                "the control plane still does not answer queries for names of the mesh"
            );
        }
        let since = Instant::now();
        let length = self.backoff.next(fastrand::f64()).min(MAX_PAUSE);
        self.pause = Some(Pause {
            since,
            until: since + length,
        });
    }
}

// === impl KnownName ===

impl KnownName {
    /// Returns the rest of the TTL, rounded down; `None` after its end.
    fn remaining_ttl(&self, now: Instant) -> Option<u32> {
        let lifetime = Duration::from_secs(self.answer.ttl.into());
        let rest = lifetime.checked_sub(now.saturating_duration_since(self.received_at))?;
        (!rest.is_zero()).then(|| u32::try_from(rest.as_secs()).unwrap_or(u32::MAX))
    }
}

// === impl Target ===

impl Target {
    fn of(query: &Query) -> Self {
        let labels: Vec<&[u8]> = query.question().name().iter().collect();
        if labels.len() <= 1 {
            return Self::Domain;
        }
        let is_possible = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !labels.iter().all(|label| label.iter().all(is_possible)) {
            return Self::Impossible;
        }
        let name = labels.join(&b'.').to_ascii_lowercase();
        match String::from_utf8(name) {
            Ok(name) if name.len() <= MAX_NAME_LENGTH => Self::Name(name),
            _ => Self::Impossible,
        }
    }
}

/// Returns the response code of a query that the domain does not support.
fn unsupported(query: &Query) -> Option<ResponseCode> {
    if query.metadata().op_code != OpCode::Query {
        Some(ResponseCode::NotImp)
    } else if query.edns().is_some_and(|edns| edns.version != 0) {
        Some(ResponseCode::BADVERS)
    } else if query.question().query_class() != DNSClass::IN {
        Some(ResponseCode::Refused)
    } else {
        None
    }
}

/// Encodes the response to a query. Without records of the queried type, the response has an SOA record, which limits
/// how long clients remember that (RFC 2308).
fn respond(query: &Query, (answer, ttl): &ServedAnswer) -> Vec<u8> {
    let question = query.question();
    let mut message = Message::response(query.id(), OpCode::Query);
    message.metadata.recursion_desired = query.metadata().recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.checking_disabled = query.metadata().checking_disabled;
    message.metadata.authoritative = true;
    message.add_query(question.clone());
    let queried = question.query_type();
    for address in &answer.addresses {
        let data = match *address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        if queried == data.record_type() || queried == RecordType::ANY {
            message.add_answer(Record::from_rdata(question.name().clone(), *ttl, data));
        }
    }
    if message.answers.is_empty() {
        message.add_authority(start_of_authority(*ttl));
    }
    if !answer.exists {
        message.metadata.response_code = ResponseCode::NXDomain;
    }
    if let Some(edns) = query.edns() {
        let mut own = hickory_proto::op::Edns::new();
        own.set_max_payload(OWN_UDP_SIZE)
            .set_dnssec_ok(edns.is_dnssec_ok());
        message.set_edns(own);
    }
    message.to_vec().unwrap_or_else(|error| {
        tracing::warn!(%error, "the response for a name of the mesh cannot be encoded");
        query.error_response(ResponseCode::ServFail)
    })
}

/// Returns the SOA record of the domain. Clients use only its field MINIMUM, the TTL of the absence of a record.
fn start_of_authority(ttl: u32) -> Record {
    let domain = Name::from_labels([DOMAIN]).unwrap_or_default();
    let contact = Name::from_labels(["hostmaster", DOMAIN]).unwrap_or_default();
    let data = SOA::new(domain.clone(), contact, 1, 7200, 1800, 86_400, ttl);
    Record::from_rdata(domain, ttl, RData::SOA(data))
}

#[cfg(test)]
mod tests;
