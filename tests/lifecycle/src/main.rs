//! `kermode-lifecycle`: runs the lifecycle scenarios on a cluster, and writes the report to `target/lifecycle`. README.md
//! describes how to run it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use kermode_checkout::{Checkout, variable};
use kermode_harness::kubectl::Kubectl;
use kermode_harness::local;
use kermode_lifecycle::Target;
use kermode_lifecycle::case::{Application, Plan, Protocol, Scenario};
use kermode_lifecycle::report;
use kermode_lifecycle::row::Row;
use kermode_lifecycle::run::Run;
use kermode_lifecycle::settings::Settings;

/// Lifecycle scenarios: failed requests while servers start and end, in a mesh and without it. Lists are separated by
/// commas.
#[derive(Parser)]
struct Arguments {
    /// Settings of the mesh; by default those of Kermode.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Local cluster. Without it, KUBECONFIG selects the cluster, and --image is required.
    #[arg(long)]
    cluster: Option<String>,
    /// Image of the demo program that the cluster can pull; by default the image of this build, on a local cluster.
    #[arg(long, required_unless_present = "cluster")]
    image: Option<String>,
    /// Scenarios; by default all.
    #[arg(long = "scenario", value_delimiter = ',')]
    scenarios: Vec<Scenario>,
    /// Protocols of the clients, which run at the same time; by default all.
    #[arg(long = "protocol", value_delimiter = ',')]
    protocols: Vec<Protocol>,
    /// Behaviours of the servers on SIGTERM; by default all.
    #[arg(long = "application", value_delimiter = ',')]
    applications: Vec<Application>,
    /// Variants of the settings; by default all.
    #[arg(long = "variant", value_delimiter = ',')]
    variants: Vec<String>,
    /// Number of servers in each namespace.
    #[arg(long, default_value_t = 3)]
    replicas: i32,
    /// Number of servers that a rolling restart adds before it ends as many.
    #[arg(long, default_value_t = 1)]
    surge: i32,
    /// Number of rolling restarts. The other scenarios have a tenth of this number of rounds, and at least one.
    #[arg(long, default_value_t = 30)]
    restarts: u32,
    /// Requests a second of each client.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Number of connections of each client.
    #[arg(long, default_value_t = 10)]
    connections: u32,
    /// Time in milliseconds that a server takes to respond.
    #[arg(long, default_value_t = 0, value_name = "MILLISECONDS")]
    delay: u64,
    /// Time in seconds from the deletion of a Pod to SIGKILL.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    grace_period: i64,
    /// Keep the application after the run. The next run changes it as needed.
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let checkout = Checkout::find()?;
    let default_settings = checkout.repository.join("tests/lifecycle/settings/kermode.yaml");
    let settings = Settings::read(arguments.settings.as_ref().unwrap_or(&default_settings))?;
    let plan = plan(&arguments);
    ensure!(
        !plan.cases(&settings).is_empty(),
        "no case is selected: --variant must name variants of the settings"
    );
    let run = Run::start(target(&arguments, &checkout).await?, settings, plan).await?;
    let folder = checkout.target.join("lifecycle");
    let (rows, failed_cases) = run_cases(&run, &folder).await?;
    if !arguments.keep {
        run.delete().await?;
    }
    let failed_rows = rows.iter().filter(|row| row.required && !row.is_clean()).count();
    Ok(if failed_cases == 0 && failed_rows == 0 {
        ExitCode::SUCCESS
    } else {
        print(&format!(
            "{failed_cases} cases did not end; requests failed in {failed_rows} required rows"
        ))?;
        ExitCode::FAILURE
    })
}

/// Runs all cases, prints their rows, and writes the report to `folder` after each case. Returns the rows and the number of
/// cases that did not end. Such a case does not stop the others.
async fn run_cases(run: &Run, folder: &Path) -> Result<(Vec<Row>, usize)> {
    print(&report::text_head())?;
    let mut rows = Vec::new();
    let mut failed_cases = 0;
    for case in run.cases() {
        match run.case(&case).await {
            Ok(new) => {
                for row in &new {
                    print(&report::text_row(row))?;
                }
                rows.extend(new);
                report::write(folder, &rows)?;
            }
            Err(error) => {
                failed_cases += 1;
                print(&format!("{error:#}"))?;
            }
        }
    }
    print(&format!("report: {}", folder.display()))?;
    Ok((rows, failed_cases))
}

fn plan(arguments: &Arguments) -> Plan {
    Plan {
        scenarios: or_all(&arguments.scenarios),
        protocols: or_all(&arguments.protocols),
        applications: or_all(&arguments.applications),
        variants: arguments.variants.clone(),
        replicas: arguments.replicas,
        surge: arguments.surge,
        restarts: arguments.restarts,
        rate: arguments.rate,
        connections: arguments.connections,
        delay: Duration::from_millis(arguments.delay),
        grace_period: arguments.grace_period,
    }
}

/// Returns the selected values, or all if none is selected.
fn or_all<T: ValueEnum + Clone>(selected: &[T]) -> Vec<T> {
    if selected.is_empty() {
        T::value_variants().to_vec()
    } else {
        selected.to_vec()
    }
}

async fn target(arguments: &Arguments, checkout: &Checkout) -> Result<Target> {
    let kubectl = match &arguments.cluster {
        Some(cluster) => local::kubectl(checkout, cluster),
        None => Kubectl::new(
            variable("KUBECTL").unwrap_or_else(|| "kubectl".to_owned()).into(),
            variable("KUBECONFIG")
                .context("KUBECONFIG is not set: set it, or name a local cluster with --cluster")?
                .into(),
        ),
    };
    let image = match &arguments.image {
        Some(image) => image.clone(),
        None => local::images(checkout)?
            .remove("kermode-demo")
            .context("the image kermode-demo does not exist: run make images")?,
    };
    let mut config = local::config(kubectl.kubeconfig()).await?;
    // Without this, the client repeats a request with status 429 for minutes: an eviction that a PodDisruptionBudget denies.
    config.default_retry = false;
    Ok(Target {
        client: kube::Client::try_from(config)?,
        kubectl,
        image,
    })
}

fn print(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
