//! What is left on the host of a container that is gone: its entry at the engine, its control groups, its file system's
//! mount, its directory. Other tests use the same engine at the same time, so that single containers are looked for and
//! nothing is counted but the server's own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::common::engine::Engine;
use crate::common::eventually;
use crate::common::host::cgroup_directories;
use crate::common::mode::in_containers;

/// The containers of one server, as long as the test looks.
pub(crate) struct Containers {
    engine: &'static Engine,
    /// All of the server's have it, and no others.
    label: String,
    /// The directories in which containers have their control groups.
    groups: Vec<PathBuf>,
    /// How many there are when nothing happens: one that serves, and the stock.
    at_rest: usize,
    /// All that were ever seen, by their ids: where their file system is mounted, and their own directories.
    seen: RefCell<BTreeMap<String, Vec<PathBuf>>>,
}

impl Containers {
    /// Those of the server of which this process is an instance; none when functions run in processes.
    pub(crate) fn of(instance: u32) -> Option<Containers> {
        let engine = in_containers().then(Engine::shared)?.unwrap();
        let container = engine.container_of(instance).expect("the instance's container");
        let label = format!("faas.server={}", container["Config"]["Labels"]["faas.server"].as_str().unwrap());
        let groups = cgroup_directories(instance).iter().map(|group| group.parent().unwrap().to_owned()).collect();
        let at_rest = eventually("the stock is full", || {
            let all = engine.containers(&label);
            (all.len() == 3 && all.iter().all(|it| it["State"] == "running")).then_some(all.len())
        });
        Some(Containers { engine, label, groups, at_rest, seen: RefCell::default() })
    }

    /// Remembers those that are there.
    pub(crate) fn look(&self) {
        for container in self.engine.containers(&self.label) {
            let id = container["Id"].as_str().unwrap();
            if self.seen.borrow().contains_key(id) {
                continue;
            }
            let (status, about) = self.engine.call("GET", &format!("/containers/{id}/json"), &Value::Null);
            if status == 200 {
                let mounts = about["Mounts"].as_array().unwrap().iter();
                let own = mounts.filter(|mount| mount["Destination"] == "/faas/run").map(|mount| &mount["Source"]);
                let places = own.chain([&about["GraphDriver"]["Data"]["MergedDir"]]).filter_map(Value::as_str);
                self.seen.borrow_mut().insert(id.to_owned(), places.map(PathBuf::from).collect());
            }
        }
    }

    /// Waits until the server has just those containers that it has at rest, and of all others nothing is left.
    pub(crate) fn assert_nothing_is_left(&self, after: &str) {
        let left = || {
            let listed = self.engine.containers(&self.label);
            let running = listed.iter().filter(|it| it["State"] == "running").count();
            if (listed.len(), running) != (self.at_rest, self.at_rest) {
                return Some(format!("{} containers, of which {running} run", listed.len()));
            }
            let mut seen = self.seen.borrow_mut();
            let is_listed = |id: &String| listed.iter().any(|it| it["Id"] == **id);
            let mounts = self.mounts();
            let left = seen.iter().filter(|(id, _)| !is_listed(id)).find_map(|(id, places)| {
                let groups = self.groups.iter().map(|group| group.join(id)).filter(|group| group.exists());
                let mounted = places.iter().filter(|place| mounts.contains(place.to_str().unwrap()));
                let directories = places.iter().filter(|place| place.exists() && !place.ends_with("merged"));
                let left: Vec<_> = groups.chain(mounted.cloned()).chain(directories.cloned()).collect();
                (!left.is_empty()).then(|| format!("{left:?}"))
            });
            seen.retain(|id, _| left.is_some() || is_listed(id));
            left
        };
        let mut last = None;
        eventually(&format!("nothing is left of a container after {after}"), || {
            let now = left();
            if now != last {
                now.iter().for_each(|left| eprintln!("after {after} there are still {left}"));
            }
            last = now;
            last.is_none().then_some(())
        });
    }

    /// The mounts of the engine, if it is the tests' own.
    fn mounts(&self) -> String {
        let pid = std::fs::read_to_string(self.engine.socket().with_file_name("pid")).unwrap_or_default();
        std::fs::read_to_string(format!("/proc/{}/mountinfo", pid.trim())).unwrap_or_default()
    }
}
