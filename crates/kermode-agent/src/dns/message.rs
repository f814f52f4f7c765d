//! The parts of DNS messages that the DNS server reads and writes (RFC 1035 section 4.1, RFC 6891). Pure.
//!
//! `hickory-proto` decodes the header and the question of a query. Records are located but not decoded: the DNS server
//! passes messages on as bytes.

use std::ops::Range;

use hickory_proto::op::{Header, MessageType, Metadata, OpCode, Query as Question, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

/// Length of the encoded header, in bytes.
pub(crate) const HEADER_LENGTH: usize = 12;
/// Type and class of a question follow its name and have two bytes each.
const TYPE_AND_CLASS_LENGTH: usize = 4;
/// Limit on a response over UDP to a client that advertises no size, in bytes (RFC 1035 section 4.2.1).
const MIN_UDP_SIZE: u16 = 512;
/// Limit on a response over UDP to any client, in bytes. A larger response is fragmented on most networks.
const MAX_UDP_SIZE: u16 = 4096;
/// UDP size in the OPT record of the responses that the agent generates. A datagram of this size is not fragmented.
pub(crate) const OWN_UDP_SIZE: u16 = 1232;

/// Flags of the third byte of the header: response, truncated, recursion desired.
const FLAG_RESPONSE: u8 = 0x80;
const MASK_OPCODE: u8 = 0x78;
const FLAG_TRUNCATED: u8 = 0x02;
const FLAG_RECURSION_DESIRED: u8 = 0x01;
/// Flags of the fourth byte of the header: recursion available; reserved, authentic data and checking disabled.
const FLAG_RECURSION_AVAILABLE: u8 = 0x80;
const FLAG_CHECKING_DISABLED: u8 = 0x10;
const MASK_QUERY_FLAGS: u8 = 0x70;
/// Flag of an OPT record: the client accepts DNSSEC records.
const FLAG_DNSSEC_OK: u16 = 0x8000;

/// Record types (<https://www.iana.org/assignments/dns-parameters>).
pub(crate) const TYPE_A: u16 = 1;
pub(crate) const TYPE_SOA: u16 = 6;
pub(crate) const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
const TYPE_IXFR: u16 = 251;
const TYPE_AXFR: u16 = 252;
/// Types that are not types of records (RFC 6895 section 3.1).
const META_TYPES: Range<u16> = 128..256;

/// Query with exactly one question. Clients send no other queries.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    bytes: Vec<u8>,
    metadata: Metadata,
    question: Question,
    /// Offset of the first byte after the question.
    question_end: usize,
    edns: Option<Edns>,
    /// Whether the query has parts that may make its response different from the response to another client.
    is_special: bool,
}

/// OPT record of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    udp_size: u16,
    pub(crate) version: u8,
    flags: u16,
    has_options: bool,
}

/// Why bytes are not a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InvalidQuery {
    /// The bytes are too short for a header, or belong to a response.
    NotAQuery,
    /// The message has no, several or malformed questions. Contains the encoded response.
    Malformed(Vec<u8>),
}

/// Section of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

/// Position of a record in its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordPosition {
    pub(crate) section: Section,
    /// Encoded owner name, which may be compressed.
    pub(crate) owner: Range<usize>,
    pub(crate) record_type: u16,
    class: u16,
    pub(crate) ttl: u32,
    pub(crate) data: Range<usize>,
}

// === impl Query ===

impl Query {
    /// Decodes a query.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, InvalidQuery> {
        let mut decoder = BinDecoder::new(bytes);
        let header = Header::read(&mut decoder).map_err(|_| InvalidQuery::NotAQuery)?;
        if header.message_type != MessageType::Query {
            return Err(InvalidQuery::NotAQuery);
        }
        let malformed =
            || InvalidQuery::Malformed(empty_response(bytes, HEADER_LENGTH, None, ResponseCode::FormErr));
        if header.counts.queries != 1 {
            return Err(malformed());
        }
        let question_end = end_of_question(bytes).ok_or_else(malformed)?;
        let question = Question::read(&mut decoder).map_err(|_| malformed())?;
        let records = records(bytes);
        let mut additional = records.iter().flatten();
        let edns = match (additional.next(), additional.next()) {
            (Some(record), None) => Edns::of(record),
            _ => None,
        };
        let has_other_records = edns.is_none() && records.as_ref().is_none_or(|records| !records.is_empty());
        Ok(Self {
            metadata: header.metadata,
            question,
            question_end,
            edns,
            is_special: has_other_records
                || header.op_code != OpCode::Query
                || header.truncation
                || edns.is_some_and(|edns| {
                    edns.version != 0 || edns.has_options || edns.flags & !FLAG_DNSSEC_OK != 0
                }),
            bytes: bytes.to_vec(),
        })
    }

    /// Returns the encoded query with its ID replaced by `id`.
    pub(crate) fn with_id(&self, id: u16) -> Vec<u8> {
        with_id(self.bytes.clone(), id)
    }

    pub(crate) fn id(&self) -> u16 {
        self.metadata.id
    }

    pub(crate) fn question(&self) -> &Question {
        &self.question
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub(crate) fn edns(&self) -> Option<&Edns> {
        self.edns.as_ref()
    }

    /// Returns the encoded question.
    pub(crate) fn question_bytes(&self) -> &[u8] {
        &self.bytes[HEADER_LENGTH..self.question_end]
    }

    pub(crate) fn record_type(&self) -> u16 {
        self.question.query_type().into()
    }

    /// Returns whether the query asks for a whole zone, which takes several messages.
    pub(crate) fn is_zone_transfer(&self) -> bool {
        matches!(self.record_type(), TYPE_AXFR | TYPE_IXFR)
    }

    /// Returns the limit on the response over UDP, in bytes.
    pub(crate) fn max_udp_response(&self) -> usize {
        let advertised = self.edns.map_or(MIN_UDP_SIZE, |edns| edns.udp_size);
        advertised.clamp(MIN_UDP_SIZE, MAX_UDP_SIZE).into()
    }

    /// Returns the key under which the response may be cached: all parts of the query that may change the response. Two
    /// queries with the same key differ at most in the ID, the case of the name and the UDP size. Returns `None` if the
    /// response must not be cached.
    pub(crate) fn cache_key(&self) -> Option<Vec<u8>> {
        let record_type = self.record_type();
        if self.is_special || META_TYPES.contains(&record_type) || record_type == TYPE_OPT {
            return None;
        }
        let question = self.question_bytes();
        let mut key = Vec::with_capacity(question.len() + 3);
        key.push(self.bytes[2] & FLAG_RECURSION_DESIRED);
        key.push(self.bytes[3] & MASK_QUERY_FLAGS);
        key.push(match self.edns {
            None => 0,
            Some(edns) if edns.flags & FLAG_DNSSEC_OK == 0 => 1,
            Some(_) => 2,
        });
        let (name, type_and_class) = question.split_at(question.len() - TYPE_AND_CLASS_LENGTH);
        // The lengths of labels are below 64, so they are no letters.
        key.extend(name.iter().map(u8::to_ascii_lowercase));
        key.extend(type_and_class);
        Some(key)
    }

    /// Returns whether `response` is a response to this query, which was sent with the ID `id`.
    ///
    /// Names are compared without case, because some servers change the case. An error response may lack the question,
    /// because the server may be unable to decode the question.
    pub(crate) fn is_answered_by(&self, response: &[u8], id: u16) -> bool {
        let Some(header) = response.first_chunk::<HEADER_LENGTH>() else {
            return false;
        };
        if header[..2] != id.to_be_bytes()
            || header[2] & FLAG_RESPONSE == 0
            || header[2] & MASK_OPCODE != self.bytes[2] & MASK_OPCODE
        {
            return false;
        }
        match question_count(header) {
            0 => response_code(response) != ResponseCode::NoError,
            1 => self.has_question_of(response),
            _ => false,
        }
    }

    /// Returns whether `message` has the question of this query.
    pub(crate) fn has_question_of(&self, message: &[u8]) -> bool {
        let Some(theirs) = end_of_question(message).map(|end| &message[HEADER_LENGTH..end]) else {
            return false;
        };
        let ours = self.question_bytes();
        let name_length = ours.len() - TYPE_AND_CLASS_LENGTH;
        theirs.len() == ours.len()
            && theirs[..name_length].eq_ignore_ascii_case(&ours[..name_length])
            && theirs[name_length..] == ours[name_length..]
    }

    /// Encodes a response without records.
    pub(crate) fn error_response(&self, code: ResponseCode) -> Vec<u8> {
        empty_response(&self.bytes, self.question_end, self.edns.as_ref(), code)
    }

    /// Returns whether a response over UDP is within the client's limit.
    pub(crate) fn fits_into_udp(&self, response: &[u8]) -> bool {
        response.len() <= self.max_udp_response()
    }

    /// Returns a response without its records, and with the flag that makes the client repeat the query over TCP. The
    /// OPT record is kept (RFC 6891 section 7).
    pub(crate) fn truncate(&self, response: &[u8]) -> Vec<u8> {
        if question_count(response) != 1 || !self.has_question_of(response) {
            let mut truncated = self.error_response(response_code(response));
            truncated[2] |= FLAG_TRUNCATED;
            return truncated;
        }
        // The question has the same length in both messages.
        let mut truncated = response[..self.question_end].to_vec();
        truncated[2] |= FLAG_TRUNCATED;
        truncated[6..HEADER_LENGTH].fill(0);
        let records = records(response).unwrap_or_default();
        let opt = records.iter().find(|record| Edns::of(record).is_some());
        if let Some(opt) = opt.map(|opt| &response[opt.owner.start..opt.data.end])
            && truncated.len() + opt.len() <= self.max_udp_response()
        {
            truncated.extend(opt);
            truncated[HEADER_LENGTH - 1] = 1;
        }
        truncated
    }
}

// === impl Edns ===

impl Edns {
    /// Returns the contents of an OPT record in the additional section, or `None` for another record.
    fn of(record: &RecordPosition) -> Option<Self> {
        let is_root = record.owner.len() == 1;
        if record.record_type != TYPE_OPT || record.section != Section::Additional || !is_root {
            return None;
        }
        let [_, version, flags @ ..] = record.ttl.to_be_bytes();
        Some(Self {
            udp_size: record.class,
            version,
            flags: u16::from_be_bytes(flags),
            has_options: !record.data.is_empty(),
        })
    }

    pub(crate) fn is_dnssec_ok(self) -> bool {
        self.flags & FLAG_DNSSEC_OK != 0
    }
}

/// Encodes a response to a query with the query's bytes up to `question_end`, and without records. A query with an OPT
/// record gets one in the response (RFC 6891 section 6.1.1).
fn empty_response(query: &[u8], question_end: usize, edns: Option<&Edns>, code: ResponseCode) -> Vec<u8> {
    let mut response = query[..question_end].to_vec();
    response[2] = FLAG_RESPONSE | response[2] & (MASK_OPCODE | FLAG_RECURSION_DESIRED);
    response[3] = FLAG_RECURSION_AVAILABLE | response[3] & FLAG_CHECKING_DISABLED | code.low();
    response[4..HEADER_LENGTH].fill(0);
    response[5] = u8::from(question_end > HEADER_LENGTH);
    if let Some(edns) = edns {
        response[HEADER_LENGTH - 1] = 1;
        // Root label, type, UDP size, upper part of the response code, version, flags and no options.
        response.push(0);
        response.extend(TYPE_OPT.to_be_bytes());
        response.extend(OWN_UDP_SIZE.to_be_bytes());
        response.extend([code.high(), 0]);
        response.extend((edns.flags & FLAG_DNSSEC_OK).to_be_bytes());
        response.extend([0, 0]);
    }
    response
}

/// Replaces the ID of an encoded message.
pub(crate) fn with_id(mut message: Vec<u8>, id: u16) -> Vec<u8> {
    if let Some(field) = message.get_mut(..2) {
        field.copy_from_slice(&id.to_be_bytes());
    }
    message
}

/// Returns the response code of a message, without the part in its OPT record. Returns `ServFail` for bytes without a
/// header.
pub(crate) fn response_code(response: &[u8]) -> ResponseCode {
    match response.get(3) {
        Some(byte) => ResponseCode::from(0, byte & 0x0f),
        None => ResponseCode::ServFail,
    }
}

/// Returns whether the flag "truncated" of a message is set.
pub(crate) fn is_truncated(message: &[u8]) -> bool {
    message.get(2).is_some_and(|byte| byte & FLAG_TRUNCATED != 0)
}

fn question_count(header: &[u8]) -> u16 {
    read_u16(header, 4).unwrap_or(0)
}

fn read_u16(bytes: &[u8], offset: usize) -> Option<u16> {
    let field = bytes.get(offset..)?.first_chunk()?;
    Some(u16::from_be_bytes(*field))
}

pub(crate) fn read_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..)?.first_chunk()?;
    Some(u32::from_be_bytes(*field))
}

/// Returns the offset after the first question, whose name must not be compressed: a compressed name would have to
/// refer to an earlier name, and there is none.
fn end_of_question(bytes: &[u8]) -> Option<usize> {
    let root = end_of_labels(bytes, HEADER_LENGTH)?;
    let end = root + 1 + TYPE_AND_CLASS_LENGTH;
    (bytes[root] == 0 && end <= bytes.len()).then_some(end)
}

/// Returns the offset after the name at `offset`.
fn end_of_name(bytes: &[u8], offset: usize) -> Option<usize> {
    let end_of_labels = end_of_labels(bytes, offset)?;
    match bytes[end_of_labels] {
        0 => Some(end_of_labels + 1),
        // A pointer, which has two bytes.
        0xc0.. => (end_of_labels + 2 <= bytes.len()).then_some(end_of_labels + 2),
        _ => None,
    }
}

/// Returns the offset of the first byte at or after `offset` that is not part of a label: usually the root label or a
/// pointer. This byte exists.
fn end_of_labels(bytes: &[u8], mut offset: usize) -> Option<usize> {
    loop {
        match *bytes.get(offset)? {
            length @ 1..=0x3f => offset += usize::from(length) + 1,
            _ => return Some(offset),
        }
    }
}

/// Returns the positions of all records. Returns `None` if the message is malformed, does not have exactly one question
/// or has bytes after the last record.
pub(crate) fn records(bytes: &[u8]) -> Option<Vec<RecordPosition>> {
    if question_count(bytes) != 1 {
        return None;
    }
    let mut offset = end_of_question(bytes)?;
    let mut records = Vec::new();
    for (section, count_offset) in [
        (Section::Answer, 6),
        (Section::Authority, 8),
        (Section::Additional, 10),
    ] {
        for _ in 0..read_u16(bytes, count_offset)? {
            let record = RecordPosition::read(bytes, offset, section)?;
            offset = record.data.end;
            records.push(record);
        }
    }
    (offset == bytes.len()).then_some(records)
}

impl RecordPosition {
    fn read(bytes: &[u8], offset: usize, section: Section) -> Option<Self> {
        let owner = offset..end_of_name(bytes, offset)?;
        let data_start = owner.end + 10;
        let data_length = usize::from(read_u16(bytes, owner.end + 8)?);
        let data = data_start..data_start + data_length;
        (data.end <= bytes.len()).then_some(Self {
            section,
            record_type: read_u16(bytes, owner.end)?,
            class: read_u16(bytes, owner.end + 2)?,
            ttl: read_u32(bytes, owner.end + 4)?,
            owner,
            data,
        })
    }

    /// Returns the offset of the TTL.
    pub(crate) fn ttl_offset(&self) -> usize {
        self.owner.end + 4
    }

    /// Returns whether the record is an OPT record, which has no TTL.
    pub(crate) fn is_opt(&self) -> bool {
        self.record_type == TYPE_OPT
    }
}

#[cfg(test)]
pub(crate) mod tests;
