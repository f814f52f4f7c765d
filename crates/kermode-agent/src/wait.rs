//! `kuma-dp wait`: requests a URL until a request succeeds, for hooks and probes of images without a shell.

use std::time::Duration;

use anyhow::{Context as _, bail};
use http::{Method, Uri};
use tokio::time::{Instant, sleep};

use crate::envoy::admin::{literal_address, request};

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
    /// the timeout; the error then contains the failure of the last request.
    pub async fn run(&self) -> anyhow::Result<()> {
        let address = literal_address(&self.url).context("--url")?;
        let deadline = Instant::now() + self.timeout;
        loop {
            let failure = match request(address, Method::GET, self.url.clone(), self.request_timeout).await {
                Ok((status, _)) if status.is_success() => return Ok(()),
                Ok((status, _)) => format!("the last response was {status}"),
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() + self.interval >= deadline {
                bail!("{} was not ready within {:?}: {failure}", self.url, self.timeout);
            }
            sleep(self.interval).await;
        }
    }
}
