//! More load than there is capacity: what is refused, how fast, and what those feel who did not cause it.
//!
//! The capacity is that of the function's instances and not of the processors, which the load has to share with the
//! server here: ten times as many requests as the processors take cannot be sent from the same machine.

use std::time::{Duration, Instant};

use serde_json::json;

use super::account::{Account, Fate, Record};
use super::common::host::resident_bytes;
use super::common::{eventually, faults_in_full, Server};
use super::load::{load_for, Load, Pace, Plan};
use super::scene::{note_troubles, throughput_of, BUSY, PART, QUICK};
use super::table::{lessened, sized, time, Row};

const MIB: u64 = 1 << 20;

/// A server on which more connections than these queue calls of one function. The small one suits a debug build, which
/// looks over the whole queue at every event.
fn server() -> Server {
    Server::with("", &format!("limits:\n  max_queue_per_function: {}", sized(1024, 64)))
}

/// Ten times as many calls of a function as it can take, from more connections than may wait.
fn flood_of(name: &str, peak: f64) -> Plan {
    Plan::invoking(name, sized(2500, 300), Pace::PerSecond(10.0 * peak))
}

fn is_refusal(record: &Record) -> bool {
    matches!(record.fate, Fate::Answered(429 | 503))
}

/// The most memory that the server has for so long, in bytes.
fn most_memory(server: &Server, lasts: Duration) -> u64 {
    let (begun, mut most) = (Instant::now(), 0);
    while begun.elapsed() < lasts {
        most = most.max(resident_bytes(server.pid()));
        std::thread::sleep(Duration::from_millis(50));
    }
    most
}

/// Everything that was refused was refused as it should be.
fn judge_refusals(row: &mut Row, account: &Account) {
    let others = account.sent() - account.good() - account.count(is_refusal);
    row.exactly("neither answered nor refused", others, 0);
    row.exactly("refused without Retry-After", account.without_retry_after, 0);
    row.note(format!("refused {}", account.count(is_refusal)));
    row.within("p50 of refusals", account.quantile(0.5, is_refusal), Duration::from_millis(5));
    // The slowest are those for which the load generator had no processor: in the small size the tests of others have it.
    let p99 = account.quantile(0.99, is_refusal);
    if faults_in_full() {
        row.within("p99", p99, Duration::from_millis(5));
    } else {
        row.note(format!("p99 {}", time(p99)));
    }
}

#[test]
fn ten_times_the_load_costs_what_is_too_much_and_nothing_else() {
    let Some(mut row) = Row::of("ten times the load") else { return };
    let server = server();
    server.deploy("f", BUSY, json!({ "max_instances": sized(8, 1) }));
    let peak = throughput_of(&server, "f");
    let before = resident_bytes(server.pid());
    row.note(format!("peak: {peak:.0} good answers/s"));
    let plan = flood_of("f", peak);
    let lasts = sized(Duration::from_secs(60), Duration::from_secs(4));
    let flood = Load::start(&server, plan);
    let memory = most_memory(&server, lasts);
    // What the flood has left in the queue is there to be worked off.
    let load = Load::start(&server, Plan::invoking("f", 32, Pace::PerSecond(PART * peak)));
    let over = load.now();
    let account = flood.stop();
    let offered = account.sent() as f64 / account.lasted.as_secs_f64() / peak;
    row.note(format!("sent: {offered:.1} times as many"));
    let good = account.throughput(Duration::from_secs(1), account.lasted);
    row.percent_at_least("good answers, of the peak", good / peak * 100.0, lessened(90.0));
    judge_refusals(&mut row, &account);
    row.at_most("memory, MiB more", memory.saturating_sub(before) / MIB, 64);

    eventually("a while", || (load.now() > Duration::from_secs(7)).then_some(()));
    let after = load.stop();
    let back = after.back_within(over, lessened(0.95) * PART * peak);
    row.within_or_never("back to normal", back, Duration::from_secs(5));
    let late = after.count(|record| record.sent > Duration::from_secs(5) && !record.is_good());
    row.exactly("not answered after 5 s", late, 0);
    note_troubles(&mut row, &after);
    row.end();
}

#[test]
fn a_function_that_is_flooded_costs_the_others_nothing() {
    let Some(mut row) = Row::of("one function floods") else { return };
    let server = server();
    let others = ["a", "b", "c"];
    server.deploy("flooded", BUSY, json!({ "max_instances": sized(4, 1) }));
    others.iter().for_each(|name| drop(server.deploy(name, BUSY, json!({ "max_instances": sized(2, 1) }))));
    let peaks = others.map(|name| throughput_of(&server, name));
    let flooded = throughput_of(&server, "flooded");
    let flood = Load::start(&server, flood_of("flooded", flooded));
    flood.await_answers(flooded as u64);
    // Each of the others at 70 % of its own, all at once.
    let loads = others.iter().zip(peaks);
    let loads = loads.map(|(name, peak)| Load::start(&server, Plan::invoking(name, 16, Pace::PerSecond(PART * peak))));
    let loads: Vec<_> = loads.collect();
    let lasts = sized(Duration::from_secs(30), Duration::from_secs(3));
    eventually("a while", || (loads[0].now() > lasts).then_some(()));
    let accounts: Vec<_> = loads.into_iter().map(Load::stop).collect();
    let flood = flood.stop();
    for ((name, peak), account) in others.iter().zip(peaks).zip(&accounts) {
        let kept = account.throughput(Duration::ZERO, account.lasted) / (PART * peak) * 100.0;
        row.percent_at_least(&format!("of L, function {name}"), kept, lessened(90.0));
        row.note(format!("p99 {}", time(account.quantile(0.99, Record::is_good))));
        row.exactly("failed", account.failed(), 0);
    }
    row.note(format!("the flood: {:.0}/s", flood.sent() as f64 / flood.lasted.as_secs_f64()));
    judge_refusals(&mut row, &flood);
    row.end();
}

/// As many calls as the server can take of a function that answers at once: what is short is the processor.
#[test]
fn a_function_that_takes_the_whole_server_leaves_the_others_theirs() {
    let Some(mut row) = Row::of("one quick function takes all that the front can do") else { return };
    let server = Server::with("", "");
    server.deploy("flooded", QUICK, json!({ "max_instances": 2 }));
    server.deploy("a", BUSY, json!({ "max_instances": 2 }));
    let peak = throughput_of(&server, "a");
    let flood = Load::start(&server, Plan::invoking("flooded", 256, Pace::AsAnswered));
    flood.await_answers(1000);
    let plan = Plan::invoking("a", 16, Pace::PerSecond(PART * peak));
    let account = load_for(&server, plan, sized(Duration::from_secs(30), Duration::from_secs(3)));
    let flood = flood.stop();
    let kept = account.throughput(Duration::ZERO, account.lasted) / (PART * peak) * 100.0;
    row.percent_at_least("of L, the other function", kept, lessened(90.0));
    row.exactly("failed", account.failed() + flood.failed(), 0);
    row.note(format!("the flood: {:.0} answers/s", flood.throughput(Duration::ZERO, flood.lasted)));
    note_troubles(&mut row, &account);
    row.end();
}
