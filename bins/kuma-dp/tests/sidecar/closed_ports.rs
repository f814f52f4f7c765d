//! Reports of closed ports. The test sends an access log entry to the unix socket in place of Envoy, whose traffic is
//! not redirected here.

use futures::stream;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use kermode_protocol::access_log::{
    Address, CommonProperties, STREAM_ACCESS_LOGS, SocketAddressMessage, StreamAccessLogsMessage,
    StreamAccessLogsResponse, TcpLogEntries, TcpLogEntry,
};
use tokio::net::UnixStream;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::MTLS;
use crate::agent::Agent;
use crate::control_plane::ControlPlane;

/// Sends an access log with one entry for each port.
async fn send_access_log(agent: &Agent, ports: &[u16]) {
    let path = agent.socket_path();
    let connector = service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://agent");
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    let entry = |port: &u16| {
        let destination = Address {
            socket_address: Some(SocketAddressMessage {
                address: "10.0.0.9".to_owned(),
                port_value: u32::from(*port),
            }),
        };
        TcpLogEntry {
            common_properties: Some(CommonProperties {
                downstream_remote_address: None,
                downstream_local_address: Some(destination),
            }),
        }
    };
    let message = StreamAccessLogsMessage {
        tcp_logs: Some(TcpLogEntries {
            log_entry: ports.iter().map(entry).collect(),
        }),
    };
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = ProstCodec::<StreamAccessLogsMessage, StreamAccessLogsResponse>::default();
    let path = PathAndQuery::from_static(STREAM_ACCESS_LOGS);
    let request = Request::new(stream::iter([message]));
    client.client_streaming(request, path, codec).await.unwrap();
}

#[tokio::test]
async fn closed_ports_are_logged_and_reported_to_the_control_plane_once() {
    let control_plane = ControlPlane::start(MTLS).await;
    let agent = Agent::start(&control_plane, "first-token", &[]).await;
    agent.wait_for_ready_status(200).await;
    send_access_log(&agent, &[8081, 8081]).await;
    send_access_log(&agent, &[8081, 8082]).await;
    agent
        .eventually("the ports are reported", async || {
            (control_plane.closed_ports() == [8081, 8082]).then_some(())
        })
        .await;
    let log = agent.log();
    let text = "Envoy closed a connection to port 8081,";
    assert_eq!(log.matches(text).count(), 1, "{log}");
}
