//! The storage directory: made if missing, ours alone, and one server's at a time.
//!
//! The code in the database runs with the server's blessing, so nobody else may be able to write it: a directory that
//! belongs to another user or is writable by others is refused, which also covers one that somebody laid in wait
//! under `/tmp`. The `flock` is the kernel's: it ends with the process, however that ends.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use super::StoreError;

/// Proof that no other server uses the directory, for as long as it lives.
///
/// A server that takes over gets a duplicate of the descriptor: the lock belongs to the open file that both stand for,
/// and the kernel lets go of it with the last of them. To unlock one would unlock the other, so a lock that is shared
/// is never unlocked, only closed with its process.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    file: Option<Flock<File>>,
    is_shared: Arc<AtomicBool>,
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        if self.is_shared.load(Ordering::SeqCst) {
            std::mem::forget(self.file.take());
        }
    }
}

impl DirectoryLock {
    /// What a successor can be given.
    pub(super) fn share(&self) -> io::Result<SharedLock> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(SharedLock { file: file.try_clone()?.into(), is_shared: Arc::clone(&self.is_shared) })
    }

    /// Writes the process id of the owner, for the message of a server that is refused.
    pub(super) fn note_owner(&self) {
        let Some(mut file) = self.file.as_deref() else { return };
        let noted =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = noted {
            log::warn!("cannot note the process id in the lock of the state directory: {error}");
        }
    }
}

/// A duplicate of the lock, for a server that takes over.
#[derive(Debug)]
pub struct SharedLock {
    file: OwnedFd,
    is_shared: Arc<AtomicBool>,
}

impl SharedLock {
    /// The descriptor to give away. From now on the lock is held until every process that has it has ended.
    pub fn give(&self) -> BorrowedFd<'_> {
        self.is_shared.store(true, Ordering::SeqCst);
        self.file.as_fd()
    }
}

/// Makes `dir` if it is missing, checks that it is ours, and locks it.
pub(super) fn claim(dir: &Path) -> Result<DirectoryLock, StoreError> {
    create(dir).map_err(failed("create directory", dir))?;
    check_owner(dir)?;
    lock(dir)
}

/// Takes over the lock of the server that serves, which has sent this descriptor.
pub(super) fn inherit(dir: &Path, lock: OwnedFd) -> Result<DirectoryLock, StoreError> {
    check_owner(dir)?;
    let path = dir.join("lock");
    let file = File::from(lock);
    let is_it = fs::metadata(&path).and_then(|there| {
        let sent = file.metadata()?;
        Ok((there.dev(), there.ino()) == (sent.dev(), sent.ino()))
    });
    if !is_it.map_err(failed("inspect", &path))? {
        return Err(StoreError::ForeignLock { path });
    }
    // Locked already, so this says only whether it is; a lock of another open file would be refused.
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(DirectoryLock { file: Some(file), is_shared: Arc::new(AtomicBool::new(true)) }),
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
            Err(StoreError::Locked { path: dir.to_path_buf(), holder_pid: read_pid(&file) })
        }
        Err((_, errno)) => Err(failed("lock", &path)(errno.into())),
    }
}

/// Makes sure that `path` is a file that only we may read, and that its name outlives a power cut.
pub(super) fn private_file(path: &Path) -> Result<(), StoreError> {
    let file = open_private(path).map_err(failed("open", path))?;
    file.set_permissions(Permissions::from_mode(0o600)).map_err(failed("restrict", path))?;
    sync_parent(path).map_err(failed("sync the directory of", path))
}

fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// `mkdir -p` that leaves every new name on the disk before it returns.
fn create(dir: &Path) -> io::Result<()> {
    if dir.exists() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        // Another server may have started at the same moment; the lock decides between the two.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_parent(dir),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(parent) {
        Ok(parent) => parent.sync_all(),
        // A directory that we may pass through and write but not list cannot be synced. This is no reason to refuse it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}

fn check_owner(dir: &Path) -> Result<(), StoreError> {
    let path = dir.to_path_buf();
    let metadata = fs::metadata(dir).map_err(failed("inspect", dir))?;
    let (our_uid, owner_uid, mode) = (geteuid().as_raw(), metadata.uid(), metadata.mode() & 0o7777);
    if !metadata.is_dir() {
        Err(StoreError::NotADirectory { path })
    } else if owner_uid != our_uid {
        Err(StoreError::NotOwned { path, owner_uid, our_uid })
    } else if mode & 0o022 != 0 {
        Err(StoreError::Exposed { path, mode })
    } else {
        Ok(())
    }
}

fn lock(dir: &Path) -> Result<DirectoryLock, StoreError> {
    let path: PathBuf = dir.join("lock");
    let file = open_private(&path).map_err(failed("open", &path))?;
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => file,
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
            return Err(StoreError::Locked { path: dir.to_path_buf(), holder_pid: read_pid(&file) });
        }
        Err((_, errno)) => return Err(failed("lock", &path)(errno.into())),
    };
    // The lock holds without it, so a full disk is no reason to fail.
    let lock = DirectoryLock { file: Some(file), is_shared: Arc::default() };
    lock.note_owner();
    Ok(lock)
}

fn read_pid(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Files { action, path: path.to_path_buf(), source }
}
