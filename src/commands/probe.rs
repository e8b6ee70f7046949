//! `edgeseed probe URL`: what the box would see of a channel.
