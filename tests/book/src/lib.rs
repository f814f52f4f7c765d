//! Code blocks of the book in `docs/`.
//!
//! The words after ` ```sh ` say what tests do with a block:
//!
//! | words | meaning |
//! |---|---|
//! | none | the end-to-end test `book` runs the block; it must exit with code 0 |
//! | `exit=3` | the same with another exit code |
//! | `eventually` | the test repeats the block until it exits with the expected code |
//! | `no-run: REASON` | the block is not run |
//!
//! ` ```text output ` is the output of the block of commands before it: each line must be in the output, and `…` stands
//! for any text.
//!
//! Tests of this crate check every block of the book without a cluster.

mod block;
#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::{Context, Result};

pub use block::{Block, Execution, Kind, blocks_of};

/// Pages whose commands the end-to-end test runs, in this order. Later pages use the objects of earlier ones.
pub const RUN_PAGES: [&str; 3] = ["quick-start.md", "troubleshooting.md", "operations.md"];

/// Returns the pages of the book, relative to `docs`, in the order of its summary.
///
/// # Errors
/// If the summary cannot be read.
pub fn pages(repository: &Path) -> Result<Vec<String>> {
    let summary = read(repository, "SUMMARY.md")?;
    let links = summary.split("](").skip(1);
    Ok(links
        .filter_map(|rest| rest.split(')').next())
        .map(str::to_owned)
        .collect())
}

/// Returns the code blocks of a page.
///
/// # Errors
/// If the page cannot be read, or has a block with unknown words. The error names page and line.
pub fn blocks(repository: &Path, page: &str) -> Result<Vec<Block>> {
    blocks_of(page, &read(repository, page)?)
}

fn read(repository: &Path, page: &str) -> Result<String> {
    let path = repository.join("docs").join(page);
    std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
}
