//! `kumactl completion`: prints the completion script of a shell.

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use crate::cli::Cli;
use crate::output;

/// Flags of `kumactl completion`.
#[derive(Args, Clone, Debug)]
pub(crate) struct CompletionArgs {
    /// Shell. For bash: source <(kumactl completion bash).
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &CompletionArgs) -> Result<()> {
    output::print_result(&script(args.shell))
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "kumactl", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_of_each_shell_completes_commands_and_flags() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for word in ["kumactl", "explain", "control-plane-namespace"] {
                assert!(script.contains(word), "{shell}: {word} is missing");
            }
        }
    }
}
