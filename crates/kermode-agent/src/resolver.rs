//! DNS configuration of the Pod (`/etc/resolv.conf`). The agent resolves the control plane's host name with it, and the
//! agent's DNS server forwards queries to the name servers listed in it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::parse_resolv_conf;

/// Port of name servers.
const DNS_PORT: u16 = 53;

/// DNS configuration of the Pod.
pub struct SystemDns {
    config: ResolverConfig,
    options: ResolverOpts,
}

impl SystemDns {
    /// Reads the file at `path`. If the file yields no name servers, the control plane can only be reached by its IP
    /// address.
    pub fn read(path: &Path) -> Self {
        let parsed = fs::read(path).map_err(NetError::from).and_then(|text| {
            parse_resolv_conf(&text).or_else(|error| {
                let parsed = parse_resolv_conf(without_invalid_domains(&text))?;
                tracing::warn!(path = %path.display(), %error, "invalid search domains are ignored");
                Ok(parsed)
            })
        });
        let (config, options) = parsed.unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "no name servers: names cannot be resolved");
            <(ResolverConfig, ResolverOpts)>::default()
        });
        Self { config, options }
    }

    /// Returns the name servers in order.
    pub fn servers(&self) -> Vec<SocketAddr> {
        self.config
            .name_servers()
            .iter()
            .map(|server| (server.ip, DNS_PORT).into())
            .collect()
    }

    /// Returns the time for which a client waits for a response (`options timeout:n`). As in libc, zero counts as 1 s.
    pub fn timeout(&self) -> Duration {
        self.options.timeout.max(Duration::from_secs(1))
    }

    /// Returns the timeout of a response of one name server: an equal part of [`Self::timeout`]. All name servers are
    /// queried before the client queries again.
    pub fn server_timeout(&self) -> Duration {
        let servers = u32::try_from(self.config.name_servers().len()).unwrap_or(u32::MAX);
        self.timeout() / servers.max(1)
    }

    /// Returns a resolver for the agent's own connections.
    ///
    /// # Errors
    /// Fails when the configuration is invalid.
    pub fn resolver(&self) -> anyhow::Result<Arc<TokioResolver>> {
        let mut options = self.options.clone();
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        // The agent resolves a name only when it connects. A cached address may be outdated by then.
        options.cache_size = 0;
        let builder =
            TokioResolver::builder_with_config(self.config.clone(), TokioRuntimeProvider::default());
        Ok(Arc::new(builder.with_options(options).build().context(
            "cannot create the resolver for the control plane's host name",
        )?))
    }
}

/// Returns a `resolv.conf` without the search domains that `hickory` does not accept. It rejects the whole file because
/// of one, such as a domain with a label of more than 63 bytes, which Kubernetes permits. The name of the control plane
/// needs the other search domains.
fn without_invalid_domains(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().map(|line| {
        let mut words = line.split_whitespace();
        match words.next() {
            Some(keyword @ ("search" | "domain")) => {
                let valid = words.filter(|word| Name::from_str_relaxed(word).is_ok());
                std::iter::once(keyword)
                    .chain(valid)
                    .collect::<Vec<_>>()
                    .join(" ")
            }
            _ => line.to_owned(),
        }
    });
    // A line without domains is invalid, too.
    let lines = lines.filter(|line| !matches!(line.as_str(), "search" | "domain"));
    lines.collect::<Vec<_>>().join("\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_search_domain_does_not_take_the_name_servers_away() {
        for domain in ["a..b", "-x.example", &"a".repeat(64)] {
            let file = tempfile::NamedTempFile::new().unwrap();
            let text = format!("search demo.svc {domain} svc\nnameserver 10.96.0.10\noptions timeout:3\n");
            fs::write(file.path(), text).unwrap();
            let dns = SystemDns::read(file.path());
            let search: Vec<_> = dns.config.search().iter().map(Name::to_ascii).collect();
            assert_eq!(search, ["demo.svc", "svc"], "{domain}");
            assert_eq!(dns.servers(), ["10.96.0.10:53".parse().unwrap()], "{domain}");
            assert_eq!(dns.timeout(), Duration::from_secs(3), "{domain}");
        }
    }

    #[test]
    fn all_name_servers_are_read_in_order_with_their_timeout() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "search demo.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver fd00::10\n\
                    options ndots:5 timeout:1\n";
        fs::write(file.path(), text).unwrap();
        let dns = SystemDns::read(file.path());
        let expected: [SocketAddr; 2] = ["10.96.0.10:53".parse().unwrap(), "[fd00::10]:53".parse().unwrap()];
        assert_eq!(dns.servers(), expected);
        assert_eq!(dns.timeout(), Duration::from_secs(1));
        assert_eq!(dns.server_timeout(), Duration::from_millis(500));
    }

    #[test]
    fn timeout_of_zero_counts_as_a_second() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "nameserver 10.96.0.10\noptions timeout:0\n").unwrap();
        assert_eq!(
            SystemDns::read(file.path()).server_timeout(),
            Duration::from_secs(1)
        );
    }

    #[test]
    fn missing_file_leads_to_no_name_servers() {
        assert_eq!(SystemDns::read(Path::new("/nonexistent")).servers(), []);
    }
}
