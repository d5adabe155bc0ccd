//! What the launcher does in a container whose connections are brokered, before anything of the image runs. All else of
//! the sandbox the engine has made.

use std::path::Path;

use super::instance::INSTANCE_EGRESS_FD;
use super::{Plan, Step};
use crate::sandbox::layer::Layer;

/// The connection over which `container.py` gets the channel, and which it is told of.
pub const LAUNCH_FD: u32 = 5;

/// Connects twice to the socket on which the server waits, since `connect` is answered by the broker afterwards: first for
/// the channel, then to hand over the listener of the filter, which is all that happens on the second connection.
pub fn container_plan(socket: &Path, brokered_filter: &[u8]) -> Plan {
    let connect = |fd| Step::Connect { path: socket.into(), fd };
    let filter = brokered_filter.to_vec();
    let mut plan = Plan::new([connect(LAUNCH_FD), connect(INSTANCE_EGRESS_FD)]);
    plan.layer(Layer::Seccomp, [Step::SeccompNotify { filter, socket: INSTANCE_EGRESS_FD }]);
    plan
}
