//! Table of the virtual IPs of one mesh, and its text form.
//!
//! The text has one line for each service, sorted by service:
//!
//! ```text
//! 243.12.8.77 web_shop_svc_80
//! 251.0.144.3 worker_shop_svc_9000 unused-since=2026-11-30T02:31:00Z
//! ```
//!
//! The words after the service have the form `<key>=<value>`. Words with an unknown key are kept: a later version may
//! have written them, and reads them again after a rollback of this version.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kermode_model::{ServiceName, VirtualIpRange, VirtualIps};

/// Maximum length of the name of a service, in bytes. Kubernetes' limits allow 253 bytes for the name of a workload
/// and 63 for the namespace.
const MAX_SERVICE_LENGTH: usize = 350;

/// Start of the word with the time since which the service is unused.
const UNUSED_SINCE: &str = "unused-since=";

/// Virtual IPs of one mesh. No two services have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    entries: BTreeMap<ServiceName, Entry>,
    addresses: HashSet<Ipv4Addr>,
    /// Services that are not in use, the longest unused first.
    unused: BTreeSet<(Timestamp, ServiceName)>,
    /// Length of the text form, in bytes.
    text_length: usize,
}

/// Virtual IP of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The virtual IP.
    pub address: Ipv4Addr,
    /// Time since which the mesh does not have the service; `None` if the mesh has it.
    pub unused_since: Option<Timestamp>,
    /// Words of the line with unknown keys, each after a blank; `None` without such words.
    pub unknown_words: Option<Arc<str>>,
}

/// Line that was ignored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct LineProblem {
    /// Number of the line, from 1.
    line: usize,
    problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error(
        "not of the form `<address> <service>`, optionally with `{UNUSED_SINCE}<time>` or other `<key>=<value>`"
    )]
    Form,
    #[error("{0} is not a usable address of {1}")]
    Range(Ipv4Addr, VirtualIpRange),
    #[error("another line has the same address or the same service")]
    Duplicate,
}

// === impl Entry ===

impl Entry {
    /// Creates the entry of a service in use.
    pub fn new(address: Ipv4Addr) -> Self {
        Self {
            address,
            unused_since: None,
            unknown_words: None,
        }
    }
}

// === impl Table ===

impl Table {
    /// Reads the text form. Ignores invalid lines, and returns their problems.
    ///
    /// Of several lines with the same address or service, one of a service in use takes precedence, then the one of the
    /// longest unused service, then the first one in the order of services and addresses. So the result does not depend
    /// on the order of the lines.
    pub fn parse(text: &str, range: VirtualIpRange) -> (Self, Vec<LineProblem>) {
        let mut problems = Vec::new();
        let mut valid = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line_number = index + 1;
            match parse_line(line, range) {
                Ok((service, entry)) => valid.push((service, entry, line_number)),
                Err(problem) => problems.push(LineProblem {
                    line: line_number,
                    problem,
                }),
            }
        }
        valid.sort_by_cached_key(|(service, entry, _)| {
            (
                entry.unused_since,
                service.clone(),
                entry.address,
                entry.unknown_words.clone(),
            )
        });
        let mut table = Self::default();
        for (service, entry, line) in valid {
            if !table.insert(service, entry) {
                let problem = Problem::Duplicate;
                problems.push(LineProblem { line, problem });
            }
        }
        (table, problems)
    }

    /// Creates a table of services in use. Of several services with the same address, only the first one is added.
    pub fn of(virtual_ips: &VirtualIps) -> Self {
        let mut table = Self::default();
        for (service, address) in virtual_ips {
            table.insert(service.clone(), Entry::new(*address));
        }
        table
    }

    /// Adds an entry. Returns false, and changes nothing, if the service already has an address, or another service has
    /// the address.
    pub fn insert(&mut self, service: ServiceName, entry: Entry) -> bool {
        if self.entries.contains_key(&service) || !self.addresses.insert(entry.address) {
            return false;
        }
        self.text_length += line_length(&service, &entry);
        if let Some(since) = entry.unused_since {
            self.unused.insert((since, service.clone()));
        }
        self.entries.insert(service, entry);
        true
    }

    /// Removes an entry.
    pub fn remove(&mut self, service: &ServiceName) {
        let Some(entry) = self.entries.remove(service) else {
            return;
        };
        self.addresses.remove(&entry.address);
        self.text_length -= line_length(service, &entry);
        if let Some(since) = entry.unused_since {
            self.unused.remove(&(since, service.clone()));
        }
    }

    /// The entry of a service.
    pub fn get(&self, service: &ServiceName) -> Option<Entry> {
        self.entries.get(service).cloned()
    }

    /// Whether a service has this address.
    pub fn contains_address(&self, address: Ipv4Addr) -> bool {
        self.addresses.contains(&address)
    }

    /// All entries, by service.
    pub fn entries(&self) -> impl Iterator<Item = (&ServiceName, Entry)> {
        self.entries
            .iter()
            .map(|(service, entry)| (service, entry.clone()))
    }

    /// The service that has been unused for the longest time, and since when.
    pub fn longest_unused(&self) -> Option<&(Timestamp, ServiceName)> {
        self.unused.first()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Number of services that are not in use.
    pub fn unused_count(&self) -> usize {
        self.unused.len()
    }

    /// Whether the table has no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Length of the text form, in bytes.
    pub fn text_length(&self) -> usize {
        self.text_length
    }

    /// The virtual IPs by service.
    pub fn virtual_ips(&self) -> VirtualIps {
        let entries = self.entries.iter();
        entries
            .map(|(service, entry)| (service.clone(), entry.address))
            .collect()
    }
}

impl fmt::Display for Table {
    /// Writes the text form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (service, entry) in &self.entries {
            write_line(f, service, entry)?;
        }
        Ok(())
    }
}

fn write_line(sink: &mut impl fmt::Write, service: &ServiceName, entry: &Entry) -> fmt::Result {
    write!(sink, "{} {service}", entry.address)?;
    if let Some(since) = entry.unused_since {
        write!(sink, " {UNUSED_SINCE}{since}")?;
    }
    sink.write_str(entry.unknown_words.as_deref().unwrap_or_default())?;
    sink.write_char('\n')
}

/// Returns the length of a line of the text form, in bytes.
pub(super) fn line_length(service: &ServiceName, entry: &Entry) -> usize {
    let mut line = String::new();
    // Writing to a string cannot fail.
    let _ = write_line(&mut line, service, entry);
    line.len()
}

fn parse_line(line: &str, range: VirtualIpRange) -> Result<(ServiceName, Entry), Problem> {
    let mut words = line.split_ascii_whitespace();
    let address = words.next().and_then(|word| word.parse::<Ipv4Addr>().ok());
    let service = words.next().filter(|word| word.len() <= MAX_SERVICE_LENGTH);
    let (Some(address), Some(service)) = (address, service) else {
        return Err(Problem::Form);
    };
    let mut entry = Entry::new(address);
    let mut unknown_words = String::new();
    for word in words {
        if let Some(time) = word.strip_prefix(UNUSED_SINCE) {
            let time = time.parse().map_err(|_| Problem::Form)?;
            entry.unused_since = Some(in_whole_seconds(time));
        } else if word.contains('=') {
            unknown_words.extend([" ", word]);
        } else {
            return Err(Problem::Form);
        }
    }
    entry.unknown_words = (!unknown_words.is_empty()).then(|| unknown_words.into());
    if !range.contains(address) {
        return Err(Problem::Range(address, range));
    }
    Ok((ServiceName::from(service), entry))
}

/// Returns a time without its fraction of a second, so that its text is short.
pub(super) fn in_whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
