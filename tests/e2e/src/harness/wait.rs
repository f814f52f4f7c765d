//! Waits for a condition with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Interval between checks of a condition: short enough for fast tests, long enough to leave two cores to the cluster.
const INTERVAL: Duration = Duration::from_millis(200);

/// Result of a check.
pub(crate) enum Progress<T> {
    /// The condition holds.
    Done(T),
    /// The condition does not hold yet, with its state for the error text.
    NotYet(String),
}

/// Checks until the condition holds, and returns the result. `condition` describes the condition in the error text.
///
/// # Errors
/// The deadline has passed (with the last state), or the check itself fails.
pub(crate) async fn wait_for<T>(
    condition: &str,
    within: Duration,
    mut check: impl AsyncFnMut() -> Result<Progress<T>>,
) -> Result<T> {
    let end = Instant::now() + within;
    loop {
        let state = match check().await? {
            Progress::Done(value) => return Ok(value),
            Progress::NotYet(state) => state,
        };
        if Instant::now() >= end {
            bail!("timed out after {within:?} waiting for {condition}: {state}");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Returns `Done` if `holds`, otherwise `NotYet` with the current state.
pub(crate) fn done_if<T>(holds: bool, value: T, state: impl FnOnce() -> String) -> Progress<T> {
    if holds {
        Progress::Done(value)
    } else {
        Progress::NotYet(state())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn timeout_error_names_the_condition_and_its_last_state() {
        let result = wait_for("three replicas", Duration::ZERO, async || {
            Ok(Progress::<()>::NotYet("2 of 3 ready".to_owned()))
        });
        let text = result.await.expect_err("the condition does not hold").to_string();
        assert!(
            text.contains("three replicas") && text.contains("2 of 3 ready"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn wait_ends_when_the_condition_holds() {
        let mut checks = 0;
        let found = wait_for("the second check", Duration::from_mins(1), async || {
            checks += 1;
            Ok(done_if(checks == 2, checks, || "first check".to_owned()))
        });
        assert_eq!(found.await.expect("the condition holds"), 2);
    }
}
