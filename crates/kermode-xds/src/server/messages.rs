//! Messages in and out of a call, as gRPC frames them in HTTP bodies.
//!
//! tonic's own codecs keep a buffer for each direction of a call, as large as the largest message so far. Thousands of
//! streams that are idle most of their time, and whose first messages are the largest, cannot afford that: here a
//! request's buffer has its size and is gone with it, and a response is put together in pieces, each when the client
//! can take it, from the bytes that all streams share.

use std::collections::VecDeque;
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
/// How much of a response goes out at once: what fits into a frame of HTTP/2.
const PIECE: usize = 16 * 1024;
/// What comes before a resource in a response: the tag of its field, which is number 2 and has a length, and the length.
const RESOURCE: u8 = 2 << 3 | 2;
const LONGEST_PREFIX: usize = 6;
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The requests of a call.
pub(super) struct Requests {
    body: Body,
    received: BytesMut,
}

/// The responses of a call, and its status at the end.
pub(super) struct Responses {
    receiver: mpsc::Receiver<Result<DeltaDiscoveryResponse, Status>>,
    /// What is left of the response that is on its way.
    sending: Framed,
    ended: bool,
}

/// An encoded message, in parts, as far as it has not been given away.
#[derive(Debug, Default)]
struct Framed {
    parts: VecDeque<Bytes>,
    left: usize,
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
            sending: Framed::default(),
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
        if let Some(piece) = self.sending.next() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let next = std::task::ready!(self.receiver.poll_recv(context));
        if let Some(Ok(response)) = next {
            return Poll::Ready(Some(Framed::new(response).map(|framed| {
                self.sending = framed;
                Frame::data(self.sending.next().unwrap_or_default())
            })));
        }
        self.ended = true;
        let status = next.and_then(Result::err);
        Poll::Ready(Some(trailers(status.as_ref()).map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

// === impl Framed ===

impl Framed {
    /// The resources go last, so that all else is one part. Fields of a message may come in any order.
    fn new(mut response: DeltaDiscoveryResponse) -> Result<Self, Status> {
        let whole = response.encoded_len();
        let length = u32::try_from(whole).map_err(|_| Status::internal("a response is too large"))?;
        let resources = std::mem::take(&mut response.resources);
        let rest = HEAD + response.encoded_len() + LONGEST_PREFIX * resources.len();
        let mut part = BytesMut::with_capacity(rest);
        part.put_u8(0);
        part.put_u32(length);
        let too_long = |error: prost::EncodeError| Status::internal(error.to_string());
        response.encode(&mut part).map_err(too_long)?;
        let mut parts = VecDeque::with_capacity(2 * resources.len() + 1);
        for resource in resources {
            part.put_u8(RESOURCE);
            prost::encode_length_delimiter(resource.len(), &mut part).map_err(too_long)?;
            parts.push_back(part.split().freeze());
            parts.push_back(resource);
        }
        parts.push_back(part.freeze());
        Ok(Self {
            parts,
            left: HEAD + whole,
        })
    }
}

/// Gives it away in pieces.
impl Iterator for Framed {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let size = self.left.min(PIECE);
        if size == 0 {
            self.parts = VecDeque::new();
            return None;
        }
        self.left -= size;
        let mut piece = Vec::new();
        while let Some(first) = self.parts.front_mut() {
            let part = first.split_to(first.len().min(size - piece.len()));
            if first.is_empty() {
                self.parts.pop_front();
            }
            if part.len() == size {
                return Some(part);
            }
            piece.reserve_exact(size - piece.len());
            piece.extend_from_slice(&part);
            if piece.len() == size {
                break;
            }
        }
        Some(piece.into())
    }
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

    #[test]
    fn responses_go_out_in_pieces_and_are_the_same_in_the_end() {
        for sizes in [
            &[][..],
            &[0],
            &[5, PIECE, 1],
            &[3 * PIECE, 0, 100, 200],
            &[PIECE - 30; 4],
        ] {
            let response = DeltaDiscoveryResponse {
                nonce: "7".to_owned(),
                type_url: "a kind".to_owned(),
                resources: sizes.iter().map(|size| Bytes::from(vec![7; *size])).collect(),
                removed_resources: vec!["gone".to_owned()],
                ..DeltaDiscoveryResponse::default()
            };
            let pieces: Vec<_> = Framed::new(response.clone()).expect("framed").collect();
            let (last, others) = pieces.split_last().expect("a piece");
            assert!(others.iter().all(|piece| piece.len() == PIECE) && !last.is_empty());
            let message = pieces.concat();
            assert_eq!(
                message[1..HEAD],
                u32::try_from(message.len() - HEAD).expect("small").to_be_bytes()
            );
            assert_eq!(DeltaDiscoveryResponse::decode(&message[HEAD..]), Ok(response));
        }
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
