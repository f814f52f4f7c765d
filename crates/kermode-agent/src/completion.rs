//! Wait of a classic sidecar for the end of its application (`docs/reference/dataplane.md#finished-jobs`).
//!
//! The kubelet terminates a native sidecar, but not a classic one, which is an ordinary container of its Pod. A container
//! sees neither the processes nor the statuses of the other containers, so the control plane has to report their end.

use std::time::Duration;

use kermode_protocol::client::Client;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use crate::backoff::Backoff;
use crate::token::TokenFile;

/// Time after which a call that fails counts as lost instead of refused. The control plane refuses calls sooner.
const MIN_HELD_CALL: Duration = Duration::from_secs(15);
/// Pause after the response of a control plane that does not implement the call. A newer one may take its place.
const PAUSE_AFTER_UNIMPLEMENTED: Duration = Duration::from_mins(5);

/// Wait for the end of the application.
#[derive(Clone, Debug)]
pub struct CompletionWatch {
    /// Client of the control plane.
    pub client: Client,
    /// Token of the proxy.
    pub token: TokenFile,
}

impl CompletionWatch {
    /// Completes once all containers of the application have ended and none of them will be restarted. Never completes
    /// for an application that does not end this way. Repeats failed calls, so an end during an outage of the control
    /// plane is reported after the outage.
    pub async fn run(self) {
        let mut backoff = Backoff::default();
        loop {
            let started_at = Instant::now();
            match self.call().await {
                Ok(true) => return,
                Ok(false) => {
                    tracing::debug!(
                        "the application is always restarted, so the sidecar does not wait for its end"
                    );
                    std::future::pending::<()>().await;
                }
                Err(error) => {
                    tracing::debug!(
                        error = format!("{error:#}"),
                        "waiting for the end of the application failed"
                    );
                    let code = error.downcast_ref().map(Status::code);
                    sleep(pause(&mut backoff, code, started_at.elapsed(), fastrand::f64())).await;
                }
            }
        }
    }

    /// Calls the control plane. Returns whether the application has ended, or false if it never ends.
    async fn call(&self) -> anyhow::Result<bool> {
        let authorization = self.token.authorization().await?;
        let response = self.client.await_completion(authorization).await?;
        Ok(response.is_finished)
    }
}

/// Returns the pause after a call that failed with this code, if it has one, after this time.
fn pause(backoff: &mut Backoff, code: Option<Code>, duration: Duration, jitter: f64) -> Duration {
    match code {
        Some(Code::Unimplemented) => PAUSE_AFTER_UNIMPLEMENTED,
        _ if duration >= MIN_HELD_CALL => {
            backoff.reset();
            backoff.next_after_loss(jitter)
        }
        Some(Code::NotFound) => backoff.next_after_not_found(jitter),
        _ => backoff.next(jitter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_call_is_repeated_within_seconds_and_failing_calls_less_and_less_often() {
        let mut backoff = Backoff::default();
        let mut next = |code, duration| pause(&mut backoff, code, duration, 1.0);
        let refused = Some(Code::Unavailable);
        assert_eq!(next(refused, Duration::ZERO), Duration::from_millis(100));
        assert_eq!(next(refused, Duration::ZERO), Duration::from_millis(200));
        assert_eq!(next(refused, Duration::from_hours(1)), Duration::from_secs(2));
        assert_eq!(next(refused, Duration::ZERO), Duration::from_millis(800));
        for _ in 0..20 {
            next(None, Duration::ZERO);
        }
        assert_eq!(next(None, Duration::ZERO), Duration::from_secs(10));
    }

    #[test]
    fn control_plane_of_an_older_version_is_called_seldom() {
        let code = Some(Code::Unimplemented);
        let pause = pause(&mut Backoff::default(), code, Duration::ZERO, 0.0);
        assert_eq!(pause, PAUSE_AFTER_UNIMPLEMENTED);
    }
}
