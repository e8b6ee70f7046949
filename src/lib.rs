//! edgeseed
pub mod budget;
pub mod config;
pub mod ids;
pub mod metrics;
pub mod peer;
pub mod session;
pub mod store;
pub mod wire;
