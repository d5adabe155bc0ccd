//! What the fuzzers share: the engine's entry point, and an allocator that notices when an input makes the server take
//! more memory than any input should.
//!
//! The targets are in the server (`faas::fuzzing`), so that its own tests can run the kept corpus through them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[doc(hidden)]
pub use libfuzzer_sys::fuzz_target;

/// What one input may have allocated at any time, in bytes: a few of the largest datagrams, and the queues of a worker.
pub const INPUT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Makes a fuzzer of the target with this name.
#[macro_export]
macro_rules! fuzz {
    ($target:ident) => {
        $crate::fuzz_target!(|input: &[u8]| {
            let _measure = $crate::Measure::begin();
            faas::fuzzing::$target(input);
        });
    };
}

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Measures what is allocated while it lives. The engine is C++ and does not count; the targets have one thread.
pub struct Measure {
    before: usize,
}

impl Measure {
    /// Starts to measure.
    pub fn begin() -> Measure {
        let before = LIVE.load(Relaxed);
        PEAK.store(before, Relaxed);
        Measure { before }
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        let most = PEAK.load(Relaxed).saturating_sub(self.before);
        assert!(most <= INPUT_BYTES_MAX, "one input made the server hold {most} bytes");
    }
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: usize) {
    PEAK.fetch_max(LIVE.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: every call is passed on to the system's allocator as it came; counting touches two integers only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `block` came from `System` with this layout, as everything that is allocated here does.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `block` came from `System` with this layout, as everything that is allocated here does.
        unsafe { System.dealloc(block, layout) }
    }
}
