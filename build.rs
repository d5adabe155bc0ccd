//! Placeholder until the native half of the sandbox is built here.
fn main() {}
