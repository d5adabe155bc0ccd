//! A zygote that is killed: warm functions do not notice, and cold ones hardly.

use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::json;

use super::common::eventually;
use super::common::host::{zombies, zygotes};
use super::scene::{note_troubles, Scene, QUICK};
use super::table::{lessened, sized, time, Row};

#[test]
fn a_killed_zygote_fails_no_warm_request_and_is_there_again_at_once() {
    let Some(mut row) = Row::of("kill -9 of the zygote") else { return };
    let scene = Scene::set(&mut row, "", QUICK, 2);
    let server = &scene.server;
    let load = scene.load();
    let (mut times, mut put_off) = (Vec::new(), 0);
    for round in 0..sized(50, 4) {
        let old = eventually("there is a zygote", || zygotes(server.pid()).first().copied());
        let killed = Instant::now();
        kill(Pid::from_raw(old as i32), Signal::SIGKILL).unwrap();
        // Code is looked at in a sandbox that has to be made now, so that this is not acknowledged by anything in stock.
        let body = json!({ "name": format!("new-{round}"), "code": QUICK }).to_string();
        eventually("a new zygote at work", || {
            let reply = server.post("/functions", &body);
            assert!(reply.status == 201 || reply.status == 503, "{}", reply.text());
            put_off += u64::from(reply.status == 503);
            (reply.status == 201).then_some(())
        });
        times.push(killed.elapsed());
        assert!(!zygotes(server.pid()).contains(&old));
    }
    let account = load.stop();
    row.exactly("failed warm requests", account.failed(), 0);
    let throughput = account.throughput(Duration::ZERO, account.lasted);
    row.percent_at_least("throughput of L", throughput / scene.rate * 100.0, lessened(90.0));
    times.sort_unstable();
    row.within("a new zygote at work", *times.last().unwrap(), Duration::from_millis(500));
    row.note(format!("half of the times within {}", time(times[times.len() / 2])));
    row.exactly("functions that were put off with 503 meanwhile", put_off, 0);
    let dead = eventually("the dead are buried", || zombies(server.pid()).is_empty().then_some(0));
    row.exactly("zombies", dead, 0);
    server.deploy("cold", QUICK, json!({}));
    row.holds("a cold start works afterwards", server.invoke("cold", "").status == 200);
    note_troubles(&mut row, &account);
    row.end();
}
