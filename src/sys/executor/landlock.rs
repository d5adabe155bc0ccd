//! The step that confines the process by Landlock.
//!
//! A kernel knows the rights of its version and refuses all others, so the wish is cut to what the kernel can do. Version
//! 1 (Linux 5.13 to 5.18) is not used: it refuses every rename from one directory to another, which programs do.

use super::decode::Fields;
use super::kernel::{self, landlock, EACCES, EBADMSG, ENOENT, ENOSYS};

/// Version 2 brought `REFER`: Linux 5.19.
const VERSION_MIN: usize = 2;
/// The file system rights of version 2: bits 0 (`EXECUTE`) to 13 (`REFER`).
const FILE_RIGHTS: u64 = 0x3FFF;
/// Version 3, Linux 6.2.
const TRUNCATE: u64 = 1 << 14;
/// Version 5, Linux 6.10.
const IOCTL_DEVICE: u64 = 1 << 15;
/// Version 4, Linux 6.7.
const CONNECT_TCP: u64 = 1 << 1;
/// Abstract sockets and signals. Version 6, Linux 6.12.
const SCOPES: u64 = 0b11;
/// Version 7, Linux 6.15: what a function is refused is its own affair and does not fill the host's audit log.
const LOG_NOTHING: usize = 0b101;

/// Reads the step's fields and restricts the process. It must have `no_new_privs`.
pub(super) fn restrict(fields: &mut Fields<'_>) -> Result<(), i32> {
    let deny_tcp_connect = fields.u32()? != 0;
    let version = landlock::version()?;
    if version < VERSION_MIN {
        return Err(ENOSYS);
    }
    let since = |first: usize, right: u64| if version >= first { right } else { 0 };
    let files = FILE_RIGHTS | since(3, TRUNCATE) | since(5, IOCTL_DEVICE);
    let network = if deny_tcp_connect { since(4, CONNECT_TCP) } else { 0 };
    // What is not listed below is refused: no TCP port is, so none can be connected to.
    let ruleset = landlock::ruleset([files, network, since(6, SCOPES)], version)?;
    let result = allow(ruleset, files, fields)
        .and_then(|()| landlock::restrict(ruleset, if version >= 7 { LOG_NOTHING } else { 0 }));
    kernel::close(ruleset);
    result
}

fn allow(ruleset: u32, known: u64, fields: &mut Fields<'_>) -> Result<(), i32> {
    for _ in 0..fields.u32()? {
        let (path, rights) = (fields.text()?, fields.u64()?);
        match kernel::open(path, kernel::O_PATH | kernel::O_CLOEXEC, 0) {
            Ok(fd) => {
                let result = landlock::allow(ruleset, fd, rights & known);
                kernel::close(fd);
                result?;
            }
            // What is not there needs no right.
            Err(ENOENT | EACCES) => {}
            Err(errno) => return Err(errno),
        }
    }
    fields.end().map_err(|_| EBADMSG)
}
