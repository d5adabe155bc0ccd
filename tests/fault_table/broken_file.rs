//! A configuration that is broken is read again and again while the server is under load.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::common::eventually;
use super::scene::{note_troubles, Scene, QUICK};
use super::table::{sized, Row};

/// Ways to break a file. Each also takes the key away that the load uses, should any part of it be believed.
const BROKEN: [&str; 6] = [
    "  well_known_keys: false\n  pool_sise: 3\n",
    "  well_known_keys: false\n  drain_timeout: soon\n",
    "  well_known_keys: false\n  [\n",
    "  well_known_keys: false\n\u{0}\u{1}\n",
    "  well_known_keys: false\nlimits:\n  max_connections: 0\n",
    "  well_known_keys: false\nfunctions:\n  f:\n    source: nowhere.py\n",
];

#[test]
fn a_broken_configuration_changes_nothing_and_is_said_to_be_broken() {
    let Some(mut row) = Row::of("configuration reload with a broken file") else { return };
    let scene = Scene::set(&mut row, "", QUICK, 4);
    let server = &scene.server;
    let file = server.home.path().join("faas.yaml");
    let good = std::fs::read_to_string(&file).unwrap().trim_end().to_owned() + "\n";
    let complaints = || server.home.log().matches("nothing is changed").count();
    let load = scene.load();
    let turns = sized(300, 18);
    let mut refused = 0;
    for turn in 0..turns {
        let broken = format!("{good}{}", BROKEN[turn % BROKEN.len()]);
        match turn % 10 {
            9 => std::fs::remove_file(&file).unwrap(),
            _ => std::fs::write(&file, broken).unwrap(),
        }
        let before = complaints();
        if turn % 2 == 0 {
            let reply = server.send("POST", "/admin/reload", &[("Authorization", "Bearer admin-key")], b"");
            refused += u64::from(reply.status == 400 && reply.code() == "configuration_refused");
        } else {
            server.signal(Signal::SIGHUP);
        }
        eventually("a complaint in the log", || (complaints() > before).then_some(()));
    }
    let account = load.stop();
    row.exactly("refused with the error in the answer", refused, turns as u64 / 2);
    row.exactly("errors in the log, of these and of signals", complaints() as u64, turns as u64);
    row.exactly("failed requests", account.failed(), 0);
    let kept = account.throughput(Duration::ZERO, account.lasted) / scene.rate * 100.0;
    row.note(format!("throughput of L: {kept:.1} %"));
    std::fs::write(&file, good).unwrap();
    let reply = server.send("POST", "/admin/reload", &[("Authorization", "Bearer admin-key")], b"");
    row.holds("the good file is taken", reply.status == 200 && server.invoke("f", "").status == 200);
    note_troubles(&mut row, &account);
    row.end();
}
