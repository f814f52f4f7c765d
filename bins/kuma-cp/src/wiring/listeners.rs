//! Listening sockets of the servers. A socket that cannot be bound is an error that names the server and the setting.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::{TcpListener, TcpSocket};

use crate::debug::LOOPBACK;
use kermode_config::Config;

/// Maximum number of connections that wait to be accepted. The kernel caps it at `net.core.somaxconn`, 4096 by default.
/// After an outage, thousands of proxies connect at once, and a connection beyond the maximum is delayed by up to
/// minutes.
const BACKLOG: u32 = 4096;

/// Listeners of the servers. They are bound before anything else starts, so that a port in use fails the start at once.
pub(super) struct Listeners {
    pub(super) admission: TcpListener,
    pub(super) proxies: TcpListener,
    pub(super) diagnostics: TcpListener,
    /// `None` when `/debug` is disabled.
    pub(super) debug: Option<TcpListener>,
}

impl Listeners {
    pub(super) fn bind(config: &Config) -> anyhow::Result<Self> {
        let admission = &config.runtime.kubernetes.admission_server;
        let debug = match config.diagnostics.debug_port {
            0 => None,
            port => {
                let server = ServerSocket {
                    server_name: "the server of /debug",
                    address: SocketAddr::new(LOOPBACK, port),
                    setting: "diagnostics.debugPort (KUMA_DIAGNOSTICS_DEBUG_PORT; 0 disables /debug)",
                };
                Some(server.listen()?)
            }
        };
        Ok(Self {
            debug,
            admission: ServerSocket {
                server_name: "the admission server",
                address: SocketAddr::new(admission.address, admission.port),
                setting: "runtime.kubernetes.admissionServer.port (KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_PORT)",
            }
            .listen()?,
            proxies: ServerSocket {
                server_name: "the server for proxies",
                address: SocketAddr::new(config.dp_server.address, config.dp_server.port),
                setting: "dpServer.port (KUMA_DP_SERVER_PORT)",
            }
            .listen()?,
            diagnostics: ServerSocket {
                server_name: "the diagnostics server",
                address: SocketAddr::new(config.diagnostics.address, config.diagnostics.server_port),
                setting: "diagnostics.serverPort (KUMA_DIAGNOSTICS_SERVER_PORT)",
            }
            .listen()?,
        })
    }
}

/// Socket of a server: its address, and the texts of the error for an address that cannot be bound.
struct ServerSocket {
    /// Name of the server in the error.
    server_name: &'static str,
    /// Address to listen on.
    address: SocketAddr,
    /// Key of the port in the configuration file, and its environment variable.
    setting: &'static str,
}

impl ServerSocket {
    /// Binds the socket and starts to listen.
    ///
    /// # Errors
    /// When the address cannot be bound; the error names the server, the address and the setting.
    fn listen(&self) -> anyhow::Result<TcpListener> {
        bind_and_listen(self.address).with_context(|| {
            format!(
                "{} cannot listen on {}; free the port or set {}",
                self.server_name, self.address, self.setting
            )
        })
    }
}

fn bind_and_listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Lets a restarted replica bind its port while old connections are in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn error_about_a_port_in_use_names_the_server_and_the_setting() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = taken.local_addr().expect("an address");
        let server = ServerSocket {
            server_name: "admission server",
            address,
            setting: "runtime.kubernetes.admissionServer.port",
        };
        let error = server.listen().expect_err("the port is taken").to_string();
        assert!(
            error.contains("admission server") && error.contains("admissionServer.port"),
            "{error}"
        );
    }
}
