//! `swr-sync completions`: shell completion scripts.

use clap::builder::PossibleValuesParser;
use clap_complete::Shell;

use super::console::PROGRAM;
use super::exit::{Exit, Failure};
use super::report;
use super::result;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Shell to complete in
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) const AFTER_HELP: &str = "\
Prints a script on stdout for the shell to load when it starts. Print it again after an upgrade.

Examples:
  swr-sync completions bash > ~/.local/share/bash-completion/completions/swr-sync
  swr-sync completions zsh > ~/.zfunc/_swr-sync      with ~/.zfunc in fpath, before compinit
  swr-sync completions fish > ~/.config/fish/completions/swr-sync.fish
  swr-sync completions elvish >> ~/.config/elvish/rc.elv
  swr-sync completions powershell >> $PROFILE";

pub(super) fn run(args: Args, command: clap::Command) -> Result<Exit, Failure> {
    // The command accepts any name, so that its own error can list the right ones.
    let reports = PossibleValuesParser::new(report::names());
    let mut command = command.mut_subcommand("report", |report| {
        report.mut_arg("name", |name| name.value_parser(reports))
    });
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, PROGRAM, &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if args.shell == Shell::Bash {
        // clap_complete 4.6 writes a dash in the program's name in two ways, and then does not find its own
        // function names.
        let [found, looked_for] = ["__subcmd__", "__"].map(|dash| PROGRAM.replace('-', dash));
        script = script.replace(&found, &looked_for);
    }
    result::write_stdout(&script)
}
