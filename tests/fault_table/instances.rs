//! Instances that are killed from outside, as the kernel kills what has taken too much memory.

use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use super::account::Fate;
use super::scene::{kill_if_alive, note_troubles, Scene, BUSY};
use super::table::{lessened, sized, Row};

#[test]
fn a_random_instance_killed_ten_times_a_second_costs_the_calls_that_it_had_begun() {
    let Some(mut row) = Row::of("kill -9 of a random instance, 10 a second") else { return };
    let scene = Scene::set(&mut row, "", BUSY, 8);
    let load = scene.load();
    let (begun, time) = (Instant::now(), sized(Duration::from_secs(60), Duration::from_secs(3)));
    let (mut killed, mut random) = (0, 0x9e37_79b9_7f4a_7c15_u64);
    for turn in 1.. {
        if begun.elapsed() >= time {
            break;
        }
        let instances = scene.server.instances("f");
        let serving: Vec<_> = instances.iter().filter(|it| it["state"] == "busy" || it["state"] == "idle").collect();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if let Some(instance) = serving.get((random >> 33) as usize % serving.len().max(1)) {
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
    row.within_or_never("95 % of the throughput back", slowest, Duration::from_secs(2));
    row.at_most("failed requests", account.failed(), killed as u64);
    note_troubles(&mut row, &account);
    row.end();
}
