//! Runs an encoded plan, step by step, on the calling process.
//!
//! Owns: the order of execution, the meaning of every step, and the report of the step that failed. Does not own what a
//! plan contains: that is decided by `sandbox::plan`, whose `Step`s are documented there.
//!
//! This directory is compiled three times (see `build.rs`): as a module of the server, and without `std` into the Python
//! extension `_faas.so` and the program `faas-launch`. It therefore uses `core` alone, allocates nothing, and calls nothing of libc but `syscall`:
//! it may run in the child of a fork, whatever the parent was doing.
//!
//! Invariants: a plan whose framing is damaged runs no step at all; a required step that fails ends the run; whoever
//! called must then end the process, which is in a state between two worlds.

mod decode;
mod kernel;
mod landlock;
mod mounts;
mod opcode;
mod privileges;

use core::ffi::CStr;

use decode::{Fields, Steps};
pub use opcode::Opcode;
#[cfg(not(faas_native))]
pub use opcode::{BIND_DEVICE, BIND_RECURSIVE, MAGIC};

/// The errno for a plan that this executor cannot read.
pub const EBADMSG: i32 = kernel::EBADMSG;
/// Arguments, or environment variables, that an `Exec` step may have.
pub const EXEC_STRINGS_MAX: usize = 31;

/// Which step failed, counted from 0, and with which errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Position of the step in the plan.
    pub step: u16,
    /// Why the kernel refused it; [`EBADMSG`] when the step itself is damaged.
    pub errno: i32,
}

/// Runs the whole plan. A plan that ends with `Exec` does not return unless something failed.
///
/// # Errors
/// The first required step that failed; the steps before it have taken effect, none after it has.
pub fn run(plan: &[u8]) -> Result<(), Failure> {
    // The framing is checked to the end first: a plan that was cut on its way must not leave half a sandbox behind.
    if let Some(damage) = Steps::open(plan).find_map(|(step, parsed)| parsed.err().map(|errno| Failure { step, errno }))
    {
        return Err(damage);
    }
    for (step, parsed) in Steps::open(plan) {
        let frame = parsed.map_err(|errno| Failure { step, errno })?;
        match execute(frame.opcode, frame.fields) {
            // A damaged step is never excused: it says nothing about what the host can do.
            Err(errno) if frame.required || errno == EBADMSG => return Err(Failure { step, errno }),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// The name of a step, for messages; `damaged plan` when there is no such step.
pub fn step_name(plan: &[u8], step: u16) -> &'static str {
    let found = Steps::open(plan).find(|(position, _)| *position == step);
    let Some((_, Ok(mut frame))) = found else { return "damaged plan" };
    let flags = if frame.opcode == Opcode::Unshare { frame.fields.last_u32().unwrap_or(0) } else { 0 };
    let namespace = opcode::NAMESPACES.iter().find(|(flag, _)| *flag == flags);
    namespace.map_or(frame.opcode.name(), |(_, name)| name)
}

/// The step of which a message "step N: NAME: reason" speaks, as the native module raises it; one of our own names,
/// whoever wrote the message.
#[cfg(not(faas_native))]
pub fn step_named_in(message: &str) -> Option<&'static str> {
    let (number, rest) = message.strip_prefix("step ")?.split_once(": ")?;
    number.parse::<u16>().ok()?;
    let namespaces = opcode::NAMESPACES.iter().map(|(_, name)| *name);
    let mut names = Opcode::NAMES.iter().copied().chain(namespaces);
    names.find(|name| rest.strip_prefix(name).is_some_and(|rest| rest.starts_with(": ")))
}

/// Runs one step. Each arm reads exactly the fields that `Step::encode` wrote, in the same order.
fn execute(opcode: Opcode, mut fields: Fields<'_>) -> Result<(), i32> {
    let f = &mut fields;
    match opcode {
        Opcode::Unshare => kernel::unshare(f.last_u32()?),
        Opcode::JoinNetwork => kernel::join_network(f.last_u32()?),
        Opcode::MakePrivate => f.end().and_then(|()| mounts::make_private()),
        Opcode::MountTmpfs => mounts::mount_tmpfs(f.text()?, f.text()?, f.last_u32()? != 0),
        Opcode::MkDir => mounts::make_dir(f.text()?, f.last_u32()?),
        Opcode::Symlink => kernel::symlink(f.text()?, f.last_text()?),
        Opcode::WriteFile => mounts::write_file(f.text()?, f.u32()?, f.last_bytes()?),
        Opcode::Bind => mounts::bind(f.text()?, f.text()?, f.last_u32()?),
        Opcode::MountProc => mounts::mount_proc(f.text()?, f.text()?, f.last_text()?),
        Opcode::Mask => mounts::mask(f.last_text()?),
        Opcode::ReadOnly => mounts::read_only(f.text()?, f.last_u32()? != 0),
        Opcode::PivotRoot => mounts::pivot_root(f.last_text()?),
        Opcode::DetachOldRoot => f.end().and_then(|()| mounts::detach_old_root()),
        Opcode::Hostname => kernel::sethostname(f.last_bytes()?),
        Opcode::Rlimit => privileges::lower_limit(f.u32()?, f.u64()?, f.last_u64()?),
        Opcode::ClearGroups => f.end().and_then(|()| kernel::clear_groups()),
        Opcode::SetIds => privileges::set_ids(f.u32()?, f.last_u32()?),
        Opcode::KeepCaps => f.end().and_then(|()| privileges::keep_caps()),
        Opcode::WriteProc => privileges::write_proc(f.text()?, f.last_bytes()?),
        Opcode::Dumpable => privileges::dumpable(f.last_u32()?),
        Opcode::NoNewPrivs => f.end().and_then(|()| privileges::no_new_privs()),
        Opcode::DropBounding => privileges::drop_bounding(f.last_u64()?),
        Opcode::LockSecurebits => f.end().and_then(|()| privileges::lock_securebits()),
        Opcode::SetCaps => privileges::set_caps(f.last_u64()?),
        Opcode::DeathSignal => privileges::death_signal(f.last_u32()?),
        Opcode::ResetSignalMask => f.end().and_then(|()| kernel::clear_signal_mask()),
        Opcode::SetSid => f.end().and_then(|()| kernel::setsid()),
        Opcode::OpenOwnPidfd => open_own_pidfd(f.last_u32()?),
        Opcode::AwaitExit => kernel::await_readable(f.u32()?, f.last_u32()?),
        Opcode::OpenAs => open_as(f.text()?, f.last_u32()?),
        Opcode::Connect => connect_as(f.text()?, f.last_u32()?),
        Opcode::Dup2 => duplicate(f.u32()?, f.last_u32()?),
        Opcode::CloseFrom => kernel::close_from(f.last_u32()?),
        Opcode::WriteFd => kernel::write_once(f.u32()?, f.last_bytes()?),
        Opcode::Chdir => kernel::chdir(f.last_text()?),
        Opcode::Umask => f.last_u32().map(kernel::umask),
        Opcode::Landlock => landlock::restrict(f),
        Opcode::Seccomp => privileges::load_seccomp(f.last_bytes()?),
        Opcode::SeccompNotify => privileges::load_seccomp_notify(f.u32()?, f.last_bytes()?),
        Opcode::Exec => exec(f),
    }
}

fn open_own_pidfd(target: u32) -> Result<(), i32> {
    move_to(kernel::pidfd_open_self()?, target)
}

fn open_as(path: &CStr, target: u32) -> Result<(), i32> {
    move_to(kernel::open(path, kernel::O_RDWR | kernel::O_CLOEXEC, 0)?, target)
}

fn connect_as(path: &CStr, target: u32) -> Result<(), i32> {
    move_to(kernel::connect(path)?, target)
}

/// Duplicates `from` as `to`, which survives an exec. `dup3` refuses equal numbers; then only the flag is cleared.
fn duplicate(from: u32, to: u32) -> Result<(), i32> {
    if from == to {
        return kernel::clear_cloexec(from);
    }
    kernel::dup3(from, to)
}

fn move_to(from: u32, to: u32) -> Result<(), i32> {
    if from == to {
        return kernel::clear_cloexec(from);
    }
    let result = kernel::dup3(from, to);
    kernel::close(from);
    result
}

fn exec(fields: &mut Fields<'_>) -> Result<(), i32> {
    let path = fields.text()?;
    let mut arguments = [core::ptr::null(); EXEC_STRINGS_MAX + 1];
    let mut environment = [core::ptr::null(); EXEC_STRINGS_MAX + 1];
    for list in [&mut arguments, &mut environment] {
        let count = fields.u32()? as usize;
        for slot in list.iter_mut().take(EXEC_STRINGS_MAX).take(count) {
            *slot = fields.text()?.as_ptr();
        }
        if count > EXEC_STRINGS_MAX {
            return Err(EBADMSG);
        }
    }
    fields.end()?;
    // SAFETY: every pointer but the null ones comes from a `CStr` inside the plan, which outlives this call, and both
    // arrays end with a null pointer because at most EXEC_STRINGS_MAX of their entries were written.
    unsafe { kernel::execve(path, &arguments, &environment) }
}

#[cfg(all(test, not(faas_native)))]
mod tests;
