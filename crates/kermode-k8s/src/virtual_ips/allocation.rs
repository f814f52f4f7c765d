//! Allocation of virtual IPs. The address of a service never changes while its entry exists.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kermode_model::{MeshName, ServiceName, VirtualIpRange};
use xxhash_rust::xxh3::xxh3_64;

use super::table::{Entry, Table, in_whole_seconds, line_length};

/// Time for which a service that the mesh no longer has keeps its virtual IP. A day covers workloads that are scaled to
/// zero at night.
const RETENTION: Duration = Duration::from_hours(24);
/// Maximum length of the text forms of all tables together, in bytes. The API server accepts 1 MiB in a ConfigMap. With 40
/// bytes for each service, this is enough for 25,000 services.
pub const MAX_TEXT_LENGTH: usize = 1_000_000;

/// Allocates the virtual IPs of one mesh.
#[derive(Clone, Debug)]
pub struct Allocator {
    mesh: MeshName,
    range: VirtualIpRange,
    max_text_length: usize,
}

/// Result of an allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// The virtual IPs.
    pub table: Table,
    /// Services of the mesh that have no virtual IP, because the range or the ConfigMap is full.
    pub without_address: Vec<ServiceName>,
}

// === impl Allocator ===

impl Allocator {
    /// Creates an allocator of virtual IPs of `range`. The text form of the table has at most `max_text_length` bytes.
    pub fn new(mesh: MeshName, range: VirtualIpRange, max_text_length: usize) -> Self {
        Self {
            mesh,
            range,
            max_text_length,
        }
    }

    /// Returns the virtual IPs for `services`, the services that the mesh has at the time `now`.
    ///
    /// Entries of `current`, which the ConfigMap contains, keep their address. Entries of `remembered`, which the
    /// ConfigMap contained before, are restored unless a service in use has another address in `current`. Every other
    /// service gets the address that the names of mesh and service determine, or the next free one.
    pub fn allocate(
        &self,
        current: &Table,
        remembered: &Table,
        services: &BTreeSet<ServiceName>,
        now: Timestamp,
    ) -> Allocation {
        let mut table = Table::default();
        // Services in use come first, so that a foreign line in the ConfigMap takes no address from them.
        for is_used in [true, false] {
            let entries = current.entries().chain(remembered.entries());
            let usable = entries.filter(|(service, entry)| {
                services.contains(*service) == is_used && self.range.contains(entry.address)
            });
            for (service, entry) in usable {
                let unused_since = unused_since(&entry, is_used, now);
                table.insert(
                    service.clone(),
                    Entry {
                        unused_since,
                        ..entry
                    },
                );
            }
        }
        remove_expired(&mut table, now);
        // The times of unused services may have lengthened the text.
        while table.text_length() > self.max_text_length && remove_longest_unused(&mut table) {}
        let mut without_address = Vec::new();
        for service in services {
            if table.get(service).is_none() && !self.add(&mut table, service) {
                without_address.push(service.clone());
            }
        }
        Allocation {
            table,
            without_address,
        }
    }

    /// Adds a service, in place of unused services if necessary. Returns whether there was space.
    fn add(&self, table: &mut Table, service: &ServiceName) -> bool {
        loop {
            if let Some(address) = self.free_address(table, service) {
                let entry = Entry::new(address);
                if table.text_length() + line_length(service, &entry) <= self.max_text_length {
                    return table.insert(service.clone(), entry);
                }
            }
            if !remove_longest_unused(table) {
                return false;
            }
        }
    }

    /// Returns the first free address from the one that the names of mesh and service determine; `None` if every
    /// address is in use.
    fn free_address(&self, table: &Table, service: &ServiceName) -> Option<Ipv4Addr> {
        let capacity = self.range.capacity();
        if table.len() >= capacity as usize {
            return None;
        }
        let first = first_position(&self.mesh, service, capacity);
        let mut candidates = (0..capacity).map(|step| self.range.at((first + step) % capacity));
        candidates.find(|address| !table.contains_address(*address))
    }
}

/// Returns the position of the first address to try: a hash, so that a lost ConfigMap is restored with nearly the same
/// addresses. The result must be the same in all versions.
fn first_position(mesh: &MeshName, service: &ServiceName, capacity: u32) -> u32 {
    let hash = xxh3_64(format!("{mesh}/{service}").as_bytes()) % u64::from(capacity);
    u32::try_from(hash).unwrap_or_default()
}

fn unused_since(entry: &Entry, is_used: bool, now: Timestamp) -> Option<Timestamp> {
    let now = in_whole_seconds(now);
    // A time in the future comes from another clock, and would delay the removal.
    (!is_used).then(|| entry.unused_since.unwrap_or(now).min(now))
}

fn remove_expired(table: &mut Table, now: Timestamp) {
    let is_expired = |since: Timestamp| now.duration_since(since).unsigned_abs() >= RETENTION;
    while table
        .longest_unused()
        .is_some_and(|(since, _)| is_expired(*since))
    {
        remove_longest_unused(table);
    }
}

/// Removes the service that has been unused for the longest time. Returns whether there was one.
fn remove_longest_unused(table: &mut Table) -> bool {
    let service = table.longest_unused().map(|(_, service)| service.clone());
    if let Some(service) = &service {
        table.remove(service);
    }
    service.is_some()
}

impl Table {
    /// Returns the time until the next unused entry expires; `None` without unused entries.
    pub fn time_to_expiry(&self, now: Timestamp) -> Option<Duration> {
        let (since, _) = self.longest_unused()?;
        let age = now.duration_since(*since).unsigned_abs();
        Some(RETENTION.saturating_sub(age))
    }
}
