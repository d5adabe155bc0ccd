//! The executor outside of the server, built by `build.rs` from the files beside this one.

/// `_faas.so`, from `module.rs`: an ELF shared object that any CPython from 3.8 on (not free-threaded) imports as `_faas`.
pub const NATIVE_MODULE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/_faas.so"));

/// `faas-launch`, from `launcher.rs`: a static program that applies a plan and becomes another.
pub const LAUNCHER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/faas-launch"));
