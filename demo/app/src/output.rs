//! Everything the program writes goes through here, so that no other module prints.

use std::io::Write;

/// Writes a line to the standard output. Nobody reading it is no reason to stop serving.
pub(crate) fn line(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Writes why the program ends to the standard error, causes included.
pub(crate) fn error(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr().lock(), "Error: {error:#}");
}
