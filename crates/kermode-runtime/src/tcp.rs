//! Socket options of connections that stay open for days and are idle most of the time.

use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpStream;

/// Idle time before the kernel sends the first keep-alive probe.
const QUIET: Duration = Duration::from_secs(20);
/// Time between keep-alive probes.
const PROBE: Duration = Duration::from_secs(10);
/// Time after which the kernel closes a connection with an unacknowledged probe or unacknowledged data.
const UNANSWERED: Duration = Duration::from_secs(40);

/// Sends small messages without delay, and detects a vanished peer within a minute by keep-alive probes of the kernel.
/// HTTP/2 pings would account for most of the cost of thousands of idle connections. A peer that hangs while its kernel
/// responds is detected once its buffers are full.
///
/// # Errors
/// If the kernel refuses an option.
pub fn tune(stream: &TcpStream) -> std::io::Result<()> {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &seconds(QUIET))?;
    setsockopt(stream, sockopt::TcpKeepInterval, &seconds(PROBE))?;
    // If it is set, Linux uses it in place of the number of probes.
    setsockopt(stream, sockopt::TcpUserTimeout, &(seconds(UNANSWERED) * 1000))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_kernel_finds_out_within_a_minute_that_a_peer_has_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_client, (stream, _)) = (client.expect("connected"), accepted.expect("accepted"));
        tune(&stream).expect("set");
        let idle = getsockopt(&stream, sockopt::TcpKeepIdle).expect("an option");
        let interval = getsockopt(&stream, sockopt::TcpKeepInterval).expect("an option");
        assert!(getsockopt(&stream, sockopt::KeepAlive).expect("an option"));
        assert!(idle + interval <= 60, "{idle} s, then {interval} s");
        let unanswered = getsockopt(&stream, sockopt::TcpUserTimeout).expect("an option");
        assert!((1..=60_000).contains(&unanswered), "{unanswered} ms");
    }
}
