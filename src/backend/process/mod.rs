//! The process backend: functions as forks of a Python zygote, each alone in its namespaces.
//!
//! [`supervisor`] is the thread that owns the zygotes and the cgroups and makes blanks, with a `nursery` for each
//! runtime; `networks` keeps empty network namespaces; `zygote` is its hold on one zygote; `strays` waits for children
//! that nobody else waits for; [`custody`] is what a worker gets with each instance; [`runtimes`] maps `python3.N` to
//! interpreters.

pub mod custody;
mod job;
mod networks;
mod nursery;
pub mod runtimes;
mod strays;
pub mod supervisor;
mod zygote;

#[cfg(any(test, fuzzing))]
pub(crate) use zygote::fuzzing::fuzz_zygote_message;
pub use zygote::report_refused_plan;
