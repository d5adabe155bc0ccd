//! Root of `_faas.so`: the executor behind one Python function, `_faas.apply(plan: bytes) -> None`.
//!
//! Owns the little of the stable Python ABI that this takes, declared by hand so that neither a header nor a crate is
//! needed. Compiled by `build.rs`, without `std`, so that it is small and adds nothing to a fork.
//!
//! The layouts are those of the limited API for 64-bit builds with a global lock, unchanged from 3.2 to today.
//! Free-threaded builds have another object header; `sandbox::runtime` refuses them before this could be loaded.
#![no_std]
#![allow(unsafe_code, dead_code, unreachable_pub)]

use core::cell::UnsafeCell;
use core::ffi::{c_char, c_int, c_void};
use core::ptr::null_mut;

#[path = "../executor/mod.rs"]
mod executor;

type Object = c_void;
type Function = unsafe extern "C" fn(*mut Object, *mut Object) -> *mut Object;

/// `PyMethodDef`.
#[repr(C)]
struct MethodDef {
    name: *const c_char,
    function: Option<Function>,
    flags: c_int,
    doc: *const c_char,
}

/// `PyModuleDef`, with its `PyModuleDef_Base` spelt out.
#[repr(C)]
struct ModuleDef {
    reference_count: isize,
    object_type: *mut c_void,
    init: *mut c_void,
    index: isize,
    copy: *mut c_void,
    name: *const c_char,
    doc: *const c_char,
    state_bytes: isize,
    methods: *mut MethodDef,
    slots: *mut c_void,
    traverse: *mut c_void,
    clear: *mut c_void,
    free: *mut c_void,
}

/// A static that C code writes to.
struct Shared<T>(UnsafeCell<T>);

// SAFETY: Rust never touches the value; Python does, and only while it holds its global lock.
unsafe impl<T> Sync for Shared<T> {}

#[link(name = "c")]
extern "C" {}

extern "C" {
    static mut PyExc_OSError: *mut Object;
    fn PyModule_Create2(definition: *mut ModuleDef, abi_version: c_int) -> *mut Object;
    fn PyBytes_AsStringAndSize(object: *mut Object, bytes: *mut *mut c_char, length: *mut isize) -> c_int;
    fn Py_BuildValue(format: *const c_char, ...) -> *mut Object;
    fn PyErr_SetObject(kind: *mut Object, value: *mut Object);
    fn Py_DecRef(object: *mut Object);
}

/// `METH_O`: the function takes one argument.
const METH_O: c_int = 0x0008;
/// `PYTHON_ABI_VERSION`.
const ABI_VERSION: c_int = 3;

static METHODS: Shared<[MethodDef; 2]> = Shared(UnsafeCell::new([
    MethodDef {
        name: c"apply".as_ptr(),
        function: Some(apply),
        flags: METH_O,
        doc: c"apply(plan: bytes) -> None\n\nRun an encoded plan. OSError names the step that failed.".as_ptr(),
    },
    MethodDef { name: null_mut(), function: None, flags: 0, doc: null_mut() },
]));

static MODULE: Shared<ModuleDef> = Shared(UnsafeCell::new(ModuleDef {
    reference_count: 1,
    object_type: null_mut(),
    init: null_mut(),
    index: 0,
    copy: null_mut(),
    name: c"_faas".as_ptr(),
    doc: c"The executor of sandbox plans.".as_ptr(),
    state_bytes: -1,
    methods: METHODS.0.get().cast(),
    slots: null_mut(),
    traverse: null_mut(),
    clear: null_mut(),
    free: null_mut(),
}));

/// Called by Python's import.
#[no_mangle]
pub extern "C" fn PyInit__faas() -> *mut Object {
    // SAFETY: Python calls this with its global lock held, and the definition it is given lives for ever.
    unsafe { PyModule_Create2(MODULE.0.get(), ABI_VERSION) }
}

unsafe extern "C" fn apply(_module: *mut Object, plan: *mut Object) -> *mut Object {
    let mut bytes: *mut c_char = null_mut();
    let mut length: isize = 0;
    // SAFETY: `plan` is the argument that Python passed; on anything but bytes this sets TypeError and answers -1.
    if unsafe { PyBytes_AsStringAndSize(plan, &raw mut bytes, &raw mut length) } != 0 {
        return null_mut();
    }
    // SAFETY: the caller holds a reference to `plan`, bytes objects never change, and the length is never negative.
    let plan = unsafe { core::slice::from_raw_parts(bytes.cast::<u8>(), length as usize) };
    match executor::run(plan) {
        // SAFETY: an empty format makes a new reference to None.
        Ok(()) => unsafe { Py_BuildValue(c"".as_ptr()) },
        Err(failure) => raise(failure, executor::step_name(plan, failure.step)),
    }
}

/// Sets `OSError(errno, "step N: NAME")` and answers null, as a failed function does.
fn raise(failure: executor::Failure, name: &str) -> *mut Object {
    let mut message = Message { bytes: [0; 96], length: 0 };
    message.push("step ");
    message.push_number(failure.step);
    message.push(": ");
    message.push(name);
    // SAFETY: the format names an int and a C string, and the message is one: its last byte is never written. A null
    // value (out of memory) has its own exception set already. The reference made here is given up again.
    unsafe {
        let value = Py_BuildValue(c"(is)".as_ptr(), failure.errno as c_int, message.bytes.as_ptr().cast::<c_char>());
        if !value.is_null() {
            PyErr_SetObject(PyExc_OSError, value);
            Py_DecRef(value);
        }
    }
    null_mut()
}

/// A short text that is cut when it is full.
struct Message {
    bytes: [u8; 96],
    length: usize,
}

impl Message {
    fn push(&mut self, text: &str) {
        let last = self.bytes.len() - 1;
        for (slot, byte) in self.bytes[..last].iter_mut().skip(self.length).zip(text.bytes()) {
            *slot = byte;
            self.length += 1;
        }
    }

    fn push_number(&mut self, number: u16) {
        let mut divisor = 10_000;
        while divisor > 1 && number / divisor == 0 {
            divisor /= 10;
        }
        while divisor > 0 {
            let digit = b'0' + (number / divisor % 10) as u8;
            self.push(core::str::from_utf8(&[digit]).unwrap_or("?"));
            divisor /= 10;
        }
    }
}

/// Nothing here panics on purpose; should it, the process must not go on between two worlds.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    extern "C" {
        fn abort() -> !;
    }
    // SAFETY: `abort` takes nothing and does not return.
    unsafe { abort() }
}
