//! The steps by number and name, and their flags: what the encoder (`sandbox::plan`) and the executor share.

/// The first bytes of every encoded plan: the format and its version.
pub const MAGIC: [u8; 4] = *b"fpl1";
/// Flag of `Bind`: the mounts below the source come along.
pub const BIND_RECURSIVE: u32 = 1;
/// Flag of `Bind`: the source is a device node, which has to stay usable, so it is noexec and not nodev.
pub const BIND_DEVICE: u32 = 2;

/// The kinds of namespaces by their flag for `unshare`, and what making one is called in messages.
pub(super) const NAMESPACES: [(u32, &str); 7] = [
    (0x0002_0000, "new mount namespace"),
    (0x0200_0000, "new cgroup namespace"),
    (0x0400_0000, "new uts namespace"),
    (0x0800_0000, "new ipc namespace"),
    (0x1000_0000, "new user namespace"),
    (0x2000_0000, "new pid namespace"),
    (0x4000_0000, "new network namespace"),
];

macro_rules! opcodes {
    ($($variant:ident = $number:literal, $name:literal;)*) => {
        /// What a step does. Documented at `sandbox::plan::Step`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u16)]
        #[allow(missing_docs)] // one line each would repeat the names beside them
        pub enum Opcode { $($variant = $number,)* }

        impl Opcode {
            /// The step with this number, if there is one.
            pub fn from_u16(number: u16) -> Option<Self> {
                match number { $($number => Some(Opcode::$variant),)* _ => None }
            }

            /// Every name.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// A short name for messages.
            pub fn name(self) -> &'static str {
                match self { $(Opcode::$variant => $name,)* }
            }
        }
    };
}

opcodes! {
    Unshare = 1, "new namespaces";
    MakePrivate = 2, "make mounts private";
    MountTmpfs = 3, "mount tmpfs";
    MkDir = 4, "mkdir";
    Symlink = 5, "symlink";
    WriteFile = 6, "write file";
    Bind = 7, "bind mount";
    MountProc = 8, "mount proc";
    Mask = 9, "mask";
    ReadOnly = 10, "make read-only";
    PivotRoot = 11, "pivot_root";
    DetachOldRoot = 12, "detach old root";
    Hostname = 13, "sethostname";
    Rlimit = 14, "setrlimit";
    ClearGroups = 15, "setgroups";
    SetIds = 16, "set uid and gid";
    KeepCaps = 17, "keep capabilities";
    WriteProc = 18, "write proc file";
    Dumpable = 19, "set dumpable";
    NoNewPrivs = 20, "no_new_privs";
    DropBounding = 21, "drop bounding set";
    LockSecurebits = 22, "lock securebits";
    SetCaps = 23, "set capabilities";
    DeathSignal = 24, "parent death signal";
    ResetSignalMask = 25, "reset signal mask";
    SetSid = 26, "setsid";
    OpenOwnPidfd = 27, "open own pidfd";
    AwaitExit = 28, "await exit";
    OpenAs = 29, "open as descriptor";
    Dup2 = 30, "dup2";
    CloseFrom = 31, "close descriptors";
    WriteFd = 32, "join cgroup";
    Chdir = 33, "chdir";
    Umask = 34, "umask";
    Seccomp = 35, "load seccomp filter";
    Exec = 36, "exec";
    JoinNetwork = 37, "join network namespace";
    Landlock = 38, "restrict by landlock";
    SeccompNotify = 39, "load seccomp filter that asks";
    Connect = 40, "connect to a socket";
}
