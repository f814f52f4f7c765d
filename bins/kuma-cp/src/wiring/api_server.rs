//! Requests to the API server while `kuma-cp` starts. A failed request is repeated. If the process exited instead, the
//! kubelet would restart it with a growing backoff, and this replica would be down for longer than the API server.

use std::time::Duration;

use anyhow::Context;
use kermode_k8s::controller::{client, describe};
use kube::Client;
use tokio::time::Instant;

/// Pause between attempts.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Time for which a failing request is repeated. After this time, `kuma-cp` exits with an error. An API server that has
/// just started denies all requests until it has read its roles.
const RETRY_TIMEOUT: Duration = Duration::from_secs(20);

/// Connects to the API server. Waits without limit while the API server cannot be reached or is not ready.
///
/// # Errors
/// When there is no configuration for the API server, or the API server has denied requests for [`RETRY_TIMEOUT`].
pub(super) async fn connect() -> anyhow::Result<Client> {
    let config = kube::Config::infer().await.context(
        "no configuration for the API server: run kuma-cp in a cluster, or set KUBECONFIG to a kubeconfig",
    )?;
    let url = config.cluster_url.clone();
    let client = client::build(config)?;
    let version = retry(async || wait_until_ready(&client, &url).await).await?;
    tracing::info!(%url, version, "connected to the API server");
    Ok(client)
}

/// Repeats a request until it succeeds.
///
/// # Errors
/// The error of the last attempt, once [`RETRY_TIMEOUT`] has passed since the first failure.
pub(super) async fn retry<T>(request: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut first_failure = None;
    loop {
        let error = match request().await {
            Ok(result) => return Ok(result),
            Err(error) => error,
        };
        if first_failure.get_or_insert_with(Instant::now).elapsed() >= RETRY_TIMEOUT {
            return Err(error);
        }
        tracing::warn!("{error:#}; retrying in {RETRY_PAUSE:?}");
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Waits without limit until the API server is ready. Returns its version.
///
/// # Errors
/// When the API server responds with an error below 500, for example because it denies a request.
async fn wait_until_ready(client: &Client, url: &http::Uri) -> anyhow::Result<String> {
    loop {
        let error = match version_when_ready(client).await {
            Ok(version) => return Ok(version),
            Err(error) => error,
        };
        let reason = describe(&format!("API server {url}"), &error);
        if !is_unavailable(&error) {
            anyhow::bail!(reason);
        }
        tracing::warn!("{reason}; retrying in {RETRY_PAUSE:?}");
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Returns the version of the API server if it is ready. An API server that cannot reach etcd returns its version as
/// well, so `/readyz` is checked too.
async fn version_when_ready(client: &Client) -> kube::Result<String> {
    let version = client.apiserver_version().await?.git_version;
    let request = http::Request::get("/readyz").body(Vec::new());
    match client
        .request_text(request.map_err(kube::Error::HttpError)?)
        .await
    {
        Err(error) if is_unavailable(&error) => Err(error),
        // Any other error, such as denied access to `/readyz`, does not delay the start.
        Ok(_) | Err(_) => Ok(version),
    }
}

/// Returns whether the error means that the API server did not respond or is not ready.
fn is_unavailable(error: &kube::Error) -> bool {
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

    /// Creates a client of an API server whose `/readyz` returns `readyz_status`.
    fn mk_client(readyz_status: u16) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| {
            let (status, body) = if request.uri().path() == "/readyz" {
                (readyz_status, "[-]etcd failed")
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
            assert!(is_unavailable(&error), "{status}: {error}");
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
    async fn request_that_stays_denied_fails_at_the_timeout_with_the_reason() {
        let start = Instant::now();
        let denied: anyhow::Result<()> =
            retry(async || anyhow::bail!("pods cannot be listed: the service account lacks a permission"))
                .await;
        let error = denied.expect_err("no success").to_string();
        assert_eq!(
            error,
            "pods cannot be listed: the service account lacks a permission"
        );
        assert_eq!(start.elapsed(), RETRY_TIMEOUT);
    }
}
