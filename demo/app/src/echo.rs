//! `kermode-demo echo`: echoes TCP data, for traffic that is not HTTP.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

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
    serve(socket, "", shutdown.wait()).await;
    Ok(())
}

/// Echoes the data of every connection, after a greeting, until `stop` completes. Connections stay open until the
/// process ends.
pub(crate) async fn serve(socket: TcpListener, greeting: &str, stop: impl Future<Output = ()>) {
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = &mut stop => return,
        };
        let Ok((stream, _)) = accepted else {
            listener::pause_after_failure().await;
            continue;
        };
        let greeting = greeting.to_owned();
        tokio::spawn(async move {
            // An error ends only this connection, and the client sees it closed.
            let _ = serve_connection(stream, &greeting).await;
        });
    }
}

async fn serve_connection(mut stream: TcpStream, greeting: &str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(greeting.as_bytes()).await?;
    let (mut reader, mut writer) = stream.split();
    tokio::io::copy(&mut reader, &mut writer).await?;
    Ok(())
}
