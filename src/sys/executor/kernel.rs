//! System calls by number, each behind a safe function. Everything here goes through the one C function `syscall`, so
//! that the Python extension needs no header and no crate, and so that no wrapper of a C library interferes (glibc's
//! `setresuid` signals other threads; ours runs in processes that have only one).
//!
//! Results are `Err(errno)`. A test compares the numbers with those of the `libc` crate.

pub(super) mod landlock;

use core::ffi::{c_char, c_int, c_long, CStr};
use core::mem::size_of;

extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn __errno_location() -> *mut c_int;
}

macro_rules! numbers {
    ($($name:ident = $x86_64:literal, $aarch64:literal;)*) => {
        /// The numbers of the system calls that the executor uses.
        pub(super) mod nr {
            use core::ffi::c_long;
            $(pub(in super::super) const $name: c_long = if cfg!(target_arch = "x86_64") { $x86_64 } else { $aarch64 };)*
        }
    };
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the sandbox knows the system call numbers of x86_64 and aarch64 only");

// Left x86_64, right aarch64.
numbers! {
    CAPSET = 126, 91;
    CHDIR = 80, 49;
    CLOSE = 3, 57;
    CLOSE_RANGE = 436, 436;
    CONNECT = 42, 203;
    DUP3 = 292, 24;
    EXECVE = 59, 221;
    FCHMOD = 91, 52;
    FCNTL = 72, 25;
    GETPID = 39, 172;
    LANDLOCK_ADD_RULE = 445, 445;
    LANDLOCK_CREATE_RULESET = 444, 444;
    LANDLOCK_RESTRICT_SELF = 446, 446;
    MKDIRAT = 258, 34;
    MOUNT = 165, 40;
    MOUNT_SETATTR = 442, 442;
    OPENAT = 257, 56;
    PIDFD_OPEN = 434, 434;
    PIVOT_ROOT = 155, 41;
    PPOLL = 271, 73;
    PRCTL = 157, 167;
    PRLIMIT64 = 302, 261;
    READ = 0, 63;
    RT_SIGPROCMASK = 14, 135;
    SECCOMP = 317, 277;
    SENDMSG = 46, 211;
    SETGROUPS = 116, 159;
    SETHOSTNAME = 170, 161;
    SETNS = 308, 268;
    SETRESGID = 119, 149;
    SETRESUID = 117, 147;
    SETSID = 112, 157;
    SOCKET = 41, 198;
    STATFS = 137, 43;
    SYMLINKAT = 266, 36;
    UMASK = 95, 166;
    UMOUNT2 = 166, 39;
    UNSHARE = 272, 97;
    WRITE = 1, 64;
}

pub(super) const EINTR: i32 = 4;
pub(super) const EIO: i32 = 5;
pub(super) const ENOENT: i32 = 2;
pub(super) const EACCES: i32 = 13;
pub(super) const EEXIST: i32 = 17;
pub(super) const ENOTDIR: i32 = 20;
pub(super) const EINVAL: i32 = 22;
pub(super) const ENOSYS: i32 = 38;
pub(super) const EBADMSG: i32 = 74;
pub(super) const ETIMEDOUT: i32 = 110;

pub(super) const O_WRONLY: u32 = 1;
pub(super) const O_RDWR: u32 = 2;
pub(super) const O_CREAT: u32 = 0o100;
pub(super) const O_EXCL: u32 = 0o200;
pub(super) const O_CLOEXEC: u32 = 0o2000000;
pub(super) const O_PATH: u32 = 0o10000000;
pub(super) const O_DIRECTORY: u32 = if cfg!(target_arch = "x86_64") { 0o200000 } else { 0o40000 };
pub(super) const O_NOFOLLOW: u32 = if cfg!(target_arch = "x86_64") { 0o400000 } else { 0o100000 };

const AT_FDCWD: usize = -100_isize as usize;
const AT_RECURSIVE: usize = 0x8000;
const MOUNT_SETATTR_BYTES: usize = 32;
const NEW_NET: usize = 0x4000_0000;
const SECCOMP_SET_MODE_FILTER: usize = 1;
const SECCOMP_NEW_LISTENER: usize = 1 << 3;
const SECCOMP_WAIT_KILLABLE_RECV: usize = 1 << 5;
const AF_UNIX: u16 = 1;
const SOCK_STREAM: usize = 1;
const SOCK_CLOEXEC: usize = 0o2000000;
const SOL_SOCKET: u32 = 1;
const SCM_RIGHTS: u32 = 1;
const MSG_NOSIGNAL: usize = 0x4000;
const SIG_SETMASK: usize = 2;
const F_SETFD: usize = 2;
const POLLIN: i16 = 1;
/// Descriptors that `close_from` tries one by one on a kernel without `close_range`.
const CLOSE_ONE_BY_ONE_MAX: u32 = 65_536;

/// Calls the kernel.
///
/// # Safety
/// Arguments that the call `number` takes for addresses must be valid for what that call does with them.
unsafe fn call(number: c_long, arguments: [usize; 6]) -> Result<usize, i32> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: `syscall` reads six machine words after the number, and six are passed; the caller answers for what the
    // kernel does with them.
    let result = unsafe { syscall(number, a, b, c, d, e, f) };
    if result < 0 {
        // SAFETY: `__errno_location` always returns the address of the calling thread's errno.
        return Err(unsafe { *__errno_location() });
    }
    Ok(result as usize)
}

fn address(text: &CStr) -> usize {
    text.as_ptr() as usize
}

fn optional_address(text: Option<&CStr>) -> usize {
    text.map_or(0, address)
}

/// Calls the kernel with numbers only.
fn call_plain(number: c_long, arguments: [usize; 4]) -> Result<usize, i32> {
    let [a, b, c, d] = arguments;
    // SAFETY: used below only for calls none of whose arguments is an address.
    unsafe { call(number, [a, b, c, d, 0, 0]) }
}

pub(super) fn unshare(flags: u32) -> Result<(), i32> {
    call_plain(nr::UNSHARE, [flags as usize, 0, 0, 0]).map(drop)
}

/// Joins the network namespace behind the descriptor; one of another kind is refused.
pub(super) fn join_network(fd: u32) -> Result<(), i32> {
    call_plain(nr::SETNS, [fd as usize, NEW_NET, 0, 0]).map(drop)
}

pub(super) fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: usize,
    options: Option<&CStr>,
) -> Result<(), i32> {
    let (source, kind, options) = (optional_address(source), optional_address(kind), optional_address(options));
    // SAFETY: each address is null, which mount accepts, or that of a NUL-terminated string that outlives the call.
    unsafe { call(nr::MOUNT, [source, address(target), kind, flags, options, 0]) }.map(drop)
}

pub(super) fn umount(target: &CStr, flags: usize) -> Result<(), i32> {
    // SAFETY: `target` is a NUL-terminated string.
    unsafe { call(nr::UMOUNT2, [address(target), flags, 0, 0, 0, 0]) }.map(drop)
}

pub(super) fn pivot_root(new_root: &CStr, put_old: &CStr) -> Result<(), i32> {
    // SAFETY: both are NUL-terminated strings.
    unsafe { call(nr::PIVOT_ROOT, [address(new_root), address(put_old), 0, 0, 0, 0]) }.map(drop)
}

/// Adds attributes to the mount at `target`, and to those under it when `recursive`.
pub(super) fn mount_setattr(target: &CStr, recursive: bool, attributes: u64) -> Result<(), i32> {
    let change: [u64; MOUNT_SETATTR_BYTES / 8] = [attributes, 0, 0, 0];
    let flags = if recursive { AT_RECURSIVE } else { 0 };
    let change_address = change.as_ptr() as usize;
    let arguments = [AT_FDCWD, address(target), flags, change_address, MOUNT_SETATTR_BYTES, 0];
    // SAFETY: `target` is NUL-terminated; `change` has the layout and the size of a `struct mount_attr`, and lives on.
    unsafe { call(nr::MOUNT_SETATTR, arguments) }.map(drop)
}

/// The `f_flags` of the file system at `path`.
pub(super) fn statfs_flags(path: &CStr) -> Result<u64, i32> {
    // `struct statfs` is 120 bytes on both architectures, and `f_flags` the eleventh word.
    let mut buffer = [0u64; 16];
    // SAFETY: `path` is NUL-terminated and the buffer is larger than what the kernel writes.
    unsafe { call(nr::STATFS, [address(path), buffer.as_mut_ptr() as usize, 0, 0, 0, 0]) }?;
    Ok(buffer[10])
}

pub(super) fn mkdir(path: &CStr, mode: u32) -> Result<(), i32> {
    // SAFETY: `path` is a NUL-terminated string.
    unsafe { call(nr::MKDIRAT, [AT_FDCWD, address(path), mode as usize, 0, 0, 0]) }.map(drop)
}

pub(super) fn symlink(target: &CStr, path: &CStr) -> Result<(), i32> {
    // SAFETY: both are NUL-terminated strings.
    unsafe { call(nr::SYMLINKAT, [address(target), AT_FDCWD, address(path), 0, 0, 0]) }.map(drop)
}

pub(super) fn open(path: &CStr, flags: u32, mode: u32) -> Result<u32, i32> {
    // SAFETY: `path` is a NUL-terminated string.
    unsafe { call(nr::OPENAT, [AT_FDCWD, address(path), flags as usize, mode as usize, 0, 0]) }.map(|fd| fd as u32)
}

/// Closes a descriptor. Its result is dropped: on Linux the descriptor is gone whatever `close` answers.
pub(super) fn close(fd: u32) {
    let _ = call_plain(nr::CLOSE, [fd as usize, 0, 0, 0]);
}

pub(super) fn fchmod(fd: u32, mode: u32) -> Result<(), i32> {
    call_plain(nr::FCHMOD, [fd as usize, mode as usize, 0, 0]).map(drop)
}

/// Duplicates `from` as `to` without the close-on-exec flag.
pub(super) fn dup3(from: u32, to: u32) -> Result<(), i32> {
    call_plain(nr::DUP3, [from as usize, to as usize, 0, 0]).map(drop)
}

pub(super) fn clear_cloexec(fd: u32) -> Result<(), i32> {
    call_plain(nr::FCNTL, [fd as usize, F_SETFD, 0, 0]).map(drop)
}

/// Closes every descriptor from `first` on.
pub(super) fn close_from(first: u32) -> Result<(), i32> {
    match call_plain(nr::CLOSE_RANGE, [first as usize, u32::MAX as usize, 0, 0]) {
        // Before Linux 5.9.
        Err(ENOSYS) => {
            (first..CLOSE_ONE_BY_ONE_MAX).for_each(close);
            Ok(())
        }
        other => other.map(drop),
    }
}

fn write(fd: u32, bytes: &[u8]) -> Result<usize, i32> {
    // SAFETY: the address and the length are those of a live slice, which the kernel only reads.
    unsafe { call(nr::WRITE, [fd as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]) }
}

/// Writes in one piece, as kernel files want it; a partial write is an error.
pub(super) fn write_once(fd: u32, bytes: &[u8]) -> Result<(), i32> {
    loop {
        match write(fd, bytes) {
            Err(EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(written) if written == bytes.len() => return Ok(()),
            Ok(_) => return Err(EIO),
        }
    }
}

/// Writes in as many pieces as it takes.
pub(super) fn write_all(fd: u32, mut bytes: &[u8]) -> Result<(), i32> {
    while !bytes.is_empty() {
        match write(fd, bytes) {
            Err(EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(0) => return Err(EIO),
            Ok(written) => bytes = bytes.get(written..).ok_or(EIO)?,
        }
    }
    Ok(())
}

pub(super) fn sethostname(name: &[u8]) -> Result<(), i32> {
    // SAFETY: the address and the length are those of a live slice, which the kernel only reads.
    unsafe { call(nr::SETHOSTNAME, [name.as_ptr() as usize, name.len(), 0, 0, 0, 0]) }.map(drop)
}

/// The soft and hard limit of the calling process.
pub(super) fn get_limit(resource: u32) -> Result<[u64; 2], i32> {
    let mut limit = [0u64; 2];
    let limit_address = limit.as_mut_ptr() as usize;
    // SAFETY: the last address is that of two writable words, the layout of a `struct rlimit64`; null means no new one.
    unsafe { call(nr::PRLIMIT64, [0, resource as usize, 0, limit_address, 0, 0]) }?;
    Ok(limit)
}

pub(super) fn set_limit(resource: u32, limit: [u64; 2]) -> Result<(), i32> {
    // SAFETY: the address is that of two words, the layout of a `struct rlimit64`, which the kernel only reads.
    unsafe { call(nr::PRLIMIT64, [0, resource as usize, limit.as_ptr() as usize, 0, 0, 0]) }.map(drop)
}

pub(super) fn clear_groups() -> Result<(), i32> {
    // With a length of 0 the kernel does not look at the list.
    call_plain(nr::SETGROUPS, [0, 0, 0, 0]).map(drop)
}

pub(super) fn setresgid(gid: u32) -> Result<(), i32> {
    call_plain(nr::SETRESGID, [gid as usize, gid as usize, gid as usize, 0]).map(drop)
}

pub(super) fn setresuid(uid: u32) -> Result<(), i32> {
    call_plain(nr::SETRESUID, [uid as usize, uid as usize, uid as usize, 0]).map(drop)
}

/// `prctl` for the options that take numbers; the executor uses no other.
pub(super) fn prctl(option: u32, argument: usize) -> Result<usize, i32> {
    call_plain(nr::PRCTL, [option as usize, argument, 0, 0])
}

/// Sets the three capability sets, given as words: effective, permitted, inheritable, low half first.
pub(super) fn capset(sets: [u32; 6]) -> Result<(), i32> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    // SAFETY: the header has the layout of `struct __user_cap_header_struct` and, for version 3, the kernel reads two
    // `struct __user_cap_data_struct` of three words each.
    unsafe { call(nr::CAPSET, [header.as_ptr() as usize, sets.as_ptr() as usize, 0, 0, 0, 0]) }.map(drop)
}

pub(super) fn clear_signal_mask() -> Result<(), i32> {
    let none = 0u64;
    let none_address = (&raw const none) as usize;
    // SAFETY: the kernel reads a signal set of eight bytes from the address of `none`.
    unsafe { call(nr::RT_SIGPROCMASK, [SIG_SETMASK, none_address, 0, 8, 0, 0]) }.map(drop)
}

pub(super) fn setsid() -> Result<(), i32> {
    call_plain(nr::SETSID, [0; 4]).map(drop)
}

pub(super) fn pidfd_open_self() -> Result<u32, i32> {
    let pid = call_plain(nr::GETPID, [0; 4])?;
    call_plain(nr::PIDFD_OPEN, [pid, 0, 0, 0]).map(|fd| fd as u32)
}

/// Waits until `fd` is readable, which for a pidfd means that its process has ended.
pub(super) fn await_readable(fd: u32, timeout_ms: u32) -> Result<(), i32> {
    #[repr(C)]
    struct PollFd {
        fd: u32,
        events: i16,
        returned: i16,
    }
    let mut entry = PollFd { fd, events: POLLIN, returned: 0 };
    // The kernel writes what is left of the timeout back, so a wait that a signal cut short goes on with the rest.
    let mut timeout = [i64::from(timeout_ms / 1000), i64::from(timeout_ms % 1000) * 1_000_000];
    loop {
        let arguments = [(&raw mut entry) as usize, 1, timeout.as_mut_ptr() as usize, 0, 0, 0];
        // SAFETY: one `struct pollfd` and one `struct timespec`, both writable and alive; no signal set is passed.
        match unsafe { call(nr::PPOLL, arguments) } {
            Err(EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(0) => return Err(ETIMEDOUT),
            Ok(_) if entry.returned & POLLIN != 0 => return Ok(()),
            Ok(_) => return Err(EIO),
        }
    }
}

pub(super) fn chdir(path: &CStr) -> Result<(), i32> {
    // SAFETY: `path` is a NUL-terminated string.
    unsafe { call(nr::CHDIR, [address(path), 0, 0, 0, 0, 0]) }.map(drop)
}

pub(super) fn umask(mask: u32) {
    // umask cannot fail; its result is the mask before.
    let _ = call_plain(nr::UMASK, [mask as usize, 0, 0, 0]);
}

/// Loads a seccomp filter of `instructions` instructions.
pub(super) fn seccomp(filter: &[u8], instructions: u16) -> Result<(), i32> {
    load_filter(filter, instructions, 0).map(drop)
}

/// The same for a filter that asks, and returns the listener on which it does. A call that the listener has received is
/// then only interrupted by what kills its caller, where the kernel knows that (5.19).
pub(super) fn seccomp_listener(filter: &[u8], instructions: u16) -> Result<u32, i32> {
    let listener = match load_filter(filter, instructions, SECCOMP_NEW_LISTENER | SECCOMP_WAIT_KILLABLE_RECV) {
        Err(EINVAL) => load_filter(filter, instructions, SECCOMP_NEW_LISTENER),
        other => other,
    };
    listener.map(|fd| fd as u32)
}

fn load_filter(filter: &[u8], instructions: u16, flags: usize) -> Result<usize, i32> {
    #[repr(C)]
    struct Program {
        length: u16,
        filter: *const u8,
    }
    if filter.len() != usize::from(instructions) * 8 {
        return Err(EINVAL);
    }
    let program = Program { length: instructions, filter: filter.as_ptr() };
    let arguments = [SECCOMP_SET_MODE_FILTER, flags, (&raw const program) as usize, 0, 0, 0];
    // SAFETY: `program` has the layout of a `struct sock_fprog`, and its filter holds `length` instructions of eight
    // bytes, which was checked above. The kernel copies them and wants no alignment.
    unsafe { call(nr::SECCOMP, arguments) }
}

/// A stream that is connected to the Unix socket at this path.
pub(super) fn connect(path: &CStr) -> Result<u32, i32> {
    #[repr(C)]
    struct Address {
        family: u16,
        path: [u8; 108],
    }
    let mut address = Address { family: AF_UNIX, path: [0; 108] };
    let bytes = path.to_bytes_with_nul();
    if bytes.len() > address.path.len() {
        return Err(EINVAL);
    }
    address.path.iter_mut().zip(bytes).for_each(|(slot, byte)| *slot = *byte);
    let socket = call_plain(nr::SOCKET, [AF_UNIX.into(), SOCK_STREAM | SOCK_CLOEXEC, 0, 0])? as u32;
    let arguments = [socket as usize, (&raw const address) as usize, size_of::<Address>(), 0, 0, 0];
    // SAFETY: `address` has the layout and the length of a `struct sockaddr_un`, and the kernel only reads it.
    let connected = unsafe { call(nr::CONNECT, arguments) };
    if connected.is_err() {
        close(socket);
    }
    connected.map(|_| socket)
}

/// Sends one byte and with it a duplicate of a descriptor.
pub(super) fn send_descriptor(socket: u32, descriptor: u32) -> Result<(), i32> {
    #[repr(C)]
    struct Rights {
        length: usize,
        level: u32,
        kind: u32,
        descriptor: u32,
        padding: u32,
    }
    #[repr(C)]
    struct Piece {
        start: *const u8,
        length: usize,
    }
    #[repr(C)]
    struct Message {
        name: usize,
        name_length: usize,
        pieces: *const Piece,
        pieces_length: usize,
        control: *const Rights,
        control_length: usize,
        flags: usize,
    }
    let byte = [0u8; 1];
    let piece = Piece { start: byte.as_ptr(), length: byte.len() };
    // Its length is without the padding.
    let length = size_of::<Rights>() - size_of::<u32>();
    let rights = Rights { length, level: SOL_SOCKET, kind: SCM_RIGHTS, descriptor, padding: 0 };
    let message = Message {
        name: 0,
        name_length: 0,
        pieces: &raw const piece,
        pieces_length: 1,
        control: &raw const rights,
        control_length: size_of::<Rights>(),
        flags: 0,
    };
    loop {
        let arguments = [socket as usize, (&raw const message) as usize, MSG_NOSIGNAL, 0, 0, 0];
        // SAFETY: `message` has the layout of a `struct msghdr` of 64-bit Linux, its pieces that of a `struct iovec` and
        // its control message that of a `struct cmsghdr` with one int; all live on, and the kernel only reads them.
        match unsafe { call(nr::SENDMSG, arguments) } {
            Err(EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Waits for one byte; `EIO` when the other side closes instead.
pub(super) fn await_byte(socket: u32) -> Result<(), i32> {
    let mut byte = [0u8; 1];
    loop {
        // SAFETY: the address and the length are those of a live, writable array.
        match unsafe { call(nr::READ, [socket as usize, byte.as_mut_ptr() as usize, byte.len(), 0, 0, 0]) } {
            Err(EINTR) => {}
            Ok(1) => return Ok(()),
            Ok(_) => return Err(EIO),
            Err(errno) => return Err(errno),
        }
    }
}

/// Replaces the program. Returns only to report a failure.
///
/// # Safety
/// Both arrays must end with a null pointer, and all pointers before it must be those of NUL-terminated strings.
pub(super) unsafe fn execve(
    path: &CStr,
    arguments: &[*const c_char],
    environment: &[*const c_char],
) -> Result<(), i32> {
    let (argv, envp) = (arguments.as_ptr() as usize, environment.as_ptr() as usize);
    // SAFETY: `path` is NUL-terminated; the caller answers for the arrays.
    unsafe { call(nr::EXECVE, [address(path), argv, envp, 0, 0, 0]) }.map(drop)
}
