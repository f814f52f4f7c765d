//! What the pod's `/etc/resolv.conf` says, for the control plane's name and for passing queries on.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;

const DNS_PORT: u16 = 53;

/// The pod's DNS configuration.
pub(crate) struct SystemDns {
    config: ResolverConfig,
    options: ResolverOpts,
}

impl SystemDns {
    /// Reads the file. A pod without name servers is legal: then only addresses can be reached.
    pub(crate) fn read(path: &Path) -> Self {
        let parsed = fs::read(path).map_err(NetError::from).and_then(parse_resolv_conf);
        let (config, options) = parsed.unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "no name servers, names cannot be resolved");
            <(ResolverConfig, ResolverOpts)>::default()
        });
        Self { config, options }
    }

    /// The name servers, in order.
    pub(crate) fn servers(&self) -> Vec<SocketAddr> {
        self.config
            .name_servers()
            .iter()
            .map(|server| (server.ip, DNS_PORT).into())
            .collect()
    }

    /// A resolver for this process.
    pub(crate) fn resolver(&self) -> anyhow::Result<Arc<TokioResolver>> {
        let mut options = self.options.clone();
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        // The one name of interest is asked for only when a connection was lost, and then the old answer is suspect.
        options.cache_size = 0;
        let builder =
            TokioResolver::builder_with_config(self.config.clone(), TokioRuntimeProvider::default());
        Ok(Arc::new(
            builder
                .with_options(options)
                .build()
                .context("resolver for the control plane's name")?,
        ))
    }
}
