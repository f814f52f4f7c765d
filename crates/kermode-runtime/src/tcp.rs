//! Connections that stay open for days and are silent most of the time.

use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpStream;

/// After so long without a word from a peer the kernel asks whether it is still there,
const QUIET: Duration = Duration::from_secs(20);
/// asks again in such steps,
const PROBE: Duration = Duration::from_secs(10);
/// and gives up when nothing has been answered for so long, be it a question or what was sent.
const UNANSWERED: Duration = Duration::from_secs(40);

/// Has small messages sent without waiting for one another, and a peer that is gone without a word found out within a minute
/// by the kernel: asking each by a ping of HTTP/2 would be most of what thousands of idle connections cost. A peer that
/// only hangs, but whose kernel answers, is noticed once it is sent more than fits into its buffers.
///
/// # Errors
/// When the kernel refuses an option.
pub fn tune(stream: &TcpStream) -> std::io::Result<()> {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &seconds(QUIET))?;
    setsockopt(stream, sockopt::TcpKeepInterval, &seconds(PROBE))?;
    // Linux asks this and not the number of probes when it is set.
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
