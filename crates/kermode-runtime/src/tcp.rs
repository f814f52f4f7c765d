//! Socket options of connections that stay open for days and are idle most of the time.

use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpStream;

/// Idle time before the kernel sends the first keepalive probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
/// Time between keepalive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Time after which the kernel closes a connection with an unacknowledged probe or unacknowledged data.
const USER_TIMEOUT: Duration = Duration::from_secs(40);

/// Disables Nagle's algorithm, and enables TCP keepalive so that a vanished peer is detected within a minute.
///
/// HTTP/2 pings are not used, because they would be most of the cost of thousands of idle connections. Keepalive does
/// not detect a hanging process, but its connection is closed once the socket buffers are full.
///
/// # Errors
/// If the kernel rejects an option.
pub fn set_socket_options(stream: &TcpStream) -> std::io::Result<()> {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &seconds(KEEPALIVE_IDLE))?;
    setsockopt(stream, sockopt::TcpKeepInterval, &seconds(KEEPALIVE_INTERVAL))?;
    // Linux uses this timeout in place of the number of probes (TCP_KEEPCNT).
    setsockopt(stream, sockopt::TcpUserTimeout, &(seconds(USER_TIMEOUT) * 1000))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn socket_options_detect_a_vanished_peer_within_a_minute() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let _client = client.expect("a connection");
        let (stream, _) = accepted.expect("a connection");
        set_socket_options(&stream).expect("valid options");
        let idle = getsockopt(&stream, sockopt::TcpKeepIdle).expect("an option");
        let interval = getsockopt(&stream, sockopt::TcpKeepInterval).expect("an option");
        assert!(getsockopt(&stream, sockopt::KeepAlive).expect("an option"));
        assert!(idle + interval <= 60, "{idle} s, then {interval} s");
        let timeout = getsockopt(&stream, sockopt::TcpUserTimeout).expect("an option");
        assert!((1..=60_000).contains(&timeout), "{timeout} ms");
    }
}
