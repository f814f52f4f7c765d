//! The parts of a DNS message that the DNS server reads: header and question (RFC 1035 section 4.1). Pure.
//!
//! `hickory-proto` decodes header and question. Records are not decoded: the DNS server passes messages on as bytes.

use hickory_proto::op::{Header, HeaderCounts, MessageType, Metadata, Query as Question, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder, BinEncodable as _, BinEncoder};

/// Length of the encoded header, in bytes.
const HEADER_LENGTH: usize = 12;

/// Query with exactly one question. Clients send no other queries.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    bytes: &'a [u8],
    metadata: Metadata,
    question: Question,
}

impl<'a> Query<'a> {
    /// Decodes a query. Returns `None` for responses, for messages with no or several questions, and for bytes that are
    /// not a DNS message.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, question) = header_and_question(bytes)?;
        (header.message_type == MessageType::Query && header.counts.queries == 1).then_some(Self {
            bytes,
            metadata: header.metadata,
            question: question?,
        })
    }

    /// Returns the encoded query with its ID replaced by `id`.
    pub(crate) fn with_id(&self, id: u16) -> Vec<u8> {
        with_id(self.bytes.to_vec(), id)
    }

    /// Returns the ID.
    pub(crate) fn id(&self) -> u16 {
        self.metadata.id
    }

    /// Returns whether `response` is a response to this query, which was sent with the ID `id`.
    ///
    /// Names are compared without case, because some servers change the case. An error response may lack the question,
    /// because the server may be unable to decode the question.
    pub(crate) fn is_answered_by(&self, response: &[u8], id: u16) -> bool {
        let Some((header, question)) = header_and_question(response) else {
            return false;
        };
        if header.id != id || header.message_type != MessageType::Response {
            return false;
        }
        match question {
            None => header.counts.queries == 0 && header.response_code != ResponseCode::NoError,
            Some(question) => question == self.question,
        }
    }

    /// Encodes a response without records.
    pub fn error_response(&self, code: ResponseCode) -> Vec<u8> {
        self.empty_response(code, false)
    }

    /// Encodes a response that makes the client repeat the query over TCP.
    pub(crate) fn truncated_response(&self) -> Vec<u8> {
        self.empty_response(ResponseCode::NoError, true)
    }

    fn empty_response(&self, code: ResponseCode, is_truncated: bool) -> Vec<u8> {
        let mut metadata = Metadata::new(self.metadata.id, MessageType::Response, self.metadata.op_code);
        metadata.recursion_desired = self.metadata.recursion_desired;
        metadata.recursion_available = true;
        metadata.truncation = is_truncated;
        metadata.response_code = code;
        let counts = HeaderCounts {
            queries: 1,
            ..HeaderCounts::default()
        };
        let mut bytes = Vec::with_capacity(self.bytes.len());
        let mut encoder = BinEncoder::new(&mut bytes);
        let header = Header { metadata, counts };
        let result = header
            .emit(&mut encoder)
            .and_then(|()| self.question.emit(&mut encoder));
        if let Err(error) = result {
            tracing::debug!(%error, "DNS response cannot be encoded");
        }
        bytes
    }
}

/// Replaces the ID of an encoded message.
pub(crate) fn with_id(mut message: Vec<u8>, id: u16) -> Vec<u8> {
    if let Some(field) = message.get_mut(..2) {
        field.copy_from_slice(&id.to_be_bytes());
    }
    message
}

/// Returns the response code of a message, or `ServFail` if its header is malformed.
pub(crate) fn response_code(response: &[u8]) -> ResponseCode {
    Header::from_bytes(response).map_or(ResponseCode::ServFail, |header| header.response_code)
}

/// Decodes the header and the first question. The question is `None` if the header counts no question. Returns `None`
/// for bytes that are too short and for a malformed question. A compressed name is malformed too: it would have to
/// refer to an earlier name, and there is none.
fn header_and_question(bytes: &[u8]) -> Option<(Header, Option<Question>)> {
    let mut decoder = BinDecoder::new(bytes);
    let header = Header::read(&mut decoder).ok()?;
    if header.counts.queries == 0 {
        return Some((header, None));
    }
    let question = Question::read(&mut decoder).ok()?;
    let name_length: usize = question.name().iter().map(|label| label.len() + 1).sum();
    // The root label, the type and the class follow the name's labels.
    let uncompressed_length = name_length + 1 + 2 + 2;
    (decoder.index() - HEADER_LENGTH == uncompressed_length).then_some((header, Some(question)))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Length of the EDNS record that [`mk_query`] appends, in bytes.
    const EDNS_LENGTH: usize = 11;
    const FLAG_RESPONSE: u8 = 0x80;
    const FLAG_TRUNCATED: u8 = 0x02;
    const FLAG_RECURSION_DESIRED: u8 = 0x01;

    /// Returns a query of type A for `name` with an EDNS record after the question.
    pub(crate) fn mk_query(id: u16, name: &str) -> Vec<u8> {
        let mut bytes = id.to_be_bytes().to_vec();
        bytes.extend([FLAG_RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        // The root label, type A and class IN.
        bytes.extend([0, 0, 1, 0, 1]);
        // EDNS record: the root label, type OPT, a UDP size of 4096, no flags and no options.
        bytes.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    /// Returns a response to a query, with `code` and one byte in place of the records.
    pub(crate) fn mk_response(query: &[u8], code: ResponseCode) -> Vec<u8> {
        let mut response = query.to_vec();
        response[2] |= FLAG_RESPONSE;
        response[3] = code.low();
        response.push(7);
        response
    }

    #[test]
    fn only_complete_queries_are_parsed() {
        let query = mk_query(1, "web.demo");
        assert!(Query::parse(&query).is_some());
        assert!(Query::parse(&mk_response(&query, ResponseCode::NoError)).is_none());
        for length in 0..query.len() - EDNS_LENGTH {
            assert!(Query::parse(&query[..length]).is_none(), "{length}");
        }
    }

    #[test]
    fn compressed_question_is_rejected() {
        let mut query = mk_query(1, "web.demo");
        // Replaces the labels and the root label by a pointer to the offset 0.
        query.splice(HEADER_LENGTH..HEADER_LENGTH + 10, [0xc0, 0]);
        assert!(Query::parse(&query).is_none());
    }

    #[test]
    fn response_must_have_the_id_and_question_of_the_query() {
        let ok = ResponseCode::NoError;
        let bytes = mk_query(1, "web.demo");
        let query = Query::parse(&bytes).unwrap();
        assert!(query.is_answered_by(&mk_response(&query.with_id(9), ok), 9));
        assert!(query.is_answered_by(&mk_response(&mk_query(9, "WEB.demo"), ok), 9));
        assert!(!query.is_answered_by(&mk_response(&query.with_id(8), ok), 9));
        assert!(!query.is_answered_by(&mk_response(&mk_query(9, "evil.demo"), ok), 9));
        assert!(!query.is_answered_by(&query.with_id(9), 9));
        assert!(!query.is_answered_by(&[0, 9], 9));
    }

    #[test]
    fn only_an_error_response_may_omit_the_question() {
        let bytes = mk_query(1, "web.demo");
        let query = Query::parse(&bytes).unwrap();
        let response_without_question = |code| [0, 9, FLAG_RESPONSE, code, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(query.is_answered_by(&response_without_question(1), 9));
        assert!(!query.is_answered_by(&response_without_question(0), 9));
    }

    #[test]
    fn generated_response_has_the_id_and_question_of_the_query_and_no_records() {
        let bytes = mk_query(0x1234, "web.demo");
        let query = Query::parse(&bytes).unwrap();
        let response = query.error_response(ResponseCode::ServFail);
        assert!(query.is_answered_by(&response, 0x1234));
        assert_eq!(response_code(&response), ResponseCode::ServFail);
        // The header's numbers of records.
        assert_eq!(response[6..12], [0; 6]);
        assert_eq!(response.len(), bytes.len() - EDNS_LENGTH);
        assert_eq!(query.truncated_response()[2] & FLAG_TRUNCATED, FLAG_TRUNCATED);
    }

    /// Generates arbitrary bytes. Half of the cases start with a well-formed header, so the decoder reaches the
    /// question.
    fn arbitrary_message() -> impl Strategy<Value = Vec<u8>> {
        let header = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let arbitrary = proptest::collection::vec(any::<u8>(), 0..600);
        (any::<bool>(), arbitrary).prop_map(move |(has_header, bytes)| {
            if has_header {
                [&header[..], &bytes].concat()
            } else {
                bytes
            }
        })
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_cause_neither_a_panic_nor_a_longer_response(
            bytes in arbitrary_message(),
            other in arbitrary_message(),
            id: u16,
        ) {
            response_code(&bytes);
            with_id(bytes.clone(), id);
            let well_formed = mk_query(1, "web.demo");
            Query::parse(&well_formed).unwrap().is_answered_by(&bytes, id);
            if let Some(query) = Query::parse(&bytes) {
                query.is_answered_by(&other, id);
                let response = query.error_response(ResponseCode::Refused);
                prop_assert!(response.len() <= bytes.len());
                prop_assert!(query.is_answered_by(&response, query.id()));
                prop_assert!(Query::parse(&query.with_id(id)).is_some());
            }
        }

        #[test]
        fn any_name_is_echoed_byte_for_byte(labels in proptest::collection::vec("[ -~]{1,30}", 1..8)) {
            let mut bytes = mk_query(7, "x");
            let name: Vec<u8> = labels
                .iter()
                .flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat())
                .collect();
            // Replaces the label `x`.
            bytes.splice(12..14, name.iter().copied());
            let query = Query::parse(&bytes).unwrap();
            let response = query.error_response(ResponseCode::Refused);
            prop_assert_eq!(&response[12..], &bytes[12..bytes.len() - EDNS_LENGTH]);
        }
    }
}
