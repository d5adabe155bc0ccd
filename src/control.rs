//! Placeholder: the control threads.

/// Placeholder for what a control thread answers.
#[derive(Debug)]
pub struct ControlReply;
