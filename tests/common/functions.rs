//! What the tests of functions add to the server of a test: calls, logs and instances by a function's name.

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::Value;

use super::mode::can_run_functions;
use super::{eventually, Reply, Server};

/// A server on which functions run, or `None` after saying why there can be none.
pub fn sandboxed(system: &str, rest: &str) -> Option<Server> {
    if !can_run_functions() {
        return None;
    }
    // Few sandboxes in stock: most tests need one or two, and many servers run at once.
    let pool = if system.contains("pool_size") { "" } else { "pool_size: 2\n" };
    Some(Server::with(&format!("{pool}{system}"), rest))
}

impl Server {
    /// Calls a function with this body.
    pub fn invoke(&self, name: &str, body: &str) -> Reply {
        self.post(&format!("/invoke/{name}"), body)
    }

    /// Calls a function and expects its answer to be JSON with status 200.
    pub fn answer(&self, name: &str, body: &str) -> Value {
        let reply = self.invoke(name, body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// Calls a function that fails: status, code and detail.
    pub fn failure(&self, name: &str, body: &str) -> (u16, String, String) {
        let reply = self.invoke(name, body);
        let code = reply.code();
        (reply.status, code, reply.json()["detail"].as_str().unwrap().to_owned())
    }

    /// The newest thousand entries of a function's log, oldest first.
    pub fn logs(&self, name: &str) -> Vec<Value> {
        self.logs_where(name, "limit=1000")
    }

    pub fn logs_where(&self, name: &str, query: &str) -> Vec<Value> {
        let reply = self.get(&format!("/functions/{name}/logs?{query}"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        list(&reply.json()["entries"])
    }

    /// The counters of a function.
    pub fn stats(&self, name: &str) -> Value {
        let reply = self.get(&format!("/stats/functions/{name}"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// The instances of a function, in whatever state.
    pub fn instances(&self, name: &str) -> Vec<Value> {
        let all = list(&self.get("/instances").json()["instances"]);
        all.into_iter().filter(|instance| instance["function"] == name).collect()
    }

    /// Waits until exactly so many instances of the function are there and ready for a call.
    pub fn await_idle(&self, name: &str, count: usize) -> Vec<Value> {
        eventually("the instances are idle", || {
            let instances = self.instances(name);
            let idle = instances.iter().all(|instance| instance["state"] == "idle");
            (instances.len() == count && idle).then_some(instances)
        })
    }

    /// Waits until the instance is gone.
    pub fn await_end(&self, name: &str, id: &Value) {
        eventually("the instance is gone", || self.instances(name).iter().all(|it| it["id"] != *id).then_some(()));
    }

    /// Waits until the function has printed this. A call runs, as the server counts, when it was sent to an instance; only
    /// what the function itself does shows that it has begun, and that no other instance can be given it instead.
    pub fn await_print(&self, name: &str, line: &str) {
        eventually("the function prints", || self.logs(name).iter().any(|it| it["message"] == line).then_some(()));
    }

    /// Waits until so many calls of the function run, and so many wait.
    pub fn await_load(&self, name: &str, running: u64, queued: u64) {
        eventually("the calls are where they should be", || {
            let stats = self.stats(name);
            (stats["running"] == running && stats["queued"] == queued).then_some(())
        });
    }
}

/// Ends the process of an instance as the kernel would.
pub fn kill_instance(instance: &Value) {
    let pid = i32::try_from(instance["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

/// A list in a JSON document.
pub fn list(value: &Value) -> Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("a list: {value}")).clone()
}
