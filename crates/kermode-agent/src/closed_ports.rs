//! Closed ports ([`kermode_protocol::closed_ports`]): Envoy sends an access log entry for each connection that it closes
//! because the destination port has no inbound (`docs/reference/envoy.md#passthrough`). The agent logs the first such
//! connection to each port, and reports the port to the control plane, which writes an Event about the Pod.
//!
//! Nothing runs while Envoy closes no connection. Anyone who reaches the Pod can cause entries for any port, so the
//! number of remembered ports and the rate of new ports are limited.

mod known;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use kermode_model::annotation::EXCLUDE_INBOUND_PORTS;
use kermode_protocol::access_log::{
    Address, SERVICE_NAME, STREAM_ACCESS_LOGS, StreamAccessLogsMessage, StreamAccessLogsResponse, TcpLogEntry,
};
use kermode_protocol::client::Client;
use kermode_protocol::closed_ports::ReportClosedPortRequest;
use kermode_protocol::rpc::GrpcService;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tonic::server::{ClientStreamingService, Grpc};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use self::known::KnownPorts;
use crate::backoff::Backoff;
use crate::token::TokenFile;

/// Maximum size of a message of Envoy, in bytes. The first message of a stream contains Envoy's node; every message
/// contains one entry.
const MAX_MESSAGE_SIZE: usize = 64 * 1024;
/// Limit on ports that wait for their report to the control plane. The rate of new ports is limited, so the queue fills
/// only while the control plane is unreachable.
const MAX_QUEUED_PORTS: usize = 16;
/// Timeout of a call to the control plane, connecting included.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum number of attempts to report a port. With the backoff between the attempts, the last attempt is about a
/// minute after the first.
const MAX_ATTEMPTS: u32 = 12;

/// Access log service for Envoy; cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLogService {
    known: Arc<Mutex<KnownPorts>>,
    /// Passes new ports to the reporter.
    new_ports: mpsc::Sender<u16>,
}

/// Reports closed ports to the control plane.
#[derive(Debug)]
pub struct ClosedPortReporter {
    client: Client,
    token: TokenFile,
    known: Arc<Mutex<KnownPorts>>,
    new_ports: mpsc::Receiver<u16>,
}

/// Creates the service for Envoy, and the reporter, which calls the control plane by `client` with `token`.
pub fn closed_ports(client: Client, token: TokenFile) -> (AccessLogService, ClosedPortReporter) {
    let known = Arc::new(Mutex::new(KnownPorts::new(Instant::now())));
    let (sender, receiver) = mpsc::channel(MAX_QUEUED_PORTS);
    let service = AccessLogService {
        known: known.clone(),
        new_ports: sender,
    };
    let reporter = ClosedPortReporter {
        client,
        token,
        known,
        new_ports: receiver,
    };
    (service, reporter)
}

// === impl AccessLogService ===

impl AccessLogService {
    /// Handles one closed connection. Logs it and queues its port if the port is new.
    fn on_entry(&self, entry: &TcpLogEntry) {
        let socket = |address: &Option<Address>| address.as_ref().and_then(Address::to_socket_address);
        let Some(connection) = &entry.common_properties else {
            return;
        };
        let Some(destination) = socket(&connection.downstream_local_address) else {
            return;
        };
        let port = destination.port();
        let mut known = self.known.lock();
        if !known.insert(port, Instant::now()) {
            return;
        }
        let client = socket(&connection.downstream_remote_address).map(|address: SocketAddr| address.ip());
        tracing::warn!(
            port,
            client = client.map(tracing::field::display),
            "Envoy closed a connection to port {port}, because it has no inbound listener for this port; name the port \
             in a Service, or in annotation {EXCLUDE_INBOUND_PORTS} of the Pod; further connections to the port are \
             not logged for an hour"
        );
        if self.new_ports.try_send(port).is_err() {
            // The queue is full. The next connection to the port tries again.
            known.forget(port);
        }
    }

    /// Reads the entries of one stream until Envoy ends the stream.
    async fn read(self, mut messages: Streaming<StreamAccessLogsMessage>) {
        while let Some(Ok(message)) = messages.next().await {
            let entries = message.tcp_logs.into_iter().flat_map(|logs| logs.log_entry);
            entries.for_each(|entry| self.on_entry(&entry));
        }
    }
}

impl ClientStreamingService<StreamAccessLogsMessage> for AccessLogService {
    type Response = StreamAccessLogsResponse;
    type Future = BoxFuture<'static, Result<Response<StreamAccessLogsResponse>, Status>>;

    fn call(&mut self, request: Request<Streaming<StreamAccessLogsMessage>>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            service.read(request.into_inner()).await;
            Ok(Response::new(StreamAccessLogsResponse {}))
        })
    }
}

impl GrpcService for AccessLogService {
    const NAME: &'static str = SERVICE_NAME;
    const METHOD_PATHS: &'static [&'static str] = &[STREAM_ACCESS_LOGS];

    fn call(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(async move {
            let codec = ProstCodec::<StreamAccessLogsResponse, StreamAccessLogsMessage>::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_MESSAGE_SIZE);
            grpc.client_streaming(self, request).await
        })
    }
}

// === impl ClosedPortReporter ===

impl ClosedPortReporter {
    /// Reports ports, one at a time, until the returned future or all [`AccessLogService`]s are dropped.
    pub async fn run(mut self) {
        while let Some(port) = self.new_ports.recv().await {
            if !self.report(port).await {
                self.known.lock().forget(port);
            }
        }
    }

    /// Reports a port, with a backoff between attempts. Returns whether the report is finished. If it is not, the next
    /// connection to the port causes another report.
    async fn report(&self, port: u16) -> bool {
        let mut backoff = Backoff::default();
        for _ in 0..MAX_ATTEMPTS {
            match self.try_report(port).await {
                Ok(is_finished) => return is_finished,
                Err(error) => {
                    tracing::debug!(
                        port,
                        error = format!("{error:#}"),
                        "reporting a closed port failed"
                    );
                }
            }
            sleep(backoff.next(fastrand::f64())).await;
        }
        false
    }

    /// Reports a port once. Returns false if the port is not closed according to the control plane. Returns true if the
    /// control plane accepts the report, or accepts no such report.
    ///
    /// # Errors
    /// If another attempt may succeed.
    async fn try_report(&self, port: u16) -> anyhow::Result<bool> {
        let authorization = self.token.authorization().await?;
        let request = ReportClosedPortRequest { port: port.into() };
        match timeout(
            CALL_TIMEOUT,
            self.client.report_closed_port(authorization, request),
        )
        .await?
        {
            Ok(response) => Ok(response.is_closed),
            Err(status) if is_final(status.code()) => {
                tracing::debug!(port, code = ?status.code(), "the control plane rejects reports: {}", status.message());
                Ok(true)
            }
            Err(status) => Err(status.into()),
        }
    }
}

/// Whether another attempt would fail with the same code: the control plane is too old to implement this RPC, or the
/// token is not that of a Pod with this service account.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::Unimplemented | Code::PermissionDenied | Code::InvalidArgument
    )
}

#[cfg(test)]
mod tests;
