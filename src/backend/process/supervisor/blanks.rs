//! Making blanks: what is made before the zygote is asked, and to whom a blank goes, or the news that there is none.
//!
//! Invariant: what was made for a blank that fails is taken down here, or goes to the graves.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Token};

use crate::backend::process::custody::ProcessCustody;
use crate::backend::process::nursery::{Order, Pending};
use crate::backend::Instance;
use crate::call::{BlankFailure, Slot};
use crate::limits::{
    BLANK_START_TIMEOUT, FUNCTION_CPU_MILLIS_DEFAULT, FUNCTION_MEMORY_BYTES_DEFAULT, INSTANCE_TASKS_MAX,
    ZYGOTE_FORKS_MAX, ZYGOTE_SPAWNS_AT_ONCE_MAX,
};
use crate::sandbox::cgroup::{Cgroup, Limits};
use crate::sandbox::plan::Network;
use crate::scheduler::RuntimeId;
use crate::sys;

use super::{Supervisor, OOM_TOKENS};

/// What a blank is made with.
struct Parts {
    channel: OwnedFd,
    instance_end: OwnedFd,
    output: OwnedFd,
    output_writer: OwnedFd,
    cgroup: Option<Cgroup>,
    join_fds: Vec<OwnedFd>,
    network: Option<OwnedFd>,
    /// To the broker: our end and the instance's.
    handover: Option<(OwnedFd, OwnedFd)>,
}

impl Supervisor {
    pub(super) fn work_on_orders(&mut self, runtime: RuntimeId) {
        loop {
            let Some(nursery) = self.nurseries.get_mut(&runtime) else { return };
            // One that has forked its share is given nothing more, so that it becomes free to be replaced.
            let worn = nursery.zygote.as_ref().is_some_and(|zygote| zygote.forks >= ZYGOTE_FORKS_MAX);
            if !nursery.ready || worn || nursery.pending.len() >= ZYGOTE_SPAWNS_AT_ONCE_MAX {
                return;
            }
            let Some(mut order) = nursery.orders.pop_front() else { return };
            if order.is_stale(Instant::now()) {
                self.fail(order, format!("its turn did not come within {BLANK_START_TIMEOUT:?}"));
                continue;
            }
            let parts = match self.prepare(&mut order) {
                Ok(parts) => parts,
                Err(error) => {
                    self.fail(order, format!("a blank cannot be made: {error}"));
                    continue;
                }
            };
            if let Err(error) = self.spawn(runtime, order, parts) {
                // The next one is started here, since nothing else may wake this thread.
                self.lose_zygote(runtime, format!("it cannot be asked for a blank: {error}"));
                self.ensure_zygote(runtime);
            }
        }
    }

    /// Makes everything of a blank that the zygote cannot make itself.
    fn prepare(&mut self, order: &mut Order) -> io::Result<Parts> {
        let (channel, instance_end) = sys::io::seqpacket_pair()?;
        sys::io::refuse_descriptors(&channel);
        let (output, output_writer) = sys::io::output_pipe()?;
        // Without one the plan has the instance make its own, and says what that means for the level.
        let network = self.settings.runtimes.joins(order.network).then(|| self.networks.take()).flatten();
        let handover = (order.network == Network::Outbound).then(sys::io::seqpacket_pair).transpose()?;
        let cgroup = match order.cgroup.take() {
            Some(left) => Some(left),
            None => self.make_cgroup(order.slot)?,
        };
        match cgroup.as_ref().map_or(Ok(Vec::new()), Cgroup::join_fds) {
            Ok(join_fds) => {
                Ok(Parts { channel, instance_end, output, output_writer, cgroup, join_fds, network, handover })
            }
            Err(error) => {
                order.cgroup = cgroup;
                Err(io::Error::other(error))
            }
        }
    }

    /// Asks the zygote for a blank.
    fn spawn(&mut self, runtime: RuntimeId, order: Order, parts: Parts) -> io::Result<()> {
        let Parts { channel, instance_end, output, output_writer, cgroup, join_fds, network, handover } = parts;
        let (handover, instance_handover) = handover.unzip();
        let (outer, inner) = self.settings.runtimes.instance_plans(order.slot.index, order.network, network.is_some());
        let mut fds: Vec<BorrowedFd<'_>> = vec![instance_end.as_fd(), output_writer.as_fd()];
        fds.extend(join_fds.iter().chain(&network).chain(&instance_handover).map(AsFd::as_fd));
        let blank = self.next_blank;
        self.next_blank += 1;
        let nursery = self.nurseries.entry(runtime).or_default();
        let asked = match &mut nursery.zygote {
            Some(zygote) => zygote.spawn(blank, &outer, &inner, &fds),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        drop(fds);
        // Also if it could not be asked: it is then one of those that the lost zygote owes.
        let asked_at = Instant::now();
        let pending = Pending { order, asked: asked_at, channel, instance_end, output, cgroup, network, handover };
        nursery.pending.insert(blank, pending);
        asked
    }

    fn make_cgroup(&mut self, slot: Slot) -> io::Result<Option<Cgroup>> {
        let Some(root) = &self.settings.cgroups else { return Ok(None) };
        let mut cgroup = root.create(&slot.to_string()).map_err(io::Error::other)?;
        let made = self.watch_memory(slot, &cgroup).and_then(|()| {
            let limits = Limits {
                memory_bytes: FUNCTION_MEMORY_BYTES_DEFAULT,
                cpu_millis: FUNCTION_CPU_MILLIS_DEFAULT,
                tasks: INSTANCE_TASKS_MAX,
            };
            cgroup.set_limits(limits).map_err(io::Error::other)
        });
        if made.is_err() {
            let _ = cgroup.remove();
        }
        made.map(|()| Some(cgroup))
    }

    fn watch_memory(&mut self, slot: Slot, cgroup: &Cgroup) -> io::Result<()> {
        let Some(watch) = cgroup.oom_watch() else { return Ok(()) };
        // Its end is the watch's own: the kernel forgets a descriptor that is closed.
        let slot = slot.index as usize;
        let event = watch.event().as_raw_fd();
        self.desk.registry().register(&mut SourceFd(&event), Token(OOM_TOKENS + slot), Interest::READABLE)?;
        self.oom_watches.insert(slot, Arc::downgrade(watch));
        Ok(())
    }

    /// The blank has a process: from here on it belongs to who ordered it.
    pub(super) fn deliver(&mut self, pending: Pending, pid: u32) {
        let Pending { order, channel, instance_end, output, cgroup, network, handover, .. } = pending;
        // Its parent has exited or is about to, and then it is this process's child, which nobody else reaps: the pid
        // cannot have been given to another process.
        let process = match sys::process::pidfd_open(pid) {
            Ok(process) => process,
            Err(error) => {
                // It ends when its channel is closed here, if it has not already, and has to be waited for.
                self.strays.suspect();
                self.graves.extend(cgroup);
                return self.fail(order, format!("its process {pid} cannot be watched: {error}"));
            }
        };
        self.strays.in_custody(pid);
        if let Some(Err(error)) = handover.map(|handover| self.settings.egress.adopt(order.slot, handover)) {
            // The blank's plan fails for want of a broker, and it says so to whoever gets it.
            log::error!("{}: there is no thread to connect for it: {error}", order.slot);
        }
        let custody = Box::new(ProcessCustody {
            slot: order.slot,
            pid,
            process,
            is_reaped: false,
            cgroup,
            network,
            supervisor: self.own_line.clone(),
            orphan_tries: 0,
            ended: None,
            memory_bytes: FUNCTION_MEMORY_BYTES_DEFAULT,
        });
        let instance = Instance { slot: order.slot, pid, channel, instance_end, output, custody };
        // What nobody receives ends as it is dropped.
        drop(self.recipients.deliver(order.recipient, instance));
    }

    pub(super) fn fail(&mut self, order: Order, failure: impl Into<BlankFailure>) {
        let Order { slot, recipient, cgroup, .. } = order;
        self.graves.extend(cgroup);
        self.recipients.give_back(slot);
        self.recipients.refuse(slot, recipient, failure.into());
    }
}
