//! The command line. What it says is the contract's; what it does is in [`crate::commands`].

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use url::Url;

/// Where a box has its configuration.
pub const DEFAULT_CONFIG: &str = "/etc/edgeseed/edgeseed.toml";

const EXIT_CODES: &str = "Exit codes: 0; 64 usage; 69 an address or service is unavailable; 70 a bug; 77 permission; \
                          78 configuration.";

/// Edge-box seeder: prefetches live HLS once, serves every viewer of the LAN over WebRTC.
#[derive(Debug, Parser)]
#[command(name = "edgeseed", version, arg_required_else_help = true, after_long_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon.
    Run {
        /// The configuration.
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Validate the configuration: names file, line and key of every mistake.
    Check {
        /// The configuration.
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// If there is a mistake, show it at this address until stopped, in place of the box's pages.
        #[arg(long, value_name = "ADDR")]
        listen: Option<SocketAddr>,
    },
    /// Show the whole system on this machine with no network: a looping live sample channel, the
    /// signalling server, the box, and a page with a player.
    Demo {
        /// Where the page is.
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
    },
    /// Run the signalling server alone.
    Signal {
        /// A configuration with a [signal-server] section.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Where to listen, in place of what the configuration says.
        #[arg(long, value_name = "ADDR")]
        listen: Option<SocketAddr>,
    },
    /// Ask a running daemon how it does.
    Status {
        /// Where its pages are.
        #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080/")]
        url: Url,
        /// Print the answer as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what the box would see of a channel: variants, window, sizes, timings, and what it
    /// would refuse and why.
    Probe {
        /// The playlist.
        url: Url,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
