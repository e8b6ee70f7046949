//! The doorbell: parse, call the library, turn an error into an exit code.

use std::process::ExitCode;

use clap::Parser;
use edgeseed::{cli::Cli, commands, exit, logging};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() {
                exit::USAGE
            } else {
                exit::OK
            };
            // Nothing can be done about a closed standard error.
            let _ = error.print();
            return code.into();
        }
    };
    logging::init();
    match commands::execute(cli.command) {
        Ok(()) => exit::OK.into(),
        Err(failure) => {
            log::error!("{failure}");
            failure.exit_code().into()
        }
    }
}
