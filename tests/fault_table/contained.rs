//! What the rows of container mode begin with: a server with a function in processes beside one in containers, each under a
//! load of its own, so that it can be said what an accident costs the one and the other.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use super::account::Account;
use super::account::Record;
use super::common::engine::Engine;
use super::common::{eventually, patience, Home, Reply, Server};
use super::load::{Load, Pace, Plan};
use super::scene::{throughput_of, BUSY, CONNECTIONS, PART, QUICK};
use super::table::{time, Row};

/// The deadline of cold calls.
pub(crate) const DEADLINE: Duration = Duration::from_secs(2);
/// Instances of each of the two.
const INSTANCES: u32 = 4;

/// See the module's documentation.
pub(crate) struct Pair {
    pub(crate) server: Server,
    /// Of each of the two, in requests a second.
    rate: f64,
}

/// Both loads.
pub(crate) struct Loads {
    processes: Load,
    containers: Load,
}

/// What became of both.
pub(crate) struct Accounts {
    pub(crate) processes: Account,
    pub(crate) containers: Account,
}

/// A config of a function in a container.
pub(crate) fn contained(mut config: Value) -> Value {
    config["execution_mode"] = "container".into();
    config
}

/// The lines of a server on this socket, with an image of the engine's.
pub(crate) fn lines(socket: &Path, image: &str, system: &str) -> String {
    format!("container_runtime: {}\nbase_image: {image}\npool_size: 2\n{system}", socket.display())
}

impl Pair {
    pub(crate) fn set(row: &mut Row, socket: &Path, image: &str, system: &str) -> Pair {
        let server = Server::on(Home::with(&lines(socket, image, system), ""));
        server.deploy("processes", BUSY, json!({ "max_instances": INSTANCES }));
        server.deploy("containers", BUSY, contained(json!({ "max_instances": INSTANCES, "min_instances": INSTANCES })));
        server.await_idle("containers", INSTANCES as usize);
        let rate = PART / 2.0 * throughput_of(&server, "processes").min(throughput_of(&server, "containers"));
        row.note(format!("L: {rate:.0} requests/s of each mode"));
        Pair { server, rate }
    }

    /// Starts both loads and waits until they flow.
    pub(crate) fn load(&self) -> Loads {
        let start = |name| {
            let load = Load::start(&self.server, Plan::invoking(name, CONNECTIONS / 2, Pace::PerSecond(self.rate)));
            load.await_answers(self.rate as u64 / 5);
            load
        };
        Loads { processes: start("processes"), containers: start("containers") }
    }

    /// Deploys a function that has to be started in a container for its next call.
    pub(crate) fn deploy_cold(&self, name: &str) {
        let config = contained(json!({ "timeout": "2s", "max_instances": 1 }));
        let body = json!({ "name": name, "code": QUICK, "config": config }).to_string();
        eventually("it is deployed", || (self.server.post("/functions", &body).status == 201).then_some(()));
    }

    /// Calls functions that have no instance, all at once: what came, and how long each took.
    pub(crate) fn call_cold(&self, names: &[String]) -> Vec<(Reply, Duration)> {
        std::thread::scope(|scope| {
            let calls = names.iter().map(|name| {
                scope.spawn(move || {
                    let called = Instant::now();
                    (self.server.invoke(name, ""), called.elapsed())
                })
            });
            let calls: Vec<_> = calls.collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        })
    }

    /// Calls until it is answered: how long that took from a moment on.
    pub(crate) fn answered_since(&self, name: &str, moment: Instant) -> Duration {
        let deadline = Instant::now() + patience();
        loop {
            let reply = self.server.invoke(name, "");
            if reply.status == 200 {
                return moment.elapsed();
            }
            assert!(reply.status == 503 && Instant::now() < deadline, "{name}: {}", reply.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Loads {
    pub(crate) fn stop(self) -> Accounts {
        Accounts { processes: self.processes.stop(), containers: self.containers.stop() }
    }
}

impl Accounts {
    /// What holds in every row: the function in processes has noticed nothing.
    pub(crate) fn note(&self, row: &mut Row) {
        row.exactly("failed requests in processes", self.processes.failed(), 0);
        for (mode, account) in [("processes", &self.processes), ("containers", &self.containers)] {
            let p99 = time(account.quantile(0.99, Record::is_good));
            row.note(format!("p99 in {mode} {p99} of {} requests", account.sent()));
        }
        if self.containers.failed() > 0 || self.containers.unsent > 0 {
            row.note(format!("in containers: {}", self.containers.troubles()));
        }
    }
}

/// Whether a call was put off: told to come again.
pub(crate) fn is_put_off(reply: &Reply) -> bool {
    reply.status == 503 && reply.header("retry-after").is_some()
}

/// The label of this server's containers, learnt from an instance of a function.
pub(crate) fn label_of(engine: &Engine, server: &Server, name: &str) -> String {
    let pid = server.instances(name)[0]["pid"].as_u64().unwrap() as u32;
    let container = engine.container_of(pid).expect("its container");
    format!("faas.server={}", container["Config"]["Labels"]["faas.server"].as_str().unwrap())
}

/// The engine that rows share which do not harm it; says why there is none.
pub(crate) fn shared_engine() -> Option<&'static Engine> {
    Engine::shared().map_err(super::common::skip).ok()
}
