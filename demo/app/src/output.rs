//! Output of the program. No other module prints.

use std::io::Write;

/// Writes a line to standard output. A closed output does not stop the program.
pub(crate) fn line(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Writes the error that ends the program, with its causes, to standard error.
pub(crate) fn error(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr().lock(), "Error: {error:#}");
}
