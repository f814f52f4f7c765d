//! `kuma-dp wait`: requests a URL until a request succeeds, for hooks and probes of images without a shell.

use std::time::Duration;

use anyhow::{Context as _, bail};
use http::{Method, Uri};
use tokio::time::{Instant, sleep, timeout_at};

use crate::envoy::admin::{literal_address, request};

/// Minimum timeout of one request. The first request is sent even if the timeout of the wait is zero.
const MIN_REQUEST_TIMEOUT: Duration = Duration::from_millis(1);

/// Parameters of [`Wait::run`].
#[derive(Clone, Debug)]
pub struct Wait {
    /// URL with an IP address or `localhost` as its host.
    pub url: Uri,
    /// Time after which the wait fails.
    pub timeout: Duration,
    /// Pause between two requests.
    pub interval: Duration,
    /// Timeout of one request.
    pub request_timeout: Duration,
}

impl Wait {
    /// Returns once the URL responds with a success status.
    ///
    /// # Errors
    /// Fails when the URL does not begin with `http://` or its host is neither an IP address nor `localhost`. Fails at
    /// the timeout; the error then contains the last failure.
    pub async fn run(&self) -> anyhow::Result<()> {
        let address = literal_address(&self.url).context("--url")?;
        let deadline = Instant::now() + self.timeout;
        let mut last_failure = None;
        loop {
            // A request does not outlast the deadline, because the hook or probe that runs this command has a timeout
            // too.
            let request_deadline = deadline.max(Instant::now() + MIN_REQUEST_TIMEOUT);
            let request = request(address, Method::GET, self.url.clone(), self.request_timeout);
            match timeout_at(request_deadline, request).await {
                Ok(Ok((status, _))) if status.is_success() => return Ok(()),
                Ok(Ok((status, _))) => last_failure = Some(format!("the last response was {status}")),
                Ok(Err(error)) => last_failure = Some(format!("{error:#}")),
                // The deadline ended the request. The failure of the previous request is kept.
                Err(_) => {}
            }
            if Instant::now() + self.interval >= deadline {
                let failure = last_failure.as_deref().unwrap_or("no response");
                bail!("{} was not ready within {:?}: {failure}", self.url, self.timeout);
            }
            sleep(self.interval).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn mk_wait(listener: &TcpListener) -> Wait {
        Wait {
            url: format!("http://{}/ready", listener.local_addr().unwrap())
                .parse()
                .unwrap(),
            timeout: Duration::from_secs(2),
            interval: Duration::from_millis(1),
            request_timeout: Duration::from_hours(1),
        }
    }

    async fn listen() -> TcpListener {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
    }

    #[tokio::test]
    async fn error_contains_the_failure_of_the_previous_request_if_the_deadline_ends_a_request() {
        let listener = listen().await;
        let wait = mk_wait(&listener);
        // Responds to the first request. Later connections stay in the backlog without a response.
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert_ne!(stream.read(&mut request).await.unwrap(), 0);
            let response = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(response).await.unwrap();
        };
        let (result, ()) = tokio::join!(wait.run(), server);
        let error = result.unwrap_err().to_string();
        assert!(
            error.ends_with("the last response was 503 Service Unavailable"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn wait_without_any_response_ends_at_its_timeout() {
        let listener = listen().await;
        let error = mk_wait(&listener).run().await.unwrap_err().to_string();
        assert!(error.ends_with("was not ready within 2s: no response"), "{error}");
    }
}
