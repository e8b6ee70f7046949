//! What is wrong with a file.

use std::fmt;
use std::path::PathBuf;

/// What is wrong with a configuration file, and how to mend it.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file can be read, and has these mistakes.
    Mistakes {
        /// Which file.
        path: PathBuf,
        /// Each of them, in the order of their lines; never empty.
        mistakes: Vec<Mistake>,
    },
}

/// One mistake in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line of the file, from 1.
    pub line: usize,
    /// The key as an operator would look for it, for example `peer.packet-size`; empty when the
    /// file is not TOML at all.
    pub key: String,
    /// What is wrong and what is wanted.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(
                f,
                "cannot read the configuration {}: {source}",
                path.display()
            ),
            Self::Mistakes { path, mistakes } => {
                for (index, mistake) in mistakes.iter().enumerate() {
                    if index > 0 {
                        writeln!(f)?;
                    }
                    write!(f, "{}:{}: ", path.display(), mistake.line)?;
                    if !mistake.key.is_empty() {
                        write!(f, "{}: ", mistake.key)?;
                    }
                    f.write_str(&mistake.message)?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}
