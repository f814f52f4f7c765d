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

/// Checks until the condition holds, and returns the result. `what` names the condition in the error text.
///
/// # Errors
/// The deadline has passed (with the last state), or the check itself fails.
pub(crate) async fn until<T>(
    what: &str,
    within: Duration,
    mut check: impl AsyncFnMut() -> Result<Progress<T>>,
) -> Result<T> {
    let end = Instant::now() + within;
    loop {
        let missing = match check().await? {
            Progress::Done(value) => return Ok(value),
            Progress::NotYet(missing) => missing,
        };
        if Instant::now() >= end {
            bail!("waited {within:?} in vain for {what}: {missing}");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Returns `Done` when `holds`.
pub(crate) fn when<T>(holds: bool, value: T, otherwise: impl FnOnce() -> String) -> Progress<T> {
    if holds {
        Progress::Done(value)
    } else {
        Progress::NotYet(otherwise())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn timeout_error_names_the_condition_and_its_last_state() {
        let result = until("pigs to fly", Duration::ZERO, async || {
            Ok(Progress::<()>::NotYet("2 of 3 on the ground".to_owned()))
        });
        let text = result.await.expect_err("they do not").to_string();
        assert!(
            text.contains("pigs to fly") && text.contains("2 of 3 on the ground"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn wait_ends_when_the_condition_holds() {
        let mut looks = 0;
        let found = until("the second look", Duration::from_mins(1), async || {
            looks += 1;
            Ok(when(looks == 2, looks, || "first look".to_owned()))
        });
        assert_eq!(found.await.expect("found"), 2);
    }
}
