//! The only module with `unsafe`: thin, typed wrappers of system calls that `nix` does not offer.
#![allow(unsafe_code)]

pub mod executor;
pub mod io;
pub mod listener;
pub mod native;
pub mod probe;
pub mod process;
pub mod route;
pub mod seccomp_notify;
pub mod tcp;
