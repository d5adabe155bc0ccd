//! Function specifications, their versions, and the store that keeps them.

pub mod function;
pub mod settings;
