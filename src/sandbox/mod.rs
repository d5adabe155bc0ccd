//! The sandbox: what a function may see, do and use. Layers as data and pure functions, and what carries them out.

pub mod cgroup;
pub mod host;
pub mod seccomp;
