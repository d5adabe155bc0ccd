//! What the supervisor keeps of one runtime: its zygote, what was ordered of it, and what it is working on.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::Instant;

use crossbeam_channel::Sender;

use crate::backend::Instance;
use crate::call::Slot;
use crate::sandbox::cgroup::Cgroup;

use super::zygote::Zygote;

/// Who wants a blank.
#[derive(Debug)]
pub(super) enum Client {
    Worker,
    Checker(Sender<Result<Instance, String>>),
}

#[derive(Debug)]
pub(super) struct Order {
    pub(super) slot: Slot,
    pub(super) client: Client,
    pub(super) ordered: Instant,
}

/// A blank that a zygote is working on.
pub(super) struct Pending {
    pub(super) order: Order,
    pub(super) channel: OwnedFd,
    pub(super) instance_end: OwnedFd,
    pub(super) output: OwnedFd,
    pub(super) cgroup: Option<Cgroup>,
}

/// One runtime's zygote, its orders, and when it may be started again.
#[derive(Default)]
pub(super) struct Nursery {
    pub(super) zygote: Option<Zygote>,
    pub(super) ready: bool,
    pub(super) started: Option<Instant>,
    pub(super) failures: u32,
    pub(super) retry_at: Option<Instant>,
    pub(super) orders: VecDeque<Order>,
    pub(super) pending: HashMap<u64, Pending>,
}
