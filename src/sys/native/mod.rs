//! The executor as a Python extension, built by `build.rs` from `module.rs` beside this file.

/// `_faas.so`: an ELF shared object that any CPython from 3.8 on (not free-threaded) imports as `_faas`.
pub const NATIVE_MODULE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/_faas.so"));
