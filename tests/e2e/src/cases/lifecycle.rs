//! Short form of the lifecycle scenarios (`tests/lifecycle`).

use std::time::Duration;

use anyhow::{Result, ensure};
use kermode_lifecycle::Target;
use kermode_lifecycle::case::{Application, Plan, Protocol, Scenario};
use kermode_lifecycle::report::text_row;
use kermode_lifecycle::row::Row;
use kermode_lifecycle::run::Run;
use kermode_lifecycle::settings::Settings;

use crate::fixture::Fixture;
use crate::harness::runner::Note;

pub(super) async fn no_request_fails_while_servers_that_exit_at_once_are_restarted(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    let target = Target {
        kubectl: fixture.cluster.kubectl.clone(),
        client: fixture.cluster.client.clone(),
        image: fixture.cluster.image("kermode-demo")?.to_owned(),
    };
    let settings = fixture
        .config
        .checkout
        .repository
        .join("tests/lifecycle/settings/kermode.yaml");
    let plan = Plan {
        scenarios: vec![Scenario::Restart],
        protocols: vec![Protocol::Http1, Protocol::Grpc],
        applications: vec![Application::Exit],
        variants: vec!["default".to_owned()],
        replicas: 2,
        // Both servers end at the same time. This is also faster than one after the other.
        surge: 2,
        restarts: 3,
        rate: 200,
        connections: 5,
        delay: Duration::ZERO,
        grace_period: 30,
    };
    let run = Run::start(target, Settings::read(&settings)?, plan).await?;
    let outcome = check(&run).await;
    run.delete().await?;
    outcome
}

async fn check(run: &Run) -> Result<Note> {
    let mut notes = Vec::new();
    for case in run.cases() {
        let rows = run.case(&case).await?;
        let failed: Vec<_> = rows.iter().filter(|row| !row.is_clean()).map(text_row).collect();
        ensure!(
            failed.is_empty(),
            "requests failed in the mesh:\n{}",
            failed.join("\n")
        );
        notes.extend(rows.iter().map(note));
    }
    Ok(notes.join("; "))
}

fn note(row: &Row) -> String {
    format!(
        "{}: {} of {} requests failed in the mesh, {} of {} without it",
        row.protocol.port_name(),
        row.mesh.failed,
        row.mesh.requests,
        row.plain.failed,
        row.plain.requests
    )
}
