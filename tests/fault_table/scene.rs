//! What several rows begin with: a server with a function that is worth a call, and its throughput.

use std::time::Duration;

use serde_json::json;

use super::account::{Account, Record};
use super::common::functions::kill_instance;
use super::common::host::is_alive;
use super::common::Server;
use super::load::{load_for, Load, Pace, Plan};
use super::table::{sized, time, Row};

/// Keep-alive connections of a load.
pub(crate) const CONNECTIONS: usize = 32;
/// The part of the throughput that is the load of most rows.
pub(crate) const PART: f64 = 0.7;

/// A function that answers at once: as many calls as the server can take, few of which are running at any moment.
pub(crate) const QUICK: &str = "def handle(request):\n    return 1";
/// A function that takes its time: at any moment most instances have begun a call.
pub(crate) const BUSY: &str = "def handle(request):\n    time.sleep(0.004)\n    return 1";

/// Measures what a server answers on all connections, after a moment to warm up, in answers a second.
pub(crate) fn throughput_of(server: &Server, name: &str) -> f64 {
    let plan = Plan::invoking(name, CONNECTIONS, Pace::AsAnswered);
    load_for(server, plan.clone(), sized(Duration::from_secs(1), Duration::from_millis(300)));
    let time = sized(Duration::from_secs(5), Duration::from_secs(1));
    let account = load_for(server, plan, time);
    assert_eq!(account.failed(), 0, "before anything has happened: {}", account.troubles());
    account.throughput(Duration::ZERO, account.lasted)
}

/// A server whose function `f` is under load L: 70 % of its throughput.
pub(crate) struct Scene {
    pub(crate) server: Server,
    /// In requests a second.
    pub(crate) rate: f64,
}

impl Scene {
    /// The lines go into the `system:` section.
    pub(crate) fn set(row: &mut Row, system: &str, code: &str, max_instances: u32) -> Scene {
        let server = Server::with(system, "");
        server.deploy("f", code, json!({ "max_instances": max_instances }));
        let rate = PART * throughput_of(&server, "f");
        row.note(format!("L: {rate:.0} requests/s"));
        Scene { server, rate }
    }

    /// Starts the load and waits until it flows.
    pub(crate) fn load(&self) -> Load {
        let load = Load::start(&self.server, self.plan());
        load.await_answers(self.rate as u64 / 5);
        load
    }

    pub(crate) fn plan(&self) -> Plan {
        Plan::invoking("f", CONNECTIONS, Pace::PerSecond(self.rate))
    }
}

/// Kills an instance as the kernel would, unless it has ended already; whether it was there.
pub(crate) fn kill_if_alive(instance: &serde_json::Value) -> bool {
    let there = instance["pid"].as_u64().is_some_and(|pid| is_alive(pid as u32));
    if there {
        kill_instance(instance);
    }
    there
}

/// Notes what else came than good answers.
pub(crate) fn note_troubles(row: &mut Row, account: &Account) {
    let p99 = time(account.quantile(0.99, Record::is_good));
    row.note(format!("p99 {p99}; of {} requests: {}", account.sent(), account.troubles()));
}
