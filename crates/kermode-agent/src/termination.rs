//! Report that the Pod has begun to terminate (docs/design.md#native-sidecars-drain-early).
//!
//! The preStop hook of a native sidecar runs `kuma-dp drain` when the Pod begins to terminate, while the application is
//! still running. The command calls [`TerminationService`] of `kuma-dp run` on the unix socket between Envoy and the
//! agent. The call is plain HTTP/2 without a message.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use kermode_protocol::rpc::GrpcService;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::body::Body;
use tonic::transport::Endpoint;
use tower::{Service as _, ServiceExt as _};

use crate::{connector, socket};

/// Path of the method.
const DRAIN_PATH: &str = "/kermode.termination.v1.TerminationService/Drain";

/// Time limit of a report. The agent responds within milliseconds unless the node is overloaded.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Service that receives the report. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TerminationService {
    terminating_since: watch::Sender<Option<Instant>>,
}

/// Creates the service, and a receiver whose value becomes the time of the first report.
pub fn termination() -> (TerminationService, watch::Receiver<Option<Instant>>) {
    let (terminating_since, receiver) = watch::channel(None);
    (TerminationService { terminating_since }, receiver)
}

impl GrpcService for TerminationService {
    const NAME: &'static str = "kermode.termination.v1.TerminationService";
    const METHOD_PATHS: &'static [&'static str] = &[DRAIN_PATH];

    fn call(self, _: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        // A restarted kubelet repeats the hook. The grace period has begun with the first one.
        self.terminating_since.send_if_modified(|since| {
            let is_first = since.is_none();
            since.get_or_insert_with(Instant::now);
            is_first
        });
        Box::pin(std::future::ready(Response::new(Body::empty())))
    }
}

/// Reports to the agent whose socket is below `socket_dir` that the Pod terminates.
///
/// # Errors
/// Fails when no agent accepts the report within [`REPORT_TIMEOUT`].
pub async fn report(socket_dir: &Path) -> anyhow::Result<()> {
    match timeout(REPORT_TIMEOUT, report_to_any(socket_dir)).await {
        Ok(result) => result,
        Err(_) => bail!("kuma-dp run has not responded within {REPORT_TIMEOUT:?}"),
    }
}

/// Calls the agents whose sockets are below `socket_dir`, until one responds. An agent that was killed leaves its socket
/// behind, so a failed call is an error only if no call succeeds.
async fn report_to_any(socket_dir: &Path) -> anyhow::Result<()> {
    let mut last_error = anyhow::anyhow!(
        "no socket of kuma-dp run in {}; check KUMA_DATAPLANE_RUNTIME_SOCKET_DIR",
        socket_dir.display()
    );
    for path in socket::paths(socket_dir)? {
        match report_to(&path).await {
            Ok(()) => return Ok(()),
            Err(error) => last_error = error.context(format!("calling {}", path.display())),
        }
    }
    Err(last_error)
}

async fn report_to(path: &Path) -> anyhow::Result<()> {
    let stream = UnixStream::connect(path).await?;
    let connector = connector::of_stream(stream, "kuma-dp run closed the connection");
    // The host is not used: the connector has the connection already.
    let mut channel = Endpoint::from_static("http://agent")
        .connect_with_connector(connector)
        .await?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(DRAIN_PATH)
        .body(Body::empty())?;
    let response = channel
        .ready()
        .await?
        .call(request)
        .await
        .context("no response")?;
    ensure!(
        response.status() == StatusCode::OK,
        "kuma-dp run responded with {}",
        response.status()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use kermode_protocol::rpc::Rpc;
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::transport::Server;

    use super::*;
    use crate::socket::AgentSocket;

    #[tokio::test]
    async fn repeated_report_keeps_the_time_of_the_first_one() {
        let (service, mut terminating_since) = termination();
        service.clone().call(Request::new(Body::empty())).await;
        let first = *terminating_since.borrow_and_update();
        assert!(first.is_some());
        service.clone().call(Request::new(Body::empty())).await;
        assert!(!terminating_since.has_changed().unwrap());
        assert_eq!(*terminating_since.borrow(), first);
    }

    #[tokio::test]
    async fn report_reaches_the_running_agent_despite_the_socket_of_an_earlier_one() {
        let parent = tempfile::tempdir().unwrap();
        let stale = parent.path().join("kuma-dp-0");
        std::fs::create_dir(&stale).unwrap();
        drop(std::os::unix::net::UnixListener::bind(stale.join("agent.sock")).unwrap());
        let (_socket, listener) = AgentSocket::bind(parent.path()).unwrap();
        let (service, mut terminating_since) = termination();
        tokio::spawn(
            Server::builder()
                .add_service(Rpc(service))
                .serve_with_incoming(UnixListenerStream::new(listener)),
        );
        assert_eq!(*terminating_since.borrow(), None);
        report(parent.path()).await.unwrap();
        terminating_since.wait_for(Option::is_some).await.unwrap();
    }

    #[tokio::test]
    async fn error_of_a_report_names_the_setting_of_the_directory() {
        let parent = tempfile::tempdir().unwrap();
        let error = report(parent.path()).await.unwrap_err();
        assert!(
            format!("{error:#}").contains("KUMA_DATAPLANE_RUNTIME_SOCKET_DIR"),
            "{error:#}"
        );
    }
}
