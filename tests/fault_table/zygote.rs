//! A zygote that is killed: warm functions do not notice, and cold ones hardly.

use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::json;

use super::common::host::{zombies, zygotes};
use super::common::{eventually, patience};
use super::scene::{note_troubles, Scene, QUICK};
use super::table::{lessened, sized, Row};

#[test]
fn a_killed_zygote_fails_no_warm_request_and_is_there_again_at_once() {
    let Some(mut row) = Row::of("kill -9 of the zygote") else { return };
    let scene = Scene::set(&mut row, "", QUICK, 2);
    let server = &scene.server;
    let load = scene.load();
    let mut slowest = Duration::ZERO;
    let rounds = sized(50, 4);
    for _ in 0..rounds {
        let old = eventually("there is a zygote", || zygotes(server.pid()).first().copied());
        let killed = Instant::now();
        kill(Pid::from_raw(old as i32), Signal::SIGKILL).unwrap();
        let new = loop {
            assert!(killed.elapsed() < patience(), "no new zygote");
            match zygotes(server.pid()).iter().find(|&&pid| pid != old) {
                Some(&new) => break new,
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        assert_ne!(old, new);
        slowest = slowest.max(killed.elapsed());
    }
    let account = load.stop();
    row.exactly("failed warm requests", account.failed(), 0);
    let throughput = account.throughput(Duration::ZERO, account.lasted);
    row.percent_at_least("throughput of L", throughput / scene.rate * 100.0, lessened(90.0));
    row.within("a new zygote", slowest, Duration::from_millis(500));
    let dead = eventually("the dead are buried", || zombies(server.pid()).is_empty().then_some(0));
    row.exactly("zombies", dead, 0);
    server.deploy("cold", QUICK, json!({}));
    row.holds("a cold start works afterwards", server.invoke("cold", "").status == 200);
    note_troubles(&mut row, &account);
    row.end();
}
