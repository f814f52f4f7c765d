//! Checks the redirection: a connection to an address that no host has must reach a local listener of this process.
//!
//! The check is not possible if this process has the proxy's UID, if all ports are excluded for this process, if the
//! Pod has no route to other hosts, or while another process, usually the proxy, listens on the outbound port.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, SystemTime};

use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::TimeVal;
use nix::unistd::geteuid;

use crate::exclusion::Transport;
use crate::{IpFamilies, TrafficConfig};

/// Outcome of a check that did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// Connections to all of these addresses were redirected.
    Redirected(Vec<IpAddr>),
    /// The check was not possible, for this reason.
    NotPossible(String),
}

/// Failure of the check.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A connection was not redirected.
    #[error(
        "the rules are in place but a connection to {target} was not redirected to port {port}: {source}; check whether \
         something else in the pod's network namespace or the node's network plugin rewrites connections"
    )]
    NotRedirected {
        /// Destination of the connection.
        target: SocketAddr,
        /// Port that the connection should have been redirected to.
        port: u16,
        /// Error of the connection.
        source: io::Error,
    },
    /// The listener could not be created.
    #[error("cannot listen on {address} to check the redirection: {source}")]
    Listen {
        /// Address of the listener.
        address: SocketAddr,
        /// Error of the operating system.
        source: io::Error,
    },
}

/// IPv4 address that is reserved for documentation (RFC 5737), so no host has it.
const DOCUMENTATION_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// IPv6 address that is reserved for documentation (RFC 3849), so no host has it.
const DOCUMENTATION_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// For each IP family, connects to an address that no host has, and expects a local listener to accept the connection.
/// Connecting, accepting and reading may each take up to `step_timeout`.
///
/// # Errors
/// When a connection is not redirected, or the listener cannot be created.
pub fn check_redirect(
    config: &TrafficConfig,
    families: IpFamilies,
    step_timeout: Duration,
) -> Result<CheckOutcome, CheckError> {
    let uid = geteuid().as_raw();
    if uid == config.proxy_uid {
        return Ok(CheckOutcome::NotPossible(format!(
            "the check runs with the proxy's UID {uid}"
        )));
    }
    let Some(port) = intercepted_port(config, uid) else {
        return Ok(CheckOutcome::NotPossible(format!(
            "all ports are excluded from interception for UID {uid}"
        )));
    };
    let mut targets = vec![(DOCUMENTATION_V4, IpAddr::V4(Ipv4Addr::LOCALHOST))];
    if families == IpFamilies::DualStack {
        targets.push((DOCUMENTATION_V6, IpAddr::V6(Ipv6Addr::LOCALHOST)));
    }
    let mut redirected = Vec::new();
    for (target, loopback) in targets {
        let listen_address = SocketAddr::new(loopback, config.outbound.port.get());
        match check_family(SocketAddr::new(target, port), listen_address, step_timeout)? {
            FamilyCheck::Redirected => redirected.push(target),
            FamilyCheck::NoRoute => {}
            FamilyCheck::Occupied => {
                return Ok(CheckOutcome::NotPossible(format!(
                    "another process listens on {listen_address}"
                )));
            }
        }
    }
    if redirected.is_empty() {
        return Ok(CheckOutcome::NotPossible(
            "the pod has no route to other hosts".to_owned(),
        ));
    }
    Ok(CheckOutcome::Redirected(redirected))
}

/// Result of the check of one IP family.
enum FamilyCheck {
    Redirected,
    /// The routing table has no route to the target, so no packet reaches the rules.
    NoRoute,
    /// Another process listens on the port, presumably the proxy.
    Occupied,
}

fn check_family(
    target: SocketAddr,
    listen_address: SocketAddr,
    step_timeout: Duration,
) -> Result<FamilyCheck, CheckError> {
    let listener = match TcpListener::bind(listen_address) {
        Ok(listener) => listener,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(FamilyCheck::Occupied),
        Err(source) => {
            return Err(CheckError::Listen {
                address: listen_address,
                source,
            });
        }
    };
    if !has_route(target) {
        return Ok(FamilyCheck::NoRoute);
    }
    match expect_token(&listener, target, step_timeout) {
        Ok(()) => Ok(FamilyCheck::Redirected),
        Err(source) => Err(CheckError::NotRedirected {
            target,
            port: listen_address.port(),
            source,
        }),
    }
}

/// Whether the routing table has a route to `target`. Finds out by connecting a UDP socket, which sends no packet.
fn has_route(target: SocketAddr) -> bool {
    let any: IpAddr = if target.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    UdpSocket::bind((any, 0))
        .and_then(|socket| socket.connect(target))
        .is_ok()
}

/// Connects to `target` and expects `listener` to accept the connection. The listener sends a token, by which the
/// client recognizes the listener.
fn expect_token(listener: &TcpListener, target: SocketAddr, step_timeout: Duration) -> io::Result<()> {
    let token = token();
    let mut client = TcpStream::connect_timeout(&target, step_timeout)?;
    client.set_read_timeout(Some(step_timeout))?;
    // Without a timeout, `accept` would block forever if another listener accepted the connection.
    setsockopt(listener, ReceiveTimeout, &time_value(step_timeout))?;
    let (mut server, _) = listener.accept()?;
    server.write_all(&token)?;
    let mut received = [0; TOKEN_LENGTH];
    client.read_exact(&mut received)?;
    if received == token {
        Ok(())
    } else {
        Err(io::Error::other("another listener accepted the connection"))
    }
}

/// Length of a token, in bytes.
const TOKEN_LENGTH: usize = 16;

/// Returns a token that no other listener sends.
fn token() -> [u8; TOKEN_LENGTH] {
    let time = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    (time.as_nanos() ^ (u128::from(std::process::id()) << 96)).to_ne_bytes()
}

/// Converts a duration for a socket option.
fn time_value(duration: Duration) -> TimeVal {
    let seconds = duration.as_secs().try_into().unwrap_or(i64::MAX);
    TimeVal::new(seconds, duration.subsec_micros().into())
}

/// Returns a destination port such that TCP connections of processes with this UID to the port are redirected to the
/// outbound port. Returns `None` if there is no such port.
fn intercepted_port(config: &TrafficConfig, uid: u32) -> Option<u16> {
    /// First candidate, outside the range of common exclusions.
    const FIRST_CANDIDATE: u16 = 20001;
    let outbound = &config.outbound;
    let is_excluded_for_uid = |port: u16| {
        outbound.uid_exclusions.iter().any(|exclusion| {
            exclusion.transport == Transport::Tcp
                && exclusion.uids.contains(uid)
                && exclusion.ports.contains(port)
        })
    };
    let is_redirected_dns = |port: u16| config.dns.is_some() && port == 53;
    let mut candidates = (FIRST_CANDIDATE..=u16::MAX).chain(1..FIRST_CANDIDATE);
    candidates.find(|port| {
        !outbound.excluded_ports.contains(*port) && !is_excluded_for_uid(*port) && !is_redirected_dns(*port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PortSet, parse_uid_exclusions};

    #[test]
    fn check_uses_a_port_that_is_intercepted_for_the_uid() {
        let mut config = TrafficConfig::default();
        assert_eq!(intercepted_port(&config, 0), Some(20001));
        config.outbound.excluded_ports = PortSet::from_iter([(20001, 65535)]);
        assert_eq!(intercepted_port(&config, 0), Some(1));
        // Ports 1 to 52 are excluded for UID 0, and port 53 is redirected to the DNS port.
        config.outbound.uid_exclusions =
            parse_uid_exclusions("key", None, "tcp:1-52:0").expect("valid exclusions");
        config.dns = Some(crate::DnsRedirect::all(crate::DnsRedirect::DEFAULT_PORT));
        assert_eq!(intercepted_port(&config, 0), Some(54));
        assert_eq!(intercepted_port(&config, 7), Some(1));
        config.outbound.uid_exclusions = parse_uid_exclusions("key", None, "0").expect("valid exclusions");
        assert_eq!(intercepted_port(&config, 0), None);
    }
}
