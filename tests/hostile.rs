//! What is said to the server by those who attack it: by a function on its own channel, with intent (`channel`) and at
//! random (`storm`), and by clients over HTTP (`api`). Each attack meets a defined end, other functions still answer, and
//! nothing is left. `abuse.rs` is about what a function does to the sandbox. Every attack aims at a server that the test
//! itself started.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

#[path = "hostile/api.rs"]
mod api;
#[path = "hostile/channel.rs"]
mod channel;
mod common;
#[path = "hostile/storm.rs"]
mod storm;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use common::mode::{await_pool, can_run_functions, rest};
use common::{eventually, Reply, Server};
use serde_json::{json, Value};

/// What the code of most attacks begins with.
const FRAMES: &str = include_str!("hostile/frames.py");

/// A server with a function of somebody else's that has to go on answering, and how it was before the attack.
struct Scene {
    server: Server,
    descriptors: usize,
}

impl Scene {
    /// `None`, and a word why, where process mode cannot run at level `strict`.
    fn set() -> Option<Scene> {
        Scene::with("")
    }

    /// The same, with these lines in the `system:` section.
    fn with(system: &str) -> Option<Scene> {
        if !can_run_functions() {
            return None;
        }
        // One worker, so that whatever harms it harms the bystander; no pool that comes and goes.
        let server = Server::with(&format!("workers: 1\npool_size: 1\nlogging_level: DEBUG\n{system}"), "");
        let config = json!({"min_instances": 1, "max_instances": 1});
        server.deploy("bystander", "def handle(request): return request.get_json()", config);
        let mut scene = Scene { server, descriptors: 0 };
        scene.assert_others_answer();
        scene.descriptors = scene.quiet_descriptors();
        Some(scene)
    }

    /// Deploys the attack, after the prelude, and calls it.
    fn attack(&self, name: &str, code: &str, config: Value, body: &str) -> Reply {
        self.server.deploy(name, &format!("{FRAMES}\n{code}"), config);
        self.server.post(&format!("/invoke/{name}"), body)
    }

    fn assert_others_answer(&self) {
        // Each time something else, so that no answer but its own will do.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let own = NUMBER.fetch_add(1, Ordering::Relaxed).to_string();
        let reply = self.server.post("/invoke/bystander", &own);
        assert_eq!((reply.status, reply.text()), (200, own), "the bystander was harmed");
        assert_eq!(self.server.get("/health").status, 200);
    }

    /// After the attacker is deleted: no process of it, and no more descriptors open than before.
    fn assert_nothing_is_left_of(&self, name: &str) {
        assert_eq!(self.server.call("DELETE", &format!("/functions/{name}"), "").status, 204);
        self.assert_others_answer();
        eventually("the descriptors are back", || (self.open_descriptors() <= self.descriptors).then_some(()));
        eventually("only the bystander, a blank and the zygote are left", || {
            (descendants(self.server.pid()).len() <= 3).then_some(())
        });
    }

    fn open_descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.server.pid())).unwrap().count()
    }

    /// The number once the pool has been filled: it stays the same over some looks.
    fn quiet_descriptors(&self) -> usize {
        await_pool(&self.server);
        let (mut last, mut since) = (0, Instant::now());
        eventually("the server is quiet", || {
            let now = self.open_descriptors();
            if now != last {
                (last, since) = (now, Instant::now());
            }
            (since.elapsed() >= rest()).then_some(now)
        })
    }
}

/// Every process below `root`, by process id.
fn descendants(root: u32) -> Vec<u32> {
    let mut children = BTreeMap::<u32, Vec<u32>>::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        children.entry(parent.unwrap_or(0)).or_default().push(pid);
    }
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        found.extend(children.remove(&found[at]).unwrap_or_default());
        at += 1;
    }
    found.split_off(1)
}
