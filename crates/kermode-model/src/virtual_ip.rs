//! Virtual IPs: the addresses to which the names of services resolve (docs/design.md#mesh-dns-names).

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::ServiceName;

/// Domain of the names of services and of Pods of headless services.
pub const MESH_DOMAIN: &str = "mesh";

/// Port of a virtual IP. It leads to the service's own port.
pub const VIRTUAL_IP_PORT: u16 = 80;

/// Default of the range of virtual IPs, in CIDR notation. The range is reserved, so no address in it has another use.
pub const DEFAULT_VIRTUAL_IP_RANGE: &str = "240.0.0.0/4";

/// ConfigMap of the control plane's namespace with the virtual IPs of all meshes.
pub const VIRTUAL_IPS_CONFIG_MAP: &str = "kuma-dns-vips";

/// Minimum number of bits of a range's host part. A smaller range would have room for only a few services.
const MIN_HOST_BITS: u32 = 4;

/// Virtual IPs of a mesh's services, also of services that have no endpoint at the moment.
pub type VirtualIps = BTreeMap<ServiceName, Ipv4Addr>;

/// Range of IPv4 addresses for virtual IPs. The first and the last address of the range are not used: they are the
/// addresses of a network and of its broadcast, which the kernel may treat differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualIpRange {
    network: Ipv4Addr,
    prefix_length: u32,
}

/// Error of [`VirtualIpRange::from_str`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRange {
    /// The text is not an IPv4 network in CIDR notation.
    #[error("{0:?} is not an IPv4 network in CIDR notation, such as {DEFAULT_VIRTUAL_IP_RANGE}")]
    NoNetwork(String),
    /// The range has too few addresses.
    #[error("{0} has too few addresses; the prefix may have at most {max} bits", max = u32::BITS - MIN_HOST_BITS)]
    TooSmall(String),
    /// The range contains addresses to which connections are impossible.
    #[error("{0} contains addresses that no connection can have: 0.0.0.0/8, 127.0.0.0/8 or 224.0.0.0/4")]
    Unusable(String),
}

// === impl VirtualIpRange ===

impl VirtualIpRange {
    /// First address of the range.
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// Number of bits that all addresses of the range have in common.
    pub fn prefix_length(self) -> u32 {
        self.prefix_length
    }

    /// Number of usable addresses.
    pub fn capacity(self) -> u32 {
        // At most 2^32 - 2, because a prefix length of 0 is rejected: such a range contains unusable addresses.
        (u32::MAX >> self.prefix_length) - 1
    }

    /// The usable address at a position. Positions beyond the capacity wrap around.
    pub fn at(self, position: u32) -> Ipv4Addr {
        let offset = 1 + position % self.capacity();
        Ipv4Addr::from_bits(self.network.to_bits() + offset)
    }

    /// Whether an address is a usable address of the range.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        let offset = address.to_bits().checked_sub(self.network.to_bits());
        offset.is_some_and(|offset| (1..=self.capacity()).contains(&offset))
    }

    fn overlaps(self, network: [u8; 4], prefix_length: u32) -> bool {
        let length = self.prefix_length.min(prefix_length);
        let mask = !u32::MAX.checked_shr(length).unwrap_or_default();
        (self.network.to_bits() ^ u32::from_be_bytes(network)) & mask == 0
    }
}

impl Default for VirtualIpRange {
    fn default() -> Self {
        Self {
            network: Ipv4Addr::new(240, 0, 0, 0),
            prefix_length: 4,
        }
    }
}

impl FromStr for VirtualIpRange {
    type Err = InvalidRange;

    /// Parses CIDR notation. As in Kuma, the host part of the address is ignored.
    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let parse = || -> Option<(Ipv4Addr, u32)> {
            let (address, length) = text.split_once('/')?;
            let is_number = length.bytes().all(|byte| byte.is_ascii_digit());
            let length = length
                .parse()
                .ok()
                .filter(|length| is_number && *length <= u32::BITS)?;
            Some((address.parse().ok()?, length))
        };
        let (address, prefix_length) = parse().ok_or_else(|| InvalidRange::NoNetwork(text.to_owned()))?;
        let mask = !u32::MAX.checked_shr(prefix_length).unwrap_or_default();
        let range = Self {
            network: Ipv4Addr::from_bits(address.to_bits() & mask),
            prefix_length,
        };
        if u32::BITS - prefix_length < MIN_HOST_BITS {
            return Err(InvalidRange::TooSmall(text.to_owned()));
        }
        let unusable = [([0, 0, 0, 0], 8), ([127, 0, 0, 0], 8), ([224, 0, 0, 0], 4)];
        if unusable
            .iter()
            .any(|(network, length)| range.overlaps(*network, *length))
        {
            return Err(InvalidRange::Unusable(text.to_owned()));
        }
        Ok(range)
    }
}

impl fmt::Display for VirtualIpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<VirtualIpRange, InvalidRange> {
        text.parse()
    }

    #[test]
    fn default_range_is_the_default_text() {
        assert_eq!(parse(DEFAULT_VIRTUAL_IP_RANGE), Ok(VirtualIpRange::default()));
        assert_eq!(VirtualIpRange::default().to_string(), DEFAULT_VIRTUAL_IP_RANGE);
    }

    #[test]
    fn first_and_last_address_of_a_range_are_not_used() {
        let range = VirtualIpRange::default();
        assert_eq!(range.capacity(), (1 << 28) - 2);
        assert_eq!(range.at(0), Ipv4Addr::new(240, 0, 0, 1));
        assert_eq!(range.at(range.capacity() - 1), Ipv4Addr::new(255, 255, 255, 254));
        assert_eq!(range.at(range.capacity()), range.at(0));
        for outside in [
            [240, 0, 0, 0],
            [255, 255, 255, 255],
            [239, 255, 255, 255],
            [10, 0, 0, 1],
        ] {
            assert!(!range.contains(outside.into()), "{outside:?}");
        }
        for inside in [[240, 0, 0, 1], [247, 1, 2, 3], [255, 255, 255, 254]] {
            assert!(range.contains(inside.into()), "{inside:?}");
        }
    }

    #[test]
    fn host_part_of_a_network_is_ignored() {
        let range = parse("10.1.2.3/28").expect("a range");
        assert_eq!(range.to_string(), "10.1.2.0/28");
        assert_eq!(range.capacity(), 14);
        assert!(range.contains([10, 1, 2, 14].into()));
        assert!(!range.contains([10, 1, 2, 15].into()));
    }

    #[test]
    fn range_that_cannot_be_used_is_rejected_with_the_reason() {
        for text in [
            "",
            "240.0.0.0",
            "240.0.0.0/",
            "240.0.0.0/33",
            "240.0.0.0/+4",
            "fd00::/8",
            "240.0.0/4",
        ] {
            assert_eq!(parse(text), Err(InvalidRange::NoNetwork(text.into())));
        }
        for text in ["240.0.0.0/29", "240.0.0.1/32"] {
            assert_eq!(parse(text), Err(InvalidRange::TooSmall(text.into())));
        }
        for text in [
            "0.0.0.0/0",
            "0.0.0.0/8",
            "127.0.0.0/24",
            "64.0.0.0/2",
            "224.0.0.0/4",
            "239.1.0.0/16",
            "192.0.0.0/2",
        ] {
            assert_eq!(parse(text), Err(InvalidRange::Unusable(text.into())), "{text}");
        }
        for text in ["241.0.0.0/8", "10.0.0.0/8", "128.0.0.0/2", "240.0.0.0/28"] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }
}
