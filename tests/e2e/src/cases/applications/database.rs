//! A database with one server. A restart interrupts its clients, so these tests check what must hold nevertheless: the
//! clients lose connections and nothing else, they recover, and the data are complete.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};

use crate::fixture::Fixture;
use crate::harness::application::{
    Application, Run, check_that_outsiders_get_no_response, with_applications,
};
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};

/// Time limit of the recovery of the clients, from the time at which the new server is ready. It is long, so that a busy
/// machine does not exceed it.
const RECOVERY_TIMEOUT: Duration = Duration::from_mins(2);

/// Database and the commands of its client.
pub(super) struct Database {
    pub(super) application: Application,
    /// Stores a text. The word `STORED` stands for it.
    pub(super) store: &'static str,
    /// Prints the stored text, once for each service.
    pub(super) show: &'static str,
    /// Load tool that runs during the restart.
    pub(super) benchmark: Load,
    /// Load tools that run after the restart; if unset, those of `benchmark`.
    pub(super) last_benchmark: Option<Load>,
    /// Messages of the load tool about a lost connection, or a connection that cannot be opened.
    pub(super) lost: &'static [&'static str],
}

/// Load tools.
pub(super) struct Load {
    pub(super) command: &'static str,
    /// Texts in the lines in which the load tools print their results. A complete run prints all of them.
    pub(super) results: &'static [&'static str],
}

impl Database {
    /// Stores a text.
    pub(super) async fn store(&self, fixture: &Fixture, text: &str) -> Result<()> {
        let command = self.store.replace("STORED", text);
        self.application.client(fixture, &command).await?;
        Ok(())
    }
}

impl Load {
    /// Whether a run is complete. The exit code alone does not show this: after an error, that of mysqlslap is 0.
    pub(super) fn is_complete(&self, run: &Run) -> bool {
        run.succeeded && self.results.iter().all(|result| run.output.contains(result))
    }

    /// Returns the results that a run has printed.
    pub(super) fn results_of(&self, run: &Run) -> String {
        let lines = run.output.split(['\r', '\n']).map(str::trim);
        let is_result = |line: &&str| self.results.iter().any(|result| line.contains(result));
        let results: Vec<&str> = lines.filter(is_result).collect();
        results.join(", ")
    }
}

/// Returns a text that no earlier run has stored.
pub(super) fn new_text() -> Result<String> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(format!("text-{}", time.as_nanos()))
}

/// Waits until the client reads this text from the database through each service.
pub(super) async fn check_stored_text(fixture: &Fixture, database: &Database, text: &str) -> Result<()> {
    wait_for("the stored text", RECOVERY_TIMEOUT, async || {
        let run = database.application.client_run(fixture, database.show).await?;
        let texts = run.output.lines().filter(|line| line.trim() == text);
        let is_expected = run.succeeded && texts.count() == database.application.services.len();
        Ok(done_if(is_expected, (), || format!("{run:?}")))
    })
    .await
}

/// Restarts the server under load. Checks that each failed run of the load tool reports a lost connection, that the text
/// is still stored, and that the load tool succeeds afterwards.
pub(super) async fn check_restart(fixture: &Fixture, database: &Database) -> Result<Note> {
    let application = &database.application;
    with_applications(fixture, &[application], async || {
        check_that_outsiders_get_no_response(fixture, &[application]).await?;
        let text = new_text()?;
        database.store(fixture, &text).await?;
        let load = &database.benchmark;
        let restart = async || application.restart(fixture).await;
        let runs = application.under_load(fixture, load.command, restart).await?;
        let failed: Vec<_> = runs.iter().filter(|run| !load.is_complete(run)).collect();
        for run in &failed {
            ensure!(
                database.lost.iter().any(|message| run.output.contains(message)),
                "a failed run of the load tool reports no lost connection: {run:?}"
            );
        }
        ensure!(
            !failed.is_empty(),
            "no run of the load tool failed, so the server did not restart under load"
        );
        check_stored_text(fixture, database, &text).await?;
        let load = database.last_benchmark.as_ref().unwrap_or(load);
        let last = application.client_run(fixture, load.command).await?;
        ensure!(
            load.is_complete(&last),
            "the load tool failed after the restart: {last:?}"
        );
        let handshakes = application.check_mtls(fixture).await?;
        Ok(format!(
            "{} of {} runs lost connections during the restart; after it: {}; {handshakes}",
            failed.len(),
            runs.len(),
            load.results_of(&last)
        ))
    })
    .await
}
