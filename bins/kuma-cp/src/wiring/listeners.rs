//! The sockets of the servers, and a sentence for each that cannot be had.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::{TcpListener, TcpSocket};

use crate::debug::LOOPBACK;
use kermode_config::Config;

/// How many connections may wait to be accepted, as far as the kernel allows (`net.core.somaxconn`, 4096 by default). Of one
/// that finds no room the client hears nothing for up to minutes; and after an outage thousands come at once.
const BACKLOG: u32 = 4096;

/// Where the servers listen; bound before anything else, so that a taken port stops the start at once.
pub(super) struct Listeners {
    pub(super) admission: TcpListener,
    pub(super) proxies: TcpListener,
    pub(super) diagnostics: TcpListener,
    /// None when nobody wants it.
    pub(super) debug: Option<TcpListener>,
}

impl Listeners {
    pub(super) fn bind(config: &Config) -> anyhow::Result<Self> {
        let admission = &config.runtime.kubernetes.admission_server;
        let bind = |server, address, port, setting| Bind {
            server,
            address: SocketAddr::new(address, port),
            setting,
        };
        let debug = match config.diagnostics.debug_port {
            0 => None,
            port => Some(
                bind(
                    "the server of /debug",
                    LOOPBACK,
                    port,
                    "diagnostics.debugPort (KUMA_DIAGNOSTICS_DEBUG_PORT; 0 for none)",
                )
                .listen()?,
            ),
        };
        Ok(Self {
            debug,
            admission: bind(
                "the admission server",
                admission.address,
                admission.port,
                "runtime.kubernetes.admissionServer.port (KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_PORT)",
            )
            .listen()?,
            proxies: bind(
                "the server for proxies",
                config.dp_server.address,
                config.dp_server.port,
                "dpServer.port (KUMA_DP_SERVER_PORT)",
            )
            .listen()?,
            diagnostics: bind(
                "the diagnostics server",
                config.diagnostics.address,
                config.diagnostics.server_port,
                "diagnostics.serverPort (KUMA_DIAGNOSTICS_SERVER_PORT)",
            )
            .listen()?,
        })
    }
}

/// A server's address with the setting that changes it, for the text of a failed start.
struct Bind {
    /// What listens.
    server: &'static str,
    /// Where.
    address: SocketAddr,
    /// The setting that changes the port.
    setting: &'static str,
}

impl Bind {
    /// Starts to listen.
    ///
    /// # Errors
    /// Says which server, where, and what to change.
    fn listen(&self) -> anyhow::Result<TcpListener> {
        bind(self.address).with_context(|| {
            format!(
                "{} cannot listen on {}; free the port or set {}",
                self.server, self.address, self.setting
            )
        })
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restarted replica gets its port back while old connections linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_names_the_server_and_the_setting() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = taken.local_addr().expect("an address");
        let bind = Bind {
            server: "admission server",
            address,
            setting: "runtime.kubernetes.admissionServer.port",
        };
        let error = bind.listen().expect_err("the port is taken").to_string();
        assert!(
            error.contains("admission server") && error.contains("admissionServer.port"),
            "{error}"
        );
    }
}
