//! Messages in and out of a call, as gRPC frames them.
//!
//! tonic's own codecs keep a buffer for each direction of a call, as large as the largest message so far. Thousands of
//! streams that are idle most of their time, and whose first messages are the largest, cannot afford that: here a
//! request's buffer has its size and is gone with it, and a response is put together in pieces, each when the client
//! can take it, from the bytes that all streams share.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue};
use kermode_http2::{reset, send_some};
use prost::Message;
use tonic::Status;

use kermode_protocol::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, MAX_REQUEST};

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
    stream: RecvStream,
    received: Received,
}

/// What has come and was not taken yet.
#[derive(Default)]
struct Received(BytesMut);

/// The responses of a call, and its status at the end.
pub(super) struct Responses {
    stream: SendStream<Bytes>,
    /// Whether a part of a response has been sent, and the rest has not.
    cut_off: bool,
}

/// An encoded message, in parts, as far as it has not been given away.
#[derive(Debug, Default)]
struct Framed {
    parts: VecDeque<Bytes>,
    left: usize,
}

// === impl Requests ===

impl Requests {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            received: Received::default(),
        }
    }

    /// The next one; none when the client is done. Cancel safe.
    ///
    /// # Errors
    /// When the call breaks, or what comes is no request or too large a one.
    pub(super) async fn message(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        loop {
            if let Some(request) = self.received.take()? {
                return Ok(Some(request));
            }
            let Some(data) = self.stream.data().await else {
                return self.received.end();
            };
            let data = data.map_err(broken)?;
            self.stream
                .flow_control()
                .release_capacity(data.len())
                .map_err(broken)?;
            self.received.0.extend_from_slice(&data);
        }
    }
}

fn broken(error: h2::Error) -> Status {
    Status::unknown(format!("the call broke: {error}"))
}

// === impl Received ===

impl Received {
    fn take(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        let Some(mut head) = self.0.get(..HEAD) else {
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
        let Some(message) = self.0.get(HEAD..HEAD + length) else {
            return Ok(None);
        };
        let request = DeltaDiscoveryRequest::decode(message)
            .map_err(|error| Status::internal(format!("a request that cannot be read: {error}")))?;
        self.0.advance(HEAD + length);
        if self.0.is_empty() {
            self.0 = BytesMut::new();
        }
        Ok(Some(request))
    }

    /// Nothing more comes.
    fn end<T>(&self) -> Result<Option<T>, Status> {
        let complete = self.0.is_empty();
        complete
            .then_some(None)
            .ok_or_else(|| Status::internal("the call ended within a request"))
    }
}

// === impl Responses ===

impl Responses {
    /// Accepts the call.
    ///
    /// # Errors
    /// When the client does not want it any more.
    pub(super) fn begin(respond: &mut SendResponse<Bytes>) -> Result<Self, h2::Error> {
        let mut response = http::Response::new(());
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
        let stream = respond.send_response(response, false)?;
        Ok(Self {
            stream,
            cut_off: false,
        })
    }

    /// Completes when the client has all of it, or as much as HTTP/2 lets be on its way.
    ///
    /// # Errors
    /// When the call broke, or the response cannot be framed.
    pub(super) async fn send(&mut self, response: DeltaDiscoveryResponse) -> Result<(), Status> {
        for mut piece in Framed::new(response)? {
            while !piece.is_empty() {
                send_some(&mut self.stream, &mut piece).await.map_err(broken)?;
                self.cut_off = true;
            }
        }
        self.cut_off = false;
        Ok(())
    }

    /// Completes when the client does not want responses any more.
    pub(super) async fn unwanted(&mut self) {
        reset(&mut self.stream).await;
    }

    /// Ends the call. No capacity is needed for that, and nothing is waited for. A status cannot follow a part of a
    /// response, which would look like a broken message: the call is cancelled then.
    pub(super) fn end(mut self, status: Option<&Status>) {
        if self.cut_off {
            self.stream.send_reset(Reason::CANCEL);
        } else if let Ok(trailers) = trailers(status) {
            // An error means that the call has ended.
            let _ = self.stream.send_trailers(trailers);
        }
    }
}

// === impl Framed ===

impl Framed {
    /// The resources go last, so that all else is one part. Fields of a message may come in any order.
    fn new(mut response: DeltaDiscoveryResponse) -> Result<Self, Status> {
        let whole = response.encoded_len();
        let length = u32::try_from(whole).map_err(|_| Status::internal("a response is too large"))?;
        if HEAD + whole <= PIECE {
            return Self::whole(&response, length);
        }
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

    /// In one part, as most are: one that tells of a change.
    fn whole(response: &DeltaDiscoveryResponse, length: u32) -> Result<Self, Status> {
        let mut part = Vec::with_capacity(HEAD + response.encoded_len());
        part.put_u8(0);
        part.put_u32(length);
        let too_long = |error: prost::EncodeError| Status::internal(error.to_string());
        response.encode(&mut part).map_err(too_long)?;
        Ok(Self {
            left: part.len(),
            parts: [part.into()].into(),
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

    #[test]
    fn requests_are_read_however_they_are_cut_and_leave_no_buffer() {
        let (one, two) = (request("one"), request("two"));
        let bytes = [in_a_frame(&one), in_a_frame(&two)].concat();
        for size in [1, 3, 7, bytes.len()] {
            let mut received = Received::default();
            let mut taken = Vec::new();
            for data in bytes.chunks(size) {
                received.0.extend_from_slice(data);
                while let Some(request) = received.take().expect("a request") {
                    taken.push(request);
                }
            }
            assert_eq!(taken, [one.clone(), two.clone()]);
            assert_eq!(received.0.capacity(), 0);
            assert_eq!(received.end::<()>().expect("the end"), None);
        }
    }

    #[test]
    fn what_is_no_request_ends_the_call() {
        let code = |bytes: &[u8]| {
            let mut received = Received(bytes.into());
            let taken = received.take().and_then(|_| received.end::<()>());
            taken.expect_err("refused").code()
        };
        let whole = in_a_frame(&request("one"));
        assert_eq!(code(&[1, 0, 0, 0, 0]), tonic::Code::Unimplemented);
        assert_eq!(code(&[0, 255, 0, 0, 0]), tonic::Code::OutOfRange);
        assert_eq!(code(&[0, 0, 0, 0, 1, 255]), tonic::Code::Internal);
        assert_eq!(code(&whole[..whole.len() - 1]), tonic::Code::Internal);
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
}
