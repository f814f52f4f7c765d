//! The server for proxies: delta ADS, certificates and departures behind one authentication.

use std::sync::Arc;

use axum::Router;
use futures::future::BoxFuture;
use kermode_runtime::shutdown::Shutdown;
use kermode_xds::departures::Departures;
use kermode_xds::departures::service::DepartureService;
use kermode_xds::rpc::Rpc;
use kermode_xds::server::{AdsServer, Authenticator, Metrics, ProxyIdentity, Settings};
use kermode_xds::store::Store;
use prometheus_client::registry::Registry;
use tonic::Status;
use tonic::service::Routes;

use crate::authentication::Authentication;
use crate::identity::{Identity, status};
use crate::status::Statuses;

impl Authenticator for Authentication {
    fn authenticate<'a>(
        &'a self,
        metadata: &'a http::HeaderMap,
    ) -> BoxFuture<'a, Result<ProxyIdentity, Status>> {
        Box::pin(async move { self.identify(metadata).await.map_err(|refused| status(&refused)) })
    }

    fn authorize(&self, identity: &ProxyIdentity) -> Result<(), Status> {
        self.allow(identity).map_err(|refused| status(&refused))
    }
}

/// The routes of the services.
pub(crate) fn router(
    store: Arc<Store>,
    departures: Departures,
    authentication: Authentication,
    identity: Identity,
    statuses: Statuses,
    registry: &mut Registry,
    shutdown: &Shutdown,
) -> Router {
    let metrics = Metrics::default();
    metrics.register(registry);
    let departing = DepartureService::new(departures.clone(), authentication.clone());
    let ads = AdsServer::new(
        store,
        authentication,
        Settings::default(),
        metrics,
        departures,
        shutdown.watch(),
    );
    ads.report_to(statuses);
    Routes::new(Rpc(ads))
        .add_service(identity)
        .add_service(Rpc(departing))
        .into_axum_router()
}
