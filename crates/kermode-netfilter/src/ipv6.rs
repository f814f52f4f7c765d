//! IPv6 in this network namespace: whether there is any, and the address the proxy's inbound listener speaks from.

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// Whether an interface other than loopback has an IPv6 address.
pub fn is_available() -> bool {
    let Ok(mut addresses) = getifaddrs() else {
        return false;
    };
    addresses.any(|one| {
        let loopback = one.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let address = one.address.as_ref().and_then(|address| address.as_sockaddr_in6());
        !loopback && address.is_some()
    })
}

/// Gives the loopback interface an address; it may have it already.
///
/// Binding to the address would work without (`IP_FREEBIND`, Envoy's `freebind`), but the application's answer to it
/// would be routed out of the pod. All of 127.0.0.0/8 is local on `lo`, of `::/8` only `::1`.
pub(crate) fn add_to_loopback(address: Ipv6Addr) -> io::Result<()> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let request = new_address_request(if_nametoindex("lo")?, address);
    sendto(
        socket.as_raw_fd(),
        &request,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut answer = [0; 512];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match acknowledgement(answer.get(..length).unwrap_or_default()) {
        Some(0 | EEXIST) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::Error::other(
            "unexpected answer from the kernel to RTM_NEWADDR",
        )),
    }
}

const EEXIST: i32 = Errno::EEXIST as i32;

/// A netlink message as in rtnetlink(7): nlmsghdr, ifaddrmsg, one attribute.
fn new_address_request(interface: u32, address: Ipv6Addr) -> Vec<u8> {
    const LENGTH: u32 = 16 + 8 + 4 + 16;
    const RTM_NEWADDR: u16 = 20;
    const REQUEST_ACK_CREATE: u16 = 0x1 | 0x4 | 0x400;
    const AF_INET6: u8 = 10;
    const NO_DUPLICATE_DETECTION: u8 = 0x2;
    const IFA_ADDRESS: u16 = 1;
    let mut message = Vec::with_capacity(LENGTH as usize);
    message.extend(LENGTH.to_ne_bytes());
    message.extend(RTM_NEWADDR.to_ne_bytes());
    message.extend(REQUEST_ACK_CREATE.to_ne_bytes());
    message.extend(1u32.to_ne_bytes()); // sequence number
    message.extend(0u32.to_ne_bytes()); // sender; the kernel knows
    message.extend([AF_INET6, 128, NO_DUPLICATE_DETECTION, 0]);
    message.extend(interface.to_ne_bytes());
    message.extend(20u16.to_ne_bytes());
    message.extend(IFA_ADDRESS.to_ne_bytes());
    message.extend(address.octets());
    message
}

/// The error number that an `NLMSG_ERROR` message carries; 0 is success.
fn acknowledgement(message: &[u8]) -> Option<i32> {
    const NLMSG_ERROR: u16 = 2;
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    let negated = i32::from_ne_bytes(message.get(16..20)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then(|| negated.saturating_neg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_as_long_as_it_says() {
        let message = new_address_request(1, Ipv6Addr::LOCALHOST);
        let length = u32::from_ne_bytes(message[..4].try_into().expect("four bytes"));
        assert_eq!(message.len(), length as usize);
    }

    #[test]
    fn an_acknowledgement_yields_the_error_number() {
        let mut message = vec![0; 36];
        message[4..6].copy_from_slice(&2u16.to_ne_bytes());
        message[16..20].copy_from_slice(&(-17i32).to_ne_bytes());
        assert_eq!(acknowledgement(&message), Some(17));
        assert_eq!(acknowledgement(&message[..18]), None);
    }
}
