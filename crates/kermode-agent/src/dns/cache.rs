//! Cache of name servers' responses, as bytes. Pure: the caller passes the time.
//!
//! A cached response differs from the original in the ID, the case of the question, the TTLs, which are counted down,
//! and the order of the addresses.

use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;

use super::bounded::BoundedMap;
use super::message::{
    HEADER_LENGTH, Query, RecordPosition, Section, TYPE_A, TYPE_AAAA, TYPE_SOA, is_truncated, read_u32,
    records, response_code, with_id,
};

/// Limit on cached responses.
const MAX_ENTRIES: usize = 1000;
/// Limit on the memory of all cached responses, in bytes.
const MAX_BYTES: usize = 512 * 1024;
/// Limit on one cached response, in bytes.
const MAX_RESPONSE: usize = 8 * 1024;
/// Upper bound of the time for which a response is cached, in seconds. The DNS server of a cluster commonly sets a TTL
/// of 30 s, although it knows a change at once. Without the bound, an application would see a Pod that was just created
/// or replaced up to 30 s later than without a sidecar.
const MAX_LIFETIME: u32 = 5;

/// Cache of responses.
#[derive(Debug)]
pub(crate) struct Cache {
    entries: BoundedMap<Entry>,
}

#[derive(Debug)]
struct Entry {
    message: Box<[u8]>,
    /// Offsets of all TTLs.
    ttls: Box<[u16]>,
    /// Offsets of the addresses that are rotated; all have the same length.
    addresses: Box<[u16]>,
    address_length: usize,
    stored_at: Instant,
    lifetime: Duration,
    hits: usize,
}

// === impl Cache ===

impl Default for Cache {
    fn default() -> Self {
        Self {
            entries: BoundedMap::new(MAX_ENTRIES, MAX_BYTES),
        }
    }
}

impl Cache {
    /// Returns the cached response to a query.
    pub(crate) fn get(&mut self, key: &[u8], query: &Query, now: Instant) -> Option<Vec<u8>> {
        let is_valid = |entry: &Entry| now.saturating_duration_since(entry.stored_at) < entry.lifetime;
        let entry = self.entries.get(key, is_valid)?;
        entry.hits = entry.hits.wrapping_add(1);
        Some(entry.response_to(query, now))
    }

    /// Caches the response to a query, if it may be cached.
    pub(crate) fn insert(&mut self, key: &[u8], query: &Query, response: &[u8], now: Instant) {
        if let Some(entry) = Entry::new(query, response, now) {
            let bytes =
                size_of::<Entry>() + entry.message.len() + 2 * (entry.ttls.len() + entry.addresses.len());
            self.entries.insert(key, entry, bytes);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.entries.bytes()
    }
}

// === impl Entry ===

impl Entry {
    /// Returns the entry of a response, or `None` if the response must not be cached.
    fn new(query: &Query, response: &[u8], now: Instant) -> Option<Self> {
        if response.len() > MAX_RESPONSE || is_truncated(response) || !query.has_question_of(response) {
            return None;
        }
        let records = records(response)?;
        let lifetime = lifetime(query, response, &records)?;
        let with_ttl = records.iter().filter(|record| !record.is_opt());
        let ttls = with_ttl.map(|record| u16::try_from(record.ttl_offset()));
        let (addresses, address_length) = rotated_addresses(query, response, &records);
        Some(Self {
            message: response.into(),
            ttls: ttls.collect::<Result<_, _>>().ok()?,
            addresses,
            address_length,
            stored_at: now,
            lifetime: Duration::from_secs(lifetime.into()),
            hits: 0,
        })
    }

    fn response_to(&self, query: &Query, now: Instant) -> Vec<u8> {
        let mut message = with_id(self.message.to_vec(), query.id());
        let question = query.question_bytes();
        message[HEADER_LENGTH..HEADER_LENGTH + question.len()].copy_from_slice(question);
        // Rounded up, so that no client keeps a record for longer than the name server allows.
        let age = now.saturating_duration_since(self.stored_at);
        let seconds = u32::try_from(age.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
        for &offset in &self.ttls {
            let offset = usize::from(offset);
            let ttl = read_u32(&message, offset).unwrap_or(0).saturating_sub(seconds);
            message[offset..offset + 4].copy_from_slice(&ttl.to_be_bytes());
        }
        self.rotate_addresses(&mut message);
        message
    }

    /// Rotates the addresses by one with each hit. Many clients use the first address, and a name server that balances
    /// by the order of addresses, as CoreDNS does, is not asked for each of them.
    fn rotate_addresses(&self, message: &mut [u8]) {
        let count = self.addresses.len();
        let address_at = |offset: u16| usize::from(offset)..usize::from(offset) + self.address_length;
        for (index, &offset) in self.addresses.iter().enumerate() {
            let source = self.addresses[(index + self.hits) % count];
            message[address_at(offset)].copy_from_slice(&self.message[address_at(source)]);
        }
    }
}

/// Returns for how many seconds a response may be cached: the lowest TTL of its records. The absence of records is
/// cached only with an SOA record, whose last field limits the time (RFC 2308 section 5). Failures are not cached.
fn lifetime(query: &Query, response: &[u8], records: &[RecordPosition]) -> Option<u32> {
    let is_queried = |record: &RecordPosition| {
        record.section == Section::Answer && record.record_type == query.record_type()
    };
    let is_negative = match response_code(response) {
        ResponseCode::NoError => !records.iter().any(is_queried),
        ResponseCode::NXDomain => true,
        _ => return None,
    };
    // A TTL with the highest bit counts as 0 (RFC 2181 section 8).
    let ttl = |ttl: u32| if ttl > i32::MAX.unsigned_abs() { 0 } else { ttl };
    let lowest = records
        .iter()
        .filter(|record| !record.is_opt())
        .map(|record| ttl(record.ttl))
        .min()?;
    let lifetime = if is_negative {
        let soa = records
            .iter()
            .find(|record| record.section == Section::Authority && record.record_type == TYPE_SOA)?;
        let minimum = read_u32(response, soa.data.end.checked_sub(4)?)?;
        lowest.min(ttl(minimum)).min(MAX_LIFETIME)
    } else {
        lowest.min(MAX_LIFETIME)
    };
    (lifetime > 0).then_some(lifetime)
}

/// Returns the offsets and the length of the addresses that answer the query, if there are several. Records with
/// different owners do not belong together, so they are not rotated.
fn rotated_addresses(query: &Query, response: &[u8], records: &[RecordPosition]) -> (Box<[u16]>, usize) {
    let length = match query.record_type() {
        TYPE_A => 4,
        TYPE_AAAA => 16,
        _ => return Default::default(),
    };
    let mut addresses = records
        .iter()
        .filter(|record| record.section == Section::Answer && record.record_type == query.record_type());
    let Some(first) = addresses.clone().next() else {
        return Default::default();
    };
    let belongs_together = |record: &RecordPosition| {
        record.data.len() == length && response[record.owner.clone()] == response[first.owner.clone()]
    };
    if addresses.clone().count() < 2 || !addresses.clone().all(belongs_together) {
        return Default::default();
    }
    let offsets = addresses.by_ref().map(|record| u16::try_from(record.data.start));
    (offsets.collect::<Result<_, _>>().unwrap_or_default(), length)
}

#[cfg(test)]
mod tests;
