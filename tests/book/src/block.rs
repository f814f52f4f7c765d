//! Code blocks of a page.

use anyhow::{Result, bail};

/// A code block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Page and line of the start of the block, for messages.
    pub place: String,
    /// Language and use.
    pub kind: Kind,
    /// Content, without the indentation of the block.
    pub text: String,
}

/// Language and use of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Commands of a shell.
    Shell(Execution),
    /// Output of the commands before it.
    Output,
    /// YAML documents.
    Yaml,
    /// Any other language.
    Other,
}

/// Use that tests make of the commands of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Execution {
    /// Run them.
    Run {
        /// Expected exit code.
        code: i32,
        /// Whether to repeat the block until it exits with this code.
        eventually: bool,
    },
    /// Do not run them, for this reason.
    Skip(String),
}

/// Returns the code blocks of a page.
///
/// # Errors
/// If a block has unknown words after its language, or no end. The error names page and line.
pub fn blocks_of(page: &str, text: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().zip(1_usize..);
    while let Some((line, number)) = lines.next() {
        let Some(words) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let indentation = line.len() - line.trim_start().len();
        let place = format!("docs/{page}:{number}");
        let mut block = Block {
            kind: kind(&place, words.trim())?,
            place,
            text: String::new(),
        };
        loop {
            let Some((line, _)) = lines.next() else {
                bail!("{}: the block has no end", block.place);
            };
            if line.trim() == "```" {
                break;
            }
            block.text.push_str(line.get(indentation..).unwrap_or_default());
            block.text.push('\n');
        }
        blocks.push(block);
    }
    Ok(blocks)
}

fn kind(place: &str, words: &str) -> Result<Kind> {
    let (language, words) = words.split_once(' ').unwrap_or((words, ""));
    Ok(match (language, words.trim()) {
        ("sh", words) => Kind::Shell(execution(place, words)?),
        ("text", "output") => Kind::Output,
        ("yaml", "") => Kind::Yaml,
        (_, "") => Kind::Other,
        (language, words) => bail!("{place}: unknown words after {language}: {words}"),
    })
}

fn execution(place: &str, words: &str) -> Result<Execution> {
    if let Some(reason) = words.strip_prefix("no-run:") {
        if reason.trim().is_empty() {
            bail!("{place}: no-run: needs a reason");
        }
        return Ok(Execution::Skip(reason.trim().to_owned()));
    }
    let (mut expected, mut eventually) = (0, false);
    for word in words.split_whitespace() {
        match (word, word.strip_prefix("exit=").map(str::parse)) {
            ("eventually", _) => eventually = true,
            (_, Some(Ok(code))) => expected = code,
            _ => bail!("{place}: unknown word {word}: use exit=CODE, eventually or no-run: REASON"),
        }
    }
    Ok(Execution::Run {
        code: expected,
        eventually,
    })
}

// === impl Block ===

impl Block {
    /// Returns the first line of an expected output that `output` does not have. `…` stands for any text within a line,
    /// and runs of blanks are equal.
    pub fn missing_line(&self, output: &str) -> Option<&str> {
        self.text
            .lines()
            .find(|expected| !output.lines().any(|line| matches(expected, line)))
    }
}

/// Whether the parts of `expected` between `…` are in the line, in this order.
fn matches(expected: &str, line: &str) -> bool {
    let normalized = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = normalized(line);
    let mut rest = line.as_str();
    expected
        .split('…')
        .map(normalized)
        .all(|part| match rest.split_once(&part) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
}
