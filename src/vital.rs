//! What to do when a thread without which the server is of no use panics: end the server, loudly. One that hangs is the
//! watchdog's.
//!
//! A server that goes on without a worker would leave every call given to it to its deadline, and one without a
//! supervisor would never start an instance again, while it says that it is well. Whoever watches over the process
//! starts a new one, which has lost nothing: what was acknowledged is durable.

/// Exit code of a server that ended because one of its threads panicked or hung: `EX_SOFTWARE` of sysexits.h.
pub(crate) const EXIT_BROKEN: i32 = 70;

/// Held by a thread for as long as it runs.
#[derive(Debug)]
pub(crate) struct Vital;

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            // Not through the log, whose thread may not come to write it any more.
            eprintln!("faas: thread {} panicked, and the server ends", thread.name().unwrap_or("without a name"));
            std::process::exit(EXIT_BROKEN);
        }
    }
}
