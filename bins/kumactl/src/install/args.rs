//! Flags of `kumactl install control-plane`. A flag that Kuma also has keeps Kuma's name.

use anyhow::{Result, bail};
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use kermode_install::{InstallOption, Installation, Kind, Names, options};
use kermode_model::is_dns_label;

/// Default of `--namespace`.
pub(crate) const DEFAULT_NAMESPACE: &str = "kong-mesh-system";

/// Flags of `kumactl install control-plane`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ControlPlaneArgs {
    /// Namespace of the control plane.
    #[arg(long, default_value = DEFAULT_NAMESPACE, value_name = "NAME")]
    namespace: String,

    #[command(flatten)]
    options: OptionArgs,

    /// Address of a global control plane. Not supported yet: the command fails.
    #[arg(long, value_name = "URL", hide = true)]
    kds_global_address: Option<String>,

    /// Accepted for compatibility with Kuma, without effect: no cluster is contacted.
    #[arg(long)]
    #[allow(dead_code, reason = "the flag is accepted without effect")]
    without_kubernetes_connection: bool,
}

/// The flags of all [`options`].
#[derive(Clone, Debug, Default)]
struct OptionArgs {
    /// Options whose flags are given, each with the arguments of its flag.
    given: Vec<(&'static InstallOption, Vec<String>)>,
}

// === impl ControlPlaneArgs ===

impl ControlPlaneArgs {
    /// Checks the flags and converts them to an installation.
    ///
    /// # Errors
    /// When flags are wrong. The error names all wrong flags, except those that only the complete installation shows.
    pub(super) fn installation(&self) -> Result<Installation> {
        let mut problems = Vec::new();
        if !is_dns_label(&self.namespace) {
            problems.push(format!(
                "--namespace {:?}: use at most 63 lower case letters, digits and dashes, with a letter or digit at both ends",
                self.namespace
            ));
        }
        if self.kds_global_address.is_some() {
            problems.push(
                "--kds-global-address: several zones under one global control plane are not supported yet; leave it out: \
                 each cluster has its own control plane and meshes"
                    .to_owned(),
            );
        }
        let mut installation = Installation::new(&self.namespace);
        for (option, arguments) in &self.options.given {
            match option.parse(arguments) {
                Ok(value) => installation.set(option.path, value),
                Err(of_option) => problems.extend(of_option),
            }
        }
        problems.extend(installation.problems());
        if !problems.is_empty() {
            // The spaces align each line with the text after `Error: `.
            bail!("{}", problems.join("\n       "));
        }
        Ok(installation)
    }
}

// === impl OptionArgs ===

impl FromArgMatches for OptionArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = options().iter().filter_map(|option| {
            let arguments = matches.get_many::<String>(option.flag)?;
            Some((option, arguments.cloned().collect()))
        });
        Ok(Self {
            given: given.collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for OptionArgs {
    fn augment_args(command: Command) -> Command {
        command.args(options().iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Returns the flag of an option.
fn flag(option: &InstallOption) -> Arg {
    let arg = Arg::new(option.flag)
        .long(option.flag)
        .value_name(option.placeholder())
        .help_heading(option.group)
        .help(help(option));
    match option.kind {
        Kind::Boolean => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        Kind::Choice(choices) => arg.value_parser(PossibleValuesParser::new(choices.iter().copied())),
        _ if option.is_repeatable() => arg.action(ArgAction::Append),
        _ => arg,
    }
}

/// Returns the help of a flag: meaning, notation, default.
fn help(option: &InstallOption) -> String {
    let mut help = Names::Flags.text(option.meaning);
    let notation = option.notation();
    if !notation.is_empty() {
        help = format!("{help} {notation}");
    }
    match option.default_text() {
        Some(default) => format!("{help} [default: {default}]"),
        None => help,
    }
}
