//! Server of Envoy's access log service on a unix socket, in place of `kuma-dp`.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use kermode_protocol::access_log::{
    Address, SERVICE_NAME, STREAM_ACCESS_LOGS, StreamAccessLogsMessage, StreamAccessLogsResponse,
};
use kermode_protocol::rpc::{GrpcService, Rpc};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::server::{ClientStreamingService, Grpc};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// Running server. Dropping the value stops it.
pub(crate) struct AccessLogServer {
    _runtime: Runtime,
}

/// The service. Appends the destination of each logged connection to a file.
#[derive(Clone)]
struct AccessLog(Arc<File>);

impl AccessLogServer {
    /// Starts a server at `socket` that appends the destinations to `file`, one on each line.
    pub(crate) fn start(socket: &Path, file: &Path) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let file = File::create(file).expect("a writable directory");
        let server = Server::builder().add_service(Rpc(AccessLog(Arc::new(file))));
        let listener = {
            let _guard = runtime.enter();
            UnixListener::bind(socket).expect("a writable directory")
        };
        runtime.spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        Self { _runtime: runtime }
    }
}

impl ClientStreamingService<StreamAccessLogsMessage> for AccessLog {
    type Response = StreamAccessLogsResponse;
    type Future = BoxFuture<'static, Result<Response<StreamAccessLogsResponse>, Status>>;

    fn call(&mut self, request: Request<Streaming<StreamAccessLogsMessage>>) -> Self::Future {
        let file = self.0.clone();
        Box::pin(async move {
            let mut messages = request.into_inner();
            while let Some(Ok(message)) = messages.next().await {
                for entry in message.tcp_logs.expect("entries about TCP").log_entry {
                    let properties = entry.common_properties.expect("properties");
                    let destination = properties.downstream_local_address;
                    let destination = destination.as_ref().and_then(Address::to_socket_address);
                    writeln!(&*file, "{}", destination.expect("a destination")).expect("a writable file");
                }
            }
            Ok(Response::new(StreamAccessLogsResponse {}))
        })
    }
}

impl GrpcService for AccessLog {
    const NAME: &'static str = SERVICE_NAME;
    const METHOD_PATHS: &'static [&'static str] = &[STREAM_ACCESS_LOGS];

    fn call(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(async move {
            let codec = ProstCodec::<StreamAccessLogsResponse, StreamAccessLogsMessage>::default();
            Grpc::new(codec).client_streaming(self, request).await
        })
    }
}
