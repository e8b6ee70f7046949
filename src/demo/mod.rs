//! What `edgeseed demo` starts.

pub mod origin;
