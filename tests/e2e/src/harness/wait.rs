//! Waiting for a condition with a deadline: never for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at. Short enough not to slow the tests down, long enough to leave two cores to
/// the cluster.
const INTERVAL: Duration = Duration::from_millis(200);

/// What a look at a condition found.
pub(crate) enum Progress<T> {
    /// It holds.
    Done(T),
    /// Not yet, and why, for the text of a failure.
    NotYet(String),
}

/// Looks until the condition holds, and returns what it found. `what` completes "waited in vain for …".
///
/// # Errors
/// When the deadline has passed, with what was seen last; or at once when the look itself fails.
pub(crate) async fn until<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Result<Progress<T>>,
) -> Result<T> {
    let end = Instant::now() + within;
    loop {
        let missing = match look().await? {
            Progress::Done(value) => return Ok(value),
            Progress::NotYet(missing) => missing,
        };
        if Instant::now() >= end {
            bail!("waited {within:?} in vain for {what}: {missing}");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// `Done` when `holds`.
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
    async fn waiting_in_vain_says_what_for_and_what_was_there() {
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
    async fn a_condition_that_holds_later_is_found() {
        let mut looks = 0;
        let found = until("the second look", Duration::from_mins(1), async || {
            looks += 1;
            Ok(when(looks == 2, looks, || "first look".to_owned()))
        });
        assert_eq!(found.await.expect("found"), 2);
    }
}
