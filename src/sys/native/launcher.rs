//! Root of `faas-launch`, the first program of a container whose connections are brokered: the executor behind a
//! `_start`. `launch PLAN PROGRAM ARGUMENT..` applies the plan that a file holds and becomes the program, which is looked
//! for in the directories of `PATH`.
//!
//! It is the server's own and takes nothing from the image, no loader and no C library. So what its plan has loaded holds
//! for whatever the image brings: a filter that the image's own interpreter loaded for itself might be another.
//!
//! Compiled by `build.rs`, without `std`, statically. A failure ends it with [`REFUSED`] and a line on standard error.
#![no_std]
#![no_main]
#![allow(unsafe_code, dead_code, unreachable_pub)]

use core::arch::global_asm;
use core::ffi::{c_char, c_int, c_long, CStr};

#[path = "../executor/mod.rs"]
mod executor;

/// How it ends when it could not become the program: as an instance whose plan failed.
const REFUSED: c_int = 120;
const PLAN_BYTES_MAX: usize = 64 * 1024;
const PATH_BYTES_MAX: usize = 4096;
/// For an image that sets none.
const PATH_DEFAULT: &[u8] = b"/usr/local/bin:/usr/bin:/bin";
const ENOENT: c_int = 2;
const STANDARD_ERROR: usize = 2;
const AT_FDCWD: isize = -100;
const O_CLOEXEC: usize = 0o2000000;

/// Left x86_64, right aarch64.
const fn number(x86_64: c_long, aarch64: c_long) -> c_long {
    if cfg!(target_arch = "x86_64") {
        x86_64
    } else {
        aarch64
    }
}
const READ: c_long = number(0, 63);
const WRITE: c_long = number(1, 64);
const EXECVE: c_long = number(59, 221);
const EXIT_GROUP: c_long = number(231, 94);
const OPENAT: c_long = number(257, 56);

extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

// The kernel starts a program with the stack pointer at the count of its arguments. `syscall` is the C library's function
// of this name, as the executor calls it: the number, then six words.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {begin}",
    "ud2",
    ".globl syscall",
    "syscall:",
    "mov rax, rdi",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "mov rdx, rcx",
    "mov r10, r8",
    "mov r8, r9",
    "mov r9, [rsp + 8]",
    "syscall",
    "cmp rax, -4095",
    "jae 2f",
    "ret",
    "2:",
    "mov rdi, rax",
    "jmp {failed}",
    begin = sym begin,
    failed = sym failed,
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, #0",
    "mov x30, #0",
    "mov x0, sp",
    "bl {begin}",
    "brk #1",
    ".globl syscall",
    "syscall:",
    "mov x8, x0",
    "mov x0, x1",
    "mov x1, x2",
    "mov x2, x3",
    "mov x3, x4",
    "mov x4, x5",
    "mov x5, x6",
    "svc #0",
    "cmn x0, #4095",
    "b.hs {failed}",
    "ret",
    begin = sym begin,
    failed = sym failed,
);

/// The last error number. The program has one thread.
static mut ERRNO: c_int = 0;

/// Notes the error that the kernel answered, and answers as the C library does.
unsafe extern "C" fn failed(result: c_long) -> c_long {
    // SAFETY: there is one thread, and nobody holds a reference to it.
    unsafe { ERRNO = -result as c_int };
    -1
}

/// The C library's name for where the last error number is.
#[no_mangle]
pub extern "C" fn __errno_location() -> *mut c_int {
    &raw mut ERRNO
}

fn errno() -> c_int {
    // SAFETY: there is one thread, and nobody holds a reference to it.
    unsafe { ERRNO }
}

/// # Safety
/// `stack` must be the stack pointer with which the kernel started this program.
unsafe extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: there the kernel has put the count of the arguments, their pointers and a null, then those of the environment
    // and a null.
    let (count, arguments) = unsafe { (*stack, stack.add(1).cast::<*const c_char>()) };
    if count < 3 {
        refuse(&[b"launch PLAN PROGRAM ARGUMENT.."], None);
    }
    // SAFETY: as above: there are three arguments at least, and each is a string that ends with a NUL.
    let (path, environment) = unsafe { (CStr::from_ptr(*arguments.add(1)), arguments.add(count + 1)) };
    let mut plan = [0; PLAN_BYTES_MAX];
    let length = read_file(path, &mut plan);
    let plan = plan.get(..length).unwrap_or(&[]);
    if let Err(failure) = executor::run(plan) {
        let mut digits = [0; 10];
        let name = executor::step_name(plan, failure.step).as_bytes();
        refuse(&[b"step ", decimal(u32::from(failure.step), &mut digits), b": ", name], Some(failure.errno));
    }
    // SAFETY: both are the kernel's arrays, of which the first begins with the program.
    unsafe { become_program(arguments.add(2), environment) }
}

/// The length of what a file holds, which is put into `content`.
fn read_file(path: &CStr, content: &mut [u8]) -> usize {
    // SAFETY: the path ends with a NUL, and the kernel only reads it.
    let file = unsafe { syscall(OPENAT, AT_FDCWD, path.as_ptr(), O_CLOEXEC, 0_usize, 0_usize, 0_usize) };
    let mut length = 0;
    while file >= 0 {
        let rest = content.get_mut(length..).unwrap_or(&mut []);
        // SAFETY: the address and the length are those of one live, writable slice.
        let read = unsafe { syscall(READ, file, rest.as_mut_ptr(), rest.len(), 0_usize, 0_usize, 0_usize) };
        match read {
            0 => return length,
            ..=-1 => break,
            read => length += read as usize,
        }
    }
    refuse(&[path.to_bytes()], Some(errno()))
}

/// # Safety
/// Both must be arrays of strings that end with a NUL, a null behind the last, and the first of `arguments` must be one.
unsafe fn become_program(arguments: *const *const c_char, environment: *const *const c_char) -> ! {
    // SAFETY: the caller says so.
    let program = unsafe { CStr::from_ptr(*arguments) }.to_bytes();
    let mut path = [0; PATH_BYTES_MAX];
    let mut error = ENOENT;
    // SAFETY: the caller says so.
    let directories = unsafe { path_of(environment) }.unwrap_or(PATH_DEFAULT);
    let as_it_is = program.contains(&b'/');
    for directory in directories.split(|&byte| byte == b':') {
        let pieces: [&[u8]; 3] = if as_it_is { [b"", b"", program] } else { [directory, b"/", program] };
        if !join(&pieces, &mut path) {
            continue;
        }
        // SAFETY: `path` ends with a NUL, as `join` says, and of the arrays the caller does.
        unsafe { syscall(EXECVE, path.as_ptr(), arguments, environment, 0_usize, 0_usize, 0_usize) };
        if errno() != ENOENT {
            error = errno();
        }
    }
    refuse(&[program], Some(error))
}

/// The value of `PATH`.
///
/// # Safety
/// As [`become_program`].
unsafe fn path_of<'a>(mut environment: *const *const c_char) -> Option<&'a [u8]> {
    loop {
        // SAFETY: the walk ends at the null behind the last, and each before it is a string that ends with a NUL.
        let entry = unsafe { *environment };
        if entry.is_null() {
            return None;
        }
        // SAFETY: as above. The strings live as long as the program.
        if let Some(value) = unsafe { CStr::from_ptr(entry) }.to_bytes().strip_prefix(b"PATH=") {
            return Some(value);
        }
        // SAFETY: it was not the null, so there is another behind it.
        environment = unsafe { environment.add(1) };
    }
}

/// Puts the pieces and a NUL into `out`; whether there was room.
fn join(pieces: &[&[u8]], out: &mut [u8]) -> bool {
    let mut bytes = pieces.iter().flat_map(|piece| piece.iter()).chain(&[0]);
    out.iter_mut().zip(&mut bytes).for_each(|(slot, byte)| *slot = *byte);
    bytes.next().is_none()
}

fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut first = digits.len();
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + (number % 10) as u8;
        number /= 10;
        first -= 1;
        if number == 0 {
            break;
        }
    }
    digits.get(first..).unwrap_or(&[])
}

fn say(text: &[u8]) {
    // SAFETY: the address and the length are those of one live slice, which the kernel only reads.
    unsafe { syscall(WRITE, STANDARD_ERROR, text.as_ptr(), text.len(), 0_usize, 0_usize, 0_usize) };
}

fn refuse(words: &[&[u8]], error: Option<c_int>) -> ! {
    say(b"faas: no function can run in this container: ");
    words.iter().for_each(|word| say(word));
    if let Some(error) = error {
        say(b": error ");
        say(decimal(error.unsigned_abs(), &mut [0; 10]));
    }
    say(b"\n");
    exit()
}

fn exit() -> ! {
    loop {
        // SAFETY: the call takes a number and does not return.
        unsafe { syscall(EXIT_GROUP, REFUSED as usize, 0_usize, 0_usize, 0_usize, 0_usize, 0_usize) };
    }
}

// What the compiler takes for granted. Each byte is touched by itself, since loops that copy would be compiled to calls of
// these very functions.

/// # Safety
/// As the C library's.
#[no_mangle]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    for at in 0..length {
        // SAFETY: the caller says that both are that long.
        unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
    }
    to
}

/// # Safety
/// As the C library's.
#[no_mangle]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    if to.cast_const() <= from {
        // SAFETY: forwards nothing is overwritten before it is read.
        return unsafe { memcpy(to, from, length) };
    }
    for at in (0..length).rev() {
        // SAFETY: the caller says that both are that long.
        unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
    }
    to
}

/// # Safety
/// As the C library's.
#[no_mangle]
pub unsafe extern "C" fn memset(to: *mut u8, value: c_int, length: usize) -> *mut u8 {
    for at in 0..length {
        // SAFETY: the caller says that it is that long.
        unsafe { to.add(at).write_volatile(value as u8) };
    }
    to
}

/// # Safety
/// As the C library's.
#[no_mangle]
pub unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, length: usize) -> c_int {
    for at in 0..length {
        // SAFETY: the caller says that both are that long.
        let (left, right) = unsafe { (left.add(at).read_volatile(), right.add(at).read_volatile()) };
        if left != right {
            return c_int::from(left) - c_int::from(right);
        }
    }
    0
}

/// # Safety
/// As the C library's.
#[no_mangle]
pub unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, length: usize) -> c_int {
    // SAFETY: the caller says what `memcmp` asks for.
    unsafe { memcmp(left, right, length) }
}

/// # Safety
/// As the C library's.
#[no_mangle]
pub unsafe extern "C" fn strlen(text: *const c_char) -> usize {
    let mut length = 0;
    // SAFETY: the caller says that there is a NUL, at which this ends.
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}

/// Nothing here panics on purpose; should it, the process must not go on between two worlds.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    refuse(&[b"panic"], None)
}
