//! IPv6 in the current network namespace: detection of IPv6 addresses, and the loopback address from which the proxy
//! connects to the application.

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
    addresses.any(|interface| {
        let is_loopback = interface.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let address = interface
            .address
            .as_ref()
            .and_then(|address| address.as_sockaddr_in6());
        !is_loopback && address.is_some()
    })
}

/// Adds an address to the loopback interface, unless the interface already has the address.
///
/// Envoy could bind to an address that no interface has (`IP_FREEBIND`), but the kernel would route responses out of
/// the Pod. IPv4 needs no such step, because all of 127.0.0.0/8 is local.
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
    let mut response = [0; 512];
    let length = recv(socket.as_raw_fd(), &mut response, MsgFlags::empty())?;
    match acknowledgement(response.get(..length).unwrap_or_default()) {
        Some(0 | EEXIST) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::Error::other(
            "unexpected response of the kernel to RTM_NEWADDR",
        )),
    }
}

const EEXIST: i32 = Errno::EEXIST as i32;

/// Encodes a request of rtnetlink(7) that adds an address to an interface.
fn new_address_request(interface: u32, address: Ipv6Addr) -> Vec<u8> {
    /// `nlmsghdr`, `ifaddrmsg`, attribute header and address, in bytes.
    const LENGTH: u32 = 16 + 8 + 4 + 16;
    const RTM_NEWADDR: u16 = 20;
    /// `NLM_F_REQUEST`, `NLM_F_ACK` and `NLM_F_CREATE`.
    const FLAGS: u16 = 0x1 | 0x4 | 0x400;
    const AF_INET6: u8 = 10;
    const PREFIX_LENGTH: u8 = 128;
    /// `IFA_F_NODAD`: no duplicate address detection, so the address is usable immediately.
    const NO_DUPLICATE_DETECTION: u8 = 0x2;
    /// `RT_SCOPE_UNIVERSE`; the kernel derives the scope of an IPv6 address from the address.
    const GLOBAL_SCOPE: u8 = 0;
    /// Attribute header and address, in bytes.
    const ATTRIBUTE_LENGTH: u16 = 4 + 16;
    const IFA_ADDRESS: u16 = 1;
    let mut message = Vec::with_capacity(LENGTH as usize);
    message.extend(LENGTH.to_ne_bytes());
    message.extend(RTM_NEWADDR.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    message.extend(1u32.to_ne_bytes()); // sequence number
    message.extend(0u32.to_ne_bytes()); // port ID of the sender; set by the kernel
    message.extend([AF_INET6, PREFIX_LENGTH, NO_DUPLICATE_DETECTION, GLOBAL_SCOPE]);
    message.extend(interface.to_ne_bytes());
    message.extend(ATTRIBUTE_LENGTH.to_ne_bytes());
    message.extend(IFA_ADDRESS.to_ne_bytes());
    message.extend(address.octets());
    message
}

/// Returns the error number in an `NLMSG_ERROR` message, where 0 is success. Returns `None` for any other message.
fn acknowledgement(message: &[u8]) -> Option<i32> {
    const NLMSG_ERROR: u16 = 2;
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    let negative_errno = i32::from_ne_bytes(message.get(16..20)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then(|| negative_errno.saturating_neg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_field_matches_the_length_of_the_request() {
        let message = new_address_request(1, Ipv6Addr::LOCALHOST);
        let length = u32::from_ne_bytes(message[..4].try_into().expect("four bytes"));
        assert_eq!(message.len(), length as usize);
    }

    #[test]
    fn error_number_of_an_acknowledgement_is_returned() {
        let mut message = vec![0; 36];
        message[4..6].copy_from_slice(&2u16.to_ne_bytes());
        message[16..20].copy_from_slice(&(-EEXIST).to_ne_bytes());
        assert_eq!(acknowledgement(&message), Some(EEXIST));
        assert_eq!(acknowledgement(&message[..18]), None);
    }
}
