//! The server itself ends: told to, or killed. And a second one comes while it is there.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use super::changes::{names, Changer, Differences};
use super::common::host::{cgroup_parents, descendants, is_alive};
use super::common::{command, patience, Home, Server};
use super::load::Load;
use super::scene::{note_troubles, Scene, BUSY, QUICK};
use super::table::{sized, slackened, time, Row};

#[test]
fn a_server_that_is_told_to_end_under_load_fails_no_request() {
    let Some(mut row) = Row::of("SIGTERM at L") else { return };
    const GRACE: Duration = Duration::from_secs(5);
    let scene = Scene::set(&mut row, "shutdown_grace: 5s", BUSY, 8);
    let (plan, rate) = (scene.plan(), scene.rate);
    let mut server = scene.server;
    let (mut slowest, mut sent, mut failed, mut troubles) = (Duration::ZERO, 0, 0, BTreeSet::new());
    for _ in 0..sized(50, 4) {
        let load = Load::start(&server, plan.clone());
        load.await_answers(rate as u64 / 5);
        let told = Instant::now();
        server.signal(Signal::SIGTERM);
        let (home, status) = server.ended();
        slowest = slowest.max(told.elapsed());
        let account = load.stop();
        assert!(status.success(), "{status}: {}", home.log());
        sent += account.sent();
        failed += account.failed();
        if account.failed() > 0 {
            troubles.insert(account.troubles());
        }
        server = Server::on(home);
    }
    row.exactly("failed requests", failed, 0);
    row.within("slowest end", slowest, GRACE + Duration::from_secs(1));
    row.note(format!("of {sent} requests"));
    troubles.iter().take(3).for_each(|troubles| row.note(troubles));
    row.end();
}

#[test]
fn no_acknowledged_change_is_lost_or_torn_by_killing_the_server_again_and_again() {
    let Some(mut row) = Row::of("kill -9 of the server during 50 changes a second") else { return };
    const CLIENTS: usize = 6;
    let pace = sized(Duration::from_secs(1) / 50 * CLIENTS as u32, Duration::ZERO);
    let mut server = Server::with("pool_size: 2", "");
    let others = sized(1000, 20);
    std::thread::scope(|scope| {
        for deployer in 0..4 {
            let server = &server;
            scope.spawn(move || {
                for number in (deployer..others).step_by(4) {
                    server.deploy(&format!("other-{number}"), QUICK, json!({}));
                }
            });
        }
    });
    let mut clients: Vec<_> = (0..CLIENTS).map(Changer::new).collect();
    let (mut worst, mut changing) = (Worst::default(), Duration::ZERO);
    for round in 0..sized(200, 20) {
        let below = descendants(server.pid());
        let groups = Groups::of(&server);
        let (ended, acknowledged) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for client in &mut clients {
                let (server, ended, acknowledged) = (&server, &ended, &acknowledged);
                scope.spawn(move || client.change(server, pace, ended, acknowledged));
            }
            let begun = Instant::now();
            // One at least that could be lost.
            while !acknowledged.load(Ordering::Relaxed) && begun.elapsed() < patience() {
                std::thread::sleep(Duration::from_millis(1));
            }
            // Every round is cut at another moment.
            std::thread::sleep(Duration::from_millis(13 * (round % 40)));
            changing += begun.elapsed();
            server.signal(Signal::SIGKILL);
            ended.store(true, Ordering::Relaxed);
        });
        let killed = Instant::now();
        let (home, _) = server.ended();
        let started = Instant::now();
        server = Server::on(home);
        worst.starts.push(started.elapsed());
        let reply = server.invoke("other-0", "");
        assert_eq!(reply.status, 200, "{}", reply.text());
        worst.answering = worst.answering.max(started.elapsed());
        worst.note_orphans(killed, &below, &groups);
        for client in &mut clients {
            let Differences { lost, torn } = client.compare(&server);
            worst.lost += lost;
            worst.torn += torn;
        }
        let known: usize = clients.iter().map(|client| client.functions().count()).sum();
        worst.unknown += names(&server).len().abs_diff(others + known) as u64;
        worst.mounts = worst.mounts.max(mounts_below(&server.home));
    }
    let made: u64 = clients.iter().map(|client| client.made).sum();
    row.note(format!("{:.0} acknowledged changes/s, {made} in all", made as f64 / changing.as_secs_f64()));
    row.exactly("acknowledged changes lost", worst.lost, 0);
    row.exactly("torn", worst.torn, 0);
    row.exactly("functions too many or too few", worst.unknown, 0);
    worst.starts.sort_unstable();
    row.within("ready", *worst.starts.last().unwrap(), Duration::from_secs(1));
    row.note(format!("half of the times within {}", time(worst.starts[worst.starts.len() / 2])));
    row.note(format!("first answer after at most {}", time(worst.answering)));
    row.exactly("orphans (processes and cgroups) 1 s later", worst.orphans, 0);
    row.note(format!("the last was gone after {}", time(worst.gone)));
    row.exactly("mounts", worst.mounts, 0);
    row.exactly("functions refused as damaged", server.home.log().matches("is not served").count() as u64, 0);
    let (name, state) = clients.iter().find_map(|client| client.functions().last()).expect("one is left");
    assert_eq!(server.invoke(name, "").text(), state.to_string());
    row.end();
}

/// What the worst of all rounds was.
#[derive(Default)]
struct Worst {
    starts: Vec<Duration>,
    answering: Duration,
    lost: u64,
    torn: u64,
    unknown: u64,
    orphans: u64,
    gone: Duration,
    mounts: u64,
}

impl Worst {
    /// Waits until nothing of the killed server is left, and counts what is left when its second is over.
    fn note_orphans(&mut self, killed: Instant, processes: &[u32], groups: &Groups) {
        loop {
            let left = processes.iter().filter(|&&pid| is_alive(pid)).count() + groups.left();
            let age = killed.elapsed();
            if left == 0 {
                self.gone = self.gone.max(age);
                return;
            }
            if age > slackened(Duration::from_secs(1)) {
                self.orphans += left as u64;
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The cgroups of a server's instances. The next server on the same state uses the same names, so they are told apart by
/// their inodes.
struct Groups(BTreeSet<(PathBuf, u64)>);

impl Groups {
    fn of(server: &Server) -> Groups {
        let parents = cgroup_parents(server).into_iter();
        let children = parents.filter_map(|parent| std::fs::read_dir(parent).ok()).flatten().flatten();
        let children = children.filter_map(|child| Some((child.path(), child.metadata().ok()?)));
        Groups(children.filter(|(_, about)| about.is_dir()).map(|(path, about)| (path, about.ino())).collect())
    }

    fn left(&self) -> usize {
        let is_left = |(path, inode): &&(PathBuf, u64)| path.metadata().is_ok_and(|about| about.ino() == *inode);
        self.0.iter().filter(is_left).count()
    }
}

/// Mounts of this namespace below the server's directory.
fn mounts_below(home: &Home) -> u64 {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().filter(|line| line.contains(home.path().to_str().unwrap())).count() as u64
}

#[test]
fn a_second_server_on_the_same_state_is_refused_under_load_too() {
    let Some(mut row) = Row::of("a second server on the same state") else { return };
    let scene = Scene::set(&mut row, "", QUICK, 2);
    let load = scene.load();
    let (mut refused, mut named) = (0, 0);
    let tries = sized(20, 3);
    for _ in 0..tries {
        let output = command(&scene.server.home).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        refused += u64::from(output.status.code() == Some(1));
        named += u64::from(said.contains(&scene.server.pid().to_string()));
        load.await_answers(scene.rate as u64 / 10);
    }
    let account = load.stop();
    row.exactly("refused", refused, tries);
    row.exactly("naming the first", named, tries);
    row.exactly("failed requests of the first", account.failed(), 0);
    note_troubles(&mut row, &account);
    row.end();
}
