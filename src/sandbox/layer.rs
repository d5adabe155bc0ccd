//! The layers of the sandbox by name, and which of them an isolation level insists on.
//!
//! Owns the names, which people meet in the configuration, in `/health`, in `--check-system` and in the documents. What a
//! layer is made of is said by the plans, whose steps name their layer, and by `cgroup` for the three limits.

use std::fmt;

use super::host::IsolationLevel;

macro_rules! layers {
    ($($variant:ident, $name:literal, $purpose:literal;)*) => {
        /// One wall of the sandbox. Each can be had, missed and, for experiments, left out by itself.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)] // `purpose` says it of each
        pub enum Layer { $($variant,)* }

        impl Layer {
            /// All, in the order in which the documents list them.
            pub const ALL: &'static [Layer] = &[$(Layer::$variant,)*];
            /// Names, for reading one.
            pub const NAMES: &'static [(&'static str, Layer)] = &[$(($name, Layer::$variant),)*];

            /// The name in the configuration and in reports.
            pub fn name(self) -> &'static str {
                match self { $(Layer::$variant => $name,)* }
            }

            /// What it keeps apart or takes away, for people.
            pub fn purpose(self) -> &'static str {
                match self { $(Layer::$variant => $purpose,)* }
            }
        }
    };
}

layers! {
    MountNamespace, "mount_namespace", "its own view of the file system";
    PidNamespace, "pid_namespace", "sees and signals its own processes only; all of them end with it";
    UserNamespace, "user_namespace", "no power over any other namespace, whatever capability it could gain";
    NetworkNamespace, "network_namespace", "no network device but a loopback that is down";
    IpcNamespace, "ipc_namespace", "System V objects and message queues of its own";
    UtsNamespace, "uts_namespace", "a host name of its own";
    CgroupNamespace, "cgroup_namespace", "does not see where in the host's control groups it is";
    Identity, "identity", "a host user and group of its own, never root, without other groups";
    Tree, "tree", "a minimal read-only tree in place of the host's files";
    TmpfsLimits, "tmpfs_limits", "a size and a number of files for what can be written";
    Proc, "proc", "the processes of its own namespace, and nothing else of /proc";
    Capabilities, "capabilities", "no capability in any set, and no way to one";
    NoNewPrivileges, "no_new_privileges", "programs with the set-user-id bit give nothing";
    Dumpable, "dumpable", "its memory is root's to look at, not its user's; no core file";
    Seccomp, "seccomp", "system calls by an allow-list";
    Landlock, "landlock", "a second wall around files, TCP connections, abstract sockets and signals";
    MemoryLimit, "memory_limit", "memory and swap by control group";
    TasksLimit, "tasks_limit", "processes and threads by control group";
    CpuLimit, "cpu_limit", "processor time by control group";
    Rlimits, "rlimits", "open files, size of a file, stack, processes, locked memory; no real time";
    Descriptors, "descriptors", "no descriptor but its own four";
    DeathSignal, "death_signal", "killed when the server ends, however that ends";
    Session, "session", "a session of its own, without a terminal";
}

/// A set of layers.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Layers(u32);

impl Layers {
    /// The empty set.
    pub const NONE: Layers = Layers(0);

    /// Without one of these no level runs a function: instances would mix with each other, or with the host.
    const ESSENTIAL: Layers = Layers::of(&[
        Layer::MountNamespace,
        Layer::PidNamespace,
        Layer::Identity,
        Layer::Tree,
        Layer::TmpfsLimits,
        Layer::Capabilities,
        Layer::NoNewPrivileges,
        Layer::Dumpable,
        Layer::Rlimits,
        Layer::Descriptors,
        Layer::DeathSignal,
        Layer::Session,
    ]);

    /// The set of these.
    pub const fn of(layers: &[Layer]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < layers.len() {
            bits |= 1 << layers[at] as u32;
            at += 1;
        }
        Layers(bits)
    }

    /// What a level insists on: a blank whose sandbox misses one of these is not made.
    pub fn required_at(level: IsolationLevel) -> Self {
        match level {
            IsolationLevel::Strict => Self::of(Layer::ALL),
            IsolationLevel::Standard => Self::ESSENTIAL.with(Layer::Seccomp),
            IsolationLevel::None => Self::ESSENTIAL,
        }
    }

    /// Whether it is among them.
    pub const fn contains(self, layer: Layer) -> bool {
        self.0 & (1 << layer as u32) != 0
    }

    /// These and that one.
    #[must_use]
    pub const fn with(self, layer: Layer) -> Self {
        Layers(self.0 | (1 << layer as u32))
    }

    /// These but that one.
    #[must_use]
    pub const fn except(self, layer: Layer) -> Self {
        Layers(self.0 & !(1 << layer as u32))
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Layer> {
        Layer::ALL.iter().copied().filter(move |layer| self.contains(*layer))
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Layer> for Layers {
    fn from_iter<I: IntoIterator<Item = Layer>>(layers: I) -> Self {
        layers.into_iter().fold(Layers::NONE, Layers::with)
    }
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl fmt::Display for Layers {
    /// Names, separated by commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Layer::name).collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_level_requires_all_that_a_lower_one_does() {
        let of = Layers::required_at;
        let (none, standard, strict) =
            (of(IsolationLevel::None), of(IsolationLevel::Standard), of(IsolationLevel::Strict));
        assert!(none.iter().all(|layer| standard.contains(layer)));
        assert!(standard.iter().all(|layer| strict.contains(layer)));
        assert_eq!(strict.iter().count(), Layer::ALL.len());
        assert!(!none.contains(Layer::Seccomp) && standard.contains(Layer::Seccomp));
    }

    #[test]
    fn sets_are_told_by_name_and_no_two_names_are_the_same() {
        let set: Layers = [Layer::Seccomp, Layer::UserNamespace].into_iter().collect();
        assert_eq!(set.to_string(), "user_namespace, seccomp");
        assert_eq!(set.except(Layer::Seccomp).to_string(), "user_namespace");
        let names: std::collections::BTreeSet<_> = Layer::ALL.iter().map(|layer| layer.name()).collect();
        assert_eq!(names.len(), Layer::ALL.len());
    }
}
