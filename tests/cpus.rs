//! cpus
