//! Attacks in containers that lack a wall: each wall is shown to hold something, and attacks to be able to get through.
//! `docs/sandbox-matrix.md` shows the result.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Mutex;

use serde_json::json;

use super::cases::THEMES;
use super::contained::{Differs, DIFFERENT, HELD};
use super::lacking::{Lacking, LOOKED_AT, WALLS};
use super::matrix::{cases, try_without, Set};
use super::scene::Scene;
use super::table::{Case, Outcome, Theme};
use crate::common::engine::Engine;
use crate::common::mode::{can_run_functions, in_containers};
use crate::common::Server;

/// Servers at once: a container takes more of the machine than a sandbox.
const SERVERS: usize = 2;

/// What the table says of a case in a container without these walls.
fn expected(case: &Case, set: Set) -> Outcome {
    let of_it = HELD.iter().filter(|(name, _, sets)| *name == case.name && sets.contains(&set));
    of_it.map(|(_, outcome, _)| *outcome).next().unwrap_or(Outcome::Held)
}

#[test]
#[ignore = "part of `make test-matrix`: it takes walls down"]
fn each_wall_of_a_container_is_missed_when_it_is_gone() {
    if !in_containers() || !can_run_functions() {
        return;
    }
    let all = std::env::var("FAAS_MATRIX").is_ok_and(|mode| mode == "all");
    let wanted = || cases().filter(|(_, case)| super::is_wanted(case));
    let mut experiments: BTreeMap<Set, Vec<(&'static Theme, &'static Case)>> = BTreeMap::new();
    for (theme, case) in wanted() {
        for set in HELD.iter().filter(|(name, ..)| *name == case.name).flat_map(|(.., sets)| *sets) {
            experiments.entry(set).or_default().push((theme, case));
        }
    }
    if all {
        let singles = WALLS.iter().map(|(name, _)| std::slice::from_ref(name));
        let quick = || wanted().filter(|(theme, _)| theme.name != "ends" && theme.name != "exhaust");
        singles.for_each(|set| drop(experiments.insert(set, quick().collect())));
    }
    let (waiting, wrong) = (Mutex::new(experiments.into_iter().collect::<Vec<_>>()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..SERVERS {
            scope.spawn(|| loop {
                let Some((set, attacks)) = waiting.lock().unwrap().pop() else { break };
                let found = experiment(set, &attacks);
                wrong.lock().unwrap().extend(found);
            });
        }
    });
    let mut wrong = wrong.into_inner().unwrap();
    wrong.sort();
    assert!(wrong.is_empty(), "the table says otherwise:\n{}", wrong.join("\n"));
}

/// Makes the attacks without these walls; what fared otherwise than the table says.
fn experiment(set: Set, attacks: &[(&'static Theme, &'static Case)]) -> Vec<String> {
    let applies = |case: &Case| {
        !DIFFERENT.iter().any(|(name, how)| *name == case.name && matches!(how, Differs::DoesNotApply(_)))
    };
    let attacks: Vec<_> = attacks.iter().filter(|(_, case)| applies(case)).copied().collect();
    try_without(set, &attacks, || Scene::without_walls(set), |case| expected(case, set))
}

#[test]
fn no_function_gets_into_a_container_that_lacks_what_the_kernel_is_asked_about() {
    if !in_containers() || !can_run_functions() {
        return;
    }
    let engine = Engine::shared().unwrap();
    for (wall, _, field) in LOOKED_AT {
        let lacking = Lacking::new(engine.socket(), &[wall], std::path::Path::new("/nowhere"));
        let lines = format!("container_runtime: {}\nbase_image: {}", lacking.socket().display(), engine.image());
        let server =
            Server::with(&format!("default_mode: container\ncontainer_pool_size: 0\npool_size: 0\n{lines}"), "");
        let body = json!({ "name": "f", "code": "def handle(request):\n    return 1", "config": {} }).to_string();
        let deployed = server.post("/functions", &body);
        let refused = if deployed.status == 201 { server.post("/invoke/f", "") } else { deployed };
        assert_eq!(refused.status, 503, "without {wall}: {}", refused.text());
        assert!(server.home.log().contains(field), "without {wall}: {}", server.home.log());
    }
}

#[test]
fn every_wall_of_a_container_holds_an_attack_and_the_table_names_what_exists() {
    let mut held: BTreeSet<&str> = BTreeSet::new();
    for (name, outcome, sets) in HELD {
        assert!(cases().any(|(_, case)| case.name == *name), "{name}");
        for wall in sets.iter().copied().flatten() {
            assert!(WALLS.iter().any(|(known, _)| known == wall), "{name}: {wall}");
            if *outcome == Outcome::Through {
                held.insert(wall);
            }
        }
    }
    let different: Vec<_> = DIFFERENT.iter().filter(|(name, _)| !cases().any(|(_, case)| case.name == *name)).collect();
    assert!(different.is_empty(), "{}", different[0].0);
    let idle: Vec<_> = WALLS.iter().filter(|(name, _)| !held.contains(name)).map(|(name, _)| name).collect();
    assert!(idle.is_empty(), "no attack gets through without {idle:?}");
}

/// The part of the document that is about containers.
pub(crate) fn document() -> String {
    let mut text = include_str!("contained.md").to_owned();
    for (name, purpose) in WALLS {
        writeln!(text, "| `{name}` | {purpose} |").unwrap();
    }
    text.push_str("\nAnd these, without which the server lets no function in:\n\n| wall | what it does |\n|---|---|\n");
    for (name, purpose, _) in LOOKED_AT {
        writeln!(text, "| `{name}` | {purpose} |").unwrap();
    }
    text.push_str("\n| attack | gets through without | is stopped by another wall without |\n|---|---|---|\n");
    for theme in THEMES {
        for case in theme.rows.iter().flat_map(|row| row.cases) {
            let sets = |outcome: Outcome| {
                let of_it = HELD.iter().filter(|(name, how, _)| *name == case.name && *how == outcome);
                let sets: Vec<String> = of_it.flat_map(|(.., sets)| *sets).map(|set| set.join(" + ")).collect();
                sets.join(", ")
            };
            let (through, otherwise) = (sets(Outcome::Through), sets(Outcome::Otherwise));
            if !through.is_empty() || !otherwise.is_empty() {
                writeln!(text, "| {} | {through} | {otherwise} |", case.name.replace('_', " ")).unwrap();
            }
        }
    }
    text.push_str("\nWhat does not apply to containers:\n\n| attack | because |\n|---|---|\n");
    for (name, how) in DIFFERENT {
        if let Differs::DoesNotApply(why) = how {
            writeln!(text, "| {} | {why} |", name.replace('_', " ")).unwrap();
        }
    }
    text
}
