//! What the kernel counts of an instance, read back from its groups.
//!
//! This file knows in which of the kernel's files a figure stands, on v1 and on v2. Reading is for the API: it needs no
//! [`Cgroup`](super::Cgroup), so that any thread may do it, and it never fails. A figure that cannot be had, because
//! its controller is missing, this kernel does not tell it, or the instance has ended, is `None`.

use std::path::Path;

use super::{field, CgroupRoot, Controller, Group, Version};

/// What an instance uses, and what it may use, as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Memory in use, in bytes.
    pub memory_bytes: Option<u64>,
    /// The most that it was, since the sandbox was made. On v2 from Linux 5.19 on.
    pub memory_peak_bytes: Option<u64>,
    /// Memory that it may use, in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// Processor time used, in microseconds, since the sandbox was made. On v1 the controller `cpuacct` counts it.
    pub cpu_us: Option<u64>,
    /// How long it was kept from a processor by its quota, in microseconds; the times of its threads are added up.
    pub cpu_throttled_us: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    /// Processes and threads that it may have.
    pub tasks_limit: Option<u64>,
}

/// Where the figures of all instances are. The default is nowhere: a host without control groups.
#[derive(Debug, Clone, Default)]
pub struct FigureSource {
    groups: Vec<Group>,
}

impl CgroupRoot {
    /// Where to read the figures of instances, without holding their groups.
    pub fn figures(&self) -> FigureSource {
        FigureSource { groups: self.groups.clone() }
    }
}

impl FigureSource {
    /// All figures of the instance of this name: up to eight small reads, about 5 us each.
    pub fn read(&self, name: &str) -> Figures {
        let one = |controller, v1, v2| self.text(name, controller, v1, v2).and_then(|text| number(&text));
        let cpu = self.group(Controller::Cpu).map(|group| (group.version, read(&group.dir.join(name), "cpu.stat")));
        let v2_cpu = |key| match &cpu {
            Some((Version::V2, Some(stat))) => field(stat, key),
            _ => None,
        };
        Figures {
            memory_bytes: self.memory_bytes(name),
            memory_peak_bytes: one(Controller::Memory, "memory.max_usage_in_bytes", "memory.peak"),
            memory_limit_bytes: one(Controller::Memory, "memory.limit_in_bytes", "memory.max"),
            cpu_us: v2_cpu("usage_usec").or_else(|| Some(one(Controller::CpuAcct, "cpuacct.usage", "")? / 1000)),
            cpu_throttled_us: match &cpu {
                Some((Version::V1, Some(stat))) => field(stat, "throttled_time").map(|ns| ns / 1000),
                _ => v2_cpu("throttled_usec"),
            },
            tasks: one(Controller::Pids, "pids.current", "pids.current"),
            tasks_limit: one(Controller::Pids, "pids.max", "pids.max"),
        }
    }

    /// Memory in use by the instance of this name, in bytes.
    pub fn memory_bytes(&self, name: &str) -> Option<u64> {
        number(&self.text(name, Controller::Memory, "memory.usage_in_bytes", "memory.current")?)
    }

    /// Where the figures are of the group that this process is in, which somebody else has made: a container's. Read them
    /// by the name `""`. Nothing is found of a group that this process cannot see.
    pub fn of_process(&self, pid: u32) -> FigureSource {
        let memberships = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let groups = self.groups.iter().filter_map(|group| {
            let path = memberships.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let (names, path) = (parts.next()?, parts.next()?);
                let is_it = match group.version {
                    Version::V2 => names.is_empty(),
                    Version::V1 => group.controllers.iter().any(|one| names.split(',').any(|name| name == one.name())),
                };
                is_it.then_some(path.trim_start_matches('/'))
            })?;
            // The hierarchy is mounted somewhere above our own group.
            let dir = group.dir.ancestors().map(|above| above.join(path)).find(|dir| dir.is_dir())?;
            Some(Group { dir, ..group.clone() })
        });
        FigureSource { groups: groups.collect() }
    }

    fn group(&self, controller: Controller) -> Option<&Group> {
        self.groups.iter().find(|group| group.controllers.contains(&controller))
    }

    fn text(&self, name: &str, controller: Controller, v1: &str, v2: &str) -> Option<String> {
        let group = self.group(controller)?;
        let file = match group.version {
            Version::V1 => v1,
            Version::V2 => v2,
        };
        read(&group.dir.join(name), file)
    }
}

fn read(dir: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(dir.join(file)).ok()
}

/// `max` is no number: there is no limit then.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The groups of an instance `i` in one hierarchy with these files.
    fn source(
        version: Version,
        controllers: &[Controller],
        files: &[(&str, &str)],
    ) -> (tempfile::TempDir, FigureSource) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("i")).unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join("i").join(name), text).unwrap();
        }
        let group = Group { version, controllers: controllers.to_vec(), dir: directory.path().to_owned() };
        (directory, FigureSource { groups: vec![group] })
    }

    #[test]
    fn v2_tells_everything_in_its_own_files() {
        let files = [
            ("memory.current", "4096\n"),
            ("memory.peak", "8192\n"),
            ("memory.max", "65536\n"),
            ("cpu.stat", "usage_usec 1500000\nuser_usec 1\nnr_throttled 3\nthrottled_usec 250000\n"),
            ("pids.current", "2\n"),
            ("pids.max", "64\n"),
        ];
        let (_directory, source) = source(Version::V2, &Controller::ALL, &files);
        let expected = Figures {
            memory_bytes: Some(4096),
            memory_peak_bytes: Some(8192),
            memory_limit_bytes: Some(65536),
            cpu_us: Some(1_500_000),
            cpu_throttled_us: Some(250_000),
            tasks: Some(2),
            tasks_limit: Some(64),
        };
        assert_eq!(source.read("i"), expected);
        assert_eq!(source.read("gone"), Figures::default());
    }

    #[test]
    fn v1_counts_processor_time_in_nanoseconds_and_in_a_controller_of_its_own() {
        let files = [
            ("cpu.stat", "nr_periods 9\nnr_throttled 3\nthrottled_time 250000000\n"),
            ("cpuacct.usage", "1500000999\n"),
            ("memory.usage_in_bytes", "4096\n"),
            ("memory.max_usage_in_bytes", "8192\n"),
        ];
        let figures = |controllers: &[Controller]| {
            let (_directory, source) = source(Version::V1, controllers, &files);
            source.read("i")
        };
        let both = figures(&[Controller::Cpu, Controller::CpuAcct]);
        let expected = Figures { cpu_us: Some(1_500_000), cpu_throttled_us: Some(250_000), ..Figures::default() };
        assert_eq!(both, expected, "of the memory nothing is known without its controller");
        assert_eq!(figures(&[Controller::Cpu]).cpu_us, None);
        let memory = figures(&[Controller::Memory]);
        assert_eq!((memory.memory_bytes, memory.memory_peak_bytes), (Some(4096), Some(8192)));
    }

    #[test]
    fn what_an_older_kernel_does_not_tell_and_what_has_no_limit_is_none() {
        let files = [("memory.current", "4096\n"), ("memory.max", "max\n"), ("cpu.stat", "usage_usec 5\n")];
        let (_directory, source) = source(Version::V2, &Controller::ALL, &files);
        let expected = Figures { memory_bytes: Some(4096), cpu_us: Some(5), ..Figures::default() };
        assert_eq!(source.read("i"), expected);
        assert_eq!(FigureSource::default().read("i"), Figures::default());
    }
}
