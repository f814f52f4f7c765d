//! Envoy's access log and the reports to the control plane, on servers in memory.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::stream;
use http::uri::PathAndQuery;
use kermode_protocol::access_log::{CommonProperties, SocketAddressMessage, TcpLogEntries};
use kermode_protocol::closed_ports::{
    self as protocol, REPORT_CLOSED_PORT, ReportClosedPortRequest, ReportClosedPortResponse,
};
use kermode_protocol::rpc::Rpc;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::server::UnaryService;
use tonic::transport::{Endpoint, Server};

use super::*;

/// Control plane that records the reported ports.
#[derive(Clone)]
struct ControlPlane {
    reports: mpsc::UnboundedSender<u32>,
    /// Number of calls that fail before the first one succeeds.
    failures_left: Arc<AtomicUsize>,
    /// Code of the failing calls.
    code: Code,
    /// Ports that are not closed.
    open_ports: &'static [u32],
}

impl UnaryService<ReportClosedPortRequest> for ControlPlane {
    type Response = ReportClosedPortResponse;
    type Future = BoxFuture<'static, Result<Response<ReportClosedPortResponse>, Status>>;

    fn call(&mut self, request: Request<ReportClosedPortRequest>) -> Self::Future {
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer secret");
        let port = request.into_inner().port;
        self.reports.send(port).unwrap();
        let fails = self
            .failures_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok();
        let result = if fails {
            Err(Status::new(self.code, "not now"))
        } else {
            Ok(Response::new(ReportClosedPortResponse {
                is_closed: !self.open_ports.contains(&port),
            }))
        };
        Box::pin(std::future::ready(result))
    }
}

impl GrpcService for ControlPlane {
    const NAME: &'static str = protocol::SERVICE_NAME;
    const METHOD_PATHS: &'static [&'static str] = &[REPORT_CLOSED_PORT];

    fn call(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(async move {
            let codec = ProstCodec::<ReportClosedPortResponse, ReportClosedPortRequest>::default();
            Grpc::new(codec).unary(self, request).await
        })
    }
}

/// Service for Envoy whose reporter runs, and the ports that the control plane has received.
struct Fixture {
    service: AccessLogService,
    reports: mpsc::UnboundedReceiver<u32>,
    _token: tempfile::TempDir,
}

impl Fixture {
    /// Starts a control plane whose first calls fail with `code`.
    async fn start(failures: usize, code: Code, open_ports: &'static [u32]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, reports) = mpsc::unbounded_channel();
        let control_plane = ControlPlane {
            reports: sender,
            failures_left: Arc::new(AtomicUsize::new(failures)),
            code,
            open_ports,
        };
        let server = Server::builder().add_service(Rpc(control_plane));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let directory = tempfile::tempdir().unwrap();
        let token = mk_token(directory.path());
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_lazy();
        let (service, reporter) = closed_ports(Client::new(channel), token);
        tokio::spawn(reporter.run());
        Self {
            service,
            reports,
            _token: directory,
        }
    }

    /// Sends a message with an entry for each port, as Envoy does.
    async fn log_connections(&self, ports: &[u16]) {
        let message = StreamAccessLogsMessage {
            tcp_logs: Some(TcpLogEntries {
                log_entry: ports.iter().map(|port| mk_entry(*port)).collect(),
            }),
        };
        let mut client = tonic::client::Grpc::new(Rpc(self.service.clone()));
        let path = PathAndQuery::from_static(STREAM_ACCESS_LOGS);
        let codec = ProstCodec::<StreamAccessLogsMessage, StreamAccessLogsResponse>::default();
        let request = Request::new(stream::iter([message]));
        client.client_streaming(request, path, codec).await.unwrap();
    }
}

fn mk_token(directory: &Path) -> TokenFile {
    let path = directory.join("token");
    std::fs::write(&path, "secret").unwrap();
    TokenFile::new(path)
}

fn mk_entry(port: u16) -> TcpLogEntry {
    let address = |ip: &str, port: u16| {
        Some(Address {
            socket_address: Some(SocketAddressMessage {
                address: ip.to_owned(),
                port_value: port.into(),
            }),
        })
    };
    TcpLogEntry {
        common_properties: Some(CommonProperties {
            downstream_remote_address: address("10.0.0.1", 40000),
            downstream_local_address: address("10.0.0.9", port),
        }),
    }
}

#[tokio::test]
async fn each_port_is_reported_once() {
    let mut fixture = Fixture::start(0, Code::Ok, &[]).await;
    fixture.log_connections(&[8081, 8081]).await;
    fixture.log_connections(&[8081, 8082]).await;
    assert_eq!(fixture.reports.recv().await, Some(8081));
    assert_eq!(fixture.reports.recv().await, Some(8082));
    assert!(fixture.reports.try_recv().is_err());
}

#[tokio::test]
async fn failed_report_is_repeated() {
    let mut fixture = Fixture::start(1, Code::NotFound, &[]).await;
    fixture.log_connections(&[8081]).await;
    assert_eq!(fixture.reports.recv().await, Some(8081));
    assert_eq!(fixture.reports.recv().await, Some(8081));
}

#[tokio::test]
async fn report_is_not_repeated_if_the_control_plane_does_not_implement_it() {
    let mut fixture = Fixture::start(1, Code::Unimplemented, &[]).await;
    fixture.log_connections(&[8081, 8082]).await;
    assert_eq!(fixture.reports.recv().await, Some(8081));
    assert_eq!(fixture.reports.recv().await, Some(8082));
}

#[tokio::test]
async fn port_that_the_control_plane_does_not_regard_as_closed_may_be_reported_again() {
    let mut fixture = Fixture::start(0, Code::Ok, &[8080]).await;
    fixture.log_connections(&[8080, 8081]).await;
    assert_eq!(fixture.reports.recv().await, Some(8080));
    // The port has been forgotten when the reporter sends the next report.
    assert_eq!(fixture.reports.recv().await, Some(8081));
    fixture.log_connections(&[8080]).await;
    assert_eq!(fixture.reports.recv().await, Some(8080));
}

#[tokio::test]
async fn entry_without_a_destination_is_ignored() {
    let mut fixture = Fixture::start(0, Code::Ok, &[]).await;
    fixture.service.on_entry(&TcpLogEntry::default());
    fixture.log_connections(&[8081]).await;
    assert_eq!(fixture.reports.recv().await, Some(8081));
}
