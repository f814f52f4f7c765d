//! Tests of the cache with given points in time.

use std::net::{IpAddr, Ipv6Addr};

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record};
use proptest::prelude::*;

use super::super::message::tests::{
    EDNS_LENGTH, damaged_response, mk_addresses, mk_message, mk_negative, mk_query, mk_typed_query, parse,
};
use super::*;

/// Cache at a point in time.
struct Scene {
    cache: Cache,
    start: Instant,
}

impl Scene {
    fn new() -> Self {
        Self {
            cache: Cache::default(),
            start: Instant::now(),
        }
    }

    fn insert(&mut self, query: &[u8], response: &[u8]) {
        let query = parse(query);
        self.cache
            .insert(&query.cache_key().unwrap(), &query, response, self.start);
    }

    /// Returns the cached response to a query after a number of milliseconds.
    fn get(&mut self, query: &[u8], millis: u64) -> Option<Vec<u8>> {
        let query = parse(query);
        let now = self.start + Duration::from_millis(millis);
        self.cache.get(&query.cache_key().unwrap(), &query, now)
    }

    /// Returns for how many seconds a response to a query is cached.
    fn lifetime(query: &[u8], response: &[u8]) -> Option<u64> {
        let mut scene = Self::new();
        scene.insert(query, response);
        let entry = scene.get(query, 0)?;
        assert_eq!(entry, response, "the response is unchanged at first");
        (1..10_000).find(|seconds| scene.get(query, seconds * 1000).is_none())
    }
}

fn ttls(response: &[u8]) -> Vec<u32> {
    let message = Message::from_vec(response).unwrap();
    message.all_sections().map(|record| record.ttl).collect()
}

fn first_address(response: &[u8]) -> RData {
    Message::from_vec(response).unwrap().answers[0].data.clone()
}

#[test]
fn cached_response_has_the_id_and_the_case_of_the_query() {
    let mut scene = Scene::new();
    let query = mk_query(1, "web.demo");
    scene.insert(&query, &mk_addresses(&query, 30, &[[10, 0, 0, 1]]));
    let other = mk_query(0x7654, "wEb.DEMO");
    assert_eq!(
        scene.get(&other, 0).unwrap(),
        mk_addresses(&other, 30, &[[10, 0, 0, 1]])
    );
}

#[test]
fn ttl_is_counted_down_and_never_lengthened() {
    let mut scene = Scene::new();
    let query = mk_query(1, "web.demo");
    scene.insert(&query, &mk_addresses(&query, 5, &[[10, 0, 0, 1]]));
    for millis in 0..5000 {
        let ttl = ttls(&scene.get(&query, millis).unwrap())[0];
        assert!(
            millis + u64::from(ttl) * 1000 <= 5000,
            "TTL {ttl} after {millis} ms"
        );
        assert!(
            millis + u64::from(ttl + 1) * 1000 > 5000,
            "TTL {ttl} after {millis} ms"
        );
    }
    assert_eq!(scene.get(&query, 5000), None);
}

#[test]
fn response_is_cached_for_the_lowest_ttl_of_its_records() {
    let query = mk_query(1, "www.demo");
    let response = mk_message(&query, ResponseCode::NoError, |message, name| {
        let target = Name::from_ascii("web.demo.").unwrap();
        let alias = RData::CNAME(CNAME(target.clone()));
        message.add_answer(Record::from_rdata(name, 300, alias));
        message.add_answer(Record::from_rdata(
            target.clone(),
            4,
            RData::A(A([10, 0, 0, 1].into())),
        ));
        message.add_additional(Record::from_rdata(
            target,
            3,
            RData::AAAA(AAAA(Ipv6Addr::LOCALHOST)),
        ));
    });
    assert_eq!(Scene::lifetime(&query, &response), Some(3));
    let mut scene = Scene::new();
    scene.insert(&query, &response);
    assert_eq!(ttls(&scene.get(&query, 2000).unwrap()), [298, 2, 1]);
}

#[test]
fn absence_is_cached_for_the_minimum_of_the_soa_record_within_a_bound() {
    let query = mk_query(1, "nope.demo");
    for code in [ResponseCode::NXDomain, ResponseCode::NoError] {
        for (soa_ttl, minimum, expected) in [(30, 3, 3), (3, 30, 3), (86_400, 86_400, 5)] {
            let response = mk_negative(&query, code, soa_ttl, minimum);
            assert_eq!(
                Scene::lifetime(&query, &response),
                Some(expected),
                "{code} {soa_ttl} {minimum}"
            );
        }
        let without_soa = mk_message(&query, code, |_, _| {});
        assert_eq!(Scene::lifetime(&query, &without_soa), None);
    }
}

#[test]
fn alias_without_the_queried_type_counts_as_absence() {
    let query = mk_typed_query(1, "www.demo", TYPE_AAAA);
    let alias = |message: &mut Message, name| {
        let target = RData::CNAME(CNAME(Name::from_ascii("web.demo.").unwrap()));
        message.add_answer(Record::from_rdata(name, 300, target));
    };
    assert_eq!(
        Scene::lifetime(&query, &mk_message(&query, ResponseCode::NoError, alias)),
        None
    );
}

#[test]
fn lifetime_is_bounded_and_ttl_of_zero_or_with_the_highest_bit_is_not_cached() {
    let query = mk_query(1, "web.demo");
    for (ttl, expected) in [(86_400, Some(5)), (1, Some(1)), (0, None), (0x8000_0000, None)] {
        let response = mk_addresses(&query, ttl, &[[10, 0, 0, 1]]);
        assert_eq!(Scene::lifetime(&query, &response), expected, "{ttl}");
    }
}

#[test]
fn failure_and_truncated_and_foreign_and_damaged_response_are_not_cached() {
    let query = mk_query(1, "web.demo");
    let good = mk_addresses(&query, 30, &[[10, 0, 0, 1]]);
    assert!(Scene::lifetime(&query, &good).is_some());
    let mut truncated = good.clone();
    truncated[2] |= 0x02;
    let mut trailing_byte = good.clone();
    trailing_byte.push(0);
    let mut bad = vec![
        truncated,
        trailing_byte,
        mk_addresses(&mk_query(1, "bank.demo"), 30, &[[10, 0, 0, 1]]),
        mk_addresses(&mk_typed_query(1, "web.demo", TYPE_AAAA), 30, &[[10, 0, 0, 1]]),
        mk_addresses(&query, 30, &[[10, 0, 0, 1]; 600]),
    ];
    for code in [
        ResponseCode::ServFail,
        ResponseCode::Refused,
        ResponseCode::FormErr,
    ] {
        bad.push(mk_negative(&query, code, 30, 30));
    }
    for response in bad {
        assert_eq!(Scene::lifetime(&query, &response), None, "{response:?}");
    }
}

#[test]
fn addresses_take_turns_in_the_first_place() {
    let mut scene = Scene::new();
    let query = mk_query(1, "web.demo");
    let addresses = [[10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 0, 3]];
    scene.insert(&query, &mk_addresses(&query, 30, &addresses));
    let mut rounds = Vec::new();
    for _ in 0..6 {
        let response = scene.get(&query, 0).unwrap();
        let mut all: Vec<_> = Message::from_vec(&response).unwrap().answers;
        rounds.push(first_address(&response));
        all.sort_by_key(|record| record.data.ip_addr());
        let all: Vec<_> = all.iter().map(|record| record.data.ip_addr().unwrap()).collect();
        assert_eq!(all, addresses.map(IpAddr::from));
    }
    for address in addresses {
        let count = rounds
            .iter()
            .filter(|first| first.ip_addr() == Some(address.into()))
            .count();
        assert_eq!(count, 2);
    }
}

#[test]
fn addresses_of_different_owners_are_not_rotated() {
    let query = mk_query(1, "web.demo");
    let response = mk_message(&query, ResponseCode::NoError, |message, name| {
        let other = Name::from_ascii("other.demo.").unwrap();
        message.add_answer(Record::from_rdata(name, 30, RData::A(A([10, 0, 0, 1].into()))));
        message.add_answer(Record::from_rdata(other, 30, RData::A(A([10, 0, 0, 2].into()))));
    });
    let mut scene = Scene::new();
    scene.insert(&query, &response);
    for _ in 0..3 {
        assert_eq!(scene.get(&query, 0).unwrap(), response);
    }
}

#[test]
fn record_of_an_unknown_type_is_cached_byte_for_byte() {
    let query = mk_typed_query(1, "web.demo", 65_280);
    let mut response = query.clone();
    response[2] |= 0x80;
    // One answer instead of the OPT record: a pointer to the question's name, the type, class IN, TTL 4, 3 bytes.
    response.truncate(response.len() - 11);
    response[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    response.extend([0xc0, 12, 0xff, 0, 0, 1, 0, 0, 0, 4, 0, 3, 0xde, 0xad, 0xbe]);
    assert_eq!(Scene::lifetime(&query, &response), Some(4));
}

#[test]
fn many_names_do_not_exceed_the_limits() {
    let mut scene = Scene::new();
    for number in 0..3 * MAX_ENTRIES {
        let query = mk_query(1, &format!("name-{number}.demo"));
        scene.insert(&query, &mk_addresses(&query, 30, &[[10, 0, 0, 1]; 20]));
    }
    assert!(scene.cache.len() <= MAX_ENTRIES);
    assert!(scene.cache.bytes() <= MAX_BYTES);
    assert!(scene.cache.bytes() > MAX_BYTES / 2);
}

proptest! {
    #[test]
    fn damaged_response_causes_no_panic_and_only_ttls_change(response in damaged_response(), millis in 0_u64..40_000) {
        let mut scene = Scene::new();
        let query = mk_query(1, "web.demo");
        scene.insert(&query, &response);
        if let Some(cached) = scene.get(&query, millis) {
            prop_assert_eq!(cached.len(), response.len());
            let records = records(&response).unwrap();
            let question_end = query.len() - EDNS_LENGTH;
            // The ID and the question are those of the query. Addresses take turns.
            let is_changeable = |index: usize| index < 2
                || (HEADER_LENGTH..question_end).contains(&index)
                || records.iter().any(|record| {
                    let is_address = [TYPE_A, TYPE_AAAA].contains(&record.record_type);
                    (record.ttl_offset()..record.ttl_offset() + 4).contains(&index)
                        || (is_address && record.data.contains(&index))
                });
            for (index, (after, before)) in cached.iter().zip(&response).enumerate() {
                prop_assert!(after == before || is_changeable(index), "byte {} changed", index);
            }
        }
    }
}
