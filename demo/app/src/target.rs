//! Target of a request: host and port, and the resolution of host names.
//!
//! glibc's resolver cannot be linked statically, so this module resolves names with the servers, search domains and
//! `ndots` of `/etc/resolv.conf`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::Name;
use tokio::net::TcpStream;

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl std::str::FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.rsplit_once(':').and_then(|(host, port)| {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let port = port.parse().ok()?;
            (!host.is_empty()).then(|| Self {
                host: host.to_owned(),
                port,
            })
        });
        parsed.with_context(|| format!("{text:?}: write it as HOST:PORT"))
    }
}

/// Resolves names and connects.
#[derive(Clone)]
pub(crate) struct Connector {
    resolver: TokioResolver,
    timeout: Duration,
}

impl Connector {
    /// Returns a connector with the system's resolver configuration. `timeout` covers resolution and connection.
    pub(crate) fn new(timeout: Duration) -> Result<Self> {
        let resolver = TokioResolver::builder_tokio()
            .and_then(hickory_resolver::ResolverBuilder::build)
            .context("cannot use /etc/resolv.conf")?;
        Ok(Self { resolver, timeout })
    }

    /// Connects to the first address of the target that accepts.
    pub(crate) async fn connect(&self, target: &Target) -> Result<TcpStream> {
        tokio::time::timeout(self.timeout, self.try_addresses(target))
            .await
            .context("connect: timed out")?
    }

    async fn try_addresses(&self, target: &Target) -> Result<TcpStream> {
        let mut last_error = None;
        for address in self.resolve(&target.host).await? {
            match TcpStream::connect(SocketAddr::new(address, target.port)).await {
                Ok(stream) => {
                    stream.set_nodelay(true).context("connect")?;
                    return Ok(stream);
                }
                Err(error) => last_error = Some(error),
            }
        }
        match last_error {
            Some(error) => Err(error).context("connect"),
            None => bail!("name: {} has no address", target.host),
        }
    }

    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        // Names of services have underscores, which the conversion of international names rejects.
        let name = Name::from_ascii(host).context("name")?;
        let lookup = self.resolver.lookup_ip(name).await.context("name")?;
        Ok(lookup.iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_host_is_a_name_or_an_ip_address() {
        let target = |text: &str| text.parse::<Target>().expect("a target");
        assert_eq!(
            target("demo-server:80"),
            Target {
                host: "demo-server".to_owned(),
                port: 80
            }
        );
        assert_eq!(
            target("[::1]:80"),
            Target {
                host: "::1".to_owned(),
                port: 80
            }
        );
        for text in ["demo-server", ":80", "demo-server:", "demo-server:x", "a:99999"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
