//! consoles
