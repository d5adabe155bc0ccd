//! Where the control groups of this process are: a pure reading of `/proc/self/mountinfo` and `/proc/self/cgroup`.
//!
//! Three layouts are in use: v2 alone, v1 with one hierarchy per controller (or several in one), and hybrid, where v1
//! hierarchies hold the controllers and a v2 tree stands beside them, usually without any. The v1 hierarchies are
//! known by the names in their mount options; which controllers a v2 tree offers must be read from the tree itself.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::Controller;

/// Which interface a hierarchy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One of several trees, each with its controllers.
    V1,
    /// The unified tree.
    V2,
}

/// A mounted hierarchy that this process belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its interface.
    pub version: Version,
    /// Of those we use, the controllers it holds; empty for v2, whose files say it.
    pub controllers: Vec<Controller>,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The directory of the group that this process is in.
    pub own: PathBuf,
    /// Whether it is mounted read-only, as it is in most containers.
    pub read_only: bool,
}

struct Mount<'a> {
    root: PathBuf,
    point: PathBuf,
    version: Version,
    options: Vec<&'a str>,
    read_only: bool,
}

/// Reads the two files. Lines that cannot be understood are skipped: a controller not found is reported as missing.
pub fn discover(mountinfo: &str, self_cgroup: &str) -> Vec<Hierarchy> {
    let mounts: Vec<Mount<'_>> = mountinfo.lines().filter_map(parse_mount).collect();
    self_cgroup.lines().filter_map(|line| hierarchy(line, &mounts)).collect()
}

/// One line of `/proc/self/cgroup`, `4:memory:/path` or `0::/path`, and the mount that shows it.
fn hierarchy(line: &str, mounts: &[Mount<'_>]) -> Option<Hierarchy> {
    let mut fields = line.splitn(3, ':');
    let (id, names, path) = (fields.next()?, fields.next()?, fields.next()?);
    let version = if id == "0" && names.is_empty() { Version::V2 } else { Version::V1 };
    let controllers: Vec<Controller> = names.split(',').filter_map(Controller::from_name).collect();
    if version == Version::V1 && controllers.is_empty() {
        return None;
    }
    let shows = |mount: &&Mount<'_>| {
        mount.version == version && controllers.iter().all(|controller| mount.options.contains(&controller.name()))
    };
    // A later mount on the same place hides an earlier one; a writable one elsewhere is better than a read-only one.
    let visible = |mount: &&Mount<'_>| {
        mounts.iter().rev().find(|other| other.point == mount.point).is_some_and(|last| std::ptr::eq(last, *mount))
    };
    let candidates = || mounts.iter().filter(shows).filter(visible);
    let mount = candidates().find(|mount| !mount.read_only).or_else(|| candidates().next())?;
    let own = mount.point.join(below_root(Path::new(path), &mount.root));
    let (mount_point, read_only) = (mount.point.clone(), mount.read_only);
    Some(Hierarchy { version, controllers, mount_point, own, read_only })
}

/// The part of `path` below the directory that is mounted. A path outside of it (a container that sees its own group
/// as the mount, but the host's names in `/proc/self/cgroup`) is the mount itself.
fn below_root<'a>(path: &'a Path, root: &Path) -> &'a Path {
    path.strip_prefix(root).ok().filter(|rest| !rest.starts_with("..")).unwrap_or(Path::new(""))
}

/// `36 35 98:0 /root /mount/point rw,nosuid shared:1 - cgroup cgroup rw,memory`
fn parse_mount(line: &str) -> Option<Mount<'_>> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, point, mount_options) = (place.next()?, place.next()?, place.next()?);
    let mut kind = kind.split(' ');
    let version = match kind.next()? {
        "cgroup" => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    let options: Vec<&str> = kind.nth(1).unwrap_or_default().split(',').collect();
    let read_only = options.contains(&"ro") || mount_options.split(',').any(|option| option == "ro");
    Some(Mount { root: unescape(root), point: unescape(point), version, options, read_only })
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let octal = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(plain).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Controller::{Cpu, CpuAcct, Memory, Pids};

    fn found(mountinfo: &str, cgroup: &str) -> Vec<(Version, Vec<Controller>, String, bool)> {
        discover(mountinfo, cgroup)
            .into_iter()
            .map(|h| (h.version, h.controllers, h.own.display().to_string(), h.read_only))
            .collect()
    }

    #[test]
    fn systemd_session_on_v2() {
        let mounts = "\
            22 28 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw\n\
            29 22 0:25 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n\
            30 22 0:26 / /sys/fs/pstore rw,nosuid shared:10 - pstore pstore rw\n";
        let group = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-u12.scope\n";
        let own = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/run-u12.scope";
        assert_eq!(found(mounts, group), [(Version::V2, vec![], own.into(), false)]);
    }

    #[test]
    fn docker_container_on_v2_sees_its_own_group_read_only() {
        let mounts = "\
            689 688 0:30 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate\n";
        assert_eq!(found(mounts, "0::/\n"), [(Version::V2, vec![], "/sys/fs/cgroup/".into(), true)]);
    }

    #[test]
    fn docker_container_on_v1_sees_host_names_and_a_part_of_the_tree() {
        let mounts = "\
            700 699 0:33 /docker/0123abcd /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n\
            701 699 0:34 /docker/0123abcd /sys/fs/cgroup/pids ro,nosuid - cgroup cgroup rw,pids\n";
        let group = "9:pids:/docker/0123abcd\n4:memory:/docker/0123abcd/inner\n";
        assert_eq!(
            found(mounts, group),
            [
                (Version::V1, vec![Pids], "/sys/fs/cgroup/pids/".into(), true),
                (Version::V1, vec![Memory], "/sys/fs/cgroup/memory/inner".into(), true)
            ]
        );
        assert_eq!(found(mounts, "9:pids:/elsewhere\n")[0].2, "/sys/fs/cgroup/pids/");
        assert_eq!(found(mounts, "9:pids:/../..\n")[0].2, "/sys/fs/cgroup/pids/");
    }

    #[test]
    fn v1_with_cpu_and_cpuacct_in_one_hierarchy() {
        let mounts = "\
            31 24 0:27 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd\n\
            34 24 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:14 - cgroup cgroup rw,cpu,cpuacct\n\
            35 24 0:31 / /sys/fs/cgroup/cpuset rw,nosuid shared:15 - cgroup cgroup rw,cpuset\n\
            38 24 0:34 / /sys/fs/cgroup/memory rw,nosuid shared:18 - cgroup cgroup rw,memory\n";
        let group = "\
            11:memory:/user.slice\n5:cpuset:/\n3:cpu,cpuacct:/user.slice\n1:name=systemd:/user.slice/session-1.scope\n";
        assert_eq!(
            found(mounts, group),
            [
                (Version::V1, vec![Memory], "/sys/fs/cgroup/memory/user.slice".into(), false),
                (Version::V1, vec![Cpu, CpuAcct], "/sys/fs/cgroup/cpu,cpuacct/user.slice".into(), false)
            ]
        );
    }

    #[test]
    fn hybrid_with_split_controllers_and_an_empty_v2_tree() {
        let mounts = "\
            31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
            33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let group = "8:pids:/\n4:memory:/jobs/1\n2:cpuacct:/\n1:cpu:/\n0::/\n";
        assert_eq!(
            found(mounts, group),
            [
                (Version::V1, vec![Pids], "/sys/fs/cgroup/pids/".into(), false),
                (Version::V1, vec![Memory], "/sys/fs/cgroup/memory/jobs/1".into(), false),
                (Version::V1, vec![CpuAcct], "/sys/fs/cgroup/cpuacct/".into(), false),
                (Version::V1, vec![Cpu], "/sys/fs/cgroup/cpu/".into(), false),
                (Version::V2, vec![], "/sys/fs/cgroup/unified/".into(), false)
            ]
        );
    }

    #[test]
    fn a_hidden_mount_is_not_used_and_a_writable_one_is_preferred() {
        let mounts = "\
            1 0 0:1 / /a rw - cgroup2 none rw\n\
            2 0 0:1 / /a ro - cgroup2 none rw\n\
            3 0 0:1 / /with\\040space\\134 rw - cgroup2 none rw\n";
        assert_eq!(found(mounts, "0::/x\n"), [(Version::V2, vec![], "/with space\\/x".into(), false)]);
    }

    #[test]
    fn text_that_makes_no_sense_finds_nothing() {
        for (mounts, group) in [("", ""), ("1 2 3 - cgroup2", "0::/"), (" - ", "::"), ("x", "0"), ("\\", "4:memory")] {
            assert_eq!(found(mounts, group), []);
        }
    }
}
