//! Control groups: the memory, task and processor limits of an instance, on v1, v2 and hybrid hosts.
//!
//! Owns the directories `faas-<state id>` (one per hierarchy that holds a needed controller) and everything below.
//! Does not own processes: a child joins by writing to the descriptors of [`Cgroup::join_fds`], and whoever made it
//! reaps it. Nothing here waits, except [`CgroupRoot::sweep`], which runs before the server serves.
//!
//! Invariants:
//! - Every controller is used in one hierarchy. A host without it is reported by [`CgroupRoot::controllers`], never
//!   guessed around; whether the server may run like that is the isolation level's decision.
//! - Nothing outside of our directories is changed, with two exceptions on v2: controllers are enabled for the children
//!   of the group we stand in, and this process moves to its leaf `supervisor`, because a v2 group with limited
//!   children holds no processes itself.
//!
//! Measured (Linux 6.18, hybrid): making the three directories of an instance takes 110 us, removing them 35 us; one
//! write of a limit 4 us by its path and 1 us through a descriptor kept open. Paths are used: an assignment writes three
//! files in 11 us, and three descriptors per instance would be the price of saving 8. Where `cpuacct` is a hierarchy of
//! its own it costs a blank some 50 us more (10 to make, 10 to remove, 30 to join), for the one figure by which an
//! operator sees what a function costs. The pool pays, not a call.

pub mod discover;
mod error;
mod figures;
mod instance;
mod oom;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::layer::{Layer, Layers};
pub use discover::Version;
use discover::{discover, Hierarchy};
pub use error::{Absence, CgroupError};
pub use figures::{FigureSource, Figures};
pub use instance::{Cgroup, Limits};
pub use oom::{end_as_one, OomWatch};

/// What `sweep` gives killed processes to disappear in.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks at a group that is being emptied. Version 1 tells nobody when a group has become empty.
const SWEEP_PAUSE: Duration = Duration::from_millis(1);
/// The leaf of a v2 group that takes this process.
const SUPERVISOR_LEAF: &str = "supervisor";

/// A resource that is limited or counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Memory and swap.
    Memory,
    /// Processes and threads.
    Pids,
    /// Processor time.
    Cpu,
    /// On v1, the count of processor time used. Nothing depends on it: without it there is no such figure.
    CpuAcct,
}

impl Controller {
    /// All that an instance needs.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];
    const KNOWN: [Self; 4] = [Self::Memory, Self::Pids, Self::Cpu, Self::CpuAcct];

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::CpuAcct => "cpuacct",
        }
    }

    /// The layer that it is the limit of, or counts for.
    pub fn layer(self) -> Layer {
        match self {
            Self::Memory => Layer::MemoryLimit,
            Self::Pids => Layer::TasksLimit,
            Self::Cpu | Self::CpuAcct => Layer::CpuLimit,
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::KNOWN.into_iter().find(|controller| controller.name() == name)
    }
}

/// Our directory in one hierarchy, or an instance's below it.
#[derive(Debug, Clone)]
struct Group {
    version: Version,
    controllers: Vec<Controller>,
    dir: PathBuf,
}

/// The parents of all instances' groups.
#[derive(Debug, Clone)]
pub struct CgroupRoot {
    groups: Vec<Group>,
    controllers: Vec<(Controller, Result<Version, Absence>)>,
}

impl CgroupRoot {
    /// Finds the hierarchies and makes `faas-<state_id>` in each that holds a needed controller.
    ///
    /// Must run before any thread starts and any child is made, because on v2 it may move this process. A controller
    /// that cannot be had is no error here: see [`Self::controllers`].
    pub fn prepare(state_id: &str) -> Result<Self, CgroupError> {
        check_name(state_id)?;
        let hierarchies = discover(&read("/proc/self/mountinfo".as_ref())?, &read("/proc/self/cgroup".as_ref())?);
        let mut root = Self {
            groups: Vec::new(),
            controllers: Controller::ALL.map(|controller| (controller, Err(Absence::NotMounted))).to_vec(),
        };
        let name = format!("faas-{state_id}");
        for hierarchy in &hierarchies {
            match hierarchy.version {
                Version::V1 => root.prepare_v1(hierarchy, &name),
                Version::V2 => root.prepare_v2(hierarchy, &name),
            }
        }
        Ok(root)
    }

    /// Each controller with the interface it is used through, or why it cannot be used.
    pub fn controllers(&self) -> &[(Controller, Result<Version, Absence>)] {
        &self.controllers
    }

    /// Sets no limit of these layers, and reads no figure of their controllers: for experiments.
    pub fn leave_out(&mut self, layers: Layers) {
        for group in &mut self.groups {
            group.controllers.retain(|controller| !layers.contains(controller.layer()));
        }
    }

    /// One line per controller, for the log and `--check-system`.
    pub fn describe(&self) -> Vec<String> {
        let line = |(controller, state): &(Controller, Result<Version, Absence>)| match state {
            Ok(Version::V1) => format!("{}: cgroup v1", controller.name()),
            Ok(Version::V2) => format!("{}: cgroup v2", controller.name()),
            Err(absence) => format!("{}: missing, {absence}; {}", controller.name(), absence.mend()),
        };
        self.controllers.iter().map(line).collect()
    }

    /// Hierarchies that an instance joins: as many as [`Cgroup::join_fds`] gives.
    pub fn hierarchies(&self) -> usize {
        self.groups.len()
    }

    /// Makes the groups of one instance. On an error what was made is removed again.
    pub fn create(&self, name: &str) -> Result<Cgroup, CgroupError> {
        check_name(name)?;
        let child = |group: &Group| Group { dir: group.dir.join(name), ..group.clone() };
        Cgroup::make(self.groups.iter().map(child).collect())
    }

    /// Kills and removes whatever groups are there: those a killed predecessor with the same state id left.
    ///
    /// Returns how many were removed. Waits up to two seconds for killed processes to be gone.
    pub fn sweep(&self) -> Result<usize, CgroupError> {
        let deadline = Instant::now() + SWEEP_TIMEOUT;
        let mut removed = 0;
        for group in &self.groups {
            let entries = std::fs::read_dir(&group.dir)
                .map_err(|source| CgroupError::Read { path: group.dir.clone(), source })?;
            for dir in entries.flatten().filter(|entry| entry.path().is_dir()).map(|entry| entry.path()) {
                let left = Cgroup::existing(Group { dir, ..group.clone() });
                loop {
                    left.kill_all()?;
                    match left.remove() {
                        Err(CgroupError::Busy { .. }) if Instant::now() < deadline => std::thread::sleep(SWEEP_PAUSE),
                        done => break done?,
                    }
                }
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Those of another state id beside ours, as far as they are there: of the server before, which may have been killed.
    pub fn beside(&self, state_id: &str) -> CgroupRoot {
        let name = format!("faas-{state_id}");
        let sibling = |group: &Group| Group { dir: group.dir.with_file_name(&name), ..group.clone() };
        CgroupRoot { groups: self.groups.iter().map(sibling).collect(), controllers: self.controllers.clone() }
    }

    /// As [`sweep`](Self::sweep), and the directories themselves; those that are not there are no error.
    pub fn sweep_all(&self) -> Result<usize, CgroupError> {
        let groups = self.groups.iter().filter(|group| group.dir.exists()).cloned().collect();
        let there = CgroupRoot { groups, controllers: self.controllers.clone() };
        let removed = there.sweep()?;
        there.remove()?;
        Ok(removed)
    }

    /// Removes our directories, at the end of the server. `Busy` while an instance's group is left.
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.groups.iter().try_for_each(|group| remove_dir(&group.dir))
    }

    fn prepare_v1(&mut self, hierarchy: &Hierarchy, name: &str) {
        let dir = hierarchy.own.join(name);
        let made = if hierarchy.read_only {
            Err(Absence::ReadOnly(hierarchy.mount_point.clone()))
        } else {
            make_dir(&dir).map_err(|error| Absence::of(&hierarchy.own, &error))
        };
        for &controller in &hierarchy.controllers {
            self.set(controller, made.clone().map(|()| Version::V1));
        }
        if made.is_ok() {
            let controllers = hierarchy.controllers.clone();
            self.groups.push(Group { version: Version::V1, controllers, dir });
        }
    }

    /// A controller that a v1 hierarchy holds is never offered here, so the two interfaces do not meet.
    fn prepare_v2(&mut self, hierarchy: &Hierarchy, name: &str) {
        let (parent, occupied) = v2_parent(hierarchy);
        let offered = offered(&parent);
        for withheld in self::offered(&hierarchy.mount_point).into_iter().filter(|it| !offered.contains(it)) {
            self.set(withheld, Err(Absence::NotDelegated(parent.clone())));
        }
        if offered.is_empty() {
            return;
        }
        let dir = parent.join(name);
        let made = if hierarchy.read_only {
            Err(Absence::ReadOnly(hierarchy.mount_point.clone()))
        } else if occupied {
            Err(Absence::Occupied(parent.clone()))
        } else {
            make_dir(&dir).map_err(|error| Absence::of(&parent, &error))
        };
        let mut controllers = Vec::new();
        for controller in offered {
            let usable =
                made.clone().and_then(|()| enable(&parent, controller)).and_then(|()| enable(&dir, controller));
            if usable.is_ok() {
                controllers.push(controller);
            }
            self.set(controller, usable.map(|()| Version::V2));
        }
        match made {
            Ok(()) if controllers.is_empty() => {
                // Not one controller came with the directory, so nothing is lost if it stays.
                let _ = std::fs::remove_dir(&dir);
            }
            Ok(()) => self.groups.push(Group { version: Version::V2, controllers, dir }),
            Err(_) => {}
        }
    }

    fn set(&mut self, controller: Controller, state: Result<Version, Absence>) {
        for entry in self.controllers.iter_mut().filter(|entry| entry.0 == controller) {
            entry.1 = state.clone();
        }
    }
}

/// The v2 group to put ours into, and whether it cannot be split because others live in it.
///
/// A group that holds only this process was made for it (systemd with `Delegate=`, a container): we move to a leaf and
/// use it. A group that it shares, such as a login session, is left alone, and root takes the top of the tree. So it
/// does where the own group was given less than the tree has: systemd enables the processor controller in a service's
/// group only for those who ask.
fn v2_parent(hierarchy: &Hierarchy) -> (PathBuf, bool) {
    let own = &hierarchy.own;
    if own.ends_with(SUPERVISOR_LEAF) {
        return (own.parent().unwrap_or(&hierarchy.mount_point).to_owned(), false);
    }
    if hierarchy.read_only {
        return (own.clone(), false);
    }
    // The true top of the tree, which has no `cgroup.events`, may hold processes beside limited children.
    if !own.join("cgroup.events").exists() {
        return (own.clone(), false);
    }
    let is_root = nix::unistd::geteuid().is_root();
    let suffices = !is_root || offered(&hierarchy.mount_point).iter().all(|has| offered(own).contains(has));
    if suffices && holds_only_us(own) && move_to_leaf(&own.join(SUPERVISOR_LEAF)).is_ok() {
        return (own.clone(), false);
    }
    if is_root && *own != hierarchy.mount_point {
        return (hierarchy.mount_point.clone(), false);
    }
    let writable = nix::unistd::access(own, nix::unistd::AccessFlags::W_OK).is_ok();
    (own.clone(), writable)
}

/// The controllers that a v2 group may hand on to its children.
fn offered(group: &Path) -> Vec<Controller> {
    let names = std::fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    names.split_ascii_whitespace().filter_map(Controller::from_name).collect()
}

fn holds_only_us(dir: &Path) -> bool {
    let pid = std::process::id().to_string();
    std::fs::read_to_string(dir.join("cgroup.procs")).is_ok_and(|pids| pids.lines().all(|line| line == pid))
}

fn move_to_leaf(leaf: &Path) -> io::Result<()> {
    make_dir(leaf)?;
    std::fs::write(leaf.join("cgroup.procs"), "0")
}

fn enable(dir: &Path, controller: Controller) -> Result<(), Absence> {
    let path = dir.join("cgroup.subtree_control");
    std::fs::write(&path, format!("+{}", controller.name())).map_err(|error| Absence::of(dir, &error))
}

fn check_name(name: &str) -> Result<(), CgroupError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        Ok(())
    } else {
        Err(CgroupError::InvalidName { name: name.to_owned() })
    }
}

/// A directory that is already there is as good.
fn make_dir(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// A directory that is already gone is as good.
fn remove_dir(path: &Path) -> Result<(), CgroupError> {
    match std::fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Err(CgroupError::Busy { path: path.to_owned() }),
        Err(source) => Err(CgroupError::Remove { path: path.to_owned(), source }),
    }
}

fn read(path: &Path) -> Result<String, CgroupError> {
    std::fs::read_to_string(path).map_err(|source| CgroupError::Read { path: path.to_owned(), source })
}

/// The number behind `name` in lines of `name number`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn write(path: PathBuf, value: &str) -> Result<(), CgroupError> {
    // Not `fs::write`: it would create a file where a controller's file is missing, were this not a cgroup.
    let written = std::fs::OpenOptions::new().write(true).open(&path);
    written
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|source| CgroupError::Write { path, value: value.to_owned(), source })
}

#[cfg(test)]
mod tests;
