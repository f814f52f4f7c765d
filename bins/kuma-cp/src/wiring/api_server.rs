//! Requests to the API server during the start. They are repeated, because the kubelet restarts a process that exits with a
//! growing backoff, and an outage would then last longer for this replica than for the API server.

use std::time::Duration;

use anyhow::Context;
use kermode_k8s::controller::{client, describe};
use kube::Client;
use tokio::time::Instant;

/// Interval between attempts.
const INTERVAL: Duration = Duration::from_secs(2);

/// Time for which an API server that responds may deny requests. One that has just started denies everything until it has
/// read its roles.
const PATIENCE: Duration = Duration::from_secs(20);

/// Connects to the API server. Waits without limit for one that cannot be reached or is not ready.
///
/// # Errors
/// When there is no configuration for the API server, or it has denied the request for [`PATIENCE`].
pub(super) async fn connect() -> anyhow::Result<Client> {
    let config = kube::Config::infer().await.context(
        "no configuration for the API server: run kuma-cp in a cluster, or set KUBECONFIG to a kubeconfig",
    )?;
    let url = config.cluster_url.clone();
    let client = client::build(config)?;
    let version = retry(async || {
        loop {
            match version_when_ready(&client).await {
                Ok(version) => return Ok(version),
                Err(error) if is_unreachable(&error) => {
                    let reason = describe(&format!("API server {url}"), &error);
                    tracing::warn!("{reason}; retrying in {INTERVAL:?}");
                    tokio::time::sleep(INTERVAL).await;
                }
                Err(error) => anyhow::bail!(describe(&format!("API server {url}"), &error)),
            }
        }
    })
    .await?;
    tracing::info!(%url, version, "connected to the API server");
    Ok(client)
}

/// Repeats a request until it succeeds.
///
/// # Errors
/// The last error, when requests have failed for [`PATIENCE`].
pub(super) async fn retry<T>(request: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut first_failure = None;
    loop {
        let error = match request().await {
            Ok(result) => return Ok(result),
            Err(error) => error,
        };
        if first_failure.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
            return Err(error);
        }
        tracing::warn!("{error:#}; retrying in {INTERVAL:?}");
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Returns the version of an API server that is ready. An API server without etcd returns its version as well, so
/// `/readyz` is checked too.
async fn version_when_ready(client: &Client) -> kube::Result<String> {
    let version = client.apiserver_version().await?.git_version;
    let request = http::Request::get("/readyz").body(Vec::new());
    match client
        .request_text(request.map_err(kube::Error::HttpError)?)
        .await
    {
        Err(error) if is_unreachable(&error) => Err(error),
        // Any other error, such as denied access to `/readyz`, does not delay the start.
        Ok(_) | Err(_) => Ok(version),
    }
}

/// Whether the API server did not respond, or is not ready.
fn is_unreachable(error: &kube::Error) -> bool {
    match error {
        kube::Error::Service(_) | kube::Error::HyperError(_) => true,
        kube::Error::Api(status) => status.code >= 500,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use http::{Request, Response};
    use kube::client::Body;

    use super::*;

    /// Creates a client of an API server whose `/readyz` returns the status `ready`.
    fn mk_client(ready: u16) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| {
            let (status, body) = if request.uri().path() == "/readyz" {
                (ready, "[-]etcd failed")
            } else {
                let version = r#"{"major":"1","minor":"34","gitVersion":"v1.34.4","gitCommit":"","gitTreeState":"",
                    "buildDate":"","goVersion":"","compiler":"","platform":""}"#;
                (200, version)
            };
            let response = Response::builder().status(status);
            std::future::ready(response.body(Body::from(body.as_bytes().to_vec())))
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn start_waits_for_etcd_and_continues_without_access_to_readyz() {
        for status in [500, 503] {
            let error = version_when_ready(&mk_client(status))
                .await
                .expect_err("not ready");
            assert!(is_unreachable(&error), "{status}: {error}");
        }
        for status in [200, 403, 404] {
            let version = version_when_ready(&mk_client(status)).await;
            assert_eq!(version.expect("a version"), "v1.34.4", "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn request_that_is_denied_at_first_is_repeated() {
        let attempts = Cell::new(0);
        let result = retry(async || {
            attempts.set(attempts.get() + 1);
            anyhow::ensure!(attempts.get() > 5, "the roles are not read yet");
            Ok(())
        });
        result.await.expect("success of the sixth attempt");
        assert_eq!(attempts.get(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn request_that_remains_denied_ends_with_the_reason() {
        let start = Instant::now();
        let denied: anyhow::Result<()> =
            retry(async || anyhow::bail!("pods cannot be listed: the service account lacks a permission"))
                .await;
        let error = denied.expect_err("no success").to_string();
        assert_eq!(
            error,
            "pods cannot be listed: the service account lacks a permission"
        );
        assert_eq!(start.elapsed(), PATIENCE);
    }
}
