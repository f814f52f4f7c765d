//! Packets for which rules are evaluated: the first packets of connections, one for each combination of values of
//! the fields that rules match.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kermode_netfilter::Transport;

/// Fields of a packet that rules match.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    /// Whether a process of the Pod sends the packet. Otherwise, the Pod receives the packet on `eth0`.
    pub(super) is_sent: bool,
    /// Whether the packet is sent on the loopback interface.
    pub(super) is_loopback: bool,
    pub(super) transport: Transport,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    /// UID of the sending process; 0 for a received packet.
    pub(super) uid: u32,
}

/// Effect of the rules on a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Disposition {
    /// Local port to which the packet is redirected.
    pub(super) redirect: Option<u16>,
    /// Connection tracking zone to which the packet is assigned.
    pub(super) zone: Option<u16>,
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (direction, interface) = match (self.is_sent, self.is_loopback) {
            (true, true) => ("sent", "lo"),
            (true, false) => ("sent", "eth0"),
            (false, _) => ("received", "eth0"),
        };
        write!(
            f,
            "{:?} {direction} on {interface} by UID {} from {} port {} to {} port {}",
            self.transport, self.uid, self.source, self.source_port, self.destination, self.destination_port
        )
    }
}

impl fmt::Display for Disposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.redirect {
            Some(port) => write!(f, "redirected to {port}")?,
            None => write!(f, "not redirected")?,
        }
        self.zone.map_or(Ok(()), |zone| write!(f, " in zone {zone}"))
    }
}

/// Returns packets for all combinations of field values, with these destination ports and UIDs.
pub(super) fn all(destination_ports: &[u16], uids: &[u32], is_ipv6: bool) -> impl Iterator<Item = Packet> {
    let mut packets = Vec::new();
    for (source, destination) in addresses(is_ipv6) {
        for (is_sent, is_loopback) in [(true, true), (true, false), (false, false)] {
            for transport in [Transport::Tcp, Transport::Udp] {
                // An arbitrary port, and the ports from which DNS servers and `kuma-dp` send DNS responses.
                for source_port in [40_000, 53, 15_053] {
                    packets.push(Packet {
                        is_sent,
                        is_loopback,
                        transport,
                        source,
                        destination,
                        source_port,
                        destination_port: 0,
                        uid: 0,
                    });
                }
            }
        }
    }
    let (destination_ports, uids) = (destination_ports.to_vec(), uids.to_vec());
    packets.into_iter().flat_map(move |packet| {
        // A received packet has no sending process, so one UID is enough.
        let uids = if packet.is_sent { uids.clone() } else { vec![0] };
        let with_port = |destination_port| {
            let with_uid = move |uid| Packet {
                destination_port,
                uid,
                ..packet
            };
            uids.clone().into_iter().map(with_uid)
        };
        destination_ports
            .iter()
            .flat_map(|port| with_port(*port))
            .collect::<Vec<_>>()
    })
}

/// Returns pairs of source and destination. The sources are the address from which Envoy connects to the application,
/// localhost, and the Pod. The destinations are localhost, the Pod, and another host.
fn addresses(is_ipv6: bool) -> Vec<(IpAddr, IpAddr)> {
    let (localhost, envoy_inbound, pod, remote): (IpAddr, IpAddr, IpAddr, IpAddr) = if is_ipv6 {
        (
            Ipv6Addr::LOCALHOST.into(),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).into(),
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, 1).into(),
        )
    } else {
        (
            Ipv4Addr::LOCALHOST.into(),
            Ipv4Addr::new(127, 0, 0, 6).into(),
            Ipv4Addr::new(10, 1, 1, 2).into(),
            Ipv4Addr::new(10, 9, 9, 9).into(),
        )
    };
    let sources = [envoy_inbound, localhost, pod];
    let pairs = |source| [localhost, pod, remote].map(|destination| (source, destination));
    sources.into_iter().flat_map(pairs).collect()
}
