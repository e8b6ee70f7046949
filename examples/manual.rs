//! Writes the man pages and the shells' completions, as a package has them: `cargo run --example manual -- DIR`.
//!
//! All of it is made from what is there already: the command line, and the sample configuration, in
//! which every key is explained.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use clap_complete::{Shell, generate_to};
use edgeseed::cli::{Cli, DEFAULT_CONFIG};
use roff::{Roff, bold, italic, roman};

const SAMPLE: &str = include_str!("../edgeseed.example.toml");

#[derive(Parser)]
#[command(about = "The man pages and completions of edgeseed")]
struct Args {
    /// Where they are written.
    dir: PathBuf,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Args { dir } = Args::parse();
    fs::create_dir_all(&dir)?;
    clap_mangen::generate_to(Cli::command(), &dir)?;
    configuration(&dir.join("edgeseed.toml.5"))?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut Cli::command(), "edgeseed", &dir)?;
    }
    Ok(())
}

fn configuration(page: &Path) -> Result<(), Box<dyn Error>> {
    let mut roff = Roff::new();
    let title = ["edgeseed.toml", "5", "", "edgeseed", ""];
    roff.control("TH", title)
        .control("SH", ["NAME"])
        .text([roman("edgeseed.toml - configuration of the edge-box seeder edgeseed(1)")])
        .control("SH", ["DESCRIPTION"])
        .text([
            roman("A TOML file, by default "),
            italic(DEFAULT_CONFIG),
            roman(
                ". One [[channel]] and one [signal] are enough; everything else has a default. An unknown key is an \
                 error. Sizes are written like \"64MiB\", durations like \"1.6s\", rates like \"20Mbit/s\".",
            ),
        ])
        .control("PP", [])
        .text([
            bold("edgeseed check"),
            roman(" names every mistake by file, line and key. A running box reads the file again at SIGHUP ("),
            bold("systemctl reload edgeseed"),
            roman("); with a mistake in it the old one stays in force, and the log says so."),
        ])
        .control("SH", ["EVERY KEY, WITH ITS DEFAULT"])
        .control("nf", []);
    for line in SAMPLE.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", [])
        .control("SH", ["SEE ALSO"])
        .text([roman("edgeseed(1)")]);
    fs::write(page, roff.render())?;
    Ok(())
}
