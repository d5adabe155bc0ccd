//! The engine of containers is away, hangs, answers nonsense, dies and comes again; and an image is gone.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use super::common::engine::Engine;
use super::common::{eventually, skip};
use super::contained::{contained, is_put_off, shared_engine, Pair, DEADLINE};
use super::door::{Door, Manner};
use super::scene::QUICK;
use super::table::{sized, Row};

/// An engine that is away is asked again every second; then a container is to be started.
const BACK: Duration = Duration::from_secs(4);

/// What is measured over several times of the same accident.
#[derive(Default)]
struct Cold {
    calls: u64,
    put_off: u64,
    slowest: Duration,
    back: Vec<Duration>,
}

impl Cold {
    /// The accident befalls the engine: functions are called that need it, and again when it is over.
    fn endure(&mut self, pair: &Pair, names: &[String], begin: impl FnOnce(), end: impl FnOnce()) {
        begin();
        let answers = pair.call_cold(names);
        self.calls += answers.len() as u64;
        self.put_off += answers.iter().filter(|(reply, _)| is_put_off(reply)).count() as u64;
        self.slowest = answers.iter().map(|(_, took)| *took).chain([self.slowest]).max().unwrap();
        let over = Instant::now();
        end();
        self.back.push(pair.answered_since(&names[0], over));
        // The others, too, before they are made cold again.
        for name in names {
            pair.answered_since(name, over);
        }
        for name in names {
            for instance in pair.server.instances(name) {
                pair.server.call("DELETE", &format!("/instances/{}", instance["id"].as_str().unwrap()), "");
                pair.server.await_end(name, &instance["id"]);
            }
        }
    }

    fn note(&mut self, row: &mut Row) {
        row.exactly("cold calls that were told to try again", self.put_off, self.calls);
        row.within("slowest of them, with a deadline of 2 s", self.slowest, DEADLINE + Duration::from_millis(250));
        self.back.sort_unstable();
        row.within("a cold call works again", *self.back.last().unwrap(), BACK);
        row.note(format!("half of the times within {}", super::table::time(self.back[self.back.len() / 2])));
    }
}

fn cold_names(pair: &Pair) -> Vec<String> {
    let names: Vec<String> = (0..3).map(|number| format!("cold-{number}")).collect();
    names.iter().for_each(|name| pair.deploy_cold(name));
    names
}

/// A row whose accident befalls an engine of its own, or nothing when this machine can have none.
fn own_engine(fault: &'static str) -> Option<(Row, Engine)> {
    let row = Row::of(fault)?;
    match Engine::start() {
        Ok(engine) => Some((row, engine)),
        Err(why) => {
            skip(&why);
            None
        }
    }
}

/// Functions in either mode, on this engine by this socket, and others that are called when they are cold.
fn stage(row: &mut Row, engine: &Engine, socket: &Path) -> (Pair, Vec<String>) {
    let pair = Pair::set(row, socket, engine.image(), "container_pool_size: 0");
    let names = cold_names(&pair);
    (pair, names)
}

fn measure(fault: &'static str, manner: Manner) {
    let Some(mut row) = Row::of(fault) else { return };
    let Some(engine) = shared_engine() else { return };
    let door = Door::new(engine.socket(), Manner::Open);
    let (pair, names) = stage(&mut row, engine, &door.socket());
    let loads = pair.load();
    let mut cold = Cold::default();
    for _ in 0..sized(5, 1) {
        cold.endure(&pair, &names, || door.set(manner), || door.set(Manner::Open));
    }
    let accounts = loads.stop();
    cold.note(&mut row);
    row.exactly("failed warm requests in containers", accounts.containers.failed(), 0);
    accounts.note(&mut row);
    row.end();
}

#[test]
fn an_engine_that_is_absent_costs_cold_calls_in_containers_alone() {
    measure("the container engine is absent", Manner::Absent);
}

#[test]
fn an_engine_that_hangs_costs_cold_calls_in_containers_alone() {
    measure("the container engine hangs", Manner::IsSilent);
}

#[test]
fn an_engine_that_answers_500_costs_cold_calls_in_containers_alone() {
    measure("the container engine answers 500", Manner::Fails);
}

#[test]
fn an_engine_that_answers_garbage_costs_cold_calls_in_containers_alone() {
    measure("the container engine answers garbage", Manner::Babbles);
}

#[test]
fn a_stopped_engine_costs_cold_calls_in_containers_alone() {
    let Some((mut row, engine)) = own_engine("SIGSTOP of the container engine") else { return };
    let (pair, names) = stage(&mut row, &engine, engine.socket());
    let loads = pair.load();
    let mut cold = Cold::default();
    for _ in 0..sized(5, 1) {
        cold.endure(&pair, &names, || engine.stop(), || engine.go_on());
    }
    let accounts = loads.stop();
    cold.note(&mut row);
    row.exactly("failed warm requests in containers", accounts.containers.failed(), 0);
    accounts.note(&mut row);
    row.end();
}

#[test]
fn a_killed_engine_that_starts_again_costs_what_ran_in_containers_alone() {
    let Some((mut row, engine)) = own_engine("kill -9 of the container engine, and a new one") else { return };
    let (pair, names) = stage(&mut row, &engine, engine.socket());
    let loads = pair.load();
    let (mut cold, mut without) = (Cold::default(), 0);
    let rounds = sized(5, 1);
    for _ in 0..rounds {
        let kill = || {
            engine.kill();
            without += 1;
        };
        // It ends the containers that it finds.
        cold.endure(&pair, &names, kill, || engine.start_again());
        eventually("all instances are there again", || {
            let instances = pair.server.instances("containers");
            (instances.iter().filter(|it| it["state"] != "loading").count() >= 4).then_some(())
        });
    }
    let accounts = loads.stop();
    row.note(format!("killed {without} times"));
    cold.note(&mut row);
    let told = accounts.containers.answered(502) + accounts.containers.answered(503);
    row.exactly("failed requests in containers that were not told 502 or 503", accounts.containers.failed() - told, 0);
    // What each of four instances had in its pipe, and what waited.
    accounts.note(&mut row);
    row.end();
}

#[test]
fn an_image_that_is_gone_costs_its_functions_alone_until_they_are_deployed_anew() {
    let Some(mut row) = Row::of("the image of a function is gone") else { return };
    let Some(engine) = shared_engine() else { return };
    let pair = Pair::set(&mut row, engine.socket(), engine.image(), "container_pool_size: 0");
    let loads = pair.load();
    let (mut put_off, mut slowest, mut again) = (0, Duration::ZERO, 0);
    let rounds = sized(5, 1);
    for round in 0..rounds {
        let image = format!("faas-gone-{}-{round}:test", std::process::id());
        let make = || {
            let id = engine.strangers_container(&json!({}));
            let (repository, tag) = image.split_once(':').unwrap();
            engine.must("POST", &format!("/commit?container={id}&repo={repository}&tag={tag}"), &json!({}));
            engine.must("DELETE", &format!("/containers/{id}?force=1&v=1"), &Value::Null);
        };
        make();
        let name = format!("gone-{round}");
        let config = contained(json!({ "image": image, "timeout": "2s", "max_instances": 1 }));
        pair.server.deploy(&name, QUICK, config.clone());
        // By its id: by its name it would lose no more than that as long as the container is there in which its code was
        // looked at.
        let id = engine.must("GET", &format!("/images/{image}/json"), &Value::Null)["Id"].as_str().unwrap().to_owned();
        eventually("the image is gone", || {
            engine.call("DELETE", &format!("/images/{id}?force=1"), &Value::Null);
            (engine.call("GET", &format!("/images/{id}/json"), &Value::Null).0 == 404).then_some(())
        });
        let (reply, took) = pair.call_cold(std::slice::from_ref(&name)).remove(0);
        put_off += u64::from(is_put_off(&reply));
        slowest = slowest.max(took);
        make();
        let body = json!({ "code": QUICK, "config": config }).to_string();
        assert_eq!(pair.server.call("PUT", &format!("/functions/{name}"), &body).status, 200);
        again += u64::from(eventually("it answers", || (pair.server.invoke(&name, "").status == 200).then_some(true)));
        assert_eq!(pair.server.call("DELETE", &format!("/functions/{name}"), "").status, 204);
        eventually("the image is gone", || {
            let (status, _) = engine.call("DELETE", &format!("/images/{image}?force=1"), &Value::Null);
            (status == 200 || status == 404).then_some(())
        });
    }
    let accounts = loads.stop();
    row.exactly("calls told to try again", put_off, rounds);
    row.within("slowest of them, with a deadline of 2 s", slowest, DEADLINE + Duration::from_millis(250));
    row.exactly("works when it is deployed anew", again, rounds);
    row.exactly("failed requests of other images in containers", accounts.containers.failed(), 0);
    accounts.note(&mut row);
    row.end();
}
