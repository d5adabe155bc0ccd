//! What thousands of slow clients cost those who are not.

use std::time::Duration;

use serde_json::json;

use super::account::{Account, Record};
use super::common::host::resident_bytes;
use super::common::{eventually, Server};
use super::load::{load_for, Pace, Plan};
use super::scene::{throughput_of, BUSY};
use super::slow::{answer_bytes, SlowClients};
use super::table::{sized, time, Row};

const MIB: u64 = 1 << 20;

#[test]
fn thousands_of_slow_connections_at_most_double_the_time_of_a_normal_request() {
    let Some(mut row) = Row::of("slow connections: heads, bodies, readers") else { return };
    let server = Server::with("", "");
    server.deploy("f", BUSY, json!({ "max_instances": 8 }));
    let large = format!("def handle(request):\n    return b'x' * {}", answer_bytes());
    server.deploy("large", &large, json!({ "max_instances": 2 }));
    // Half of what it can: the time of a request is then that of the request, and not that of a queue.
    let rate = throughput_of(&server, "f") / 2.0;
    let plan = Plan::invoking("f", 32, Pace::PerSecond(rate));
    let lasts = sized(Duration::from_secs(30), Duration::from_secs(3));
    let alone = load_for(&server, plan.clone(), lasts);
    let before = resident_bytes(server.pid());

    let count = sized(4000, 600);
    let slow = SlowClients::bring(&server, count, "large");
    eventually("the slow clients are there", || (slow.connected() == count as u64).then_some(()));
    let company = load_for(&server, plan, lasts);
    row.note(format!("{} of {count} slow connections at the end", slow.connected()));
    row.note(format!("memory: {} MiB more", resident_bytes(server.pid()).saturating_sub(before) / MIB));
    let quantile = |of: &Account, share: f64| of.quantile(share, Record::is_good);
    row.note(format!("p50 {} alone, {} in company", time(quantile(&alone, 0.5)), time(quantile(&company, 0.5))));
    row.note(format!("p99 alone {}", time(quantile(&alone, 0.99))));
    // In the small size one moment in which others have the machine is a hundredth of all requests.
    let bar = (2 * quantile(&alone, 0.99)).max(sized(Duration::ZERO, Duration::from_millis(50)));
    row.within("p99 in company", quantile(&company, 0.99), bar);
    row.exactly("failed", company.failed(), 0);
    row.end();
}
