//! edgeseed
pub mod budget;
pub mod config;
pub mod fetch;
pub mod hls;
pub mod ids;
pub mod metrics;
pub mod store;
