//! The commands of the book, run in order on the cluster.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kermode_book::{Block, Execution, Kind, RUN_PAGES};
use tokio::process::Command;

use crate::fixture::Fixture;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};

/// Namespace that the quick start creates.
const NAMESPACE: &str = "quick-start";
/// Time limit of a block that is repeated until it succeeds.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Runner of the blocks, with the programs of this build first on the search path.
struct Runner<'a> {
    fixture: &'a Fixture,
    folder: tempfile::TempDir,
}

pub(super) async fn commands_of_the_book_succeed(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    fixture.wait_for_default_mesh().await?;
    let runner = Runner::new(fixture).await?;
    let outcome = runner.run_pages().await;
    let kubectl = &fixture.cluster.kubectl;
    kubectl
        .run(&["delete", "namespace", "--ignore-not-found", NAMESPACE])
        .await?;
    // The book installs the control plane with other flags.
    kubectl.apply_server_side(&fixture.manifests(&[]).await?).await?;
    outcome.map(|count| format!("{count} blocks"))
}

// === impl Runner ===

impl<'a> Runner<'a> {
    async fn new(fixture: &'a Fixture) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let kumactl = fixture.config.checkout.release_binary("kumactl");
        // The installation uses the images of this build.
        let script = format!(
            "#!/bin/sh\nif [ \"$1 $2\" = 'install control-plane' ]; then\n  shift 2\n  set -- install control-plane {} \
             \"$@\"\nfi\nexec '{}' \"$@\"\n",
            fixture.image_flags()?.join(" "),
            kumactl.display()
        );
        write_program(&folder.path().join("kumactl"), &script).await?;
        let kubectl = format!(
            "#!/bin/sh\nexec '{}' \"$@\"\n",
            fixture.cluster.kubectl.program().display()
        );
        write_program(&folder.path().join("kubectl"), &kubectl).await?;
        Ok(Self { fixture, folder })
    }

    /// Runs the blocks of all pages in order. Returns the number of blocks that were run or checked.
    async fn run_pages(&self) -> Result<usize> {
        let mut count = 0;
        for page in RUN_PAGES {
            let blocks = kermode_book::blocks(&self.fixture.config.checkout.repository, page)?;
            for (index, block) in blocks.iter().enumerate() {
                let next = blocks.get(index + 1);
                let output = next.filter(|next| next.kind == Kind::Output);
                count += usize::from(self.run_block(block, output).await?);
            }
        }
        Ok(count)
    }

    /// Runs or checks a block, and returns whether there was something to do. `output` is the block with the output of
    /// the commands.
    async fn run_block(&self, block: &Block, output: Option<&Block>) -> Result<bool> {
        match &block.kind {
            Kind::Shell(Execution::Run { code, eventually }) => {
                wait_for(&block.place, TIMEOUT, async || {
                    let result = self.shell(&block.text).await?;
                    let problem = problem(&result, *code, output);
                    let state = format!("{}\n{}", problem.as_deref().unwrap_or_default(), block.text);
                    ensure!(problem.is_none() || *eventually, "{}: {state}", block.place);
                    Ok(done_if(problem.is_none(), (), || state))
                })
                .await?;
            }
            Kind::Yaml if block.text.starts_with("apiVersion:") => {
                let kubectl = &self.fixture.cluster.kubectl;
                let check = kubectl
                    .output(&["apply", "--dry-run=server", "--filename=-"], &block.text)
                    .await?;
                ensure!(
                    check.status.success(),
                    "{}: {}",
                    block.place,
                    String::from_utf8_lossy(&check.stderr)
                );
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    async fn shell(&self, commands: &str) -> Result<Output> {
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.folder.path().display());
        let output = Command::new("bash")
            .args(["-e", "-o", "pipefail", "-c", commands])
            .current_dir(&self.fixture.config.checkout.repository)
            .env("PATH", path)
            .env("KUBECONFIG", self.fixture.cluster.kubectl.kubeconfig())
            .env("DEMO_IMAGE", self.fixture.cluster.image("kermode-demo")?)
            .kill_on_drop(true)
            .output();
        output.await.context("bash cannot be started")
    }
}

/// Returns the problem of the result of commands: another exit code, or a line that is missing in the output.
fn problem(result: &Output, code: i32, expected: Option<&Block>) -> Option<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&result.stdout), text(&result.stderr));
    if result.status.code() != Some(code) {
        return Some(format!("{} in place of {code}: {stdout}{stderr}", result.status));
    }
    let expected = expected?;
    let line = expected.missing_line(&stdout)?;
    Some(format!(
        "{}: no line {line:?} in the output: {stdout}",
        expected.place
    ))
}

/// Writes a program that can be executed.
async fn write_program(path: &Path, script: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    tokio::fs::write(path, script).await?;
    tokio::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).await?;
    Ok(())
}
