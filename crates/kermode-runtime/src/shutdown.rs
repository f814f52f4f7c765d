//! Shutdown in two stages: the first signal asks every component to finish, a second one ends the process.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Asks to finish. Dropping it asks as well.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Learns of the request to finish. Cheap to clone, one for each component.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// A pair of both.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Asks every component to finish.
    pub fn shut_down(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Whether finishing has been asked for.
    pub fn requested(&self) -> bool {
        *self.0.borrow()
    }

    /// The value behind it, for whoever waits in a way of their own: true once finishing is asked for.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.0.clone()
    }

    /// Completes when finishing is asked for.
    pub async fn wait(mut self) {
        // An error means that the trigger is gone, which asks as well.
        let _ = self.0.wait_for(|requested| *requested).await;
    }
}

/// SIGTERM and SIGINT, as the kubelet and a terminal send them.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts listening; from now on the signals no longer end the process by themselves.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next signal's name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
