//! Components: concurrent futures that end at shutdown. If a component ends earlier, the process ends.

use anyhow::Context;
use kermode_runtime::shutdown::Shutdown;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Running components, each with its name and result.
pub(super) type Components = JoinSet<(&'static str, anyhow::Result<()>)>;

/// Returns the error for a component that ended before shutdown.
pub(super) fn early_end_error(
    ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>,
) -> anyhow::Error {
    match ended {
        Ok((name, Err(error))) => error.context(format!("{name} failed")),
        Ok((name, Ok(()))) => anyhow::anyhow!("{name} ended before shutdown"),
        Err(error) => anyhow::Error::new(error).context("a component panicked"),
    }
}

/// Spawns a component.
pub(super) fn spawn(
    components: &mut Components,
    name: &'static str,
    component: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    components.spawn(async move { (name, component.await) });
}

/// Runs a component on its own thread, so that busy components do not delay it. Tasks that the component spawned, such
/// as connections to the API server, continue until the process ends, because other components may use them.
pub(super) fn run_on_own_thread<F: Future<Output = anyhow::Result<()>>>(
    name: &'static str,
    component: impl FnOnce() -> F + Send + 'static,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + 'static> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (result_sender, result) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        runtime.block_on(async {
            // The receiver is dropped when the process ends, so the error is ignored.
            let _ = result_sender.send(component().await);
            std::future::pending::<()>().await;
        });
    })?;
    Ok(async move { result.await.context("its thread ended without a result")? })
}

/// Runs a component until shutdown, then drops it. Returns an error if the component ends before shutdown.
pub(super) fn run_until_shutdown(
    shutdown: &Shutdown,
    component: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = anyhow::Result<()>> + Send + 'static {
    let shutdown_signal = shutdown.clone().wait();
    async move {
        tokio::select! {
            () = component => anyhow::bail!("the component ended before shutdown"),
            () = shutdown_signal => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn component_on_its_own_thread_runs_while_other_threads_are_busy_and_returns_its_result() {
        let (report_start, started) = std::sync::mpsc::channel();
        let (finish, finished) = oneshot::channel::<()>();
        let component = run_on_own_thread("component", move || async move {
            report_start.send(()).context("started")?;
            finished.await.context("finished")
        });
        let component = component.expect("a thread");
        // Blocks this runtime's only thread.
        started
            .recv_timeout(std::time::Duration::from_secs(30))
            .expect("the component runs");
        finish.send(()).expect("the component waits");
        component.await.expect("no error");
    }
}
