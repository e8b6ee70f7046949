//! The sample channel and the box around it: what `edgeseed demo` shows.

pub mod origin;
mod run;

pub use run::{DemoError, run};
