//! `kuma-dp wait`: asks a URL until it answers well, for hooks and probes of images without a shell.

use std::time::Duration;

use anyhow::{Context as _, bail};
use http::{Method, Uri};
use kermode_model::duration;
use tokio::time::{Instant, sleep};

use crate::cli::WaitArgs;
use crate::envoy::admin::{literal_address, request};

/// Returns when the URL has answered with a success status, or with the last failure when time is up.
pub(crate) async fn run(args: &WaitArgs) -> anyhow::Result<()> {
    let url: Uri = args
        .url
        .parse()
        .with_context(|| format!("--url: `{}`", args.url))?;
    let address = literal_address(&url).context("--url")?;
    let time = |flag: &'static str, text: &str| duration::parse(text).context(flag);
    let end = Instant::now() + time("--timeout", &args.timeout)?;
    let pause = time("--check-frequency", &args.check_frequency)?;
    let patience = time("--request-timeout", &args.request_timeout)?.max(Duration::from_millis(1));
    loop {
        let failure = match request(address, Method::GET, url.clone(), patience).await {
            Ok((status, _)) if status.is_success() => return Ok(()),
            Ok((status, _)) => format!("the last answer was {status}"),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() + pause >= end {
            bail!("{url} was not ready within {}: {failure}", args.timeout);
        }
        sleep(pause).await;
    }
}
