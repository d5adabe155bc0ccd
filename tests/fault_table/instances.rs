//! Instances that are killed from outside, as the kernel kills what has taken too much memory.

use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use super::account::Fate;
use super::common::{eventually, Random};
use super::load::{load_for, Pace, Plan};
use super::scene::{kill_if_alive, note_troubles, Scene, BUSY};
use super::table::{lessened, sized, time, Row};

#[test]
fn a_random_instance_killed_ten_times_a_second_costs_the_calls_that_it_had_begun() {
    let Some(mut row) = Row::of("kill -9 of a random instance, 10 a second") else { return };
    let scene = Scene::set(&mut row, "", BUSY, 8);
    let load = scene.load();
    let (begun, time) = (Instant::now(), sized(Duration::from_secs(60), Duration::from_secs(3)));
    let (mut killed, mut random) = (0, Random(0x9e37_79b9_7f4a_7c15));
    for turn in 1.. {
        if begun.elapsed() >= time {
            break;
        }
        let instances = scene.server.instances("f");
        if let Some(instance) = instances.get(random.below(instances.len())) {
            killed += u64::from(kill_if_alive(instance));
        }
        std::thread::sleep((Duration::from_millis(100) * turn).saturating_sub(begun.elapsed()));
    }
    let account = load.stop();
    row.note(format!("killed: {killed}"));
    row.at_most("failed requests", account.failed(), killed);
    row.exactly("of these without an answer", account.lost(), 0);
    row.exactly("answered but not 502", account.failed() - account.lost() - account.answered(502), 0);
    row.within("slowest 502", account.slowest(|it| it.fate == Fate::Answered(502)), Duration::from_secs(1));
    note_troubles(&mut row, &account);
    row.end();
}

#[test]
fn every_instance_killed_at_once_is_made_up_for_again_and_again() {
    let Some(mut row) = Row::of("kill -9 of every instance at once") else { return };
    let scene = Scene::set(&mut row, "", BUSY, 16);
    let load = scene.load();
    let (mut faults, mut killed) = (Vec::new(), 0);
    for _ in 0..sized(20, 3) {
        let instances: Vec<_> = scene.server.instances("f").into_iter().filter_map(|it| it["pid"].as_i64()).collect();
        faults.push(load.now());
        // All at once: nothing is looked at in between.
        killed += instances.into_iter().filter(|&pid| kill(Pid::from_raw(pid as i32), Signal::SIGKILL).is_ok()).count();
        std::thread::sleep(Duration::from_secs(3));
    }
    let account = load.stop();
    let back: Vec<_> = faults.iter().map(|&fault| account.back_within(fault, lessened(0.95) * scene.rate)).collect();
    let slowest = back.iter().copied().max_by_key(|time| time.unwrap_or(Duration::MAX)).unwrap();
    row.note(format!("killed: {killed}"));
    let pauses = faults.iter().map(|&fault| account.longest_pause(fault, fault + Duration::from_secs(3)));
    row.note(format!("longest time without an answer: {}", time(pauses.max().unwrap())));
    row.within_or_never("95 % of the throughput back", slowest, Duration::from_secs(2));
    row.at_most("failed requests", account.failed(), killed as u64);
    note_troubles(&mut row, &account);
    row.end();
}

#[test]
fn idle_instances_that_are_killed_at_once_do_not_keep_the_next_call_waiting() {
    let Some(mut row) = Row::of("kill -9 of every idle instance at once") else { return };
    let Scene { server, .. } = Scene::set(&mut row, "", BUSY, 16);
    let (mut slowest, mut taken, mut failed, mut killed) = (Duration::ZERO, 0, 0, 0);
    for _ in 0..sized(20, 3) {
        // As many as there can be, and none of them at work.
        load_for(&server, Plan::invoking("f", 32, Pace::AsAnswered), Duration::from_millis(500));
        let instances = eventually("all are idle", || {
            let instances = server.instances("f");
            instances.iter().all(|it| it["state"] == "idle").then_some(instances)
        });
        killed += instances.iter().filter(|it| kill_if_alive(it)).count();
        let called = Instant::now();
        let reply = server.invoke("f", "");
        taken += u64::from(reply.status == 502);
        failed += u64::from(reply.status != 200 && reply.status != 502);
        slowest = slowest.max(called.elapsed());
    }
    row.note(format!("killed: {killed}"));
    // The kernel still gives a datagram to a process that is told to die and has not been scheduled since.
    row.at_most("502 for calls that a dying instance took", taken, killed as u64);
    row.exactly("failed in another way", failed, 0);
    row.within("slowest call right afterwards", slowest, Duration::from_millis(500));
    row.end();
}
