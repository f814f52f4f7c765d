//! Progress of a command on the standard error: a line for a step that runs after the command has taken a second, and
//! only if the standard error is a terminal.

use std::io::{IsTerminal, stderr};
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::output;

/// Time after the start of the command from which on steps are printed.
const QUIET_TIME: Duration = Duration::from_secs(1);

/// Progress of a command.
pub(crate) struct Progress {
    started: Instant,
    print: Option<fn(&str)>,
}

impl Progress {
    /// Starts the progress of a command.
    pub(crate) fn start() -> Self {
        Self::with(
            stderr()
                .is_terminal()
                .then_some(|text| output::print_notice("Progress", text)),
        )
    }

    /// Returns a progress that prints by a function, or not at all.
    pub(crate) fn with(print: Option<fn(&str)>) -> Self {
        Self {
            started: Instant::now(),
            print,
        }
    }

    /// Runs a step. Prints its name if the step runs when the command has taken a second.
    pub(crate) async fn during<T>(&self, step: &str, future: impl Future<Output = T>) -> T {
        let Some(print) = self.print else {
            return future.await;
        };
        let mut future = pin!(future);
        tokio::select! {
            biased;
            result = &mut future => return result,
            () = sleep_until(self.started + QUIET_TIME) => print(step),
        }
        future.await
    }

    /// Prints a line.
    pub(crate) fn print(&self, text: &str) {
        if let Some(print) = self.print {
            print(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::sleep;

    use super::*;

    static PRINTED: Mutex<Vec<String>> = Mutex::new(Vec::new());

    fn record(text: &str) {
        PRINTED.lock().expect("the lock").push(text.to_owned());
    }

    #[tokio::test(start_paused = true)]
    async fn only_steps_that_run_after_the_first_second_are_printed_and_none_without_a_terminal() {
        let second = Duration::from_secs(1);
        let progress = Progress::with(Some(record));
        progress.during("short", sleep(second / 2)).await;
        progress.during("crosses the second", sleep(second)).await;
        progress.during("at once", std::future::ready(())).await;
        progress.during("late", sleep(second / 2)).await;
        Progress::with(None)
            .during("without a terminal", sleep(second * 2))
            .await;
        let printed = PRINTED.lock().expect("the lock");
        assert_eq!(*printed, ["crosses the second", "late"]);
    }
}
