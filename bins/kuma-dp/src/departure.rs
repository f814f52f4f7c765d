//! Follows this endpoint's way out, from the drain's beginning until no proxy sends requests here any more.
//!
//! The control plane knows who has acknowledged the removal (`kermode_xds::departures`). For now it is told to the log:
//! an operator sees how much of the drain time was needed. Nothing waits for it.

use anyhow::Context as _;
use http::uri::PathAndQuery;
use kermode_xds::departures::service::{WATCH_DEPARTURE, WatchDepartureRequest, WatchDepartureResponse};
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::token::TokenFile;

/// The way to the control plane's account of departures.
#[derive(Clone)]
pub(crate) struct Departure {
    pub(crate) channel: Channel,
    pub(crate) token: TokenFile,
}

impl Departure {
    /// Follows it to its end, or to that of the connection.
    pub(crate) async fn follow(self) {
        match self.watch().await {
            Ok(()) => {}
            // A control plane of an earlier version.
            Err(error) if error.downcast_ref().map(Status::code) == Some(Code::Unimplemented) => {
                tracing::debug!("the control plane does not tell who still sends requests here");
            }
            Err(error) => tracing::info!(
                error = format!("{error:#}"),
                "the control plane does not tell who still sends requests here, the drain takes its time"
            ),
        }
    }

    async fn watch(&self) -> anyhow::Result<()> {
        let mut answers = self.open().await?;
        while let Some(standing) = answers.message().await? {
            tell(&standing);
        }
        Ok(())
    }

    async fn open(&self) -> anyhow::Result<Streaming<WatchDepartureResponse>> {
        let mut request = Request::new(WatchDepartureRequest {});
        request
            .metadata_mut()
            .insert("authorization", self.token.authorization().await?);
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.context("connecting to the control plane")?;
        let codec = ProstCodec::<WatchDepartureRequest, WatchDepartureResponse>::default();
        let path = PathAndQuery::from_static(WATCH_DEPARTURE);
        let answers = client.server_streaming(request, path, codec).await?;
        Ok(answers.into_inner())
    }
}

fn tell(standing: &WatchDepartureResponse) {
    if standing.is_over() {
        tracing::info!(
            milliseconds = standing.took_ms,
            "every proxy has acknowledged that this endpoint is gone"
        );
    } else if standing.departing {
        tracing::debug!(
            proxies = standing.known_by,
            "proxies may still send requests here"
        );
    }
}
