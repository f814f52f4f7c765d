//! Framing of gRPC messages in both directions of an ADS call.
//!
//! tonic's codecs keep a buffer for each direction of a call, as large as the largest message so far. These buffers
//! take too much memory for thousands of mostly idle streams whose first messages are the largest. Here the buffer of
//! received bytes is freed once all received requests are decoded. A response is sent in pieces from resources that all
//! streams share; each piece is built after the previous piece was sent.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue};
use kermode_http2::send_some;
use prost::Message;
use tonic::Status;

use kermode_protocol::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, MAX_REQUEST_SIZE};

/// Size of the gRPC prefix of a message, in bytes: compression flag and length.
const PREFIX_SIZE: usize = 5;
/// Maximum size of a piece of a response, in bytes: an HTTP/2 frame of the default size.
const MAX_PIECE_SIZE: usize = 16 * 1024;
/// Protobuf tag of a response's `resources`: field 2, length-delimited.
const RESOURCES_TAG: u8 = 2 << 3 | 2;
/// Maximum size of the protobuf tag and length before a resource, in bytes.
const MAX_RESOURCE_PREFIX_SIZE: usize = 6;
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Stream of the call's requests.
pub(super) struct Requests {
    stream: RecvStream,
    received: Received,
}

/// Received bytes that are not decoded yet.
#[derive(Default)]
struct Received(BytesMut);

/// Sender of the call's responses and of its final status.
pub(super) struct Responses {
    stream: SendStream<Bytes>,
    /// Whether a part of a response was sent and the rest was not.
    is_partial: bool,
}

/// Rest of an encoded response: the gRPC prefix and the message, without the pieces that were already taken.
#[derive(Debug, Default)]
struct FramedResponse {
    /// Resources, which other streams share, and the encoded fields and tags between them.
    parts: VecDeque<Bytes>,
    /// Size of all parts, in bytes.
    remaining: usize,
}

// === impl Requests ===

impl Requests {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            received: Received::default(),
        }
    }

    /// Returns the next request, or `None` after the last request of the client. Cancel safe.
    ///
    /// # Errors
    /// When the call breaks, or a request is malformed or too large.
    pub(super) async fn message(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        loop {
            if let Some(request) = self.received.take_request()? {
                return Ok(Some(request));
            }
            let Some(data) = self.stream.data().await else {
                return self.received.check_empty().map(|()| None);
            };
            let data = data.map_err(connection_error)?;
            self.stream
                .flow_control()
                .release_capacity(data.len())
                .map_err(connection_error)?;
            self.received.0.extend_from_slice(&data);
        }
    }
}

fn connection_error(error: h2::Error) -> Status {
    Status::unknown(format!("the connection of the call broke: {error}"))
}

// === impl Received ===

impl Received {
    /// Removes and returns the next request; `None` if the request has not arrived completely.
    fn take_request(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        let Some(mut head) = self.0.get(..PREFIX_SIZE) else {
            return Ok(None);
        };
        if head.get_u8() != 0 {
            return Err(Status::unimplemented("compressed requests are not supported"));
        }
        let length = usize::try_from(head.get_u32()).unwrap_or(usize::MAX);
        if length > MAX_REQUEST_SIZE {
            let text = format!("the request has {length} bytes; the limit is {MAX_REQUEST_SIZE}");
            return Err(Status::out_of_range(text));
        }
        let Some(message) = self.0.get(PREFIX_SIZE..PREFIX_SIZE + length) else {
            return Ok(None);
        };
        let request = DeltaDiscoveryRequest::decode(message)
            .map_err(|error| Status::internal(format!("the request cannot be decoded: {error}")))?;
        self.0.advance(PREFIX_SIZE + length);
        if self.0.is_empty() {
            self.0 = BytesMut::new();
        }
        Ok(Some(request))
    }

    /// Checks that no part of a request is left at the end of the call.
    fn check_empty(&self) -> Result<(), Status> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Status::internal("the call ended within a request"))
        }
    }
}

// === impl Responses ===

impl Responses {
    /// Sends the HTTP headers of the call, which precede its first response.
    ///
    /// # Errors
    /// When the client has reset the call.
    pub(super) fn begin(respond: &mut SendResponse<Bytes>) -> Result<Self, h2::Error> {
        let mut response = http::Response::new(());
        let content_type = HeaderValue::from_static("application/grpc");
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, content_type);
        let stream = respond.send_response(response, false)?;
        Ok(Self {
            stream,
            is_partial: false,
        })
    }

    /// Sends a response. Completes when flow control and the send buffer have accepted the last piece.
    ///
    /// # Errors
    /// When the call breaks or the response is too large.
    pub(super) async fn send(&mut self, response: DeltaDiscoveryResponse) -> Result<(), Status> {
        for mut piece in FramedResponse::new(response)? {
            while !piece.is_empty() {
                send_some(&mut self.stream, &mut piece)
                    .await
                    .map_err(connection_error)?;
                self.is_partial = true;
            }
        }
        self.is_partial = false;
        Ok(())
    }

    /// Completes when the client resets the call or its connection ends.
    pub(super) async fn wait_for_reset(&mut self) {
        kermode_http2::wait_for_reset(&mut self.stream).await;
    }

    /// Ends the call with a status, without waiting for the client. After a partial response, resets the call instead,
    /// because the client would report an incomplete message and not the status.
    pub(super) fn end(mut self, status: Option<&Status>) {
        if self.is_partial {
            self.stream.send_reset(Reason::CANCEL);
        } else if let Ok(trailers) = trailers(status) {
            // An error means that the client has ended the call.
            let _ = self.stream.send_trailers(trailers);
        }
    }
}

// === impl FramedResponse ===

impl FramedResponse {
    /// Encodes a response. The resources come last, so that all other fields form one part. Protobuf allows fields in
    /// any order.
    fn new(mut response: DeltaDiscoveryResponse) -> Result<Self, Status> {
        let size = response.encoded_len();
        let length = u32::try_from(size).map_err(|_| Status::internal("the response is too large"))?;
        if PREFIX_SIZE + size <= MAX_PIECE_SIZE {
            return Self::single_part(&response, length);
        }
        let resources = std::mem::take(&mut response.resources);
        let capacity = PREFIX_SIZE + response.encoded_len() + MAX_RESOURCE_PREFIX_SIZE * resources.len();
        let mut part = BytesMut::with_capacity(capacity);
        part.put_u8(0);
        part.put_u32(length);
        let encoding_failed = |error: prost::EncodeError| Status::internal(error.to_string());
        response.encode(&mut part).map_err(encoding_failed)?;
        let mut parts = VecDeque::with_capacity(2 * resources.len() + 1);
        for resource in resources {
            part.put_u8(RESOURCES_TAG);
            prost::encode_length_delimiter(resource.len(), &mut part).map_err(encoding_failed)?;
            parts.push_back(part.split().freeze());
            parts.push_back(resource);
        }
        parts.push_back(part.freeze());
        Ok(Self {
            parts,
            remaining: PREFIX_SIZE + size,
        })
    }

    /// Encodes a response that fits into one piece, as most responses do, in one part.
    fn single_part(response: &DeltaDiscoveryResponse, length: u32) -> Result<Self, Status> {
        let mut part = Vec::with_capacity(PREFIX_SIZE + response.encoded_len());
        part.put_u8(0);
        part.put_u32(length);
        let encoding_failed = |error: prost::EncodeError| Status::internal(error.to_string());
        response.encode(&mut part).map_err(encoding_failed)?;
        Ok(Self {
            remaining: part.len(),
            parts: [part.into()].into(),
        })
    }
}

/// Yields the pieces, in order.
impl Iterator for FramedResponse {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let size = self.remaining.min(MAX_PIECE_SIZE);
        if size == 0 {
            self.parts = VecDeque::new();
            return None;
        }
        self.remaining -= size;
        let mut piece = Vec::new();
        while let Some(part) = self.parts.front_mut() {
            let taken = part.split_to(part.len().min(size - piece.len()));
            if part.is_empty() {
                self.parts.pop_front();
            }
            // A piece that lies within one part shares the memory of the part. Any other piece is a copy.
            if taken.len() == size {
                return Some(taken);
            }
            piece.reserve_exact(size - piece.len());
            piece.extend_from_slice(&taken);
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

    fn request(type_url: &str) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn mk_framed(request: &DeltaDiscoveryRequest) -> Vec<u8> {
        let message = request.encode_to_vec();
        let length = u32::try_from(message.len()).expect("a small message");
        [&[0], &length.to_be_bytes()[..], &message].concat()
    }

    #[test]
    fn requests_in_fragments_of_any_size_are_decoded_and_leave_no_buffer() {
        let (one, two) = (request("one"), request("two"));
        let bytes = [mk_framed(&one), mk_framed(&two)].concat();
        for size in [1, 3, 7, bytes.len()] {
            let mut received = Received::default();
            let mut taken = Vec::new();
            for data in bytes.chunks(size) {
                received.0.extend_from_slice(data);
                while let Some(request) = received.take_request().expect("a request") {
                    taken.push(request);
                }
            }
            assert_eq!(taken, [one.clone(), two.clone()]);
            assert_eq!(received.0.capacity(), 0);
            received.check_empty().expect("no partial request");
        }
    }

    #[test]
    fn malformed_requests_are_rejected() {
        let code = |bytes: &[u8]| {
            let mut received = Received(bytes.into());
            let taken = received.take_request().and_then(|_| received.check_empty());
            taken.expect_err("an error").code()
        };
        let whole = mk_framed(&request("one"));
        assert_eq!(code(&[1, 0, 0, 0, 0]), tonic::Code::Unimplemented);
        assert_eq!(code(&[0, 255, 0, 0, 0]), tonic::Code::OutOfRange);
        assert_eq!(code(&[0, 0, 0, 0, 1, 255]), tonic::Code::Internal);
        assert_eq!(code(&whole[..whole.len() - 1]), tonic::Code::Internal);
    }

    #[test]
    fn pieces_of_a_response_form_the_encoded_message() {
        for sizes in [
            &[][..],
            &[0],
            &[5, MAX_PIECE_SIZE, 1],
            &[3 * MAX_PIECE_SIZE, 0, 100, 200],
            &[MAX_PIECE_SIZE - 30; 4],
        ] {
            let response = DeltaDiscoveryResponse {
                nonce: "7".to_owned(),
                type_url: "a kind".to_owned(),
                resources: sizes.iter().map(|size| Bytes::from(vec![7; *size])).collect(),
                removed_resources: vec!["gone".to_owned()],
                ..DeltaDiscoveryResponse::default()
            };
            let pieces: Vec<_> = FramedResponse::new(response.clone())
                .expect("a response below the limit")
                .collect();
            let (last, others) = pieces.split_last().expect("a piece");
            assert!(others.iter().all(|piece| piece.len() == MAX_PIECE_SIZE) && !last.is_empty());
            let message = pieces.concat();
            assert_eq!(
                message[1..PREFIX_SIZE],
                u32::try_from(message.len() - PREFIX_SIZE)
                    .expect("a small message")
                    .to_be_bytes()
            );
            assert_eq!(
                DeltaDiscoveryResponse::decode(&message[PREFIX_SIZE..]),
                Ok(response)
            );
        }
    }
}
