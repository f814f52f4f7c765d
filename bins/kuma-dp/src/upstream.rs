//! Opens ADS streams to the control plane, each with the token of the moment.

use anyhow::Context as _;
use futures::Stream;
use http::uri::PathAndQuery;
use kermode_protocol::ads::{DELTA_AGGREGATED_RESOURCES, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

use crate::token::TokenFile;

/// The way to the control plane's ADS.
#[derive(Clone)]
pub(crate) struct Upstream {
    channel: Channel,
    token: TokenFile,
}

impl Upstream {
    pub(crate) fn new(channel: Channel, token: TokenFile) -> Self {
        Self { channel, token }
    }

    /// Opens a stream that carries `requests`.
    pub(crate) async fn open(
        &self,
        requests: impl Stream<Item = DeltaDiscoveryRequest> + Send + 'static,
    ) -> anyhow::Result<Streaming<DeltaDiscoveryResponse>> {
        let mut request = Request::new(requests);
        request
            .metadata_mut()
            .insert("authorization", self.token.authorization().await?);
        let mut client = Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        client.ready().await.context("connecting to the control plane")?;
        let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
        let path = PathAndQuery::from_static(DELTA_AGGREGATED_RESOURCES);
        Ok(client.streaming(request, path, codec).await?.into_inner())
    }
}
