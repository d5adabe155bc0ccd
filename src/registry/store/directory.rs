//! The storage directory: made if missing, ours alone, and one server's at a time.
//!
//! The code in the database runs with the server's blessing, so nobody else may be able to write it: a directory that
//! belongs to another user or is writable by others is refused, which also covers one that somebody laid in wait
//! under `/tmp`. The `flock` is the kernel's: it ends with the process, however that ends.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use super::StoreError;

/// Proof that no other server uses the directory, for as long as it lives.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _file: Flock<File>,
}

/// Makes `dir` if it is missing, checks that it is ours, and locks it.
pub(super) fn claim(dir: &Path) -> Result<DirectoryLock, StoreError> {
    create(dir).map_err(failed("create directory", dir))?;
    check_owner(dir)?;
    lock(dir)
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
    let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => file,
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
            return Err(StoreError::Locked { path: dir.to_path_buf(), holder_pid: read_pid(&file) });
        }
        Err((_, errno)) => return Err(failed("lock", &path)(errno.into())),
    };
    // The process id is for the message above only; the lock holds without it, so a full disk is no reason to fail.
    let noted = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(error) = noted {
        log::warn!("cannot note the process id in {}: {error}", path.display());
    }
    Ok(DirectoryLock { _file: file })
}

fn read_pid(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Files { action, path: path.to_path_buf(), source }
}
