//! The parts that run side by side: each a future that ends at shutdown, and whose earlier end ends the process.

use anyhow::Context;
use kermode_runtime::shutdown::Shutdown;
use tokio::sync::oneshot;
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

/// Runs a part on a thread of its own, so that its turn comes however much all others have to do at once. What it has
/// spawned there goes on until the process ends: others may use it, such as connections to the API server.
pub(super) fn apart<F: Future<Output = anyhow::Result<()>>>(
    part: &'static str,
    component: impl FnOnce() -> F + Send + 'static,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + 'static> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (result, ended) = oneshot::channel();
    std::thread::Builder::new().name(part.to_owned()).spawn(move || {
        runtime.block_on(async {
            // Nobody waits for it any more when the process ends.
            let _ = result.send(component().await);
            std::future::pending::<()>().await;
        });
    })?;
    Ok(async move { ended.await.context("its thread is gone")? })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_apart_goes_on_while_everybody_else_is_busy_and_its_end_is_told() {
        let (ask, asked) = std::sync::mpsc::channel();
        let (go, gone) = oneshot::channel::<()>();
        let part = apart("part", move || async move {
            ask.send(()).context("asked")?;
            gone.await.context("told to go")
        });
        let part = part.expect("a thread");
        // Blocks this runtime's only thread.
        asked
            .recv_timeout(std::time::Duration::from_secs(30))
            .expect("it runs");
        go.send(()).expect("it waits");
        part.await.expect("it ends well");
    }
}
