//! Control plane of one Envoy: the product's ADS server on a unix socket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use kermode_authentication::{Authenticator, ProxyIdentity};
use kermode_envoy::Resource;
use kermode_model::ObjectKey;
use kermode_removals::EndpointRemovals;
use kermode_xds::server::{AdsServer, Metrics, Settings, Transport};
use kermode_xds::store::{Profile, Store};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::service::Routes;

/// Name of the socket in the folder of a measurement.
const SOCKET: &str = "control-plane.sock";

/// A running control plane. Dropping it ends the server.
pub(super) struct ControlPlane {
    task: JoinHandle<()>,
    _shutdown: watch::Sender<bool>,
}

/// Authenticates every caller as the only proxy.
struct AcceptAll;

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts the server in a folder, with the own resources of the only proxy.
pub(super) fn start(folder: &Path, resources: Vec<Resource>) -> Result<ControlPlane> {
    let listener = UnixListener::bind(folder.join(SOCKET))?;
    let store = Arc::new(Store::default());
    let (shutdown, shutdown_receiver) = watch::channel(false);
    let settings = Settings {
        shutdown_period: Duration::ZERO,
        ..Settings::default()
    };
    let server = AdsServer::new(
        store.clone(),
        AcceptAll,
        settings,
        Metrics::default(),
        EndpointRemovals::default(),
        shutdown_receiver,
    );
    store.replace_proxy(&proxy(), Profile::new("default".into()), resources);
    let task = tokio::spawn(async move {
        let transport = Transport::new(server, Routes::default());
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(transport.clone().serve(stream, || (), std::future::pending()));
        }
    });
    Ok(ControlPlane {
        task,
        _shutdown: shutdown,
    })
}

/// Returns the bootstrap of an Envoy that gets its configuration from the control plane in `folder`.
pub(super) fn bootstrap(folder: &Path) -> Value {
    let ads = json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" });
    json!({
        "node": { "id": "default.client.bench", "cluster": "client" },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "control_plane" } }],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": { "clusters": [{
            "name": "control_plane",
            "type": "STATIC",
            "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            }},
            "load_assignment": { "cluster_name": "control_plane", "endpoints": [{ "lb_endpoints": [{
                "endpoint": { "address": { "pipe": { "path": folder.join(SOCKET) } } },
            }]}]},
        }]},
        // As in a sidecar's bootstrap.
        "deferred_stat_options": { "enable_deferred_creation_stats": true },
        "stats_flush_on_admin": true,
    })
}

fn proxy() -> ObjectKey {
    ObjectKey::new("bench", "client")
}

impl Authenticator for AcceptAll {
    fn authenticate<'a>(&'a self, _: &'a http::HeaderMap) -> BoxFuture<'a, Result<ProxyIdentity, Status>> {
        let identity = ProxyIdentity {
            key: proxy(),
            service_account: "client".into(),
            uid: "1".into(),
        };
        async { Ok(identity) }.boxed()
    }

    fn authorize(&self, _: &ProxyIdentity) -> Result<(), Status> {
        Ok(())
    }
}
