//! Parts for a shutdown in two stages: the first SIGTERM or SIGINT starts the shutdown of every component, a second one
//! ends the process.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Starts the shutdown. Dropping the trigger starts the shutdown as well.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Observes the shutdown. Cheap to clone, one for each component.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Creates a trigger, and an observer of the shutdown that the trigger starts.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Starts the shutdown of every component.
    pub fn shut_down(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Returns a receiver whose value is true once [`Trigger::shut_down`] was called. If the trigger was dropped
    /// instead, the value stays false, and the channel is closed.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.0.clone()
    }

    /// Completes when the shutdown starts.
    pub async fn wait(mut self) {
        // An error means that the trigger was dropped, which starts the shutdown, too.
        let _ = self.0.wait_for(|has_started| *has_started).await;
    }
}

/// Receives SIGTERM, which the kubelet sends, and SIGINT, which a terminal sends.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Installs the handlers. From then on, the signals do not end the process.
    ///
    /// # Errors
    /// If the handlers cannot be installed.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal and returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
