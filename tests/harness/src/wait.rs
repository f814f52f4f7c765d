//! Repeats a check until its condition holds or its time limit is reached.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Interval between two checks of a condition. A shorter interval would take CPU time from the cluster, which runs on
/// the same machine.
const INTERVAL: Duration = Duration::from_millis(200);

/// Result of a check.
pub enum Progress<T> {
    /// The condition holds.
    Done(T),
    /// The condition does not hold yet. The text describes the current state, for the error at the time limit.
    NotYet(String),
}

/// Repeats `check` until it returns [`Progress::Done`], and returns its value. `condition` names the condition in the
/// error, after the words "waiting for".
///
/// # Errors
/// A check fails, or the condition does not hold after `within`. The second error contains the state of the last check.
pub async fn wait_for<T>(
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
pub fn done_if<T>(holds: bool, value: T, state: impl FnOnce() -> String) -> Progress<T> {
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
