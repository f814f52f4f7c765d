//! `kermode-demo get`: makes sequential requests. A request fails if it has no response, or a response with a status of
//! 400 or more. The exit code shows the result.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::output;
use crate::request::{Protocol, Requester, Url, summary};

/// Flags of `get`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// URL to call.
    url: Url,
    /// Number of requests.
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Timeout of a request.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Use one connection for all requests.
    #[arg(long)]
    keep_alive: bool,
    /// Protocol of the requests. HTTP/2 and gRPC use one connection for all requests.
    #[arg(long, value_enum, default_value_t)]
    protocol: Protocol,
    /// Exit with code 0 if every request fails, else with code 1.
    #[arg(long)]
    expect_fail: bool,
}

/// Makes the requests and prints status and body, or the failure, of each. The exit code is 0 when all results are as
/// expected, else 1.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let requester = match args.protocol {
        Protocol::Http1 => Requester::new(args.timeout, args.keep_alive)?,
        protocol => Requester::with_connections(args.timeout, protocol, 1)?,
    };
    let mut as_expected = true;
    for _ in 0..args.count {
        let succeeded = match requester.get(&args.url).await {
            Ok(response) => {
                let body = String::from_utf8_lossy(&response.body);
                output::line(&format!("{} {}", response.status, body.trim_end()));
                response.status < 400
            }
            Err(error) => {
                output::line(&format!("failed: {}", summary(&error)));
                false
            }
        };
        as_expected &= succeeded != args.expect_fail;
    }
    Ok(if as_expected {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
