//! Integration tests. Each theme is a test program of its own (`boot.rs`, `consoles.rs`, ...) on top of `testkit`;
//! `cargo xtask test` runs them where guests can run.
#![forbid(unsafe_code)]
