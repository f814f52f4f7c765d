//! Tests of queries and responses, and builders of messages for the tests of the whole DNS server.

use std::net::Ipv4Addr;

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record};
use proptest::prelude::*;

use super::*;

/// Length of the OPT record that [`mk_query`] appends, in bytes.
pub(crate) const EDNS_LENGTH: usize = 11;
/// Offset of the OPT record's UDP size, counted from the end of a query of [`mk_query`].
const UDP_SIZE_FROM_END: usize = 8;

/// Returns a query of type A for `name` with an OPT record after the question.
pub(crate) fn mk_query(id: u16, name: &str) -> Vec<u8> {
    mk_typed_query(id, name, TYPE_A)
}

pub(crate) fn mk_typed_query(id: u16, name: &str, record_type: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([FLAG_RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(record_type.to_be_bytes());
    // Class IN, and an OPT record: the root label, type OPT, a UDP size of 4096, no flags and no options.
    bytes.extend([0, 1, 0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// Removes the OPT record of a query of [`mk_query`].
pub(crate) fn without_edns(mut query: Vec<u8>) -> Vec<u8> {
    query.truncate(query.len() - EDNS_LENGTH);
    query[HEADER_LENGTH - 1] = 0;
    query
}

/// Sets the UDP size of a query of [`mk_query`].
pub(crate) fn with_udp_size(mut query: Vec<u8>, size: u16) -> Vec<u8> {
    let offset = query.len() - UDP_SIZE_FROM_END;
    query[offset..offset + 2].copy_from_slice(&size.to_be_bytes());
    query
}

pub(crate) fn parse(bytes: &[u8]) -> Query {
    Query::parse(bytes).unwrap()
}

/// Returns a response to a query, with `code` and one byte in place of the records.
pub(crate) fn mk_response(query: &[u8], code: ResponseCode) -> Vec<u8> {
    let mut response = query.to_vec();
    response[2] |= FLAG_RESPONSE;
    response[3] |= code.low();
    response.push(7);
    response
}

/// Returns a well-formed response to a query. `edit` adds records.
pub(crate) fn mk_message(query: &[u8], code: ResponseCode, edit: impl FnOnce(&mut Message, Name)) -> Vec<u8> {
    let query = parse(query);
    let mut message = Message::response(query.id(), OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.add_query(query.question().clone());
    edit(&mut message, query.question().name().clone());
    if query.edns().is_some() {
        message.set_edns(hickory_proto::op::Edns::new());
    }
    message.to_vec().unwrap()
}

/// Returns a response with IPv4 addresses, all with the same TTL.
pub(crate) fn mk_addresses(query: &[u8], ttl: u32, addresses: &[[u8; 4]]) -> Vec<u8> {
    mk_message(query, ResponseCode::NoError, |message, name| {
        for address in addresses {
            let data = RData::A(A(Ipv4Addr::from(*address)));
            message.add_answer(Record::from_rdata(name.clone(), ttl, data));
        }
    })
}

/// Returns a response without the queried records, with an SOA record.
pub(crate) fn mk_negative(query: &[u8], code: ResponseCode, soa_ttl: u32, minimum: u32) -> Vec<u8> {
    mk_message(query, code, |message, name| {
        let soa = SOA::new(name.clone(), name.clone(), 1, 2, 3, 4, minimum);
        message.add_authority(Record::from_rdata(name.base_name(), soa_ttl, RData::SOA(soa)));
    })
}

#[test]
fn only_complete_queries_are_parsed() {
    let query = mk_query(1, "web.demo");
    assert!(Query::parse(&query).is_ok());
    let response = mk_response(&query, ResponseCode::NoError);
    assert_eq!(Query::parse(&response).unwrap_err(), InvalidQuery::NotAQuery);
    for length in 0..query.len() - EDNS_LENGTH {
        assert!(Query::parse(&query[..length]).is_err(), "{length}");
    }
}

#[test]
fn query_without_exactly_one_question_is_answered_with_an_error() {
    for count in [0, 2] {
        let mut query = mk_query(0x1234, "web.demo");
        query[5] = count;
        let Err(InvalidQuery::Malformed(response)) = Query::parse(&query) else {
            panic!("{count} questions were accepted");
        };
        assert_eq!(response[..2], [0x12, 0x34]);
        assert_eq!(response_code(&response), ResponseCode::FormErr);
        assert_eq!(response.len(), HEADER_LENGTH);
    }
}

#[test]
fn compressed_question_is_rejected() {
    for pointer in [0xc000_u16, 0xc00c, 0xc100] {
        let mut query = mk_query(1, "web.demo");
        // Replaces the labels and the root label by a pointer.
        query.splice(HEADER_LENGTH..HEADER_LENGTH + 10, pointer.to_be_bytes());
        assert!(Query::parse(&query).is_err());
    }
}

#[test]
fn name_may_have_255_bytes() {
    let label = "x".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "x".repeat(61));
    let query = mk_query(1, &longest);
    assert_eq!(parse(&query).question_bytes().len(), 255 + 4);
    let too_long = mk_query(1, &format!("{longest}x"));
    let Err(InvalidQuery::Malformed(response)) = Query::parse(&too_long) else {
        panic!("a name of 256 bytes was accepted");
    };
    assert_eq!(response_code(&response), ResponseCode::FormErr);
}

#[test]
fn query_with_any_opcode_can_be_passed_on_and_is_answered_by_a_response_with_this_opcode() {
    for opcode in 0..16_u8 {
        let mut query = mk_query(1, "web.demo");
        query[2] |= opcode << 3;
        let query = parse(&query);
        assert_eq!(query.cache_key().is_some(), opcode == 0);
        let response = query.error_response(ResponseCode::NotImp);
        assert!(query.is_answered_by(&response, 1), "{opcode}");
        let mut other = response.clone();
        other[2] ^= 1 << 3;
        assert!(!query.is_answered_by(&other, 1), "{opcode}");
    }
}

#[test]
fn response_must_have_the_id_and_question_of_the_query() {
    let ok = ResponseCode::NoError;
    let query = parse(&mk_query(1, "web.demo"));
    assert!(query.is_answered_by(&mk_response(&query.with_id(9), ok), 9));
    assert!(query.is_answered_by(&mk_response(&mk_query(9, "WEB.demo"), ok), 9));
    assert!(!query.is_answered_by(&mk_response(&query.with_id(8), ok), 9));
    assert!(!query.is_answered_by(&mk_response(&mk_query(9, "evil.demo"), ok), 9));
    assert!(!query.is_answered_by(&mk_response(&mk_typed_query(9, "web.demo", TYPE_AAAA), ok), 9));
    assert!(!query.is_answered_by(&query.with_id(9), 9));
    assert!(!query.is_answered_by(&[0, 9], 9));
}

#[test]
fn types_that_differ_like_letters_in_case_are_different() {
    // Type 65 (HTTPS) and type 97 are `A` and `a` as characters.
    let query = parse(&mk_typed_query(1, "web.demo", 65));
    let other = mk_typed_query(1, "web.demo", 97);
    assert!(!query.is_answered_by(&mk_response(&other, ResponseCode::NoError), 1));
    assert_ne!(query.cache_key(), parse(&other).cache_key());
}

#[test]
fn only_an_error_response_may_omit_the_question() {
    let query = parse(&mk_query(1, "web.demo"));
    let response_without_question = |code| [0, 9, FLAG_RESPONSE, code, 0, 0, 0, 0, 0, 0, 0, 0];
    assert!(query.is_answered_by(&response_without_question(1), 9));
    assert!(!query.is_answered_by(&response_without_question(0), 9));
}

#[test]
fn generated_response_has_the_question_and_edns_of_the_query_and_no_records() {
    for bytes in [
        mk_query(0x1234, "web.demo"),
        without_edns(mk_query(0x1234, "web.demo")),
    ] {
        let query = parse(&bytes);
        let response = query.error_response(ResponseCode::ServFail);
        assert!(query.is_answered_by(&response, 0x1234));
        let decoded = Message::from_vec(&response).unwrap();
        assert_eq!(decoded.metadata.response_code, ResponseCode::ServFail);
        assert!(decoded.metadata.recursion_desired && decoded.metadata.recursion_available);
        assert_eq!(decoded.all_sections().count(), 0);
        assert_eq!(decoded.edns.is_some(), query.edns().is_some());
        assert_eq!(response.len(), bytes.len());
    }
}

#[test]
fn client_without_edns_or_with_a_smaller_size_gets_512_bytes() {
    let query = mk_query(1, "web.demo");
    assert_eq!(parse(&query).max_udp_response(), 4096);
    assert_eq!(parse(&without_edns(query.clone())).max_udp_response(), 512);
    for (advertised, expected) in [(0, 512), (1232, 1232), (65_535, 4096)] {
        let query = parse(&with_udp_size(query.clone(), advertised));
        assert_eq!(query.max_udp_response(), expected);
    }
}

#[test]
fn truncated_response_keeps_the_header_the_question_and_the_opt_record() {
    let bytes = with_udp_size(mk_query(7, "web.demo"), 512);
    let query = parse(&bytes);
    let response = mk_addresses(&bytes, 30, &[[10, 0, 0, 1]; 60]);
    assert!(!query.fits_into_udp(&response));
    let truncated = query.truncate(&response);
    assert!(query.fits_into_udp(&truncated));
    let decoded = Message::from_vec(&truncated).unwrap();
    assert!(decoded.metadata.truncation && decoded.metadata.recursion_available);
    assert_eq!(decoded.queries.len(), 1);
    assert_eq!(decoded.all_sections().count(), 0);
    assert!(decoded.edns.is_some());
}

#[test]
fn cache_key_ignores_only_the_id_the_case_and_the_udp_size() {
    let query = mk_query(1, "web.demo");
    let key = |bytes: &[u8]| parse(bytes).cache_key();
    let expected = key(&query);
    assert!(expected.is_some());
    assert_eq!(key(&mk_query(2, "WEB.deMO")), expected);
    assert_eq!(key(&with_udp_size(query.clone(), 512)), expected);
    let mut keys = vec![
        expected,
        key(&without_edns(query.clone())),
        key(&mk_query(1, "web.demos")),
        key(&mk_typed_query(1, "web.demo", TYPE_AAAA)),
    ];
    // Recursion desired; authentic data; checking disabled; DNSSEC OK.
    let dnssec_ok = query.len() - 4;
    let class = query.len() - EDNS_LENGTH - 1;
    for (offset, flag) in [(2, 0x01), (3, 0x20), (3, 0x10), (dnssec_ok, 0x80), (class, 2)] {
        let mut changed = query.clone();
        changed[offset] ^= flag;
        keys.push(key(&changed));
    }
    assert!(keys.iter().all(Option::is_some));
    keys.sort();
    let count = keys.len();
    keys.dedup();
    assert_eq!(keys.len(), count);
}

#[test]
fn response_to_a_query_with_other_parts_is_not_cached() {
    let query = mk_query(1, "web.demo");
    let mut with_option = query.clone();
    let length = with_option.len() - 1;
    with_option[length] = 4;
    with_option.extend([0, 10, 0, 0]);
    let mut update = query.clone();
    update[2] |= 5 << 3;
    let mut later_version = query.clone();
    later_version[length - 4] = 1;
    let mut trailing_byte = query.clone();
    trailing_byte.push(0);
    for bytes in [with_option, update, later_version, trailing_byte] {
        assert_eq!(parse(&bytes).cache_key(), None, "{bytes:?}");
    }
    for meta_type in [TYPE_AXFR, TYPE_IXFR, TYPE_OPT, 255] {
        assert_eq!(parse(&mk_typed_query(1, "web.demo", meta_type)).cache_key(), None);
    }
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

/// Generates well-formed responses with some bytes changed, so the decoder reaches all parts of records.
pub(crate) fn damaged_response() -> impl Strategy<Value = Vec<u8>> {
    let damage = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (damage, any::<prop::sample::Index>(), 1_usize..8).prop_map(|(damage, cut, count)| {
        let query = mk_query(1, "web.demo");
        let mut response = mk_addresses(&query, 30, &vec![[10, 0, 0, 1]; count]);
        for (index, byte) in &damage {
            let index = index.index(response.len());
            response[index] = *byte;
        }
        if damage.len() > 2 {
            response.truncate(cut.index(response.len()));
        }
        response
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_cause_neither_a_panic_nor_a_longer_response(
        bytes in arbitrary_message(),
        other in prop_oneof![arbitrary_message(), damaged_response()],
        id: u16,
    ) {
        response_code(&bytes);
        with_id(bytes.clone(), id);
        let well_formed = parse(&mk_query(1, "web.demo"));
        well_formed.is_answered_by(&other, id);
        prop_assert!(well_formed.truncate(&other).len() <= well_formed.max_udp_response());
        match Query::parse(&bytes) {
            Ok(query) => {
                query.is_answered_by(&other, id);
                let response = query.error_response(ResponseCode::Refused);
                prop_assert!(response.len() <= bytes.len());
                prop_assert!(query.is_answered_by(&response, query.id()));
                prop_assert!(Query::parse(&query.with_id(id)).is_ok());
                prop_assert!(query.truncate(&other).len() <= query.max_udp_response());
            }
            Err(InvalidQuery::Malformed(response)) => prop_assert!(response.len() <= bytes.len()),
            Err(InvalidQuery::NotAQuery) => {}
        }
    }

    #[test]
    fn records_are_found_where_hickory_finds_them(bytes in damaged_response()) {
        if let (Ok(message), Some(records)) = (Message::from_vec(&bytes), records(&bytes)) {
            let ttls: Vec<u32> = message.all_sections().map(|record| record.ttl).collect();
            let found: Vec<u32> = records.iter().filter(|record| !record.is_opt()).map(|record| record.ttl).collect();
            prop_assert_eq!(found, ttls);
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
        let response = parse(&bytes).error_response(ResponseCode::Refused);
        prop_assert_eq!(&response[12..bytes.len() - EDNS_LENGTH], &bytes[12..bytes.len() - EDNS_LENGTH]);
    }
}
