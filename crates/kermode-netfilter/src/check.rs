//! Shows that the redirect works: a connection to an address that nobody has must reach a listener of ours.
//!
//! The process must not be the proxy's user, and the proxy must not run yet.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, SystemTime};

use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::TimeVal;
use nix::unistd::geteuid;

use crate::exclusion::Transport;
use crate::{IpFamilies, TrafficConfig};

/// The outcome of a check that did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// A connection was redirected, for each of these addresses.
    Redirected(Vec<IpAddr>),
    /// It could not be tried, for this reason.
    Untried(String),
}

/// The redirect does not work.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A connection was not redirected.
    #[error(
        "the rules are in place but a connection to {target} was not redirected to port {port}: {source}; check whether \
         something else in the pod's network namespace or the node's network plugin rewrites connections"
    )]
    NotRedirected {
        /// Where the connection was made to.
        target: SocketAddr,
        /// Where it should have ended.
        port: u16,
        /// What came instead.
        source: io::Error,
    },
    /// The listener could not be made.
    #[error("cannot listen on {address} to check the redirect: {source}")]
    Listen {
        /// The address tried.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Addresses reserved for documentation (RFC 5737, RFC 3849): nobody answers there.
const UNROUTABLE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const UNROUTABLE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Connects to an unroutable address of each family and expects to be answered by a listener made here. Each step waits
/// no longer than `deadline`.
pub fn check_redirect(
    config: &TrafficConfig,
    families: IpFamilies,
    deadline: Duration,
) -> Result<Checked, CheckError> {
    let uid = geteuid().as_raw();
    if uid == config.proxy_uid {
        return Ok(Checked::Untried(format!(
            "it runs with the proxy's own UID {uid}"
        )));
    }
    let Some(port) = intercepted_port(config, uid) else {
        return Ok(Checked::Untried(format!(
            "all ports are excluded from interception for UID {uid}"
        )));
    };
    let mut targets = vec![(UNROUTABLE_V4, IpAddr::V4(Ipv4Addr::LOCALHOST))];
    if families == IpFamilies::DualStack {
        targets.push((UNROUTABLE_V6, IpAddr::V6(Ipv6Addr::LOCALHOST)));
    }
    let mut redirected = Vec::new();
    for (target, loopback) in targets {
        let listen = SocketAddr::new(loopback, config.outbound.port.get());
        match check_one(SocketAddr::new(target, port), listen, deadline)? {
            FamilyCheck::Redirected => redirected.push(target),
            FamilyCheck::Unroutable => {}
            FamilyCheck::Occupied => {
                return Ok(Checked::Untried(format!("something listens on {listen} already")));
            }
        }
    }
    if redirected.is_empty() {
        return Ok(Checked::Untried("the pod has no route out".to_owned()));
    }
    Ok(Checked::Redirected(redirected))
}

enum FamilyCheck {
    Redirected,
    /// The routing table refused before the rules were asked.
    Unroutable,
    /// The port is taken, presumably by the proxy.
    Occupied,
}

fn check_one(target: SocketAddr, listen: SocketAddr, deadline: Duration) -> Result<FamilyCheck, CheckError> {
    let listener = match TcpListener::bind(listen) {
        Ok(listener) => listener,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(FamilyCheck::Occupied),
        Err(source) => {
            return Err(CheckError::Listen {
                address: listen,
                source,
            });
        }
    };
    if !has_route(target) {
        return Ok(FamilyCheck::Unroutable);
    }
    match expect_token(&listener, target, deadline) {
        Ok(()) => Ok(FamilyCheck::Redirected),
        Err(source) => Err(CheckError::NotRedirected {
            target,
            port: listen.port(),
            source,
        }),
    }
}

/// Asks the routing table only: connecting a UDP socket sends nothing.
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

fn expect_token(listener: &TcpListener, target: SocketAddr, deadline: Duration) -> io::Result<()> {
    let token = token();
    let mut client = TcpStream::connect_timeout(&target, deadline)?;
    client.set_read_timeout(Some(deadline))?;
    // Bounds accept, which has nothing to accept when somebody else answered.
    setsockopt(listener, ReceiveTimeout, &time_value(deadline))?;
    let (mut server, _) = listener.accept()?;
    server.write_all(&token)?;
    let mut answer = [0; TOKEN_LENGTH];
    client.read_exact(&mut answer)?;
    if answer == token {
        Ok(())
    } else {
        Err(io::Error::other("another listener answered"))
    }
}

const TOKEN_LENGTH: usize = 16;

/// Unlike what any other listener would say.
fn token() -> [u8; TOKEN_LENGTH] {
    let time = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    (time.as_nanos() ^ (u128::from(std::process::id()) << 96)).to_ne_bytes()
}

fn time_value(duration: Duration) -> TimeVal {
    let seconds = duration.as_secs().try_into().unwrap_or(i64::MAX);
    TimeVal::new(seconds, duration.subsec_micros().into())
}

/// A TCP port whose connections are intercepted when the given user makes them.
fn intercepted_port(config: &TrafficConfig, uid: u32) -> Option<u16> {
    const FIRST_TRIED: u16 = 20001;
    let outbound = &config.outbound;
    let for_user = |port: u16| {
        let mut exclusions = outbound
            .excluded_uids
            .iter()
            .filter(|one| one.transport == Transport::Tcp);
        exclusions.any(|one| one.uids.contains(uid) && one.ports.contains(port))
    };
    let dns = |port: u16| config.dns.is_some() && port == 53;
    let candidates = (FIRST_TRIED..=u16::MAX).chain(1..FIRST_TRIED);
    let mut usable =
        candidates.filter(|port| !outbound.excluded_ports.contains(*port) && !for_user(*port) && !dns(*port));
    usable.next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PortSet, uid_exclusions};

    #[test]
    fn the_port_tried_is_one_that_is_intercepted() {
        let mut config = TrafficConfig::default();
        assert_eq!(intercepted_port(&config, 0), Some(20001));
        config.outbound.excluded_ports = PortSet::from_iter([(20001, 65535)]);
        assert_eq!(intercepted_port(&config, 0), Some(1));
        config.outbound.excluded_uids = uid_exclusions("key", None, "tcp:1-52:0").expect("legal");
        config.dns = Some(crate::DnsRedirect::all(crate::DnsRedirect::DEFAULT_PORT));
        assert_eq!(intercepted_port(&config, 0), Some(54));
        assert_eq!(intercepted_port(&config, 7), Some(1));
        config.outbound.excluded_uids = uid_exclusions("key", None, "0").expect("legal");
        assert_eq!(intercepted_port(&config, 0), None);
    }
}
