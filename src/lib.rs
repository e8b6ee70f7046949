//! edgeseed
pub mod budget;
pub mod config;
pub mod ids;
pub mod metrics;
pub mod signal;
