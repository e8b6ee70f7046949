//! Status, metrics, the watch page.

pub mod assets;
