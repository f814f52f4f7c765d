//! Counts of the instructions that proxies execute for a call. Valgrind counts them, so they depend neither on the machine's
//! speed nor on its other work, and two runs differ by less than a thousandth.

use std::path::Path;

use anyhow::{Context as _, Result};
use kermode_model::Protocol;

use super::call::Connection;
use super::{Pair, Proxies, start_application};

/// Number of calls before the counted ones: caches fill, and Envoy creates statistics with their first use.
const WARM_UP_CALLS: u32 = 100;
/// Number of attempts to make a first call.
const CONNECT_ATTEMPTS: u32 = 10;
/// Number of counted calls.
const CALLS: u32 = 500;

/// Instructions that a client's and a server's Envoy execute in user space for a call.
#[derive(Clone, Copy, Debug)]
pub struct Instructions {
    /// Instructions of the client's Envoy.
    pub client: f64,
    /// Instructions of the server's Envoy.
    pub server: f64,
}

// === impl Instructions ===

impl Instructions {
    /// Instructions of both Envoys.
    pub fn total(&self) -> f64 {
        self.client + self.server
    }
}

/// Counts the instructions for calls of protocols through proxies, one call after the other on one connection. Starts the
/// application, and each pair of Envoys for as long as it is measured. `envoy` is the path of Envoy; `folder` gets its
/// files.
///
/// # Errors
/// When valgrind is missing, a program does not start, or a call fails.
pub async fn count_instructions(
    envoy: &Path,
    folder: &Path,
    wanted: &[(Protocol, Proxies)],
) -> Result<Vec<(Protocol, Proxies, Instructions)>> {
    start_application()?;
    let mut counts: Vec<(Protocol, Proxies, Instructions)> = Vec::new();
    for (number, (_, first)) in wanted.iter().enumerate() {
        let is_counted = |counted: &Proxies| counted.envoys() == first.envoys();
        if counts.iter().any(|(_, counted, _)| is_counted(counted)) {
            continue;
        }
        let folder = folder.join(number.to_string());
        let pair = Pair::start_in_valgrind(envoy, &folder, first.envoys()).await;
        let pair = pair.with_context(|| format!("{first:?}"))?;
        for (protocol, proxies) in wanted.iter().filter(|(_, proxies)| is_counted(proxies)) {
            let counting = count(&pair, *proxies, *protocol).await;
            let instructions = counting.with_context(|| format!("{protocol:?} through {proxies:?}"))?;
            counts.push((*protocol, *proxies, instructions));
        }
    }
    Ok(counts)
}

async fn count(pair: &Pair, proxies: Proxies, protocol: Protocol) -> Result<Instructions> {
    let mut connection = connect(proxies, protocol).await?;
    for _ in 0..WARM_UP_CALLS {
        connection.call().await?;
    }
    let read = || anyhow::Ok([pair.client.instructions()?, pair.server.instructions()?]);
    let before = read()?;
    for _ in 0..CALLS {
        connection.call().await?;
    }
    let after = read()?;
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let [client, server] =
        [0, 1].map(|side| after[side].saturating_sub(before[side]) as f64 / f64::from(CALLS));
    Ok(Instructions { client, server })
}

/// Returns a connection on which a call has succeeded. The first calls may fail, because the first TLS handshake of an Envoy
/// in valgrind may exceed Envoy's timeouts.
async fn connect(proxies: Proxies, protocol: Protocol) -> Result<Connection> {
    let mut attempt = 1;
    loop {
        let mut connection = Connection::open(protocol, proxies.address(protocol)?).await?;
        match connection.call().await {
            Ok(()) => return Ok(connection),
            Err(error) if attempt == CONNECT_ATTEMPTS => return Err(error),
            Err(_) => attempt += 1,
        }
    }
}
