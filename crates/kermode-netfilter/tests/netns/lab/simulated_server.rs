//! Simulated servers that respond with their name, in place of Envoy, the application and remote servers.
//!
//! Over TCP the response is `<name> from <peer address>`, or `<name> to <original destination> from <peer address>` for
//! a redirected connection. Over UDP the response is the name.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{Shutdown, getsockopt, shutdown, sockopt};

use super::Namespace;
use super::socket::become_user;

/// A simulated server, which runs until dropped.
pub(crate) struct SimulatedServer {
    stop: Box<dyn Fn() + Send>,
    thread: Option<JoinHandle<()>>,
}

impl SimulatedServer {
    /// Starts a server that listens on TCP as the user `uid`.
    pub(crate) fn tcp(namespace: &Namespace, uid: u32, name: &'static str, address: SocketAddr) -> Self {
        let listener = namespace.run(|| {
            become_user(uid);
            TcpListener::bind(address)
        });
        let listener = listener.expect("the port is free");
        let duplicate = listener.try_clone().expect("a socket can be duplicated");
        let serve = move || {
            // Shutdown of the listener makes accept fail, which ends the loop.
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                // An error means that the client has closed the connection. The test then fails at the client.
                let _ = respond(stream, name);
            }
        };
        let stop = move || {
            let _ = shutdown(duplicate.as_raw_fd(), Shutdown::Both);
        };
        Self::start(namespace, uid, Box::new(stop), serve)
    }

    /// Starts a server that listens on UDP as the user `uid`.
    pub(crate) fn udp(namespace: &Namespace, uid: u32, name: &'static str, address: SocketAddr) -> Self {
        let socket = namespace.run(|| {
            become_user(uid);
            UdpSocket::bind(address)
        });
        let socket = socket.expect("the port is free");
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a timeout other than 0");
        let stop_flag = Arc::new(AtomicBool::new(false));
        let stop_flag_of_thread = Arc::clone(&stop_flag);
        let serve = move || {
            let mut query = [0; 200];
            while !stop_flag_of_thread.load(Ordering::Relaxed) {
                if let Ok((_, peer)) = socket.recv_from(&mut query) {
                    let _ = socket.send_to(name.as_bytes(), peer);
                }
            }
        };
        Self::start(
            namespace,
            uid,
            Box::new(move || stop_flag.store(true, Ordering::Relaxed)),
            serve,
        )
    }

    fn start(
        namespace: &Namespace,
        uid: u32,
        stop: Box<dyn Fn() + Send>,
        serve: impl FnOnce() + Send + 'static,
    ) -> Self {
        let namespace = namespace.duplicate();
        let thread = thread::spawn(move || {
            namespace.enter();
            become_user(uid);
            serve();
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for SimulatedServer {
    fn drop(&mut self) {
        (self.stop)();
        // Ignores a panic of the thread, because a second panic during unwinding would abort.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn respond(mut stream: TcpStream, name: &str) -> io::Result<()> {
    let peer = stream.peer_addr()?.ip().to_canonical();
    let local = stream.local_addr()?;
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    match original_destination(&stream, peer) {
        Ok(original) if original != local => write!(stream, "{name} to {original} from {peer}"),
        // The connection was not redirected: its original destination is the local address, or is unknown because
        // connection tracking does not know the connection.
        _ => write!(stream, "{name} from {peer}"),
    }
}

/// Returns the original destination of a connection, like Envoy's `original_dst` listener filter.
fn original_destination(stream: &TcpStream, peer: IpAddr) -> nix::Result<SocketAddr> {
    if peer.is_ipv4() {
        let address = getsockopt(stream, sockopt::OriginalDst)?;
        let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
        Ok(SocketAddr::new(ip.into(), u16::from_be(address.sin_port)))
    } else {
        let address = getsockopt(stream, sockopt::Ip6tOriginalDst)?;
        let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
        Ok(SocketAddr::new(ip.into(), u16::from_be(address.sin6_port)))
    }
}
