//! The steps that build the tree: mounts, directories, files, the change of root.

use core::ffi::CStr;

use super::kernel::{self, EACCES, EEXIST, EINVAL, ENOENT, ENOSYS, ENOTDIR};
use super::opcode::{BIND_DEVICE, BIND_RECURSIVE};

const MS_RDONLY: usize = 1;
const MS_NOSUID: usize = 2;
const MS_NODEV: usize = 4;
const MS_NOEXEC: usize = 8;
const MS_REMOUNT: usize = 32;
const MS_NOATIME: usize = 1024;
const MS_NODIRATIME: usize = 2048;
const MS_BIND: usize = 4096;
const MS_REC: usize = 16384;
const MS_PRIVATE: usize = 1 << 18;
const MS_RELATIME: usize = 1 << 21;
const MNT_DETACH: usize = 2;
/// `statfs` reports this mount option by another number than `mount` takes it.
const ST_RELATIME: u64 = 4096;

/// The old root, and later the new one, as seen from the working directory.
const HERE: &CStr = c".";
const ROOT: &CStr = c"/";
const NULL_DEVICE: &CStr = c"/dev/null";

pub(super) fn make_private() -> Result<(), i32> {
    kernel::mount(None, ROOT, None, MS_REC | MS_PRIVATE, None)
}

pub(super) fn mount_tmpfs(target: &CStr, options: &CStr, executable: bool) -> Result<(), i32> {
    let flags = MS_NOSUID | MS_NODEV | if executable { 0 } else { MS_NOEXEC };
    kernel::mount(Some(c"tmpfs"), target, Some(c"tmpfs"), flags, Some(options))
}

pub(super) fn make_dir(path: &CStr, mode: u32) -> Result<(), i32> {
    match kernel::mkdir(path, mode) {
        Err(EEXIST) => Ok(()),
        other => other,
    }
}

pub(super) fn write_file(path: &CStr, mode: u32, bytes: &[u8]) -> Result<(), i32> {
    let flags = kernel::O_WRONLY | kernel::O_CREAT | kernel::O_EXCL | kernel::O_NOFOLLOW | kernel::O_CLOEXEC;
    let fd = kernel::open(path, flags, mode)?;
    let result = kernel::write_all(fd, bytes).and_then(|()| kernel::fchmod(fd, mode));
    kernel::close(fd);
    result
}

pub(super) fn bind(source: &CStr, target: &CStr, flags: u32) -> Result<(), i32> {
    let recursive = flags & BIND_RECURSIVE != 0;
    kernel::mount(Some(source), target, None, MS_BIND | if recursive { MS_REC } else { 0 }, None)?;
    let kind = if flags & BIND_DEVICE != 0 { MS_NOEXEC } else { MS_NODEV };
    restrict(target, recursive, MS_RDONLY | MS_NOSUID | kind)
}

pub(super) fn mount_proc(target: &CStr, options: &CStr, fallback: &CStr) -> Result<(), i32> {
    let flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    match kernel::mount(Some(c"proc"), target, Some(c"proc"), flags, Some(options)) {
        // Before Linux 5.8 proc knows neither `subset` nor the words of `hidepid`.
        Err(EINVAL) => kernel::mount(Some(c"proc"), target, Some(c"proc"), flags, Some(fallback)),
        other => other,
    }
}

/// Hides what is at `path`: an empty directory over a directory, the null device over a file. What is not there, or
/// cannot be reached, needs no hiding.
pub(super) fn mask(path: &CStr) -> Result<(), i32> {
    let flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
    let look = kernel::O_PATH | kernel::O_CLOEXEC;
    match kernel::open(path, look | kernel::O_DIRECTORY, 0) {
        Ok(fd) => {
            kernel::close(fd);
            kernel::mount(Some(c"tmpfs"), path, Some(c"tmpfs"), flags, Some(c"size=4k,nr_inodes=2,mode=555"))
        }
        Err(ENOTDIR) => kernel::mount(Some(NULL_DEVICE), path, None, MS_BIND, None),
        Err(ENOENT | EACCES) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Makes what is at `path` read-only; a path that is no mount yet is first bound to itself.
pub(super) fn read_only(path: &CStr, recursive: bool) -> Result<(), i32> {
    match restrict(path, recursive, MS_RDONLY | MS_NOSUID) {
        Err(EINVAL) => {
            kernel::mount(Some(path), path, None, MS_BIND | MS_REC, None)?;
            restrict(path, recursive, MS_RDONLY | MS_NOSUID)
        }
        Err(ENOENT | EACCES) => Ok(()),
        other => other,
    }
}

/// Adds `flags` (of read-only, nosuid, nodev, noexec) to a mount, and to those below it when `recursive`.
fn restrict(target: &CStr, recursive: bool, flags: usize) -> Result<(), i32> {
    // The four attributes of mount_setattr have the numbers of their MS_ counterparts.
    match kernel::mount_setattr(target, recursive, flags as u64) {
        Err(ENOSYS) => remount(target, flags),
        other => other,
    }
}

/// The way before Linux 5.12. A remount replaces all flags, and in a user namespace it fails when it would clear one
/// that the host set, so the present ones are read first. It reaches one mount only: that is enough, since every bind
/// of a plan was restricted on its own when it was made.
fn remount(target: &CStr, flags: usize) -> Result<(), i32> {
    let present = kernel::statfs_flags(target)?;
    let kept = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME;
    let relatime = if present & ST_RELATIME != 0 { MS_RELATIME } else { 0 };
    let flags = flags | (present as usize & kept) | relatime;
    kernel::mount(None, target, None, MS_REMOUNT | MS_BIND | flags, None)
}

/// Makes `new_root` the root. The old root ends up mounted on top of it, at the same place, where only
/// `detach_old_root` reaches it: this spares a directory in the read-only tree for it.
pub(super) fn pivot_root(new_root: &CStr) -> Result<(), i32> {
    kernel::chdir(new_root)?;
    kernel::pivot_root(HERE, HERE)
}

pub(super) fn detach_old_root() -> Result<(), i32> {
    kernel::umount(HERE, MNT_DETACH)?;
    kernel::chdir(ROOT)
}
