//! edgeseed
pub mod budget;
pub mod config;
pub mod demo;
pub mod http;
pub mod ids;
pub mod metrics;
