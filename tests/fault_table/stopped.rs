//! Processes that are stopped (SIGSTOP) and so hang without dying: a zygote, an instance, the server itself.

use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::json;

use super::account::Fate;
use super::common::eventually;
use super::common::host::zygotes;
use super::scene::{note_troubles, Scene, BUSY, QUICK};
use super::table::{lessened, sized, Row};

#[test]
fn a_stopped_zygote_holds_up_cold_calls_to_their_deadlines_and_is_replaced() {
    let Some(mut row) = Row::of("SIGSTOP of the zygote") else { return };
    const DEADLINE: Duration = Duration::from_secs(2);
    let scene = Scene::set(&mut row, "pool_size: 2", BUSY, 4);
    let server = &scene.server;
    let cold: Vec<_> = (0..6).map(|number| format!("cold-{number}")).collect();
    for name in &cold {
        server.deploy(name, QUICK, json!({ "timeout": "2s" }));
    }
    let load = scene.load();
    let zygote = eventually("there is a zygote", || zygotes(server.pid()).first().copied());
    let stopped = Instant::now();
    kill(Pid::from_raw(zygote as i32), Signal::SIGSTOP).unwrap();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let calls: Vec<_> = cold
            .iter()
            .map(|name| {
                scope.spawn(move || {
                    let called = Instant::now();
                    (server.invoke(name, ""), called.elapsed())
                })
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let of_the_pool = answers.iter().filter(|(reply, _)| reply.status == 200).count() as u64;
    let put_off = answers.iter().filter(|(reply, _)| reply.status == 503 && reply.header("retry-after").is_some());
    row.exactly("cold calls answered, or told to try again", of_the_pool + put_off.count() as u64, cold.len() as u64);
    row.at_most("answered, from the pool", of_the_pool, 2);
    let slowest = answers.iter().map(|(_, time)| *time).max().unwrap();
    row.within("slowest of them, with a deadline of 2 s", slowest, DEADLINE + Duration::from_millis(250));
    // One that has no instance of the pool's.
    let still_cold = cold.iter().zip(&answers).find(|(_, (reply, _))| reply.status != 200).expect("a cold one").0;
    eventually("a cold call works again", || (server.invoke(still_cold, "").status == 200).then_some(()));
    // The time that a blank is given, and a start of Python.
    row.within("cold calls work again", stopped.elapsed(), Duration::from_secs(12));
    let account = load.stop();
    row.exactly("failed warm requests", account.failed(), 0);
    note_troubles(&mut row, &account);
    row.end();
}

#[test]
fn a_stopped_instance_costs_the_call_that_it_has_and_the_rest_goes_on() {
    let Some(mut row) = Row::of("SIGSTOP of an instance") else { return };
    const DEADLINE: Duration = Duration::from_secs(2);
    let scene = Scene::set(&mut row, "", BUSY, 8);
    let server = &scene.server;
    assert_eq!(server.call("PUT", "/functions/f", r#"{"config": {"timeout": "2s"}}"#).status, 200);
    let load = scene.load();
    let (mut shares, rounds) = (Vec::new(), sized(10, 2));
    for _ in 0..rounds {
        let instance = eventually("an instance at work", || {
            server.instances("f").into_iter().find(|it| it["state"] == "busy" && it["pid"].is_u64())
        });
        let pid = Pid::from_raw(instance["pid"].as_i64().unwrap() as i32);
        let stopped = load.now();
        kill(pid, Signal::SIGSTOP).unwrap();
        server.await_end("f", &instance["id"]);
        shares.push((stopped, load.now()));
    }
    let account = load.stop();
    row.at_most("failed requests", account.failed(), rounds);
    row.exactly("of these not 504 function_timeout", account.failed() - account.answered(504), 0);
    let slowest = account.slowest(|_| true);
    row.within("slowest answer, with a deadline of 2 s", slowest, DEADLINE + Duration::from_millis(250));
    let least = shares.iter().map(|&(from, to)| account.throughput(from, to)).fold(f64::MAX, f64::min);
    row.percent_at_least("throughput of L meanwhile", least / scene.rate * 100.0, lessened(95.0));
    let slow = account.count(|it| it.fate != Fate::Answered(504) && it.latency() > Duration::from_millis(500));
    row.at_most("others above 500 ms", slow, sized(0, account.sent() / 20));
    note_troubles(&mut row, &account);
    row.end();
}

#[test]
fn a_server_that_is_stopped_for_a_while_loses_no_request() {
    let Some(mut row) = Row::of("SIGSTOP of the server") else { return };
    let scene = Scene::set(&mut row, "", BUSY, 8);
    let load = scene.load();
    let mut resumptions = Vec::new();
    let pause = sized(Duration::from_secs(5), Duration::from_secs(1));
    for _ in 0..sized(5, 2) {
        scene.server.signal(Signal::SIGSTOP);
        std::thread::sleep(pause);
        resumptions.push(load.now());
        scene.server.signal(Signal::SIGCONT);
        std::thread::sleep(Duration::from_secs(2));
    }
    let account = load.stop();
    let back = resumptions.into_iter().map(|moment| account.back_within(moment, lessened(0.95) * scene.rate));
    let slowest = back.max_by_key(|time| time.unwrap_or(Duration::MAX)).unwrap();
    row.within_or_never("95 % of the throughput back", slowest, Duration::from_secs(1));
    row.exactly("failed requests", account.failed(), 0);
    note_troubles(&mut row, &account);
    row.end();
}
