//! Server of the exchange ([`super::Exchange`]) on tonic and hyper, with tonic's codec and one bidirectional call for
//! each connection.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use bytes::{Buf, BufMut, Bytes};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::sync::watch;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use super::{GRPC_PREFIX, Io, MESSAGE_SIZE, ResponseCounter};

/// Serves a connection until it ends. Sends one message whenever the number of the exchange changes, and counts the
/// responses.
pub(super) async fn serve(
    io: impl Io,
    exchange_numbers: watch::Receiver<u64>,
    responses: Arc<ResponseCounter>,
) -> Result<()> {
    let exchange = ExchangeService {
        exchange_numbers,
        responses,
    };
    let service = service_fn(move |request: http::Request<Incoming>| {
        let exchange = exchange.clone();
        async move { Ok::<_, Infallible>(Grpc::new(BytesCodec).streaming(exchange, request).await) }
    });
    auto::Builder::new(TokioExecutor::new())
        .http2_only()
        .serve_connection(TokioIo::new(io), service)
        .await
        .map_err(|error| anyhow!(error))
}

#[derive(Clone)]
struct ExchangeService {
    exchange_numbers: watch::Receiver<u64>,
    responses: Arc<ResponseCounter>,
}

impl StreamingService<Bytes> for ExchangeService {
    type Response = Bytes;
    type ResponseStream = BoxStream<'static, Result<Bytes, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (exchange_numbers, responses) = (self.exchange_numbers.clone(), self.responses.clone());
        // The client opens the call, so the client's responses are gRPC requests, and the server's messages are gRPC
        // responses. As in a tonic service for ADS, a task reads the requests, and a separate stream yields the
        // responses.
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(_)) = requests.message().await {
                responses.count_one();
            }
        });
        let message = Bytes::from_static(&[7; MESSAGE_SIZE - GRPC_PREFIX]);
        let changes = stream::unfold(exchange_numbers, |mut exchange_numbers| async move {
            exchange_numbers.changed().await.ok()?;
            Some(((), exchange_numbers))
        });
        let messages = changes.map(move |()| Ok(message.clone())).boxed();
        Box::pin(std::future::ready(Ok(Response::new(messages))))
    }
}

/// Codec that passes the bytes of a message through.
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
