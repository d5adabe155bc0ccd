//! The directory of container mode below the state directory: the shim's files, which every container of this server has
//! mounted, and for each container that is on its way a directory of its own (`launch`).
//!
//! Owns what is in the directory when a server starts: nothing but the shim, as this program carries it. So a directory
//! belongs to one server at a time; two that share a state directory have one each.
//!
//! Invariant: the directory is for the server's user alone. What is mounted from below it can be read by every user, since
//! that is who a container's processes are.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::sandbox::plan::container_plan;
use crate::sandbox::seccomp::{instance_filter, Arch, Sockets};
use crate::sandbox::tree::RESOLV_CONF;
use crate::{shim, sys};

const SHIM: &str = "shim";
const RESOLV_CONF_NAME: &str = "resolv.conf";
/// The program, and the plan for it, with which a container with outbound network begins.
pub(super) const LAUNCHER: &str = "launch";
pub(super) const PLAN: &str = "outbound.plan";
/// Where containers have the socket on which the server waits for them (`launch`).
const LAUNCH_SOCKET: &str = "/faas/run/launch";
const SHIM_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o444;
const PROGRAM_MODE: u32 = 0o555;

/// Makes the directory ready for a server that starts: what containers of an earlier one have left goes, and the shim's
/// files are written unless they are there as they should be.
///
/// # Errors
/// Those of the file system.
pub fn prepare(directory: &Path) -> io::Result<()> {
    make_directory(directory, 0o700)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name() != SHIM {
            remove(&entry.path())?;
        }
    }
    let shim = shim_directory(directory);
    if !is_whole(&shim) {
        remove(&shim)?;
        write(&shim)?;
    }
    Ok(())
}

/// Where the shim's files are on the host: what containers have at `/faas/shim`.
pub fn shim_directory(directory: &Path) -> PathBuf {
    directory.join(SHIM)
}

/// Where the file is on the host that containers with outbound network have as `/etc/resolv.conf`.
pub fn resolv_conf(directory: &Path) -> PathBuf {
    shim_directory(directory).join(RESOLV_CONF_NAME)
}

/// Makes a directory with this mode, whatever the server's umask is. One that is there is given the mode.
pub(super) fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Name, mode and content of every file.
fn files() -> Vec<(&'static str, u32, Cow<'static, [u8]>)> {
    let scripts = shim::FILES.iter().map(|(name, text)| (*name, FILE_MODE, text.as_bytes().into()));
    // On another processor there is no filter, and a plan with an empty one fails.
    let filter = Arch::native().map(|arch| instance_filter(arch, Sockets::Brokered)).unwrap_or_default();
    let others = [
        (RESOLV_CONF_NAME, FILE_MODE, RESOLV_CONF.as_bytes().into()),
        (LAUNCHER, PROGRAM_MODE, sys::native::LAUNCHER.into()),
        (PLAN, FILE_MODE, container_plan(Path::new(LAUNCH_SOCKET), &filter).encode().into()),
    ];
    scripts.chain(others).collect()
}

fn write(shim: &Path) -> io::Result<()> {
    make_directory(shim, SHIM_MODE)?;
    for (name, mode, content) in files() {
        let path = shim.join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        file.write_all(&content)?;
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Whether the directory has exactly the files that it should have. One that was cut off by the end of a server, or that
/// another version has written, has not.
fn is_whole(shim: &Path) -> bool {
    let is = |path: &Path, kind: fn(&fs::Metadata) -> bool, mode: u32| {
        fs::symlink_metadata(path).is_ok_and(|found| kind(&found) && found.permissions().mode() & 0o7777 == mode)
    };
    let names = || -> io::Result<Vec<OsString>> { fs::read_dir(shim)?.map(|entry| Ok(entry?.file_name())).collect() };
    let files = files();
    let is_file = |(name, mode, content): &(&str, u32, Cow<'_, [u8]>)| {
        let path = shim.join(name);
        is(&path, fs::Metadata::is_file, *mode) && fs::read(&path).is_ok_and(|found| found == **content)
    };
    is(shim, fs::Metadata::is_dir, SHIM_MODE)
        && names().is_ok_and(|names| names.len() == files.len())
        && files.iter().all(is_file)
}

/// Removes whatever has this name, links not followed.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn content(shim: &Path) -> Vec<(OsString, Vec<u8>)> {
        let mut found: Vec<_> = fs::read_dir(shim)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap()))
            .collect();
        found.sort();
        found
    }

    #[test]
    fn the_shim_is_there_for_everybody_in_a_directory_for_us_alone() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("containers");
        prepare(&directory).unwrap();
        let shim = shim_directory(&directory);
        assert_eq!((mode(&directory), mode(&shim)), (0o700, 0o755));
        let file = |(name, _, content): (&str, u32, Cow<'_, [u8]>)| (OsString::from(name), content.into_owned());
        let mut wanted: Vec<_> = files().into_iter().map(file).collect();
        wanted.sort();
        assert_eq!(content(&shim), wanted);
        for (name, _) in &wanted {
            assert_eq!(mode(&shim.join(name)), if name == "launch" { 0o555 } else { 0o444 }, "{name:?}");
        }
        assert!(wanted.iter().any(|(name, _)| name == "container.py"));
    }

    #[test]
    fn what_is_not_as_it_should_be_is_written_anew_and_what_is_stays() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("containers");
        prepare(&directory).unwrap();
        let shim = shim_directory(&directory);
        let (wire, wanted) = (shim.join("wire.py"), content(&shim));
        let inode = || fs::symlink_metadata(&shim).unwrap().ino();
        let untouched = inode();
        prepare(&directory).unwrap();
        assert_eq!(inode(), untouched);
        let elsewhere = state.path().join("elsewhere");
        fs::write(&elsewhere, "not ours").unwrap();
        let damages: [&dyn Fn(); 7] = [
            &|| {
                fs::remove_file(&wire).unwrap();
                fs::write(&wire, "raise SystemExit\n").unwrap();
                fs::set_permissions(&wire, Permissions::from_mode(FILE_MODE)).unwrap();
            },
            &|| fs::remove_file(&wire).unwrap(),
            &|| fs::write(shim.join("json.py"), "").unwrap(),
            &|| fs::set_permissions(&wire, Permissions::from_mode(0o600)).unwrap(),
            &|| fs::set_permissions(&shim, Permissions::from_mode(0o700)).unwrap(),
            &|| {
                fs::remove_file(&wire).unwrap();
                std::os::unix::fs::symlink(&elsewhere, &wire).unwrap();
            },
            &|| {
                fs::remove_dir_all(&shim).unwrap();
                std::os::unix::fs::symlink(state.path(), &shim).unwrap();
            },
        ];
        for (number, damage) in damages.iter().enumerate() {
            damage();
            prepare(&directory).unwrap();
            assert_eq!((content(&shim) == wanted, mode(&shim)), (true, 0o755), "damage {number}");
            assert_eq!(mode(&wire), 0o444, "damage {number}");
        }
        assert_eq!(fs::read(&elsewhere).unwrap(), b"not ours");
    }

    #[test]
    fn what_earlier_containers_left_is_gone() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("containers");
        fs::create_dir_all(directory.join("i3-17/deeper")).unwrap();
        fs::write(directory.join("i3-17/launch"), "").unwrap();
        fs::write(directory.join("a file"), "").unwrap();
        prepare(&directory).unwrap();
        let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [SHIM]);
    }
}
