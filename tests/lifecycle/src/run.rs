//! Runs cases: deploys the servers, waits until the clients get responses, makes the changes of the scenario, and waits
//! until the changed servers have ended.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures::future::try_join;

use crate::case::{Case, Plan, Protocol, name};
use crate::pod_watch::{PodWatch, ServerEnd};
use crate::row::{Row, SideResult};
use crate::scenario;
use crate::settings::Settings;
use crate::side::{ClientCounters, Side, Target};

/// Run of the suite, with the clients that all cases share.
pub struct Run {
    target: Target,
    settings: Settings,
    plan: Plan,
    /// The mesh and the plain namespace.
    sides: [Side; 2],
}

// === impl Run ===

impl Run {
    /// Applies the manifests of the settings, and deploys the clients on both sides.
    ///
    /// # Errors
    /// The cluster cannot be reached, or rejects an object.
    pub async fn start(target: Target, settings: Settings, plan: Plan) -> Result<Self> {
        let run = Self {
            sides: [Side::mesh(&target, &settings), Side::plain(&target)],
            target,
            settings,
            plan,
        };
        for manifest in &run.settings.manifests {
            let text = std::fs::read_to_string(manifest)
                .with_context(|| format!("cannot read {}", manifest.display()))?;
            run.target.kubectl.apply_server_side(&text).await?;
        }
        let [mesh, without_mesh] = &run.sides;
        let (settings, plan) = (&run.settings, &run.plan);
        try_join(
            mesh.deploy_clients(settings, plan),
            without_mesh.deploy_clients(settings, plan),
        )
        .await
        .context("the clients cannot be deployed")?;
        Ok(run)
    }

    /// Returns the cases of this run.
    pub fn cases(&self) -> Vec<Case> {
        self.plan.cases(&self.settings)
    }

    /// Runs a case. Returns a row for each protocol.
    ///
    /// # Errors
    /// A step of the case fails or does not end in time. Failed requests are no error.
    pub async fn case(&self, case: &Case) -> Result<Vec<Row>> {
        let title = format!(
            "{}, {}, {}",
            name(case.scenario),
            name(case.application),
            case.variant.name
        );
        self.attempt(case).await.with_context(|| format!("case {title}"))
    }

    async fn attempt(&self, case: &Case) -> Result<Vec<Row>> {
        let [mesh, without_mesh] = &self.sides;
        let plan = &self.plan;
        try_join(
            mesh.deploy_servers(case, plan),
            without_mesh.deploy_servers(case, plan),
        )
        .await?;
        let starts = try_join(
            mesh.wait_for_responses(plan),
            without_mesh.wait_for_responses(plan),
        )
        .await?;
        let watches = (PodWatch::start(mesh.pods()), PodWatch::start(without_mesh.pods()));
        let start = Instant::now();
        let client = &self.target.client;
        scenario::run(case.scenario, &self.sides, &self.settings, plan, client).await?;
        try_join(
            mesh.wait_for_ended_servers(plan),
            without_mesh.wait_for_ended_servers(plan),
        )
        .await?;
        let ends = try_join(
            mesh.wait_for_responses(plan),
            without_mesh.wait_for_responses(plan),
        )
        .await?;
        let seconds = start.elapsed().as_secs_f64();
        ensure_running(&starts.0, &ends.0)?;
        ensure_running(&starts.1, &ends.1)?;
        let mesh = side_results(&starts.0, &ends.0, &watches.0.servers());
        let without_mesh = side_results(&starts.1, &ends.1, &watches.1.servers());
        let rows = mesh
            .into_iter()
            .zip(without_mesh.into_values())
            .map(|((protocol, mesh), without_mesh)| Row::new(case, protocol, seconds, mesh, without_mesh));
        Ok(rows.collect())
    }

    /// Deletes both namespaces, and waits until they are gone.
    ///
    /// # Errors
    /// A namespace cannot be deleted.
    pub async fn delete(&self) -> Result<()> {
        let [mesh, without_mesh] = &self.sides;
        try_join(mesh.delete(), without_mesh.delete()).await.map(drop)
    }
}

/// Checks that no client has restarted, because the counters of a restarted client have lost failures.
fn ensure_running(starts: &ClientCounters, ends: &ClientCounters) -> Result<()> {
    for (protocol, start) in starts {
        ensure!(
            ends[protocol].running_since == start.running_since,
            "{} restarted, so its failures are not known: see the termination reason and the log of its container",
            protocol.client_container()
        );
    }
    Ok(())
}

/// Returns the results of the clients of a side, by protocol.
fn side_results(
    starts: &ClientCounters,
    ends: &ClientCounters,
    servers: &BTreeMap<String, ServerEnd>,
) -> BTreeMap<Protocol, SideResult> {
    // The clients run in the same Pod, so they have the same clock.
    let started_at = starts
        .values()
        .map(|counters| counters.now)
        .min()
        .unwrap_or_default();
    let results = starts.iter().map(|(protocol, start)| {
        let result = SideResult::new(*protocol, started_at, start, &ends[protocol], servers);
        (*protocol, result)
    });
    results.collect()
}
