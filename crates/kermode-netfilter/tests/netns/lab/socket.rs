//! Asking: a socket of a certain user, perhaps from a certain address, and the answer it gets.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use nix::unistd::{Uid, setfsuid};

use super::Namespace;

/// How to ask.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// Connections inside one machine take microseconds; this only bounds a failure.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks as a user of the namespace; the answer is who answered and what they saw, or `nobody` and why.
pub(crate) fn ask(namespace: &Namespace, uid: u32, transport: Transport, target: &str) -> String {
    ask_from(namespace, uid, transport, None, target)
}

/// The same from a certain address and port; port 0 is any.
pub(crate) fn ask_from(
    namespace: &Namespace,
    uid: u32,
    transport: Transport,
    source: Option<&str>,
    target: &str,
) -> String {
    let parse = |text: &str| text.parse::<SocketAddr>().expect("address and port");
    let (source, target) = (source.map(parse), parse(target));
    let answer = namespace.run(|| {
        let socket = connected(uid, transport, source, target)?;
        match transport {
            Transport::Tcp => read_tcp(TcpStream::from(socket)),
            Transport::Udp => read_udp(&UdpSocket::from(socket)),
        }
    });
    answer.unwrap_or_else(|error| format!("nobody: {error}"))
}

/// The kernel takes a socket's owner from the file system UID of the thread that makes it.
pub(crate) fn become_user(uid: u32) {
    setfsuid(Uid::from_raw(uid));
}

fn connected(
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
    let patience = TimeVal::new(PATIENCE.as_secs().try_into().unwrap_or(1), 0);
    setsockopt(&socket, sockopt::SendTimeout, &patience)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(target))?;
    Ok(socket)
}

/// The socket that had the address before may be closed and still live for a moment, in the child of another test between
/// its fork and its exec.
fn bind_when_free(socket: &OwnedFd, source: SocketAddr) -> io::Result<()> {
    let address = SockaddrStorage::from(source);
    let end = Instant::now() + PATIENCE;
    loop {
        match bind(socket.as_raw_fd(), &address) {
            Err(Errno::EADDRINUSE) if Instant::now() < end => thread::sleep(Duration::from_millis(1)),
            result => return Ok(result?),
        }
    }
}

fn read_tcp(mut stream: TcpStream) -> io::Result<String> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn read_udp(socket: &UdpSocket) -> io::Result<String> {
    socket.send(b"who are you?")?;
    let mut answer = [0; 200];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}
