//! Placeholder: the backend contract.

/// Placeholder for an instance that a backend made.
#[derive(Debug)]
pub struct Instance;
