//! `kermode-demo echo`: echoes TCP data, for traffic that is not HTTP.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use crate::shutdown::Shutdown;
use crate::{listener, output};

/// Flags of the echo server.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0:9000", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

/// Runs the echo server until SIGTERM.
pub(crate) async fn run(args: Args) -> Result<()> {
    let mut shutdown = Shutdown::new()?;
    let socket = listener::bind(args.listen).await?;
    output::line(&format!(
        "echo listens on {}",
        socket.local_addr().context("the listener has no address")?
    ));
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = shutdown.wait() => return Ok(()),
        };
        let Ok((mut stream, _)) = accepted else {
            listener::pause_after_failure().await;
            continue;
        };
        tokio::spawn(async move {
            let (mut reader, mut writer) = stream.split();
            // An error ends only this connection, and the client sees it closed.
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
    }
}
