//! The plan of the zygote: from `faas __run-plan` to a Python that sees nothing but the minimal tree.

use std::path::PathBuf;

use super::{
    under, BindKind, Plan, Privilege, Step, CAP_SETFCAP, CAP_SETGID, CAP_SETPCAP, CAP_SETUID, CAP_SYS_ADMIN, NEW_MOUNT,
    NEW_USER,
};
use crate::sandbox::layer::{Layer, Layers};
use crate::sandbox::runtime::Interpreter;
use crate::sandbox::tree::{self, HostFiles};
use crate::sys::native::NATIVE_MODULE;

/// Where the server places the zygote's control socket.
pub const CONTROL_FD: u32 = 3;
/// The directory of the Python side inside the tree.
pub const SHIM_DIRECTORY: &str = "/faas";
const SIGKILL: u32 = 9;

/// What the zygote keeps of root's power, for its children's plans: mounts, namespaces and host names
/// (`CAP_SYS_ADMIN`), the change to the instance's user (`CAP_SETUID`, `CAP_SETGID`), and dropping the bounding set
/// (`CAP_SETPCAP`). Not `CAP_DAC_OVERRIDE`: root without it reads only what it owns.
const ZYGOTE_CAPS: u64 = CAP_SYS_ADMIN | CAP_SETUID | CAP_SETGID | CAP_SETPCAP;

/// In a user namespace user 0 is the only one there is, and instances map it again in theirs. Since Linux 5.12 that
/// takes `CAP_SETFCAP` in the outer one at the moment the inner one is made.
const ZYGOTE_CAPS_IN_USER_NAMESPACE: u64 = ZYGOTE_CAPS | CAP_SETFCAP;

/// Everything that the zygote's plan depends on.
#[derive(Debug, Clone)]
pub struct ZygoteSpec<'a> {
    /// With which power it starts.
    pub privilege: Privilege,
    /// An empty directory of the host, absolute, on which the tree is built in the zygote's own mount namespace. The
    /// host sees it stay empty.
    pub staging: PathBuf,
    /// The Python that runs.
    pub interpreter: &'a Interpreter,
    /// What the host has of the files that a tree may show.
    pub host: &'a HostFiles,
    /// Whether the host's own directories are shown as well: the experiment without [`Layer::Tree`].
    pub shows_host: bool,
    /// Name and content of the files in [`SHIM_DIRECTORY`]; one is `zygote.py`. The native module is added here.
    pub shim: &'a [(&'a str, &'a str)],
}

/// What the helper does before it becomes Python. It starts with the plan on descriptor 0, the control socket on 3,
/// and 1 and 2 where the zygote's own complaints go.
pub fn zygote_plan(spec: &ZygoteSpec<'_>) -> Plan {
    // The server blocks signals that it reads by descriptor, and may have any umask: both would be inherited.
    let mut plan = Plan::new([Step::ResetSignalMask, Step::Umask(0o022)]);
    plan.layer(Layer::Session, [Step::SetSid]);
    namespaces(spec, &mut plan);
    let (binds, keep) = match spec.privilege {
        Privilege::Root => (BindKind::Plain, ZYGOTE_CAPS),
        Privilege::Unprivileged { .. } => (BindKind::Recursive, ZYGOTE_CAPS_IN_USER_NAMESPACE),
    };
    plan.layer(Layer::Tree, tree::steps(&spec.staging, spec.interpreter, spec.host, binds, spec.shows_host));
    shim(spec, &mut plan);
    if spec.privilege != Privilege::Root {
        // In a user namespace a new /proc may be mounted only where a complete one is in sight. Instances mount their
        // own over this one, and nobody can lift it.
        let target = under(&spec.staging, "/proc".as_ref());
        plan.layer(Layer::Proc, [Step::Bind { source: "/proc".into(), target, kind: BindKind::Recursive }]);
    }
    plan.layer(
        Layer::Tree,
        [
            Step::PivotRoot(spec.staging.clone()),
            Step::DetachOldRoot,
            Step::ReadOnly { path: "/".into(), recursive: true },
        ],
    );
    plan.layer(Layer::Capabilities, [Step::DropBounding { keep }, Step::SetCaps { keep }]);
    plan.layer(Layer::NoNewPrivileges, [Step::NoNewPrivs]);
    plan.layer(Layer::DeathSignal, [Step::DeathSignal(SIGKILL)]);
    plan.always([Step::OpenAs { path: "/dev/null".into(), fd: 0 }, Step::Dup2 { from: CONTROL_FD, to: CONTROL_FD }]);
    plan.layer(Layer::Descriptors, [Step::CloseFrom(CONTROL_FD + 1)]);
    plan.always([exec(spec.interpreter)]);
    // Only a common user's zygote has a step that may fail: what shows /proc.
    plan.for_level(Layers::of(Layer::ALL).except(Layer::Proc), Layers::NONE)
}

fn namespaces(spec: &ZygoteSpec<'_>, plan: &mut Plan) {
    match spec.privilege {
        Privilege::Root => plan.layer(Layer::MountNamespace, [Step::Unshare(NEW_MOUNT)]),
        Privilege::Unprivileged { uid, gid } => {
            plan.always([Step::Unshare(NEW_USER | NEW_MOUNT)]);
            let writes = [
                ("setgroups", "deny".to_owned()),
                ("uid_map", format!("0 {uid} 1\n")),
                ("gid_map", format!("0 {gid} 1\n")),
            ];
            let write = |(file, text)| Step::WriteProc { path: PathBuf::from("/proc/self").join(file), text };
            plan.always(writes.map(write));
        }
    }
    plan.layer(Layer::MountNamespace, [Step::MakePrivate]);
}

fn shim(spec: &ZygoteSpec<'_>, plan: &mut Plan) {
    let directory = under(&spec.staging, SHIM_DIRECTORY.as_ref());
    plan.layer(Layer::Tree, [Step::MkDir { path: directory.clone(), mode: 0o755 }]);
    let scripts = spec.shim.iter().map(|(name, text)| (*name, text.as_bytes()));
    let files = scripts.chain([("_faas.so", NATIVE_MODULE)]);
    let write = |(name, bytes): (&str, &[u8])| {
        let path = directory.join(name);
        Step::WriteFile { path, mode: 0o444, bytes: bytes.to_vec() }
    };
    plan.layer(Layer::Tree, files.map(write));
}

/// `-I` keeps Python from its environment and the working directory, `-S` from site-packages and .pth files, `-B` from
/// writing byte code.
fn exec(interpreter: &Interpreter) -> Step {
    let path = interpreter.executable.clone();
    let script = format!("{SHIM_DIRECTORY}/zygote.py");
    let arguments = [path.to_string_lossy().as_ref(), "-I", "-S", "-B", &script].map(str::to_owned).to_vec();
    let environment = [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("HOME", "/tmp")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Step::Exec { path, arguments, environment }
}
