//! `kermode-demo tcp-probe`: opens one TCP connection. The exit code shows the result.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::output;
use crate::request::summary;
use crate::target::{Connector, Target};

/// Flags of a probe.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Target of the connection.
    target: Target,
    /// Text to send. With a text, the probe succeeds only if it receives data. Without a text, the probe also succeeds
    /// if a proxy accepts the connection but cannot reach the target.
    #[arg(long)]
    send: Option<String>,
    /// Timeout of the probe.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Exit with code 0 if the probe fails, and with code 1 if it succeeds.
    #[arg(long)]
    expect_fail: bool,
}

/// Makes the connection and prints the result. The exit code is 0 when the result is as expected, else 1.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let connector = Connector::new(args.timeout)?;
    let outcome = timeout(args.timeout, probe(&connector, &args))
        .await
        .context("response: timed out")
        .flatten();
    let succeeded = outcome.is_ok();
    match outcome {
        Ok(text) => output::line(&text),
        Err(error) => output::line(&format!("failed: {}", summary(&error))),
    }
    Ok(if succeeded == args.expect_fail {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

async fn probe(connector: &Connector, args: &Args) -> Result<String> {
    let mut stream = connector.connect(&args.target).await?;
    let Some(text) = &args.send else {
        return Ok("connected".to_owned());
    };
    stream.write_all(text.as_bytes()).await.context("send")?;
    let mut buffer = [0; 4096];
    let count = stream.read(&mut buffer).await.context("response")?;
    ensure!(count > 0, "response: the other end closed the connection");
    Ok(format!(
        "response: {}",
        String::from_utf8_lossy(&buffer[..count]).trim_end()
    ))
}
