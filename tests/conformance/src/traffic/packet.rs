//! First packets of connections, one for each kind that the rules distinguish.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kermode_netfilter::Transport;

/// Fields of a packet that rules match.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    /// Whether a process of the Pod sends it. Otherwise the Pod receives it on `eth0`.
    pub(super) sent: bool,
    /// Whether it leaves through the loopback interface.
    pub(super) loopback: bool,
    pub(super) transport: Transport,
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) source_port: u16,
    pub(super) port: u16,
    /// Owner of the sending socket.
    pub(super) uid: u32,
}

/// Effect of the rules on a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Disposition {
    /// Local port that the packet is redirected to.
    pub(super) redirect: Option<u16>,
    /// Connection tracking zone that the packet is assigned to.
    pub(super) zone: Option<u16>,
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (direction, interface) = match (self.sent, self.loopback) {
            (true, true) => ("sent", "lo"),
            (true, false) => ("sent", "eth0"),
            (false, _) => ("received", "eth0"),
        };
        write!(
            f,
            "{:?} {direction} on {interface} by {} from {} port {} to {} port {}",
            self.transport, self.uid, self.from, self.source_port, self.to, self.port
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

/// Returns packets of all combinations, for rules that name these ports and users.
pub(super) fn all(ports: &[u16], users: &[u32], v6: bool) -> impl Iterator<Item = Packet> {
    let mut packets = Vec::new();
    for (from, to) in addresses(v6) {
        for (sent, loopback) in [(true, true), (true, false), (false, false)] {
            for transport in [Transport::Tcp, Transport::Udp] {
                for source_port in [40_000, 53, 15_053] {
                    packets.push(Packet {
                        sent,
                        loopback,
                        transport,
                        from,
                        to,
                        source_port,
                        port: 0,
                        uid: 0,
                    });
                }
            }
        }
    }
    let (ports, users) = (ports.to_vec(), users.to_vec());
    packets.into_iter().flat_map(move |packet| {
        // A received packet has no owner, so one user is enough.
        let users = if packet.sent { users.clone() } else { vec![0] };
        let with_port = |port| {
            let with_uid = move |uid| Packet { port, uid, ..packet };
            users.clone().into_iter().map(with_uid)
        };
        ports.iter().flat_map(|port| with_port(*port)).collect::<Vec<_>>()
    })
}

/// Returns pairs of source (the proxy's inbound address, localhost or the Pod) and destination (localhost, the Pod or
/// another host).
fn addresses(v6: bool) -> Vec<(IpAddr, IpAddr)> {
    let (localhost, inbound, pod, remote): (IpAddr, IpAddr, IpAddr, IpAddr) = if v6 {
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
    let sources = [inbound, localhost, pod];
    let pairs = |from| [localhost, pod, remote].map(|to| (from, to));
    sources.into_iter().flat_map(pairs).collect()
}
