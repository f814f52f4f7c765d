//! The parts that run side by side: each a future that ends at shutdown, and whose earlier end ends the process.

use anyhow::Context;
use kermode_runtime::shutdown::Shutdown;
use tokio::task::JoinSet;

/// A part of the control plane; its end before shutdown ends the process.
pub(super) type Components = JoinSet<(&'static str, anyhow::Result<()>)>;

pub(super) fn describe_end(
    ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>,
) -> anyhow::Result<()> {
    match ended {
        Ok((part, Err(error))) => Err(error.context(format!("{part} failed"))),
        Ok((part, Ok(()))) => anyhow::bail!("{part} ended by itself"),
        Err(error) => Err(error).context("a component did not survive"),
    }
}

pub(super) fn spawn(
    components: &mut Components,
    part: &'static str,
    component: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    components.spawn(async move { (part, component.await) });
}

/// Runs a part that knows nothing of shutdown until then; its own end before that is an error of ours.
pub(super) fn until(
    shutdown: &Shutdown,
    part: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = anyhow::Result<()>> + Send + 'static {
    let finished = shutdown.clone().wait();
    async move {
        tokio::select! {
            () = part => anyhow::bail!("it ended"),
            () = finished => Ok(()),
        }
    }
}
