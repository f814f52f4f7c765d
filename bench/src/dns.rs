//! The sidecar's DNS beside the cluster's DNS.
//!
//! ```text
//! dnsperf ──────────────▶ CoreDNS (cache) ──▶ simulated name server
//! dnsperf ──▶ kuma-dp ──▶ CoreDNS (cache) ──▶ simulated name server
//! ```
//!
//! All run in one network namespace, so that CoreDNS can use port 53. CoreDNS is that of the local cluster. CoreDNS
//! answers nearly all queries from its cache, so the simulated name server has no part in the figures.

mod load;
mod name_server;
mod servers;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use self::load::Load;
use self::servers::{Agent, CoreDns};
use crate::process::Process;

/// Port of CoreDNS. `kuma-dp` forwards queries to this port only.
const CORE_DNS_PORT: u16 = 53;
/// Port of a `kuma-dp` with its cache.
const CACHING_PORT: u16 = 15_053;
/// Port of a `kuma-dp` without cache.
const FORWARDING_PORT: u16 = 15_063;

/// Way of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To CoreDNS, without a sidecar.
    Direct,
    /// To a `kuma-dp` that answers from its cache.
    Hit,
    /// To a `kuma-dp` without cache, which forwards every query to CoreDNS.
    Miss,
}

/// Figures of one way in one round.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Mean latency of single queries, one after the other, in milliseconds.
    pub latency_ms: f64,
    /// CPU time of `kuma-dp` for a query under load, in microseconds. 0 for [`Way::Direct`].
    pub agent_us: f64,
    /// CPU time of CoreDNS for a query under load, in microseconds.
    pub core_dns_us: f64,
}

/// Durations of the two measurements of a way.
#[derive(Clone, Copy, Debug)]
pub struct Durations {
    /// Duration of the measurement of the latency.
    pub latency: Duration,
    /// Duration of the measurement of the CPU time.
    pub load: Duration,
}

/// Running servers.
pub struct Lab {
    core_dns: CoreDns,
    caching: Agent,
    forwarding: Agent,
    load: Load,
}

impl Lab {
    /// Starts all servers. `core_dns` and `kuma_dp` are paths of the programs; `folder` gets their files.
    ///
    /// # Errors
    /// When a server does not start, or the process is not in a network namespace of its own.
    pub fn start(core_dns: &Path, kuma_dp: &Path, folder: &Path) -> Result<Self> {
        let status = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
        ensure!(status.success(), "the loopback interface cannot be set up");
        let upstream = name_server::start().context("the simulated name server cannot be started")?;
        let core_dns = CoreDns::start(core_dns, upstream, folder)?;
        Ok(Self {
            caching: Agent::start(kuma_dp, CACHING_PORT, true, folder)?,
            forwarding: Agent::start(kuma_dp, FORWARDING_PORT, false, folder)?,
            core_dns,
            load: Load::new(folder)?,
        })
    }

    /// Measures a way.
    ///
    /// # Errors
    /// When queries are lost, or a server has ended.
    pub fn measure(&self, way: Way, durations: Durations) -> Result<Sample> {
        let (port, agent) = match way {
            Way::Direct => (CORE_DNS_PORT, None),
            Way::Hit => (CACHING_PORT, Some(&self.caching)),
            Way::Miss => (FORWARDING_PORT, Some(&self.forwarding)),
        };
        let cpu_times = || -> Result<(Duration, Duration)> {
            let agent = agent.map(|agent| agent.process().cpu_time()).transpose()?;
            Ok((agent.unwrap_or_default(), self.core_dns.process().cpu_time()?))
        };
        // Fills the caches.
        self.load.warm_up(port)?;
        let latency_ms = self.load.measure_latency(port, durations.latency)?;
        let (agent_before, core_dns_before) = cpu_times()?;
        let queries = self.load.run(port, durations.load)?;
        let (agent_after, core_dns_after) = cpu_times()?;
        let per_query = |time: Duration| time.as_secs_f64() * 1e6 / queries;
        Ok(Sample {
            latency_ms,
            agent_us: per_query(agent_after.saturating_sub(agent_before)),
            core_dns_us: per_query(core_dns_after.saturating_sub(core_dns_before)),
        })
    }

    /// Returns the process of the `kuma-dp` with cache.
    pub fn caching_agent(&self) -> &Process {
        self.caching.process()
    }
}
