//! Messages in and out of a call, as gRPC frames them in HTTP bodies.
//!
//! tonic's own codecs keep a buffer for each direction of a call, as large as the largest message so far. Thousands of
//! streams that are idle most of their time, and whose first messages are the largest, cannot afford that: here a
//! buffer has the size of its message, and is gone with it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use http_body_util::BodyExt;
use prost::Message;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::body::Body;

use crate::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, MAX_REQUEST};

/// A flag and the length.
const HEAD: usize = 5;
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The requests of a call.
pub(super) struct Requests {
    body: Body,
    received: BytesMut,
}

/// The responses of a call, and its status at the end.
pub(super) struct Responses {
    receiver: mpsc::Receiver<Result<DeltaDiscoveryResponse, Status>>,
    ended: bool,
}

// === impl Requests ===

impl Requests {
    pub(super) fn new(body: Body) -> Self {
        Self {
            body,
            received: BytesMut::new(),
        }
    }

    /// The next one; none when the client is done. Cancel safe.
    ///
    /// # Errors
    /// When the call breaks, or what comes is no request or too large a one.
    pub(super) async fn message(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        loop {
            if let Some(request) = self.take()? {
                return Ok(Some(request));
            }
            let Some(frame) = self.body.frame().await else {
                let complete = self.received.is_empty();
                return complete
                    .then_some(None)
                    .ok_or_else(|| Status::internal("the call ended within a request"));
            };
            // Trailers say nothing in this direction.
            if let Ok(data) = frame?.into_data() {
                self.received.extend_from_slice(&data);
            }
        }
    }

    fn take(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        let Some(mut head) = self.received.get(..HEAD) else {
            return Ok(None);
        };
        if head.get_u8() != 0 {
            return Err(Status::unimplemented("a compressed request"));
        }
        let length = usize::try_from(head.get_u32()).unwrap_or(usize::MAX);
        if length > MAX_REQUEST {
            let text = format!("a request of {length} bytes, of which {MAX_REQUEST} are the most");
            return Err(Status::out_of_range(text));
        }
        let Some(message) = self.received.get(HEAD..HEAD + length) else {
            return Ok(None);
        };
        let request = DeltaDiscoveryRequest::decode(message)
            .map_err(|error| Status::internal(format!("a request that cannot be read: {error}")))?;
        self.received.advance(HEAD + length);
        if self.received.is_empty() {
            self.received = BytesMut::new();
        }
        Ok(Some(request))
    }
}

// === impl Responses ===

impl Responses {
    pub(super) fn new(receiver: mpsc::Receiver<Result<DeltaDiscoveryResponse, Status>>) -> Self {
        Self {
            receiver,
            ended: false,
        }
    }

    /// The answer to the call.
    pub(super) fn into_http(self) -> http::Response<Body> {
        let mut response = http::Response::new(Body::new(self));
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
        response
    }
}

impl http_body::Body for Responses {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = std::task::ready!(self.receiver.poll_recv(context));
        Poll::Ready(Some(match next {
            Some(Ok(response)) => framed(&response).map(Frame::data),
            Some(Err(status)) => {
                self.ended = true;
                trailers(Some(&status)).map(Frame::trailers)
            }
            None => {
                self.ended = true;
                trailers(None).map(Frame::trailers)
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

fn framed(response: &DeltaDiscoveryResponse) -> Result<Bytes, Status> {
    let length = response.encoded_len();
    let mut buffer = Vec::with_capacity(HEAD + length);
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(length).map_err(|_| Status::internal("a response is too large"))?);
    response
        .encode(&mut buffer)
        .map_err(|error| Status::internal(error.to_string()))?;
    Ok(buffer.into())
}

fn trailers(status: Option<&Status>) -> Result<HeaderMap, Status> {
    let mut trailers = HeaderMap::new();
    match status {
        Some(status) => status.add_header(&mut trailers)?,
        None => {
            trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        }
    }
    Ok(trailers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(frames: impl IntoIterator<Item = Vec<u8>>) -> Body {
        let frames: Vec<_> = frames
            .into_iter()
            .map(|bytes| Ok::<_, Status>(Frame::data(Bytes::from(bytes))))
            .collect();
        Body::new(http_body_util::StreamBody::new(futures::stream::iter(frames)))
    }

    fn request(type_url: &str) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn in_a_frame(request: &DeltaDiscoveryRequest) -> Vec<u8> {
        let message = request.encode_to_vec();
        let length = u32::try_from(message.len()).expect("small");
        [&[0], &length.to_be_bytes()[..], &message].concat()
    }

    #[tokio::test]
    async fn requests_are_read_however_they_are_cut_and_leave_no_buffer() {
        let (one, two) = (request("one"), request("two"));
        let bytes = [in_a_frame(&one), in_a_frame(&two)].concat();
        for size in [1, 3, 7, bytes.len()] {
            let mut requests = Requests::new(body(bytes.chunks(size).map(<[u8]>::to_vec)));
            assert_eq!(requests.message().await.expect("one"), Some(one.clone()));
            assert_eq!(requests.message().await.expect("two"), Some(two.clone()));
            assert_eq!(requests.received.capacity(), 0);
            assert_eq!(requests.message().await.expect("the end"), None);
        }
    }

    #[tokio::test]
    async fn what_is_no_request_ends_the_call() {
        let code = async |bytes: Vec<u8>| {
            let mut requests = Requests::new(body([bytes]));
            requests.message().await.expect_err("refused").code()
        };
        let whole = in_a_frame(&request("one"));
        assert_eq!(code(vec![1, 0, 0, 0, 0]).await, tonic::Code::Unimplemented);
        assert_eq!(code(vec![0, 255, 0, 0, 0]).await, tonic::Code::OutOfRange);
        assert_eq!(code(vec![0, 0, 0, 0, 1, 255]).await, tonic::Code::Internal);
        assert_eq!(
            code(whole[..whole.len() - 1].to_vec()).await,
            tonic::Code::Internal
        );
    }

    #[tokio::test]
    async fn responses_are_followed_by_a_status() {
        let (sender, receiver) = mpsc::channel(2);
        let response = DeltaDiscoveryResponse {
            nonce: "1".to_owned(),
            ..DeltaDiscoveryResponse::default()
        };
        sender.send(Ok(response.clone())).await.expect("room");
        sender.send(Err(Status::aborted("so"))).await.expect("room");
        let mut body = Responses::new(receiver).into_http().into_body();
        let data = body.frame().await.expect("a frame").expect("data").into_data();
        let data = data.expect("data");
        assert_eq!(data[..HEAD], [0, 0, 0, 0, 3]);
        assert_eq!(DeltaDiscoveryResponse::decode(&data[HEAD..]), Ok(response));
        let trailers = body.frame().await.expect("a frame").expect("trailers");
        let trailers = trailers.into_trailers().expect("trailers");
        assert_eq!(trailers["grpc-status"], "10");
        assert!(body.frame().await.is_none());
        drop(sender);
    }
}
