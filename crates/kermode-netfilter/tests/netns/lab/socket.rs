//! Requests of the tests, from sockets of a given user and, optionally, a given source address; and echo requests of ICMP.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use nix::unistd::{Uid, setfsuid};

pub(crate) use kermode_netfilter::Transport;

use super::Namespace;

/// Time limit of each step of a request: binding, connecting, sending and receiving. A local connection takes
/// microseconds.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Opens a TCP connection or sends a UDP query from the namespace, as the user `uid`. Returns the response, or the
/// error.
pub(crate) fn request(namespace: &Namespace, uid: u32, transport: Transport, target: &str) -> String {
    request_from(namespace, uid, transport, None, target)
}

/// Like [`request`], but from the address and port `source`, if any. With port 0, the kernel selects a free port.
pub(crate) fn request_from(
    namespace: &Namespace,
    uid: u32,
    transport: Transport,
    source: Option<&str>,
    target: &str,
) -> String {
    let parse = |text: &str| text.parse::<SocketAddr>().expect("address and port");
    let source = source.map(parse);
    let target = parse(target);
    let response = namespace.run(|| {
        let socket = connect_socket(uid, transport, source, target)?;
        match transport {
            Transport::Tcp => read_tcp(TcpStream::from(socket)),
            Transport::Udp => query_udp(&UdpSocket::from(socket)),
        }
    });
    response.unwrap_or_else(|error| format!("error: {error}"))
}

/// Sets the file system UID of the thread. The kernel records this UID as the owner of the thread's new sockets.
pub(crate) fn become_user(uid: u32) {
    setfsuid(Uid::from_raw(uid));
}

fn connect_socket(
    uid: u32,
    transport: Transport,
    source: Option<SocketAddr>,
    target: SocketAddr,
) -> io::Result<OwnedFd> {
    become_user(uid);
    let family = if target.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let kind = if transport == Transport::Tcp {
        SockType::Stream
    } else {
        SockType::Datagram
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if let Some(source) = source {
        bind_when_free(&socket, source)?;
    }
    set_timeouts(&socket)?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(target))?;
    Ok(socket)
}

/// Sends an echo request of ICMP from the namespace. Returns the data of the response, or the error.
pub(crate) fn ping(namespace: &Namespace, target: &str) -> String {
    // The kernel fills in identifier and checksum, for the groups in this range.
    let range = "net.ipv4.ping_group_range=0 0";
    namespace.command("sysctl", &["--quiet", "--write", range], "");
    let target: IpAddr = target.parse().expect("an address");
    let response = namespace.run(|| echo_request(target));
    response.unwrap_or_else(|error| format!("error: {error}"))
}

fn echo_request(target: IpAddr) -> io::Result<String> {
    const HEADER_LENGTH: usize = 8;
    let (family, protocol, request_type) = if target.is_ipv4() {
        (AddressFamily::Inet, SockProtocol::Icmp, 8)
    } else {
        (AddressFamily::Inet6, SockProtocol::IcmpV6, 128)
    };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    set_timeouts(&socket)?;
    connect(
        socket.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(target, 0)),
    )?;
    let socket = UdpSocket::from(socket);
    let mut message = vec![request_type, 0, 0, 0, 0, 0, 0, 1];
    message.extend(b"ping");
    socket.send(&message)?;
    let mut response = [0; 200];
    let length = socket.recv(&mut response)?;
    let data = response.get(HEADER_LENGTH..length).unwrap_or_default();
    Ok(String::from_utf8_lossy(data).into_owned())
}

fn set_timeouts(socket: &OwnedFd) -> io::Result<()> {
    let timeout = TimeVal::new(TIMEOUT.as_secs().try_into().unwrap_or(1), 0);
    setsockopt(socket, sockopt::SendTimeout, &timeout)?;
    setsockopt(socket, sockopt::ReceiveTimeout, &timeout)?;
    Ok(())
}

/// Binds a socket, and retries while the address is in use: a child process that another test has just forked keeps a
/// copy of a closed socket open until the child calls exec.
fn bind_when_free(socket: &OwnedFd, source: SocketAddr) -> io::Result<()> {
    let address = SockaddrStorage::from(source);
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match bind(socket.as_raw_fd(), &address) {
            Err(Errno::EADDRINUSE) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
            result => return Ok(result?),
        }
    }
}

fn read_tcp(mut stream: TcpStream) -> io::Result<String> {
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

fn query_udp(socket: &UdpSocket) -> io::Result<String> {
    socket.send(b"query")?;
    let mut response = [0; 200];
    let length = socket.recv(&mut response)?;
    Ok(String::from_utf8_lossy(&response[..length]).into_owned())
}
